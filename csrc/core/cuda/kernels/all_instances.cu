// Every instance, to see that nvcc compiles it: the same list that the CPU shim runs,
// and the largest clusters.
#include <cstdint>

#include "kernels.cu"

#define MR_INSTANCE(Arguments, ...) template __global__ void __VA_ARGS__(Arguments);

namespace masked_rnn::cuda {

#define MR_STORAGE double
#define MR_REAL double
#include "instances.inc"
#undef MR_STORAGE
#undef MR_REAL

#define MR_CLUSTER 256, 4
#define MR_LARGE_CLUSTER 512, 16
#define MR_STORAGE float
#define MR_REAL float
#include "instances.inc"
#undef MR_STORAGE
#undef MR_REAL
#undef MR_CLUSTER

#define MR_CLUSTER 256, 8
#define MR_STORAGE BFloat16
#include "instances.inc"
#undef MR_STORAGE

#define MR_STORAGE Float16
#include "instances.inc"
#undef MR_STORAGE

}  // namespace masked_rnn::cuda
