// Elementary functions on vectors, NaN and Inf as in libm. Largest error over all floats, in units in
// the last place: exp 1.2, expm1 1.7, sigmoid 2.3, tanh 3.0.
//
// exp: x = n ln2 + r, |r| <= ln2 / 2, e^r = 1 + r + r^2 q(r). The coefficients of q interpolate
// (e^r - 1 - r) / r^2 at Chebyshev nodes: relative error of e^r 1e-8 (float), 2e-17 (double), a
// sixth of a unit in the last place or less.
#pragma once

#include <math.h>

#include "simd.h"

namespace masked_rnn {
namespace {

constexpr double kLog2e = 1.4426950408889634;
// ln2 in two parts; the high one times any n is exact.
constexpr double kLn2High = kDouble ? 6931471805598903e-16 : 0.693145751953125;
constexpr double kLn2Low = kDouble ? 5.497923018708371e-14 : 1.42860682031e-6;

MR_INLINE V abs_of(V x) { return (V)((I)x & ~(I)(-zeros())); }

MR_INLINE V sqrt_of(V x) {
  for (int i = 0; i < kVector; ++i) x[i] = kDouble ? ::sqrt(x[i]) : ::sqrtf(x[i]);
  return x;
}
// Rare, and hard to beat: one lane at a time through libm.
MR_INLINE V log1p_of(V x) {
  for (int i = 0; i < kVector; ++i) x[i] = kDouble ? ::log1p(x[i]) : ::log1pf(x[i]);
  return x;
}
MR_INLINE V erf_of(V x) {
  for (int i = 0; i < kVector; ++i) x[i] = kDouble ? ::erf(x[i]) : ::erff(x[i]);
  return x;
}

// limit where x is below (above) it; a NaN in x stays one, as max and min return their second
// operand then.
MR_INLINE V at_least(V limit, V x) {
#if defined(__AVX512F__)
  if constexpr (kDouble) return (V)_mm512_max_pd((__m512d)limit, (__m512d)x);
  else return (V)_mm512_max_ps((__m512)limit, (__m512)x);
#elif defined(__AVX2__)
  if constexpr (kDouble) return (V)_mm256_max_pd((__m256d)limit, (__m256d)x);
  else return (V)_mm256_max_ps((__m256)limit, (__m256)x);
#else
  return x < limit ? limit : x;
#endif
}
MR_INLINE V at_most(V limit, V x) {
#if defined(__AVX512F__)
  if constexpr (kDouble) return (V)_mm512_min_pd((__m512d)limit, (__m512d)x);
  else return (V)_mm512_min_ps((__m512)limit, (__m512)x);
#elif defined(__AVX2__)
  if constexpr (kDouble) return (V)_mm256_min_pd((__m256d)limit, (__m256d)x);
  else return (V)_mm256_min_ps((__m256)limit, (__m256)x);
#else
  return x > limit ? limit : x;
#endif
}

// 1 / x for a normal, finite x, within one unit in the last place. A 512-bit division takes the
// time of ten multiply-adds, which shows at 32 units; an estimate and one Newton step do not.
MR_INLINE V reciprocal(V x) {
#if defined(__AVX512F__)
  if constexpr (!kDouble) {
    const V r = (V)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return fma_of(r, fma_of(-x, r, splat(1)), r);
  }
#endif
  return splat(1) / x;
}

// c[0] + c[1] x + ...
template <int kCount>
MR_INLINE V horner(const double (&c)[kCount], V x) {
  V y = splat(Real(c[kCount - 1]));
  MR_UNROLL
  for (int i = kCount - 2; i >= 0; --i) y = fma_of(y, x, splat(Real(c[i])));
  return y;
}

// x = n ln2 + r, n an integer, |r| <= ln2 / 2.
struct Reduced {
  V n, r;
};

// `kSign` 1 or -1: of x, or of -x.
template <int kSign>
MR_INLINE Reduced reduce(V x) {
  // Adding 1.5 * 2^(mantissa bits) rounds to the nearest integer.
  const V magic = splat(kDouble ? Real(0x1.8p52) : Real(0x1.8p23));
  const V n = fma_of(x, splat(Real(kSign * kLog2e)), magic) - magic;
  const V r = fma_of(n, splat(Real(-kLn2High)), kSign < 0 ? -x : x);
  return {n, fma_of(n, splat(Real(-kLn2Low)), r)};
}

// (e^r - 1 - r) / r^2
MR_INLINE V exp_series(V r) {
  if constexpr (kDouble) {
    constexpr double c[] = {0.50000000000000010221, 0.16666666666666667453,
                            0.041666666666624127873, 0.0083333333333300618325,
                            0.0013888888917213716901, 1.9841269863053616878e-4,
                            2.4801521295954375131e-5, 2.7557268459997064772e-6,
                            2.7620088445409748161e-7, 2.5100385495510319078e-8};
    return horner(c, r);
  } else {
    constexpr double c[] = {0.5, 0.166665769982, 0.0416665546279, 0.00836317762999,
                            0.00139261818105};
    return horner(c, r);
  }
}

// x * 2^n for an integer n; where the machine has no instruction for it, n and n + x's exponent lie
// within the exponent's range.
MR_INLINE V scale(V x, V n) {
#if defined(__AVX512F__)
  if constexpr (kDouble) return (V)_mm512_maskz_scalef_pd(0xff, (__m512d)x, (__m512d)n);
  else return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)n);
#else
  constexpr int mantissa = kDouble ? 52 : 23, bias = kDouble ? 1023 : 127;
  return x * (V)((__builtin_convertvector(n, I) + bias) << mantissa);
#endif
}

