// Compiles where csrc/core/cuda/api.h declares what NVIDIA's headers declare. Each of the three
// libraries is compared where its header is found.
#include <cstddef>
#include <type_traits>

#include "core/cuda/api.h"

#if __has_include(<cuda.h>)
#include <cuda.h>
#define HAS_DRIVER 1
#endif
#if __has_include(<nvrtc.h>)
#include <nvrtc.h>
#define HAS_NVRTC 1
#endif
#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
#define HAS_CUBLAS 1
#endif

namespace ours = masked_rnn::cuda::api;

// Two types that are passed alike: any two pointers, and whole numbers of one size and sign.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> || std::is_pointer_v<B>) {
    return std::is_pointer_v<A> && std::is_pointer_v<B>;
  } else {
    return std::is_floating_point_v<A> == std::is_floating_point_v<B> && sizeof(A) == sizeof(B);
  }
}
template <class A, class B>
struct Alike;
template <class R, class... P, class S, class... Q>
struct Alike<R (*)(P...), S (*)(Q...)> {
  static constexpr bool value() {
    if constexpr (sizeof...(P) != sizeof...(Q)) {
      return false;
    } else {
      return alike<R, S>() && (alike<P, Q>() && ...);
    }
  }
};

#define FUNCTION(name, ...) \
  static_assert(Alike<decltype(&name), decltype(Functions::name)>::value(), #name);
#define SAME_NUMBER(name) static_assert(int(::name) == int(ours::name), #name);
#define SAME_FIELD(type, field)                                              \
  static_assert(offsetof(::type, field) == offsetof(ours::type, field) &&    \
                    sizeof(::type::field) == sizeof(ours::type::field),      \
                #type "." #field);

#if defined(HAS_DRIVER)
namespace driver {
using Functions = ours::Driver;
using namespace ours;
#include "core/cuda/driver_functions.inc"
SAME_NUMBER(CUDA_SUCCESS)
SAME_NUMBER(CUDA_ERROR_OUT_OF_MEMORY)
SAME_NUMBER(CUDA_ERROR_NO_DEVICE)
SAME_NUMBER(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
SAME_NUMBER(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)
SAME_NUMBER(CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
SAME_NUMBER(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
SAME_NUMBER(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)
SAME_NUMBER(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
SAME_NUMBER(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
SAME_NUMBER(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED)
SAME_NUMBER(CU_MEM_ALLOCATION_TYPE_PINNED)
SAME_NUMBER(CU_MEM_LOCATION_TYPE_DEVICE)
SAME_NUMBER(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
SAME_NUMBER(CU_EVENT_DISABLE_TIMING)
SAME_NUMBER(CU_STREAM_NON_BLOCKING)
static_assert(sizeof(::CUlaunchConfig) == sizeof(ours::CUlaunchConfig));
SAME_FIELD(CUlaunchConfig, gridDimX)
SAME_FIELD(CUlaunchConfig, blockDimZ)
SAME_FIELD(CUlaunchConfig, sharedMemBytes)
SAME_FIELD(CUlaunchConfig, hStream)
SAME_FIELD(CUlaunchConfig, attrs)
SAME_FIELD(CUlaunchConfig, numAttrs)
static_assert(sizeof(::CUlaunchAttribute) == sizeof(ours::CUlaunchAttribute));
SAME_FIELD(CUlaunchAttribute, id)
SAME_FIELD(CUlaunchAttribute, value)
static_assert(sizeof(::CUmemPoolProps) == sizeof(ours::CUmemPoolProps));
SAME_FIELD(CUmemPoolProps, allocType)
SAME_FIELD(CUmemPoolProps, location)
SAME_FIELD(CUmemPoolProps, maxSize)
}  // namespace driver
#endif

#if defined(HAS_NVRTC)
namespace nvrtc {
using Functions = ours::Nvrtc;
using namespace ours;
#include "core/cuda/nvrtc_functions.inc"
SAME_NUMBER(NVRTC_SUCCESS)
}  // namespace nvrtc
#endif

#if defined(HAS_CUBLAS)
namespace cublas {
using Functions = ours::Cublas;
using namespace ours;
// For C++ the header has a second one of this name, inline: here is the library's.
extern "C" cublasStatus_t cublasGemmStridedBatchedEx(
    ::cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*,
    const void*, cudaDataType, int, long long, const void*, cudaDataType, int, long long,
    const void*, void*, cudaDataType, int, long long, int, cublasComputeType_t, cublasGemmAlgo_t);
#include "core/cuda/cublas_functions.inc"
SAME_NUMBER(CUBLAS_STATUS_SUCCESS)
SAME_NUMBER(CUBLAS_STATUS_ALLOC_FAILED)
SAME_NUMBER(CUBLAS_OP_N)
SAME_NUMBER(CUBLAS_OP_T)
SAME_NUMBER(CUBLAS_GEMM_DEFAULT)
SAME_NUMBER(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)
SAME_NUMBER(CUBLAS_COMPUTE_32F)
SAME_NUMBER(CUBLAS_COMPUTE_64F)
SAME_NUMBER(CUBLAS_COMPUTE_32F_FAST_TF32)
SAME_NUMBER(CUDA_R_32F)
SAME_NUMBER(CUDA_R_64F)
SAME_NUMBER(CUDA_R_16F)
SAME_NUMBER(CUDA_R_16BF)
}  // namespace cublas
#endif
