// The multiply-add loop of the library, but for AMX's: a tile of rows times a few vectors of columns,
// all accumulators in registers.
//
// c[i][j] (+)= sum over k of a[i][k] * b[k][j], for i < M rows and j < Vectors * Panels vectors.
// Every element is summed over k in one order by one accumulator, whatever tile it falls into:
// that makes a row's bits independent of the rows beside it. A tile of one or two rows would
// then wait for its few accumulators (four cycles a multiply-add), so it takes several panels of
// columns at once instead of splitting k.
#pragma once

#include "operands.h"

namespace masked_rnn {
namespace {

// What a product reads and writes. Strides are in elements.
template <class K>
struct Operands {
  using Operand = typename K::Operand;
  const Operand* a;
  int64_t a_block;  // to the next block of `block` values of k
  int64_t block;
  const Operand* b;
  int64_t b_panel;  // to the next panel
  int64_t b_vector = 0;  // to the next vector of columns, for matrix registers
  Real* c;
  int64_t c_row, c_vector, c_panel;
  int64_t k;
  // What is read next and comes from far: fetched into the L2 cache meanwhile, a line for each k.
  const Operand* next = nullptr;
  bool accumulate;  // add the sum to c (not c into the sum) instead of overwriting it
};

// Rows of a tile that keep accumulators, one row of b and a broadcast in registers.
constexpr int vector_rows(int vectors) {
  if (kRegisters == 32) {
    constexpr int rows[] = {8, 8, 8, 6};
    return rows[vectors - 1];
  }
  constexpr int rows[] = {6, 4, 4, 3};
  return rows[vectors - 1];
}

// Panels that a tile of `rows` takes at once: about twelve accumulators. With one vector each multiply-add
// would need a load of its own.
constexpr int vector_panels(int rows, int vectors) {
  if (rows > 2) return vectors > 1 ? 1 : 2;
  const int panels = 12 / (rows * vectors);
  return panels < 1 ? 1 : panels > 4 ? 4 : panels;
}

// a[i][k] lies at i * kRowStride + k * kStep within a block, b[k][j] at k * kStepB + j * kVector;
// where operands go in pairs, b holds both of a pair side by side.
template <class K, int M, int Vectors, int Panels, int kRowStride, int kStep, int kStepB>
__attribute__((noinline)) void tile(const Operands<K>& o) {
  using Operand = typename K::Operand;
  constexpr int kPair = K::kPair;
  constexpr int64_t kLine = 64 / int64_t{sizeof(Operand)};  // elements of a cache line
  V sum[M][Panels][Vectors];
  MR_UNROLL
  for (int i = 0; i < M; ++i) {
    MR_UNROLL
    for (int p = 0; p < Panels; ++p) {
      MR_UNROLL
      for (int j = 0; j < Vectors; ++j) sum[i][p][j] = zeros();
    }
  }
  const Operand* b = o.b;
  const Operand* a_block = o.a;
  const Operand* next = o.next;
  for (int64_t left = o.k; left > 0; left -= o.block, a_block += o.a_block) {
    const Operand* a = a_block;
    if (next != nullptr) {
      MR_UNROLL
      for (int i = 0; i < kVector; ++i) __builtin_prefetch(next + i * kLine, 0, 2);
      next += kVector * kLine;
    }
    const int64_t n = left < o.block ? left : o.block;
    MR_UNROLL_4  // 2 to 7 % on a core with two 512-bit multiply-adds a cycle
    for (int64_t k = 0; k < n; k += kPair, a += kStep * kPair, b += kStepB * kPair) {
      typename K::Vector row[Panels][Vectors];
      MR_UNROLL
      for (int p = 0; p < Panels; ++p) {
        MR_UNROLL
        for (int j = 0; j < Vectors; ++j) {
          row[p][j] = K::load_vector(b + p * o.b_panel + j * kVector * kPair);
        }
      }
      MR_UNROLL
      for (int i = 0; i < M; ++i) {
        const typename K::Vector x = K::splat_pair(a + i * kRowStride);
        MR_UNROLL
        for (int p = 0; p < Panels; ++p) {
          MR_UNROLL
          for (int j = 0; j < Vectors; ++j) {
            sum[i][p][j] = K::multiply_add(x, row[p][j], sum[i][p][j]);
          }
        }
      }
    }
  }
  MR_UNROLL
  for (int i = 0; i < M; ++i) {
    MR_UNROLL
    for (int p = 0; p < Panels; ++p) {
      MR_UNROLL
      for (int j = 0; j < Vectors; ++j) {
        Real* c = o.c + i * o.c_row + p * o.c_panel + j * o.c_vector;
        store(c, o.accumulate ? load(c) + sum[i][p][j] : sum[i][p][j]);
      }
    }
  }
}

// The tile for a number of rows known at run time. `panels` is vector_panels(rows), 2 where that is
// more, or 1.
template <class K, int Vectors, int kRowStride, int kStep, int kStepB, int M = vector_rows(Vectors)>
MR_INLINE void run_tile(int rows, int panels, const Operands<K>& o) {
  if constexpr (M > 0) {
    if (rows != M) {
      run_tile<K, Vectors, kRowStride, kStep, kStepB, M - 1>(rows, panels, o);
    } else if (constexpr int wide = vector_panels(M, Vectors); panels == wide) {
      tile<K, M, Vectors, wide, kRowStride, kStep, kStepB>(o);
    } else if (constexpr int two = wide < 2 ? wide : 2; panels == two) {
      tile<K, M, Vectors, two, kRowStride, kStep, kStepB>(o);
    } else {
      tile<K, M, Vectors, 1, kRowStride, kStep, kStepB>(o);
    }
  }
}

// How a kind of operands is multiplied.
template <class K>
struct Tile {
  static constexpr bool kFetchesNext = true;
  static constexpr int most_rows(int vectors) { return vector_rows(vectors); }
  static constexpr int panels_at_once(int rows, int vectors) { return vector_panels(rows, vectors); }
  static constexpr int rows_written(int rows) { return rows; }  // of c, by a tile of so many

