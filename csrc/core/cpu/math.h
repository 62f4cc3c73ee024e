// Elementary functions on vectors: one or two units in the last place, NaN and Inf as in libm.
//
// exp: x = n ln2 + r, |r| <= ln2 / 2, e^r = 1 + r + r^2 q(r). The coefficients of q interpolate
// (e^r - 1 - r) / r^2 at Chebyshev nodes: relative error 2e-10 (float), 2e-17 (double).
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

struct Reduced {
  V n, r, r_r_q;  // e^x = 2^n (1 + r + r_r_q)
};

MR_INLINE Reduced reduce_exp(V x) {
  // Adding 1.5 * 2^(mantissa bits) rounds to the nearest integer.
  const V magic = splat(kDouble ? Real(0x1.8p52) : Real(0x1.8p23));
  const V n = fma_of(x, splat(Real(kLog2e)), magic) - magic;
  V r = fma_of(n, splat(Real(-kLn2High)), x);
  r = fma_of(n, splat(Real(-kLn2Low)), r);
  V q;
  if constexpr (kDouble) {
    constexpr double c[] = {0.50000000000000010221, 0.16666666666666667453,
                            0.041666666666624127873, 0.0083333333333300618325,
                            0.0013888888917213716901, 1.9841269863053616878e-4,
                            2.4801521295954375131e-5, 2.7557268459997064772e-6,
                            2.7620088445409748161e-7, 2.5100385495510319078e-8};
    q = splat(Real(c[9]));
    MR_UNROLL
    for (int i = 8; i >= 0; --i) q = fma_of(q, r, splat(Real(c[i])));
  } else {
    constexpr double c[] = {0.500000001347, 0.166666666816, 0.0416664649253,
                            0.00833331092548, 0.00139336499963, 0.000198909908247};
    q = splat(Real(c[5]));
    MR_UNROLL
    for (int i = 4; i >= 0; --i) q = fma_of(q, r, splat(Real(c[i])));
  }
  return {n, r, r * r * q};
}

// 2^n for an integer n in the exponent's range.
MR_INLINE V power_of_two(V n) {
  constexpr int mantissa = kDouble ? 52 : 23, bias = kDouble ? 1023 : 127;
  return (V)((__builtin_convertvector(n, I) + bias) << mantissa);
}

MR_INLINE V exp_of(V x) {
  const V clamped = at_most(splat(kDouble ? 710 : 89), at_least(splat(kDouble ? -746 : -104), x));
  const Reduced e = reduce_exp(clamped);
  // Two factors, as 2^n alone can leave the range where e^x does not.
  const V half = __builtin_convertvector(__builtin_convertvector(e.n, I) >> 1, V);
  const V y = (splat(1) + (e.r + e.r_r_q)) * power_of_two(half) * power_of_two(e.n - half);
  return x == x ? y : x;
}

MR_INLINE V expm1_of(V x) {
  // Past 88 (709) it is e^x; below -40 it is -1.
  const V clamped = at_most(splat(kDouble ? 709 : 88), at_least(splat(-40), x));
  const Reduced e = reduce_exp(clamped);
  const V scale = power_of_two(e.n);
  const V small = fma_of(scale, e.r + e.r_r_q, scale - splat(1));
  const V y = x > splat(kDouble ? 709 : 88) ? exp_of(x) : small;
  return x == x ? y : x;
}

// 1 / (1 + e^-x)
MR_INLINE V sigmoid_of(V x) {
  const V clamped = at_most(splat(kDouble ? 708 : 87), at_least(splat(kDouble ? -708 : -87), x));
  const Reduced e = reduce_exp(-clamped);
  const V scale = power_of_two(e.n);
  return reciprocal(splat(1) + fma_of(scale, e.r + e.r_r_q, scale));
}

// tanh|x| = -m / (m + 2) with m = e^(-2|x|) - 1, which keeps its digits near zero.
MR_INLINE V tanh_of(V x) {
  const V limit = splat(kDouble ? 20 : 10);  // 1 - tanh is below half a unit there
  const V a = at_most(limit, abs_of(x));
  const Reduced e = reduce_exp(a * splat(-2));
  const V scale = power_of_two(e.n);
  const V m = fma_of(scale, e.r + e.r_r_q, scale - splat(1));
  const V magnitude = -m * reciprocal(m + splat(2));
  const I sign = (I)x & (I)(-zeros());
  return (V)((I)magnitude | sign);
}

}  // namespace
}  // namespace masked_rnn
