// The C functions of NVIDIA's driver, run-time compiler (NVRTC) and cuBLAS that are used, declared
// here so that building needs no CUDA, and found at run time. tests/cuda/headers_test.cc compares
// these declarations with NVIDIA's headers.
#pragma once

#include <cstddef>
#include <string>

namespace masked_rnn::cuda::api {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = void*;
using CUmodule = void*;
using CUfunction = void*;
using CUstream = void*;
using CUevent = void*;
using CUmemoryPool = void*;
using nvrtcProgram = void*;
using cublasHandle_t = void*;

struct CUlaunchAttribute {
  union Value {
    char pad[64];
    void* aligned_as_a_pointer;
    int cooperative;
    struct {
      unsigned x, y, z;
    } clusterDim;
  };
  int id;
  Value value;
};

struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ;
  unsigned blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute* attrs;
  unsigned numAttrs;
};

struct CUmemPoolProps {
  int allocType;
  int handleTypes;
  struct {
    int type;
    int id;
  } location;
  void* win32SecurityAttributes;
  size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};

enum : int {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720,

  CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,

  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,

  CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,

  CU_MEM_ALLOCATION_TYPE_PINNED = 1,
  CU_MEM_LOCATION_TYPE_DEVICE = 1,
  CU_MEMPOOL_ATTR_RELEASE_THRESHOLD = 4,
  CU_EVENT_DISABLE_TIMING = 2,
  CU_STREAM_NON_BLOCKING = 1,

  NVRTC_SUCCESS = 0,

  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_OP_N = 0,
  CUBLAS_OP_T = 1,
  CUBLAS_GEMM_DEFAULT = -1,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16,
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_64F = 70,
  CUBLAS_COMPUTE_32F_FAST_TF32 = 77,
  CUDA_R_32F = 0,
  CUDA_R_64F = 1,
  CUDA_R_16F = 2,
  CUDA_R_16BF = 14,
};

// A library's functions. `library` is the file name that was opened.
struct Driver {
#define FUNCTION(name, ...) CUresult (*name)(__VA_ARGS__) = nullptr;
#include "driver_functions.inc"
#undef FUNCTION
  int version = 0;  // 12040 = CUDA 12.4
};

struct Nvrtc {
#define FUNCTION(name, ...) int (*name)(__VA_ARGS__) = nullptr;
#include "nvrtc_functions.inc"
#undef FUNCTION
  std::string library;
  int version = 0;  // as the driver's
};

struct Cublas {
#define FUNCTION(name, ...) int (*name)(__VA_ARGS__) = nullptr;
#include "cublas_functions.inc"
#undef FUNCTION
  std::string library;
};

// Opened on first use; one that is not there is looked for again at the next use. They throw
// DeviceError with a sentence that says what to install.
const Driver& driver();
const Nvrtc& nvrtc();
const Cublas& cublas();

// Throws what a failed driver call means, "CUDA: <doing>: ...".
void check(CUresult result, const std::string& doing);

}  // namespace masked_rnn::cuda::api
