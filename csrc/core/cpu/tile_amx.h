// The matrix registers of AMX: one instruction multiplies sixteen rows of 32 bfloat16 values of k with
// sixteen columns, fifteen times as fast as float32 vectors on Granite Rapids. Its speed is that of its
// loads, so two registers of rows meet two of columns. tile_bfloat16.h and tile_planes.h are the loops.
#pragma once

#include "tile.h"

namespace masked_rnn {
namespace {

constexpr int kMatrixRows = 16, kMatrixBytes = 64, kMatrixDepth = 32;  // of bfloat16

// gcc 12 believes that the instructions below read nothing, and drops the stores before them.
MR_INLINE void memory_is_read(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// The shapes of matrix registers: 0 to 6 have so many rows, 7 has all.
struct alignas(64) MatrixShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr MatrixShapes(int some_rows) {
    for (int i = 0; i < 8; ++i) {
      bytes[i] = kMatrixBytes;
      rows[i] = static_cast<uint8_t>(i < 7 ? some_rows : kMatrixRows);
    }
  }
  void use() const {
    memory_is_read(this);
    _tile_loadconfig(this);
  }
};

// This thread's, while it lives.
struct MatrixRegisters {
  MatrixRegisters() { kWhole.use(); }
  ~MatrixRegisters() { _tile_release(); }
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;

  static constexpr MatrixShapes kWhole{kMatrixRows};
};

// Registers 0 to 3 sum, 4 and 5 hold rows, the others columns.

MR_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// What tiles of matrix registers have in common.
struct MatrixTile {
  static constexpr bool kFetchesNext = false;  // bfloat16 is 4 to 13 % slower with it, at 512 units
  static constexpr int most_rows(int) { return 2 * kMatrixRows; }
  static constexpr int rows_written(int rows) { return (rows + kMatrixRows - 1) / kMatrixRows * kMatrixRows; }
  static constexpr int panels_of_tile(int64_t left, int wide) { return left < wide ? 1 : wide; }

  // Tiles start at whole registers of rows.
  template <int Vectors, class F>
  static MR_INLINE void each(int64_t n, const F& f) {
    constexpr int kMost = most_rows(Vectors);
    for (int64_t first = 0; first < n; first += kMost) {
      f(first, static_cast<int>(n - first < kMost ? n - first : kMost));
    }
  }

  // Four independent sums hide the latency of one.
  static void multiply_adds(int64_t count) {
    const MatrixRegisters registers;
    zero_sums();
    _tile_zero(4);
    _tile_zero(5);
    constexpr int64_t kEach = kMatrixRows * kMatrixRows * kMatrixDepth;
    for (int64_t n = 0; n < count; n += 4 * kEach) {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 5);
      _tile_dpbf16ps(2, 4, 5);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
};

}  // namespace
}  // namespace masked_rnn
