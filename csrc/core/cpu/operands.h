// What products multiply: a kind says of which type operands are, and how they lie.
//
//   a, the rows     [k block][row][plane][K::kBlock]
//   b, the weights  panels of a few vectors of columns: [k / K::kPair][vectors][V][K::kPair], or as
//                   matrix registers hold them, [vectors][k block][plane][16][V][2]
#pragma once

#include "simd.h"

namespace masked_rnn {
namespace {

// Operands of the compute type.
struct Reals {
  using Operand = Real;
  using Vector = V;
  static constexpr int kPair = 1;            // consecutive k that one multiply-add takes
  static constexpr int kPlanes = 1;          // operands that are one value
  static constexpr int kBlock = kVector;     // values of k that a row holds side by side
  static constexpr bool kMatrix = false;     // whether matrix registers multiply them
  struct Pairs {
    V plane[1];
  };

  static MR_INLINE Vector load_vector(const Operand* p) { return load(p); }
  static MR_INLINE Vector splat_pair(const Operand* p) { return splat(*p); }
  static MR_INLINE V multiply_add(V a, V b, V c) { return fma_of(a, b, c); }

  static MR_INLINE void store_block(Operand* p, V v) { store(p, v); }
  static MR_INLINE void store_vector(Operand* p, Vector v) { store(p, v); }
  static MR_INLINE Pairs pair(V first, V) { return {{first}}; }
  // put(k, plane, vector): the columns whose kVector values of k are the rows of `columns`, by k.
  template <class Put>
  static MR_INLINE void transpose_columns(V* columns, const Put& put) {
#if defined(__AVX512F__) && !MASKED_RNN_REAL_IS_DOUBLE
    transpose(reinterpret_cast<__m512i*>(columns));
    for (int k = 0; k < kVector; ++k) put(k, 0, columns[k]);
#else
    for (int k = 0; k < kVector; ++k) {
      V row;
      for (int c = 0; c < kVector; ++c) row[c] = columns[c][k];
      put(k, 0, row);
    }
#endif
  }
};

#if defined(__AVX512BF16__)

// To nearest, ties to even; subnormal numbers become zero, as they are to a product.
MR_INLINE Half rounded(V v) { return (Half)_mm512_cvtneps_pbh((__m512)v); }
MR_INLINE V widened(Half h) { return (V)(__builtin_convertvector(h, Word) << 16); }

// first[0], second[0], first[1], second[1].. of the two halves of `both`.
MR_INLINE __m512bh interleave(__m512i both) {
  Half lane[2];
  for (int l = 0; l < kVector; ++l) {
    lane[l * 2 / kVector][l * 2 % kVector] = static_cast<uint16_t>(l);
    lane[l * 2 / kVector][l * 2 % kVector + 1] = static_cast<uint16_t>(kVector + l);
  }
  __m512i order;
  memcpy(&order, lane, sizeof(order));
  return (__m512bh)_mm512_permutexvar_epi16(order, both);
}
MR_INLINE __m512i join(Half first, Half second) {
  return _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)first), (__m256i)second, 1);
}

// A machine with bfloat16 products multiplies pairs of bfloat16 values and adds both to a float: twice
// the speed of float on Zen, half of it on Intel, whose AMX has matrix registers (tile_amx.h). Those
// are so fast that a float goes there too, as a sum of three bfloat16 values, its planes.
template <int kOfValue>
struct BFloat16s {
  using Operand = BFloat16;
  using Vector = __m512bh;
  using Words = __m512i;
#if defined(__AMX_BF16__)
  static constexpr bool kMatrix = true;
#else
  static constexpr bool kMatrix = false;
#endif
  static constexpr int kPair = 2, kPlanes = kOfValue, kBlock = kMatrix ? 2 * kVector : kVector;
  struct Pairs {
    Vector plane[kPlanes];
  };

  static MR_INLINE Vector load_vector(const Operand* p) {
    Vector v;
    memcpy(&v, p, sizeof(v));
    return v;
  }
  static MR_INLINE Vector splat_pair(const Operand* p) {
    int32_t pair;
    memcpy(&pair, p, sizeof(pair));
    return (Vector)_mm512_set1_epi32(pair);
  }
  static MR_INLINE V multiply_add(Vector a, Vector b, V c) {
    return (V)_mm512_dpbf16_ps((__m512)c, a, b);
  }
  static MR_INLINE void store_vector(Operand* p, Vector v) { memcpy(p, &v, sizeof(v)); }

  // The planes of v: v rounded, what that leaves rounded, and the rest, which fits.
  static MR_INLINE void planes_of(V v, Half* plane) {
    if (kPlanes > 1 && __builtin_expect(has_large(v), 0)) return cut(v, plane);
    MR_UNROLL
    for (int q = 0; q < kPlanes; ++q) {
      plane[q] = rounded(v);
      v = v - widened(plane[q]);
    }
  }
  // Of values that are not finite or would round to infinity: infinity and NaN lie in the first plane
  // alone, the others are cut instead.
  static __attribute__((noinline, cold)) void cut(V v, Half* plane) {
    const Word size = (Word)v & 0x7fffffff, finite = (Word)(size < kInfinity);
    const Word large = (Word)(size > kLargest) & finite;
    plane[0] = rounded(v);
    const Word first = (large & ((Word)v >> 16)) | (~large & __builtin_convertvector(plane[0], Word));
    plane[0] = __builtin_convertvector(first, Half);
    for (int q = 1; q < kPlanes; ++q) {
      v = (V)((Word)(v - widened(plane[q - 1])) & finite);
      plane[q] = rounded(v);
    }
  }
  static constexpr uint32_t kLargest = 0x7f7f0000, kInfinity = 0x7f800000;  // kLargest of bfloat16
  static MR_INLINE bool has_large(V v) {
    const __m512i size = (__m512i)((Word)v & 0x7fffffff);
    return _mm512_cmpgt_epu32_mask(size, _mm512_set1_epi32(kLargest)) != 0;
  }

