// Operands of the products that sum over the rows of a chunk, the weight gradients, where a machine
// multiplies pairs: two rows of a chunk are a pair.
//
//   as b takes them   like weights (operands.h)
//   as a takes them   [block][rows / 2][V][2]; for matrix registers, which hold a row of c's values of k
//                     side by side, [rows / 32][block][V][plane][32]
#pragma once

#include "kernel.h"

namespace masked_rnn {
namespace {

// Rows are packed in strips of so many; the last one is filled up with zeros.
constexpr int64_t kStrip = 32;
template <class K>
constexpr int64_t kStripRow = K::kPlanes * kStrip;  // from one value's rows to the next's

// The blocks of values that `load(block, row)` gives for `n` rows, some strips of them.
template <class K, class Load>
MR_INLINE void pack_rows(Range strips, int64_t n, int64_t blocks, int64_t capacity, const Load& load,
                         typename K::Operand* to) {
  constexpr int kPairs = kStrip / 2;
  static_assert(kStrip == K::kPair * kVector);
  for (int64_t s = strips.begin; s < strips.end; ++s) {
    for (int64_t f = 0; f < blocks; ++f) {
      typename K::Vector pairs[K::kPlanes][kPairs];
      for (int i = 0; i < kPairs; ++i) {
        const int64_t row = s * kStrip + 2 * i;
        const typename K::Pairs two = K::pair(row < n ? load(f, row) : zeros(),
                                              row + 1 < n ? load(f, row + 1) : zeros());
        for (int q = 0; q < K::kPlanes; ++q) pairs[q][i] = two.plane[q];
      }
      typename K::Operand* strip = K::kMatrix ? to + (s * blocks + f) * kVector * kStripRow<K>
                                              : to + (f * capacity + s * kStrip) * kVector;
      for (int q = 0; q < K::kPlanes; ++q) {
        if constexpr (K::kMatrix) transpose(reinterpret_cast<typename K::Words*>(pairs[q]));
        for (int i = 0; i < kPairs; ++i) {
          K::store_vector(strip + i * kStripRow<K> + q * kStrip, pairs[q][i]);
        }
      }
    }
  }
}

inline Range strips_of(int64_t n, int part, int parts) {
  return share_of((n + kStrip - 1) / kStrip, part, parts);
}

// Of kVectors blocks of `gates` so many at once: those of planes that stay in the L1 cache while `operand`
// passes by, 24 KB at 128 rows. All four of LSTM's instead: 5 to 30 % slower on Granite Rapids.
template <class K, int kVectors>
constexpr int kAtOnce = K::kPlanes > 1 && kVectors > 2 ? 2 : kVectors;

// to[panel][k][gates][V] (+)= operand^T @ gates over `n` rows, for the first `features` values of `operand`.
// `gates` are kVectors blocks of kRow / kVector, as b takes them, in each of so many panels: some where there
// is one vector. How far panels are from each other is said in `o`.
template <class K, int kVectors, int kRow>
MR_INLINE void multiply_rows(const typename K::Operand* operand, int64_t features, int64_t n,
                             int64_t capacity, const typename K::Operand* gates, Operands<K>& o,
                             int64_t to_row, Real* to, int panels = 1) {
  const int64_t blocks = (features + kVector - 1) / kVector;
  o.b = gates;
  o.c_row = to_row;
  o.c_vector = kVector;
  if constexpr (K::kMatrix) {
    constexpr int kNow = kAtOnce<K, kVectors>;
    o.a_block = blocks * kVector * kStripRow<K>;
    o.block = kStrip;
    o.k = round_up(n, kStrip);
    Tile<K>::template each<kNow>(features, [&](int64_t i, int m) {
      o.a = operand + i * kStripRow<K>;
      o.c = to + i * to_row;
      Tile<K>::template run<kNow, kStripRow<K>, 1, kRow>(m, panels, o);
    });
    if constexpr (kNow < kVectors) {
      multiply_rows<K, kVectors - kNow, kRow>(operand, features, n, capacity, gates + kNow * o.b_vector, o,
                                              to_row, to + kNow * kVector);
    }
  } else {
    o.a_block = 0;
    o.block = o.k = round_up(n, K::kPair);
    for (int64_t f = 0; f < blocks; ++f) {
      Tile<K>::template each<kVectors>(first_of(features, f), [&](int64_t i, int m) {
        o.a = operand + f * capacity * kVector + i * K::kPair;
        o.c = to + (f * kVector + i) * to_row;
        Tile<K>::template run<kVectors, K::kPair, kVector, kRow>(m, panels, o);
      });
    }
  }
}

}  // namespace
}  // namespace masked_rnn
