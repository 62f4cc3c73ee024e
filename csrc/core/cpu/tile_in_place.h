// The multiply-add loop for weights as Keras keeps them, [k][width]. In calls of few steps to pack them
// takes longer than to multiply: one step of GRU 1,1,256,256 was 0.16 ms on AVX-512, and is 0.03.
//
// c[row][column] = sum over k of a[row][k] * b[k][column], each by multiply-adds in the order of k, so its
// bits are those of packed weights. A few k at a time pass all columns: weights are then read line after
// line and come from the L3 cache at its full speed. One tile of columns after the other gets half of it.
#pragma once

#include "../layout.h"
#include "tile.h"

namespace masked_rnn {
namespace {

struct InPlace {
  const Real* a;  // [k block][row][V]
  int64_t a_block;
  const Real* b;  // the first column of the first gate
  int64_t width, b_gate;
  int64_t vectors;  // of each gate; the last of them has `last` columns
  int last, gates;
  Real* c;
  int64_t c_row, c_vector, c_gate;
  int64_t k;
};

// Vectors of columns that a tile of `rows` takes at once, a power of two.
constexpr int vectors_in_place(int rows) {
  int vectors = 8;
  while (vectors > 1 && rows * vectors > kRegisters * 3 / 4) vectors /= 2;
  return vectors;
}

// `n` values of k for kVectors vectors of columns, or for the first `columns` of one.
template <int kRows, int kVectors>
MR_INLINE void add_in_place(const InPlace& o, const Real* a, const Real* b, int64_t n, int columns,
                            bool first, Real* c) {
  V sum[kRows][kVectors];
  MR_UNROLL
  for (int i = 0; i < kRows; ++i) {
    MR_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = first ? zeros() : load(c + i * o.c_row + j * o.c_vector);
    }
  }
  MR_UNROLL_4
  for (int64_t k = 0; k < n; ++k, b += o.width) {
    V row[kVectors];
    MR_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      row[j] = kVectors > 1 ? load(b + j * kVector) : load_first(b, columns);
    }
    MR_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const V x = splat(a[i * kVector + k]);
      MR_UNROLL
      for (int j = 0; j < kVectors; ++j) sum[i][j] = fma_of(x, row[j], sum[i][j]);
    }
  }
  MR_UNROLL
  for (int i = 0; i < kRows; ++i) {
    MR_UNROLL
    for (int j = 0; j < kVectors; ++j) store(c + i * o.c_row + j * o.c_vector, sum[i][j]);
  }
}

// All vectors of a gate from `at` on that tiles of kVectors can take.
template <int kRows, int kVectors>
MR_INLINE void pass_columns(const InPlace& o, const Real* a, const Real* b, int64_t n, bool first,
                            Real* c, int64_t at = 0) {
  for (; at + kVectors <= o.vectors; at += kVectors) {
    const int columns = at + 1 < o.vectors ? kVector : o.last;
    if (kVectors > 1 && at + kVectors == o.vectors && o.last < kVector) break;
    add_in_place<kRows, kVectors>(o, a, b + at * kVector, n, columns, first, c + at * o.c_vector);
  }
  if constexpr (kVectors > 1) pass_columns<kRows, kVectors / 2>(o, a, b, n, first, c, at);
}

template <int kRows>
__attribute__((noinline)) void multiply_rows(const InPlace& o) {
  const Real *a = o.a, *b = o.b;
  int64_t k = 0;
  do {  // without any k the sums are zero
    const int64_t n = o.k - k < kVector ? o.k - k : kVector;
    for (int g = 0; g < o.gates; ++g) {
      pass_columns<kRows, vectors_in_place(kRows)>(o, a, b + g * o.b_gate, n, k == 0,
                                                   o.c + g * o.c_gate);
    }
    k += kVector;
    a += o.a_block;
    b += kVector * o.width;
  } while (k < o.k);
}

// The most rows of a product.
constexpr int kRowsInPlace = vector_rows(1);
static_assert(kRowsInPlace <= kMostRowsInPlace);

template <int kRows = kRowsInPlace>
MR_INLINE void multiply_in_place(int rows, const InPlace& o) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return multiply_rows<kRows>(o);
    multiply_in_place<kRows - 1>(rows, o);
  }
}

}  // namespace
}  // namespace masked_rnn