// e^r
MR_INLINE V exp_reduced(V r) { return fma_of(fma_of(exp_series(r), r, splat(1)), r, splat(1)); }

// 2^n e^r - 1, which keeps its digits near zero.
MR_INLINE V expm1_reduced(Reduced e) {
  const V power = scale(splat(1), e.n);
  return fma_of(power, fma_of(e.r * e.r, exp_series(e.r), e.r), power - splat(1));
}

MR_INLINE V exp_of(V x) {
  const V clamped = at_most(splat(kDouble ? 710 : 89), at_least(splat(kDouble ? -746 : -104), x));
  const Reduced e = reduce<1>(clamped);
  // Two factors, as 2^n alone can leave the range where e^x does not.
  const V half = __builtin_convertvector(__builtin_convertvector(e.n, I) >> 1, V);
  const V y = scale(scale(exp_reduced(e.r), half), e.n - half);
  return x == x ? y : x;
}

MR_INLINE V expm1_of(V x) {
  // Past 88 (709) it is e^x; below -40 it is -1.
  const V limit = splat(kDouble ? 709 : 88);
  const V small = expm1_reduced(reduce<1>(at_most(limit, at_least(splat(-40), x))));
  const V y = x > limit ? exp_of(x) : small;
  return x == x ? y : x;
}

// 1 / (1 + e^-x)
MR_INLINE V sigmoid_of(V x) {
  const V limit = splat(kDouble ? 708 : 87);
  const Reduced e = reduce<-1>(at_most(limit, at_least(-limit, x)));
  return reciprocal(splat(1) + scale(exp_reduced(e.r), e.n));
}

// tanh|x| = -m / (m + 2) with m = e^(-2|x|) - 1.
MR_INLINE V tanh_of(V x) {
  const I sign = (I)(-zeros());
  // 1 - tanh is below half a unit at the limit.
  const V a = at_least(splat(kDouble ? -20 : -10), (V)((I)x | sign));
  const V m = expm1_reduced(reduce<1>(a + a));
  const V y = m * reciprocal(m + splat(2));
  return (V)(((I)y & ~sign) | ((I)x & sign));
}

}  // namespace
}  // namespace masked_rnn
