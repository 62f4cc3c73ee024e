// Operands of the products that sum over the rows of a chunk, the weight gradients, where a machine
// multiplies pairs: two rows of a chunk are a pair.
//
//   as b takes them   [rows / 2][V][2]
//   as a takes them   [block][rows / 2][V][2]; for matrix registers, which hold a row of c's values of k
//                     side by side, [rows / 32][block][V][32]
#pragma once

#include "kernel.h"

namespace masked_rnn {
namespace {

// Rows are packed in strips of so many; the last one is filled up with zeros.
constexpr int64_t kStrip = 32;

constexpr bool kHasMatrices = kOperandBlock > kVector;

// The blocks of values that `load(block, row)` gives for `n` rows, some strips of them.
template <class Load>
MR_INLINE void pack_rows(Range strips, int64_t n, int64_t blocks, int64_t capacity, const Load& load,
                         Operand* to) {
  constexpr int kPairs = kStrip / 2;
  for (int64_t s = strips.begin; s < strips.end; ++s) {
    for (int64_t f = 0; f < blocks; ++f) {
      OperandVector pairs[kPairs];
      for (int i = 0; i < kPairs; ++i) {
        const int64_t row = s * kStrip + 2 * i;
        pairs[i] = pair_of(row < n ? load(f, row) : zeros(), row + 1 < n ? load(f, row + 1) : zeros());
      }
      if constexpr (kHasMatrices) transpose(pairs);
      Operand* strip = kHasMatrices ? to + (s * blocks + f) * kVector * kStrip
                                    : to + (f * capacity + s * kStrip) * kVector;
      for (int i = 0; i < kPairs; ++i) store_operands(strip + i * kPair * kVector, pairs[i]);
    }
  }
}

inline Range strips_of(int64_t n, int part, int parts) {
  return share_of((n + kStrip - 1) / kStrip, part, parts);
}

// to[k][gates][V] (+)= operand^T @ gates over `n` rows, for the first `features` values of `operand`.
// `gates` are kVectors blocks of kRow / kVector, as b takes them.
template <int kVectors, int kRow>
MR_INLINE void multiply_rows(const Operand* operand, int64_t features, int64_t n, int64_t capacity,
                             const Operand* gates, Operands& o, int64_t to_row, Real* to) {
  const int64_t blocks = (features + kVector - 1) / kVector;
  o.b = gates;
  o.b_panel = o.c_panel = 0;
  o.c_row = to_row;
  o.c_vector = kVector;
  if constexpr (kHasMatrices) {
    o.a_block = blocks * kVector * kStrip;
    o.block = kStrip;
    o.k = round_up(n, kStrip);
    for_tiles<most_rows(kVectors)>(features, [&](int64_t i, int m) {
      o.a = operand + i * kStrip;
      o.c = to + i * to_row;
      run_tile<kVectors, kStrip, 1, kRow>(m, 1, o);
    });
  } else {
    o.a_block = 0;
    o.block = o.k = round_up(n, kPair);
    for (int64_t f = 0; f < blocks; ++f) {
      for_tiles<most_rows(kVectors)>(first_of(features, f), [&](int64_t i, int m) {
        o.a = operand + f * capacity * kVector + i * kPair;
        o.c = to + (f * kVector + i) * to_row;
        run_tile<kVectors, kPair, kVector, kRow>(m, 1, o);
      });
    }
  }
}

}  // namespace
}  // namespace masked_rnn
