// One vector type for each instruction set and compute type; loads and stores convert storage.
//
// This and every other header that kernels.cc includes lies in an anonymous namespace and uses
// no standard library template: an inline function with external linkage, compiled into two
// instruction sets' objects, would let the linker keep the AVX-512 copy for every machine.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../params.h"

#if defined(__x86_64__)
// Up to version 12, GCC warns of its own "__m512 __Y = __Y" (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// What activations.h and cells.h are compiled with.
#define MR_BACKEND namespace
#define MR_DEVICE
#define MR_INLINE inline __attribute__((always_inline))
#define MR_UNROLL _Pragma("GCC unroll 16")
#define MR_UNROLL_4 _Pragma("GCC unroll 4")
#if defined(__AVX512F__)  // asm constraint of a vector register
#define MR_REGISTER "v"
#elif defined(__aarch64__)
#define MR_REGISTER "w"
#else
#define MR_REGISTER "x"
#endif

namespace masked_rnn {
namespace {

#if MASKED_RNN_REAL_IS_DOUBLE
using Real = double;
#else
using Real = float;
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif
constexpr int kVector = kVectorBytes / sizeof(Real);  // elements
constexpr bool kDouble = sizeof(Real) == 8;

template <bool is_double> struct Integer { using type = int32_t; };
template <> struct Integer<true> { using type = int64_t; };

typedef Real V __attribute__((vector_size(kVectorBytes)));
typedef Integer<kDouble>::type I __attribute__((vector_size(kVectorBytes)));  // bits of V
typedef uint16_t Half __attribute__((vector_size(kVector * 2)));
typedef uint32_t Word __attribute__((vector_size(kVector * 4)));

template <class Vector>
MR_INLINE Vector fill(double x) {
  return static_cast<Real>(x) - Vector{};
}

MR_INLINE V zeros() { return V{}; }
MR_INLINE V splat(Real x) { return x - V{}; }

// One rounding where the machine has it. The compiler may not contract a * b + c by itself
// (-ffp-contract=off): whether it does would depend on the tile, and a row's bits with it.
MR_INLINE V fma_of(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (kDouble) return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  else return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  if constexpr (kDouble) return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  else return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  if constexpr (kDouble) return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
  else return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// Storage types that are not arithmetic types.
struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

MR_INLINE V load(const Real* p) {
  V v;
  memcpy(&v, p, sizeof(v));
  return v;
}
MR_INLINE void store(Real* p, V v) { memcpy(p, &v, sizeof(v)); }

MR_INLINE Half load_half(const void* p) {
  Half h;
  memcpy(&h, p, sizeof(h));
  return h;
}

#if !MASKED_RNN_REAL_IS_DOUBLE  // 16-bit storage is computed in float

// bfloat16 is the upper half of a float; rounding is to nearest, ties to even.
MR_INLINE V load(const BFloat16* p) {
  return (V)(__builtin_convertvector(load_half(p), Word) << 16);
}

MR_INLINE void store(BFloat16* p, V v) {
  const Word bits = (Word)v;
  const Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Word nan = (bits >> 16) | 0x40;  // rounding could carry a NaN's mantissa to zero
  const Half half = __builtin_convertvector(v == v ? rounded : nan, Half);
  memcpy(p, &half, sizeof(half));
}

MR_INLINE V load(const Float16* p) {
#if defined(__AVX512F__)
  return (V)_mm512_maskz_cvtph_ps(0xffff, (__m256i)load_half(p));
#elif defined(__F16C__)
  return (V)_mm256_cvtph_ps((__m128i)load_half(p));
#else
  // Shifts exponent and mantissa into place, then scales by 2^112 to move the exponent's bias;
  // Inf and NaN get float's exponent.
  const Word h = __builtin_convertvector(load_half(p), Word);
  const Word sign = (h & 0x8000) << 16, magnitude = (h & 0x7fff) << 13;
  const V scaled = (V)magnitude * 0x1p112f;
  const Word bits = (h & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : (Word)scaled;
  return (V)(bits | sign);
#endif
}

MR_INLINE void store(Float16* p, V v) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
  const Word bits = (Word)v;
  const Word sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  // Normal: round the mantissa to ten bits, ties to even, and move the exponent's bias.
  const Word normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  // Subnormal: an addition of 0.5 lets the float unit round at bit 2^-24.
  const Word subnormal = (Word)((V)magnitude + 0.5f) - 0x3f000000;
  const Word finite = magnitude < 0x38800000 ? subnormal : normal;
  const Word infinite = magnitude > 0x7f800000 ? Word{} + 0x7e00 : Word{} + 0x7c00;
  const Half half = __builtin_convertvector((magnitude >= 0x477ff000 ? infinite : finite) | sign,
                                            Half);
#endif
  memcpy(p, &half, sizeof(half));
}

#endif

// The first `n` elements, zeros behind them; nothing past them is touched.
template <class Storage>
MR_INLINE V load_first(const Storage* p, int n) {
  if (n >= kVector) return load(p);
  Storage padded[kVector];
  memset(padded, 0, sizeof(padded));
  for (int i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}

template <class Storage>
MR_INLINE void store_first(Storage* p, V v, int n) {
  if (n >= kVector) return store(p, v);
  Storage padded[kVector];
  store(padded, v);
  for (int i = 0; i < n; ++i) p[i] = padded[i];
}

#if defined(__AVX512F__)
// A masked move: a row's tail is on the hot path wherever units are no multiple of the vector.
MR_INLINE V load_first(const Real* p, int n) {
  if (n >= kVector) return load(p);
  if constexpr (kDouble) return (V)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
  else return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
MR_INLINE void store_first(Real* p, V v, int n) {
  if (n >= kVector) return store(p, v);
  if constexpr (kDouble) _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
  else _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#endif

MR_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// v with zeros from element n on.
MR_INLINE V keep_first(V v, int n) {
  if (n >= kVector) return v;
  I lane;
  for (int i = 0; i < kVector; ++i) lane[i] = i;
  return lane < n ? v : V{};
}

#if defined(__AVX512F__)
// Rows and columns of a 16 x 16 matrix of 32-bit elements exchanged.
MR_INLINE void transpose(__m512i* row) {
  __m512i two[16], four[16];
  MR_UNROLL
  for (int i = 0; i < 16; i += 2) {
    two[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    two[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  // four[g + c] holds rows g to g + 3 of columns c, c + 4, c + 8 and c + 12.
  MR_UNROLL
  for (int g = 0; g < 16; g += 4) {
    MR_UNROLL
    for (int half = 0; half < 2; ++half) {
      four[g + 2 * half] = _mm512_unpacklo_epi64(two[g + half], two[g + 2 + half]);
      four[g + 2 * half + 1] = _mm512_unpackhi_epi64(two[g + half], two[g + 2 + half]);
    }
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // lanes of both operands
  MR_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m512i even[2] = {_mm512_shuffle_i32x4(four[c], four[c + 4], kEven),
                             _mm512_shuffle_i32x4(four[c + 8], four[c + 12], kEven)};
    const __m512i odd[2] = {_mm512_shuffle_i32x4(four[c], four[c + 4], kOdd),
                            _mm512_shuffle_i32x4(four[c + 8], four[c + 12], kOdd)};
    row[c] = _mm512_shuffle_i32x4(even[0], even[1], kEven);
    row[c + 4] = _mm512_shuffle_i32x4(odd[0], odd[1], kEven);
    row[c + 8] = _mm512_shuffle_i32x4(even[0], even[1], kOdd);
    row[c + 12] = _mm512_shuffle_i32x4(odd[0], odd[1], kOdd);
  }
}
#endif

template <class Storage> struct StorageOf;
template <> struct StorageOf<float> { static constexpr DType dtype = DType::kFloat32; };
template <> struct StorageOf<double> { static constexpr DType dtype = DType::kFloat64; };
template <> struct StorageOf<BFloat16> { static constexpr DType dtype = DType::kBFloat16; };
template <> struct StorageOf<Float16> { static constexpr DType dtype = DType::kFloat16; };

}  // namespace
}  // namespace masked_rnn
