// The multiply-add loop for float32 on the matrix registers, each value as three planes of bfloat16
// (operands.h): a = a0 + a1 + a2, where a1 is at most 2^-8 of a, and a2 2^-17. Six products of planes
// make one of floats; the other three, a1 * b2, a2 * b1 and a2 * b2, come to less than a rounding of
// it. On Granite Rapids twice as fast as float32 vectors, and closer to the true sum: an instruction
// adds up 32 products before it rounds to the sum.
//
// Infinity and NaN lie in plane 0 alone, but Inf * b0 + Inf * b1 can be NaN where Inf * b is not, and so
// can products that overflow. Sums that come out as NaN are computed again, float by float.
#pragma once

#include "tile_amx.h"

namespace masked_rnn {
namespace {

using ThreePlanes = BFloat16s<3>;

// Element `half` of the pairs at `planes`, as floats.
MR_INLINE V floats_of(const BFloat16* planes, int64_t plane, int half) {
  V sum = zeros();
  for (int q = ThreePlanes::kPlanes - 1; q >= 0; --q) {
    Word pairs;
    memcpy(&pairs, planes + q * plane, sizeof(pairs));
    sum = sum + (V)(half ? pairs & 0xffff0000 : pairs << 16);
  }
  return sum;
}

// Row i of a times a vector of columns, as float32 vectors multiply. What has become NaN everywhere stays.
__attribute__((noinline, cold)) V multiply_floats(const Operands<ThreePlanes>& o, int i,
                                                  const BFloat16* b) {
  V sum = zeros();
  const BFloat16* a = o.a + i * kRowOf<ThreePlanes>;
  for (int64_t k = 0; k < o.k; k += kMatrixDepth, a += o.a_block) {
    Real x[2][kVector];
    for (int half = 0; half < 2; ++half) store(x[half], floats_of(a, kMatrixDepth, half));
    for (int l = 0; l < kMatrixDepth; ++l) {
      const V weights = floats_of(b + pair_offset<ThreePlanes>(k + l - l % 2, 0, 1, 0),
                                  kPlaneOf<ThreePlanes>, l % 2);
      sum = fma_of(splat(x[l % 2][l / 2]), weights, sum);
    }
    if (_mm512_cmp_ps_mask((__m512)sum, (__m512)sum, _CMP_ORD_Q) == 0) break;
  }
  return sum;
}

// Some vectors of columns of a product.
template <int kCount>
struct Columns {
  const BFloat16* b[kCount];
  Real* c[kCount];

  // Vector `first` and the next ones, counted through panels of `vectors`.
  Columns(const Operands<ThreePlanes>& o, int first, int vectors) {
    for (int j = 0; j < kCount; ++j) {
      const int panel = (first + j) / vectors, vector = (first + j) % vectors;
      b[j] = o.b + panel * o.b_panel + vector * o.b_vector;
      c[j] = o.c + panel * o.c_panel + vector * o.c_vector;
    }
  }
};

// c (+)= the sums of `rows` rows, those of one row side by side.
template <int kVectors>
MR_INLINE void put_sums(const Operands<ThreePlanes>& o, const Columns<kVectors>& columns, int rows,
                        const Real* sums) {
  const bool accumulate = o.accumulate;
  const int64_t c_row = o.c_row;
  for (int i = 0; i < rows; ++i, sums += kVectors * kVector) {
    MR_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      V sum = load(sums + j * kVector);
      if (__builtin_expect(_mm512_cmp_ps_mask((__m512)sum, (__m512)sum, _CMP_UNORD_Q) != 0, 0)) {
        sum = sum == sum ? sum : multiply_floats(o, i, columns.b[j]);
      }
      Real* c = columns.c[j] + i * c_row;
      store(c, accumulate ? load(c) + sum : sum);
    }
  }
}

constexpr int kRowBytes = kRowOf<ThreePlanes> * sizeof(BFloat16);
constexpr int64_t kDepthOfB = ThreePlanes::kPlanes * kPlaneOf<ThreePlanes>;  // to the next 32 of k

// Registers 0 to 3 sum, 4 and 5 hold a plane of two registers of rows, 6 and 7 one of two vectors.
MR_INLINE void load_rows(const BFloat16* a, int plane) {
  _tile_loadd(4, a + plane * kMatrixDepth, kRowBytes);
  _tile_loadd(5, a + plane * kMatrixDepth + kMatrixRows * kRowOf<ThreePlanes>, kRowBytes);
}
template <bool kTwo>
MR_INLINE void load_columns(const BFloat16* first, const BFloat16* second, int plane) {
  _tile_loadd(6, first + plane * kPlaneOf<ThreePlanes>, kMatrixBytes);
  if constexpr (kTwo) _tile_loadd(7, second + plane * kPlaneOf<ThreePlanes>, kMatrixBytes);
}
template <bool kTwo>
MR_INLINE void multiply_planes() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTwo) _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (kTwo) _tile_dpbf16ps(3, 5, 7);
}

