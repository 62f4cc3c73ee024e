// All kernels: what is compiled for a GPU, at run time (NVRTC, with -default-device, and headers
// known by their names without a folder) or by nvcc.
#if defined(__CUDACC_RTC__)
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#endif

#include "cluster.cuh"
#include "exchange.cuh"
#include "lengths.cuh"
#include "product.cuh"
#include "resident.cuh"
#include "resident_matrix.cuh"
#include "rows.cuh"
#include "step.cuh"