  // Of `left` panels those of the next tile, at most `wide`: two at least where there are any, as one
  // would wait for its few accumulators.
  static int panels_of_tile(int64_t left, int wide) {
    if (left == 4 && wide == 3) return 2;
    if (left >= wide) return wide;
    return left > 1 ? 2 : 1;
  }

  template <int Vectors, int kRowStride, int kStep, int kStepB>
  static MR_INLINE void run(int rows, int panels, const Operands<K>& o) {
    run_tile<K, Vectors, kRowStride, kStep, kStepB>(rows, panels, o);
  }

  // `n` rows cut into tiles of nearly equal height; f(first row, rows).
  template <int Vectors, class F>
  static MR_INLINE void each(int64_t n, const F& f) {
    constexpr int kMost = most_rows(Vectors);
    const int64_t tiles = (n + kMost - 1) / kMost;
    int64_t first = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int rows = static_cast<int>(n / tiles + (t < n % tiles));
      f(first, rows);
      first += rows;
    }
  }

  // `count` of them in registers. Independent chains, more than any machine needs to hide the latency
  // of one.
  static void multiply_adds(int64_t count) {
    constexpr int kChains = 12;
    typename K::Vector a, b;
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    V sum[kChains];
    for (int i = 0; i < kChains; ++i) sum[i] = splat(1);
    for (int64_t n = 0; n < count; n += kChains * kVector * K::kPair) {
      MR_UNROLL
      for (int i = 0; i < kChains; ++i) sum[i] = K::multiply_add(a, b, sum[i]);
      asm volatile("" : "+" MR_REGISTER(a));  // or the compiler adds up zeros itself
    }
    MR_UNROLL
    for (int i = 0; i < kChains; ++i) asm volatile("" : : MR_REGISTER(sum[i]));
  }
};

}  // namespace
}  // namespace masked_rnn

#if defined(__AMX_BF16__)
#include "tile_bfloat16.h"
#include "tile_planes.h"
#else
namespace masked_rnn {
namespace {

struct MatrixRegisters {};  // for machines whose registers have no shape

}  // namespace
}  // namespace masked_rnn
#endif
