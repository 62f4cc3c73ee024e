// The multiply-add loop on the matrix registers of AMX, for bfloat16: one instruction multiplies
// sixteen rows of 32 values of k with sixteen columns, fourteen times as fast as float32 vectors on
// Granite Rapids. Its speed is that of its loads, so two registers of rows meet two of columns.
//
// Whole registers are read and written: rows past the last one of a tile are computed from what lies in
// the operands, and land in rows of c that nobody reads (layout.cc leaves room for both).
#pragma once

namespace masked_rnn {
namespace {

constexpr int kMatrixRows = 16, kMatrixBytes = 64;

constexpr int most_rows(int) { return 2 * kMatrixRows; }
constexpr int panels_at_once(int, int) { return 1; }
constexpr int panels_of_tile(int64_t, int) { return 1; }
constexpr bool kFetchesNext = false;  // 4 to 13 % slower with it, at 512 units

// gcc 12 believes that the instructions below read nothing, and drops the stores before them.
MR_INLINE void memory_is_read(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// The shapes of this thread's matrix registers, while it lives.
struct MatrixRegisters {
  MatrixRegisters() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes[16];
      uint8_t rows[16];
    } shapes;
    memset(&shapes, 0, sizeof(shapes));
    shapes.palette = 1;
    for (int i = 0; i < 8; ++i) {
      shapes.bytes[i] = kMatrixBytes;
      shapes.rows[i] = kMatrixRows;
    }
    memory_is_read(&shapes);
    _tile_loadconfig(&shapes);
  }
  ~MatrixRegisters() { _tile_release(); }
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;
};

// Registers 0 to 3 sum, 4 and 5 hold rows, the others columns.

MR_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Up to sixteen rows, all columns: as many sums at once as there are vectors.
template <int Vectors, int kStepB>
__attribute__((noinline)) void one_by_all(const Operands& o) {
  memory_is_read(o.a);
  constexpr int64_t b_stride = kStepB * kPair * int64_t{sizeof(Operand)};
  constexpr int64_t kColumn = kVector * kPair;
  const int64_t c_stride = o.c_row * int64_t{sizeof(Real)};
  if (o.accumulate) {
    _tile_loadd(0, o.c, c_stride);
    if constexpr (Vectors > 1) _tile_loadd(1, o.c + o.c_vector, c_stride);
    if constexpr (Vectors > 2) _tile_loadd(2, o.c + 2 * o.c_vector, c_stride);
    if constexpr (Vectors > 3) _tile_loadd(3, o.c + 3 * o.c_vector, c_stride);
  } else {
    zero_sums();
  }
  const Operand *a = o.a, *b = o.b;
  for (int64_t k = 0; k < o.k; k += kOperandBlock, a += o.a_block, b += kOperandBlock * kStepB) {
    _tile_loadd(4, a, kMatrixBytes);
    _tile_loadd(6, b, b_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Vectors > 1) {
      _tile_loadd(7, b + kColumn, b_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Vectors > 2) {
      _tile_loadd(5, b + 2 * kColumn, b_stride);
      _tile_dpbf16ps(2, 4, 5);
    }
    if constexpr (Vectors > 3) {
      _tile_loadd(6, b + 3 * kColumn, b_stride);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  _tile_stored(0, o.c, c_stride);
  if constexpr (Vectors > 1) _tile_stored(1, o.c + o.c_vector, c_stride);
  if constexpr (Vectors > 2) _tile_stored(2, o.c + 2 * o.c_vector, c_stride);
  if constexpr (Vectors > 3) _tile_stored(3, o.c + 3 * o.c_vector, c_stride);
}

// Two registers of rows and one or two of columns, from vector `first` on.
template <bool kTwoColumns, int kStepB>
__attribute__((noinline)) void two_by_two(int first, const Operands& o) {
  memory_is_read(o.a);
  constexpr int64_t b_stride = kStepB * kPair * int64_t{sizeof(Operand)};
  constexpr int64_t kColumn = kVector * kPair;
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
  const Operand *a = o.a, *b = o.b + first * kColumn;
  for (int64_t k = 0; k < o.k; k += kOperandBlock, a += o.a_block, b += kOperandBlock * kStepB) {
    _tile_loadd(4, a, kMatrixBytes);
    _tile_loadd(5, a + kMatrixRows * kOperandBlock, kMatrixBytes);
    _tile_loadd(6, b, b_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwoColumns) {
      _tile_loadd(7, b + kColumn, b_stride);
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

// As in tile.h, for one panel. A sum that is added to c starts from it: what that costs in accuracy is
// far below the rounding of the operands.
template <int Vectors, int kRowStride, int kStep, int kStepB>
MR_INLINE void run_tile(int rows, int, const Operands& o) {
  static_assert(kStep == 1 && kRowStride == kOperandBlock);
  if (rows <= kMatrixRows) return one_by_all<Vectors, kStepB>(o);
  two_by_two<(Vectors > 1), kStepB>(0, o);
  if constexpr (Vectors > 2) two_by_two<(Vectors > 3), kStepB>(2, o);
}

// Tiles start at whole registers of rows.
template <int kMost, class F>
MR_INLINE void for_tiles(int64_t n, const F& f) {
  for (int64_t first = 0; first < n; first += kMost) {
    f(first, static_cast<int>(n - first < kMost ? n - first : kMost));
  }
}

// Rows and columns of a 16 x 16 matrix of pairs exchanged.
MR_INLINE void transpose(OperandVector* rows) {
  __m512i* row = reinterpret_cast<__m512i*>(rows);
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

// Four independent sums hide the latency of one.
inline void matrix_multiply_adds(int64_t count) {
  const MatrixRegisters registers;
  zero_sums();
  _tile_zero(4);
  _tile_zero(5);
  constexpr int64_t kEach = kMatrixRows * kMatrixRows * 32;
  for (int64_t n = 0; n < count; n += 4 * kEach) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
}

}  // namespace
}  // namespace masked_rnn