// 17 to 32 rows. The products go a0 * b2, a0 * b1, a1 * b1, a1 * b0, a0 * b0, a2 * b0: from each to the
// next a plane stays in its registers. Every tile sums in this order.
template <bool kTwo>
__attribute__((noinline)) void two_rows_by(const Columns<kTwo ? 2 : 1>& columns, int rows,
                                           const Operands<ThreePlanes>& o) {
  constexpr int kRow = (kTwo ? 2 : 1) * kVector, kBytes = kRow * sizeof(Real);
  alignas(64) Real sums[2 * kMatrixRows * kRow];
  memory_is_read(o.a);
  const BFloat16 *a = o.a, *first = columns.b[0], *second = columns.b[kTwo];
  zero_sums();
  for (int64_t k = 0; k < o.k; k += kMatrixDepth) {
    load_rows(a, 0);
    load_columns<kTwo>(first, second, 2);
    multiply_planes<kTwo>();
    load_columns<kTwo>(first, second, 1);
    multiply_planes<kTwo>();
    load_rows(a, 1);
    multiply_planes<kTwo>();
    load_columns<kTwo>(first, second, 0);
    multiply_planes<kTwo>();
    load_rows(a, 0);
    multiply_planes<kTwo>();
    load_rows(a, 2);
    multiply_planes<kTwo>();
    a += o.a_block;
    first += kDepthOfB;
    second += kDepthOfB;
  }
  Real* below = sums + kMatrixRows * kRow;
  _tile_stored(0, sums, kBytes);
  _tile_stored(2, below, kBytes);
  if constexpr (kTwo) {
    _tile_stored(1, sums + kVector, kBytes);
    _tile_stored(3, below + kVector, kBytes);
  }
  put_sums<kTwo ? 2 : 1>(o, columns, rows, sums);
}

// Up to 16 rows by up to four vectors. Registers 4 to 6 hold the rows' planes, 7 columns. With so few rows
// in them that 8 do, a product takes 10 cycles in place of 16.
constexpr MatrixShapes kFewRows[] = {1, 2, 3, 4, 5, 6, 7, 8};

// The sum of vector j: an instruction's registers are part of its name.
#define MR_MULTIPLY_VECTOR(j)                        \
  if constexpr (j < kVectors) {                      \
    _tile_loadd(7, b[j] + 2 * kPlane, kMatrixBytes); \
    _tile_dpbf16ps(j, 4, 7);                         \
    _tile_loadd(7, b[j] + kPlane, kMatrixBytes);     \
    _tile_dpbf16ps(j, 4, 7);                         \
    _tile_dpbf16ps(j, 5, 7);                         \
    _tile_loadd(7, b[j], kMatrixBytes);              \
    _tile_dpbf16ps(j, 5, 7);                         \
    _tile_dpbf16ps(j, 4, 7);                         \
    _tile_dpbf16ps(j, 6, 7);                         \
    b[j] += kDepthOfB;                               \
  }

template <int kVectors>
__attribute__((noinline)) void one_row_by(const Columns<kVectors>& columns, int rows,
                                          const Operands<ThreePlanes>& o) {
  constexpr int kRow = kVectors * kVector, kBytes = kRow * sizeof(Real);
  constexpr int64_t kPlane = kPlaneOf<ThreePlanes>;
  const bool few = rows <= kMatrixRows / 2;
  alignas(64) Real sums[kMatrixRows * kRow];
  memory_is_read(o.a);
  const BFloat16 *a = o.a, *b[kVectors];
  for (int j = 0; j < kVectors; ++j) b[j] = columns.b[j];
  if (few) kFewRows[rows - 1].use();
  zero_sums();
  for (int64_t k = 0; k < o.k; k += kMatrixDepth, a += o.a_block) {
    _tile_loadd(4, a, kRowBytes);
    _tile_loadd(5, a + kMatrixDepth, kRowBytes);
    _tile_loadd(6, a + 2 * kMatrixDepth, kRowBytes);
    MR_MULTIPLY_VECTOR(0)
    MR_MULTIPLY_VECTOR(1)
    MR_MULTIPLY_VECTOR(2)
    MR_MULTIPLY_VECTOR(3)
  }
  _tile_stored(0, sums, kBytes);
  if constexpr (kVectors > 1) _tile_stored(1, sums + kVector, kBytes);
  if constexpr (kVectors > 2) _tile_stored(2, sums + 2 * kVector, kBytes);
  if constexpr (kVectors > 3) _tile_stored(3, sums + 3 * kVector, kBytes);
  if (few) MatrixRegisters::kWhole.use();
  put_sums<kVectors>(o, columns, rows, sums);
}
#undef MR_MULTIPLY_VECTOR

template <>
struct Tile<ThreePlanes> : MatrixTile {
  // Vectors go in pairs: an odd number of them with those of the next panel.
  static constexpr int panels_at_once(int, int vectors) { return 1 + vectors % 2; }

  template <int Vectors, int kRowStride, int kStep, int>
  static MR_INLINE void run(int rows, int panels, const Operands<ThreePlanes>& o) {
    static_assert(kStep == 1 && kRowStride == kRowOf<ThreePlanes>);
    const int all = panels * Vectors;
    if (rows <= kMatrixRows) {
      for (int first = 0; first < all; first += 4) {
        switch (all - first) {
          case 1: one_row_by<1>({o, first, Vectors}, rows, o); break;
          case 2: one_row_by<2>({o, first, Vectors}, rows, o); break;
          case 3: one_row_by<3>({o, first, Vectors}, rows, o); break;
          default: one_row_by<4>({o, first, Vectors}, rows, o);
        }
      }
      return;
    }
    for (int first = 0; first < all; first += 2) {
      if (all - first > 1) {
        two_rows_by<true>({o, first, Vectors}, rows, o);
      } else {
        two_rows_by<false>({o, first, Vectors}, rows, o);
      }
    }
  }
};

}  // namespace
}  // namespace masked_rnn