  static MR_INLINE void store_block(Operand* p, V v) {
    Half plane[kPlanes];
    planes_of(v, plane);
    MR_UNROLL
    for (int q = 0; q < kPlanes; ++q) memcpy(p + q * kBlock, &plane[q], sizeof(Half));
  }

  static MR_INLINE Pairs pair(V first, V second) {
    Pairs pairs;
    if (kPlanes > 1 && __builtin_expect(has_large(first) || has_large(second), 0)) {
      Half a[kPlanes], b[kPlanes];
      planes_of(first, a);
      planes_of(second, b);
      for (int q = 0; q < kPlanes; ++q) pairs.plane[q] = interleave(join(a[q], b[q]));
      return pairs;
    }
    MR_UNROLL
    for (int q = 0; q < kPlanes; ++q) {
      pairs.plane[q] = interleave((__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
      const Word both = (Word)pairs.plane[q];
      first = first - (V)(both << 16);
      second = second - (V)(both & 0xffff0000);
    }
    return pairs;
  }
  // put(k, plane, pairs): the columns whose kVector values of k are the rows of `columns`, by pairs of
  // k. Two planes fill one matrix of 16 x 16 pairs.
  template <class Put>
  static MR_INLINE void transpose_columns(const V* columns, const Put& put) {
    Half plane[kVector][kPlanes + 1];
    for (int c = 0; c < kVector; ++c) {
      planes_of(columns[c], plane[c]);
      plane[c][kPlanes] = Half{};
    }
    constexpr int kPairs = kVector / kPair;
    for (int q = 0; q < kPlanes; q += 2) {
      Words both[kVector];
      for (int c = 0; c < kVector; ++c) both[c] = join(plane[c][q], plane[c][q + 1]);
      transpose(both);
      for (int i = 0; i < kPairs * (q + 1 < kPlanes ? 2 : 1); ++i) {
        put(i % kPairs * kPair, q + i / kPairs, (Vector)both[i]);
      }
    }
  }

  // Pairs from blocks of two rows; null: zeros.
  static MR_INLINE Pairs pair_blocks(const Operand* first, const Operand* second) {
    const Half none{};
    Pairs pairs;
    MR_UNROLL
    for (int q = 0; q < kPlanes; ++q) {
      pairs.plane[q] = interleave(join(first == nullptr ? none : load_half(first + q * kBlock),
                                       second == nullptr ? none : load_half(second + q * kBlock)));
    }
    return pairs;
  }
};

#endif

// --- where they lie ----------------------------------------------------------------------------

template <class K>
constexpr int kRowOf = K::kPlanes * K::kBlock;  // from row to row of a

// Blocks of kVector values rounded up to whole blocks of operands.
template <class K>
MR_INLINE int64_t whole_blocks(int64_t blocks) {
  return round_up(blocks, K::kBlock / kVector);
}
// Where a block of kVector values of a row lies among those of `rows` rows.
template <class K>
MR_INLINE int64_t block_offset(int64_t block, int64_t row, int64_t rows) {
  constexpr int kBlocks = K::kBlock / kVector;
  return (block / kBlocks * rows + row) * kRowOf<K> + block % kBlocks * kVector;
}
// Elements of `rows` rows of so many blocks.
template <class K>
MR_INLINE int64_t size_of_rows(int64_t blocks, int64_t rows) {
  return whole_blocks<K>(blocks) * rows * kVector * K::kPlanes;
}

// k rounded up to what one multiply-add takes of the weights.
template <class K>
MR_INLINE int64_t whole_depth(int64_t k) {
  return round_up(k, K::kMatrix ? K::kBlock : K::kPair);
}
// Elements of a vector of columns.
template <class K>
MR_INLINE int64_t size_of_vector(int64_t k) {
  return whole_depth<K>(k) * kVector * K::kPlanes;
}
// Where the pair that starts at k lies in vector j of a panel of `vectors`, `depth` values of k deep.
template <class K>
MR_INLINE int64_t pair_offset(int64_t k, int64_t j, int64_t vectors, int64_t depth) {
  if constexpr (K::kMatrix) {
    return (j * depth + k / K::kBlock * K::kBlock) * kVector * K::kPlanes + k % K::kBlock * kVector;
  } else {
    return (k * vectors + j * K::kPair) * kVector;
  }
}
template <class K>
constexpr int64_t kPlaneOf = K::kBlock * kVector;  // from plane to plane of b

template <class K>
MR_INLINE void store_pairs(typename K::Operand* p, const typename K::Pairs& pairs) {
  MR_UNROLL
  for (int q = 0; q < K::kPlanes; ++q) K::store_vector(p + q * kPlaneOf<K>, pairs.plane[q]);
}

// --- which are used ----------------------------------------------------------------------------

// For a storage type, the kinds of the products of a step and of those of a whole chunk of steps:
// inputs with kernel, and backward all but one. A step may have few rows, and then its products wait
// for the weights, of which planes are half as many bytes again: all in planes, GRU 8,1000,64,256 took
// 1.7 times as long.
template <class Storage>
struct Kinds {
  using Step = Reals;
  using Chunk = Reals;
};
#if defined(__AVX512BF16__)
template <>
struct Kinds<BFloat16> {
  using Step = BFloat16s<1>;
  using Chunk = BFloat16s<1>;
};
#endif
#if defined(__AMX_BF16__)
template <>
struct Kinds<float> {
  using Step = Reals;
  using Chunk = BFloat16s<3>;
};
#endif

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

}  // namespace
}  // namespace masked_rnn
