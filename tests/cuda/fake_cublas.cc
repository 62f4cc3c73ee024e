// A libcublas.so.12 that multiplies float32 and float64 in plain loops, by columns as cuBLAS does.
// Built by tests/test_cuda_device.py.
#include <cstdlib>

#include "core/cuda/api.h"

using namespace masked_rnn::cuda::api;

namespace {

struct Handle {
  CUstream stream = nullptr;
};

template <class T>
void multiply(bool ta, bool tb, int m, int n, int k, T alpha, const T* a, int lda, const T* b,
              int ldb, T beta, T* c, int ldc) {
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < m; ++i) {
      T sum = 0;
      for (int x = 0; x < k; ++x) {
        sum += (ta ? a[x + size_t(i) * lda] : a[i + size_t(x) * lda]) *
               (tb ? b[j + size_t(x) * ldb] : b[x + size_t(j) * ldb]);
      }
      T& result = c[i + size_t(j) * ldc];
      result = alpha * sum + (beta == 0 ? 0 : beta * result);
    }
  }
}

template <class T>
void multiply_all(bool ta, bool tb, int m, int n, int k, const void* alpha, const void* a, int lda,
                  long long sa, const void* b, int ldb, long long sb, const void* beta, void* c,
                  int ldc, long long sc, int count) {
  for (int i = 0; i < count; ++i) {
    multiply(ta, tb, m, n, k, *static_cast<const T*>(alpha), static_cast<const T*>(a) + i * sa,
             lda, static_cast<const T*>(b) + i * sb, ldb, *static_cast<const T*>(beta),
             static_cast<T*>(c) + i * sc, ldc);
  }
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int cublasCreate_v2(cublasHandle_t* handle) {
  if (std::getenv("FAKE_CUBLAS_FULL")) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = new Handle;
  return CUBLAS_STATUS_SUCCESS;
}
API int cublasDestroy_v2(cublasHandle_t handle) {
  delete static_cast<Handle*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
API int cublasSetStream_v2(cublasHandle_t handle, CUstream stream) {
  static_cast<Handle*>(handle)->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
API int cublasSetMathMode(cublasHandle_t, int) { return CUBLAS_STATUS_SUCCESS; }
API int cublasGemmStridedBatchedEx(cublasHandle_t, int ta, int tb, int m, int n, int k,
                                   const void* alpha, const void* a, int a_type, int lda,
                                   long long sa, const void* b, int b_type, int ldb, long long sb,
                                   const void* beta, void* c, int c_type, int ldc, long long sc,
                                   int count, int compute, int) {
  if (a_type != b_type || a_type != c_type) return 15;  // CUBLAS_STATUS_NOT_SUPPORTED
  if (compute == CUBLAS_COMPUTE_64F && a_type == CUDA_R_64F) {
    multiply_all<double>(ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count);
  } else if ((compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32) &&
             a_type == CUDA_R_32F) {
    multiply_all<float>(ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count);
  } else {
    return 15;
  }
  return CUBLAS_STATUS_SUCCESS;
}
