// Matrix products of a warp on the CPU, with the operands laid out over its lanes as the PTX ISA
// has them: lane = 4 * group + quad.
#pragma once

#include <cstdint>
#include <cstring>

#include "grid.h"

namespace cusim {

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The element formats: what the `half`-th part of a 32-bit register stands for.
inline float bfloat16_element(uint32_t reg, int half) {
  return bits_to_float(reg >> (16 * half) << 16);
}
inline float float16_element(uint32_t reg, int half) {
  const uint32_t bits = reg >> (16 * half) & 0xffff, magnitude = bits & 0x7fff;
  const float value = magnitude < 0x7c00
      ? bits_to_float(magnitude << 13) * 0x1p112f
      : bits_to_float(0x7f800000u | (magnitude & 0x3ff) << 13);
  return bits & 0x8000 ? -value : value;
}
inline float tf32_element(uint32_t reg, int) { return bits_to_float(reg & 0xffffe000u); }

// c += a @ b, 16 rows, 8 columns; a register holds `kPacked` elements that follow each other in k.
// 16-bit elements: k is 16 (kPacked 2); TF32: k is 8 (kPacked 1).
template <int kPacked, class Element>
void matrix_product(float* c, const uint32_t* a, const uint32_t* b, Element element) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  exchange(~0u, mine, sizeof(mine));
  const int group = position().lane >> 2, quad = position().lane & 3;
  // This lane's two rows of a and two columns of b.
  constexpr int kDepth = 8 * kPacked;
  float rows[2][kDepth], columns[2][kDepth];
  for (int k = 0; k < kDepth; ++k) {
    const int upper = k / (4 * kPacked), holder = k / kPacked % 4, half = k % kPacked;
    const uint32_t* of_row = lane_value(group * 4 + holder);
    for (int i = 0; i < 2; ++i) {
      rows[i][k] = element(of_row[i + 2 * upper], half);
      columns[i][k] = element(lane_value((quad * 2 + i) * 4 + holder)[4 + upper], half);
    }
  }
  for (int i = 0; i < 4; ++i) {
    float sum = c[i];
    for (int k = 0; k < kDepth; ++k) sum += rows[i >> 1][k] * columns[i & 1][k];
    c[i] = sum;
  }
}

}  // namespace cusim
