// The multiply-add loop for bfloat16 operands on the matrix registers.
//
// Whole registers are read and written: rows past the last one of a tile are computed from what lies in
// the operands, and land in rows of c that nobody reads (layout.cc leaves room for both). Weights lie as
// registers hold them: rows of a panel instead made 512 units 3 to 8 % slower.
#pragma once

#include "tile_amx.h"

namespace masked_rnn {
namespace {

// Up to sixteen rows, all columns: as many sums at once as there are vectors.
template <int Vectors>
__attribute__((noinline)) void one_by_all(const Operands<BFloat16s<1>>& o) {
  memory_is_read(o.a);
  const int64_t c_stride = o.c_row * int64_t{sizeof(Real)};
  if (o.accumulate) {
    _tile_loadd(0, o.c, c_stride);
    if constexpr (Vectors > 1) _tile_loadd(1, o.c + o.c_vector, c_stride);
    if constexpr (Vectors > 2) _tile_loadd(2, o.c + 2 * o.c_vector, c_stride);
    if constexpr (Vectors > 3) _tile_loadd(3, o.c + 3 * o.c_vector, c_stride);
  } else {
    zero_sums();
  }
  const BFloat16 *a = o.a, *b = o.b;
  for (int64_t k = 0; k < o.k; k += kMatrixDepth, a += o.a_block, b += kPlaneOf<BFloat16s<1>>) {
    _tile_loadd(4, a, kMatrixBytes);
    _tile_loadd(6, b, kMatrixBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Vectors > 1) {
      _tile_loadd(7, b + o.b_vector, kMatrixBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Vectors > 2) {
      _tile_loadd(5, b + 2 * o.b_vector, kMatrixBytes);
      _tile_dpbf16ps(2, 4, 5);
    }
    if constexpr (Vectors > 3) {
      _tile_loadd(6, b + 3 * o.b_vector, kMatrixBytes);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  _tile_stored(0, o.c, c_stride);
  if constexpr (Vectors > 1) _tile_stored(1, o.c + o.c_vector, c_stride);
  if constexpr (Vectors > 2) _tile_stored(2, o.c + 2 * o.c_vector, c_stride);
  if constexpr (Vectors > 3) _tile_stored(3, o.c + 3 * o.c_vector, c_stride);
}

// Two registers of rows and one or two of columns, from vector `first` on.
template <bool kTwoColumns>
__attribute__((noinline)) void two_by_two(int first, const Operands<BFloat16s<1>>& o) {
  memory_is_read(o.a);
  const int64_t c_stride = o.c_row * int64_t{sizeof(Real)};
  Real *c = o.c + first * o.c_vector, *below = c + kMatrixRows * o.c_row;
  if (o.accumulate) {
    _tile_loadd(0, c, c_stride);
    _tile_loadd(2, below, c_stride);
    if constexpr (kTwoColumns) {
      _tile_loadd(1, c + o.c_vector, c_stride);
      _tile_loadd(3, below + o.c_vector, c_stride);
    }
  } else {
    zero_sums();
  }
  const BFloat16 *a = o.a, *b = o.b + first * o.b_vector;
  for (int64_t k = 0; k < o.k; k += kMatrixDepth, a += o.a_block, b += kPlaneOf<BFloat16s<1>>) {
    _tile_loadd(4, a, kMatrixBytes);
    _tile_loadd(5, a + kMatrixRows * kMatrixDepth, kMatrixBytes);
    _tile_loadd(6, b, kMatrixBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwoColumns) {
      _tile_loadd(7, b + o.b_vector, kMatrixBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_stride);
  _tile_stored(2, below, c_stride);
  if constexpr (kTwoColumns) {
    _tile_stored(1, c + o.c_vector, c_stride);
    _tile_stored(3, below + o.c_vector, c_stride);
  }
}

template <>
struct Tile<BFloat16s<1>> : MatrixTile {
  // Vectors go in pairs: an odd number of them with those of the next panel. Of up to sixteen rows three
  // are as fast alone.
  static constexpr int panels_at_once(int rows, int vectors) {
    return vectors == 1 || (vectors == 3 && rows > kMatrixRows) ? 2 : 1;
  }

  // A sum that is added to c starts from it: what that costs in accuracy is far below the rounding of
  // the operands.
  template <int Vectors, int kRowStride, int kStep, int>
  static MR_INLINE void run(int rows, int panels, const Operands<BFloat16s<1>>& o) {
    static_assert(kStep == 1 && kRowStride == kMatrixDepth);
    if (panels > 1) return run_two_panels<Vectors>(rows, o);
    if (rows <= kMatrixRows) return one_by_all<Vectors>(o);
    two_by_two<(Vectors > 1)>(0, o);
    if constexpr (Vectors > 2) two_by_two<(Vectors > 3)>(2, o);
  }

 private:
  // The last vectors of both are a pair.
  template <int Vectors>
  static MR_INLINE void run_two_panels(int rows, const Operands<BFloat16s<1>>& o) {
    Operands<BFloat16s<1>> second = o, last = o;
    second.b += o.b_panel;
    second.c += o.c_panel;
    last.b += (Vectors - 1) * o.b_vector;
    last.c += (Vectors - 1) * o.c_vector;
    last.b_vector = o.b_panel;
    last.c_vector = o.c_panel;
    if (rows > kMatrixRows) {
      if constexpr (Vectors > 2) {
        two_by_two<true>(0, o);
        two_by_two<true>(0, second);
      }
      two_by_two<true>(0, last);
    } else if constexpr (Vectors > 1) {
      one_by_all<Vectors>(o);
      one_by_all<Vectors>(second);
    } else {
      one_by_all<2>(last);
    }
  }
};

}  // namespace
}  // namespace masked_rnn
