// Scalars: the types that arrays are stored in, the type each computes in, and the functions that
// activations.h asks for.
#pragma once

#include "primitives.cuh"

#define MR_BACKEND inline namespace kernels

namespace masked_rnn::cuda {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class Storage>
struct RealOf {
  using Type = float;
};
template <>
struct RealOf<double> {
  using Type = double;
};
template <class Storage>
using Real = typename RealOf<Storage>::Type;

MR_INLINE float value_of(float x) { return x; }
MR_INLINE double value_of(double x) { return x; }
MR_INLINE float value_of(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
MR_INLINE float value_of(Float16 x) { return float_from_half(x.bits); }

MR_INLINE void put(float& to, float x) { to = x; }
MR_INLINE void put(double& to, double x) { to = x; }
MR_INLINE void put(BFloat16& to, float x) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  to.bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16 | 0x40u));
}
MR_INLINE void put(Float16& to, float x) { to.bits = half_from_float(x); }

// An element of an array that may be absent: `otherwise` then.
template <class Storage>
MR_INLINE Real<Storage> value_at(const void* array, int64_t i, Real<Storage> otherwise = 0) {
  return array == nullptr ? otherwise : value_of(static_cast<const Storage*>(array)[i]);
}

}  // namespace masked_rnn::cuda

namespace masked_rnn {
MR_BACKEND {

template <class V>
MR_INLINE V fill(double x) {
  return static_cast<V>(x);
}
MR_INLINE float fma_of(float a, float b, float c) { return fmaf(a, b, c); }
MR_INLINE double fma_of(double a, double b, double c) { return fma(a, b, c); }
MR_INLINE float exp_of(float x) { return expf(x); }
MR_INLINE double exp_of(double x) { return exp(x); }
MR_INLINE float expm1_of(float x) { return expm1f(x); }
MR_INLINE double expm1_of(double x) { return expm1(x); }
MR_INLINE float log1p_of(float x) { return log1pf(x); }
MR_INLINE double log1p_of(double x) { return log1p(x); }
MR_INLINE float tanh_of(float x) { return tanhf(x); }
MR_INLINE double tanh_of(double x) { return tanh(x); }
MR_INLINE float erf_of(float x) { return erff(x); }
MR_INLINE double erf_of(double x) { return erf(x); }
MR_INLINE float sqrt_of(float x) { return sqrtf(x); }
MR_INLINE double sqrt_of(double x) { return sqrt(x); }
MR_INLINE float abs_of(float x) { return fabsf(x); }
MR_INLINE double abs_of(double x) { return fabs(x); }
template <class V>
MR_INLINE V sigmoid_of(V x) {
  return fill<V>(1) / (fill<V>(1) + exp_of(-x));
}

}  // inline namespace
}  // namespace masked_rnn
