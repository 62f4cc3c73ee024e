// What the tensor cores multiply, as a warp's lanes hold it: the left operand in parts, the right
// one in pieces of a row's depth. Lane = 4 * group + quad. The depth is taken in an order in which
// a lane's elements of the right operand are whole pieces.
#pragma once

#include "real.cuh"
#include "tiles.h"

namespace masked_rnn::cuda {

// What a register of an operand holds: kPacked elements, rounded.
template <class Storage>
struct Operand;
template <>
struct Operand<BFloat16> {
  static constexpr int kPacked = 2;
  using Element = uint16_t;
  static MR_INLINE uint32_t word(const float (&x)[2]) { return pack_bfloat16(x[0], x[1]); }
  static MR_INLINE void multiply(float* c, const uint32_t* a, const uint32_t* b) {
    multiply_bfloat16(c, a, b);
  }
};
template <>
struct Operand<Float16> {
  static constexpr int kPacked = 2;
  using Element = uint16_t;
  static MR_INLINE uint32_t word(const float (&x)[2]) { return pack_float16(x[0], x[1]); }
  static MR_INLINE void multiply(float* c, const uint32_t* a, const uint32_t* b) {
    multiply_float16(c, a, b);
  }
};
template <>
struct Operand<float> {
  static constexpr int kPacked = 1;
  using Element = uint32_t;
  static MR_INLINE uint32_t word(const float (&x)[1]) { return round_to_tf32(x[0]); }
  static MR_INLINE void multiply(float* c, const uint32_t* a, const uint32_t* b) {
    multiply_tf32(c, a, b);
  }
};

// A piece of one row: four elements of the right operand that follow each other in depth.
template <class Storage>
struct alignas(16 / Operand<Storage>::kPacked) Piece {
  uint32_t word[kPiece / Operand<Storage>::kPacked];
};
template <class Storage>
MR_INLINE Piece<Storage> piece_of(const float (&x)[kPiece]) {
  constexpr int kPacked = Operand<Storage>::kPacked;
  Piece<Storage> piece;
  MR_UNROLL for (int w = 0; w < kPiece / kPacked; ++w) {
    float packed[kPacked];
    MR_UNROLL for (int j = 0; j < kPacked; ++j) packed[j] = x[w * kPacked + j];
    piece.word[w] = Operand<Storage>::word(packed);
  }
  return piece;
}
template <class Storage>
constexpr int kProductsOfPiece = 2 / Operand<Storage>::kPacked;  // products that a piece serves

// A lane's part of a tile of the left operand for one product: words 0 and 2 of row `group` of the
// tile, 1 and 3 of row group + 8.
struct alignas(16) LeftPart {
  uint32_t word[4];
};
// Its word r in product t; element(half, k) is number k in depth of the lane's row in that half.
template <class Storage, class Element>
MR_INLINE uint32_t left_word(int t, int r, const Element& element) {
  constexpr int kPacked = Operand<Storage>::kPacked, kOfPiece = kProductsOfPiece<Storage>;
  const int quad = static_cast<int>(threadIdx.x & 3);
  const int piece = t / kOfPiece * 4 + quad, in_piece = t % kOfPiece * 2 + (r >> 1);
  float x[kPacked];
  MR_UNROLL for (int j = 0; j < kPacked; ++j) {
    x[j] = element(r & 1, piece * kPiece + in_piece * kPacked + j);
  }
  return Operand<Storage>::word(x);
}

}  // namespace masked_rnn::cuda
