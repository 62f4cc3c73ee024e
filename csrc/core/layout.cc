#include "layout.h"

#include <algorithm>

#include "check.h"

namespace masked_rnn {
namespace {

// Too large a number stays as it is: whoever allocates it says so.
int64_t round_up(int64_t n, int64_t unit) {
  return n > INT64_MAX - unit ? n : (n + unit - 1) / unit * unit;
}

// Kernels with bfloat16 products may read and write whole matrix registers: 16 rows of 32 values.
bool multiplies_matrices(const Problem& p) { return p.dtype == DType::kBFloat16; }
int64_t whole_rows(const Problem& p, int64_t n) {
  return multiplies_matrices(p) ? round_up(n, 16) : n;
}
// They read a rounded copy of h, without dropout too.
int64_t copies_of_h(const Problem& p) {
  return std::max<int64_t>(p.recurrent_dropout_gates, multiplies_matrices(p) ? 1 : 0);
}

}  // namespace

Buffer Allocator::take(int64_t elements) {
  constexpr int64_t kLine = 64 / sizeof(float);
  Buffer buffer{next_};
  if (__builtin_add_overflow(next_, round_up(elements, kLine), &next_)) {
    checked_product({INT64_MAX, 2}, "the workspace");
  }
  return buffer;
}

Blocks::Blocks(const Problem& p, int vector_length)
    : units((p.units + vector_length - 1) / vector_length),
      features((p.features + vector_length - 1) / vector_length),
      vector(vector_length) {}

int64_t chunk_end(const Group& g, int64_t step) {
  int64_t end = step + 1;
  while (end < g.steps() && g.offset[end + 1] - g.offset[step] <= kForwardChunk) ++end;
  return end;
}

int64_t backward_chunk(const Group& g) {
  const int64_t n = g.real_steps();
  return n < 1024 ? 64 : n < 16384 ? 128 : 256;
}

int64_t chunk_begin(const Group& g, int64_t end) {
  const int64_t limit = backward_chunk(g);
  int64_t begin = end - 1;
  while (begin > 0 && g.offset[end] - g.offset[begin - 1] <= limit) --begin;
  return begin;
}

int64_t chunk_capacity(const Group& g, int64_t limit) {
  return std::max(g.rows(), std::min(g.real_steps(), limit));
}

ForwardLayout::ForwardLayout(const Problem& p, const Schedule& schedule, int vector_length,
                             bool training) {
  const Blocks blocks(p, vector_length);
  const int64_t v = vector_length, g = gates(p.cell);
  Allocator memory;
  auto take = [&](std::initializer_list<int64_t> sizes) {
    return memory.take(checked_product(sizes, "the forward workspace"));
  };
  auto depth_of = [&](int64_t k) { return multiplies_matrices(p) ? round_up(k, 32) : k; };
  kernel = take({blocks.units, depth_of(p.features), g, v});
  recurrent_kernel = take({blocks.units, depth_of(p.units), g, v});
  bias = take({blocks.units, g, v});
  recurrent_bias = take({blocks.units, v});
  for (const Group& group : schedule.groups) {
    PerGroup b;
    b.capacity = whole_rows(p, chunk_capacity(group, kForwardChunk));
    b.rows = whole_rows(p, group.rows());
    b.inputs = take({std::max<int64_t>(1, p.input_dropout_gates), blocks.features, b.capacity, v});
    b.projection = take({blocks.units, b.capacity, g, v});
    if (!training) {
      b.h = take({blocks.units, 2, group.rows(), v});
      if (p.cell == Cell::kLstm) b.c = take({blocks.units, 2, group.rows(), v});
    }
    if (p.cell == Cell::kGruResetBefore) b.reset_h = take({blocks.units, b.rows, v});
    b.dropped_h = take({2, copies_of_h(p), blocks.units, b.rows, v});
    groups.push_back(b);
  }
  elements = memory.total();
}

BackwardLayout::BackwardLayout(const Problem& p, const Schedule& schedule, const Split& split,
                               int vector_length) {
  const Blocks blocks(p, vector_length);
  const int64_t v = vector_length, g = gates(p.cell);
  // d_gates has the saved slots of the cell: as many.
  const int64_t slots = saved_slots(p.cell);
  // Four vectors of columns make the best tile (6 x 4 of 32 registers); each thread of a group
  // needs a panel of its own.
  constexpr int64_t kWidest = 4;
  unit_panel = std::clamp<int64_t>(blocks.units / split.parts, 1, kWidest);
  feature_panel = std::clamp<int64_t>(blocks.features, 1, kWidest);
  Allocator memory;
  auto take = [&](std::initializer_list<int64_t> sizes) {
    return memory.take(checked_product(sizes, "the backward workspace"));
  };
  const bool matrix = multiplies_matrices(p);
  kernel_rows = whole_rows(p, p.features);
  recurrent_rows = whole_rows(p, p.units);
  kernel_t = take({blocks.features, v, blocks.units, g, v});
  recurrent_kernel_t = take({blocks.units, v, blocks.units, g, v});
  for (const Group& group : schedule.groups) {
    PerGroup b;
    b.capacity = chunk_capacity(group, backward_chunk(group));
    if (matrix) b.capacity = round_up(b.capacity, 32) + 32;  // a tile starts at any row
    b.rows = whole_rows(p, group.rows());
    b.d_gates = take({blocks.units, b.capacity, slots, v});
    b.d_h = take({blocks.units, group.rows(), v});
    if (p.cell == Cell::kLstm) b.d_c = take({blocks.units, group.rows(), v});
    if (p.cell == Cell::kGruResetBefore) {
      b.d_reset_h = take({blocks.units, b.rows, v});
      b.reset_h = take({blocks.units, b.capacity, v});
    }
    b.inputs = take({std::max<int64_t>(1, p.input_dropout_gates), blocks.features, b.capacity, v});
    b.dropped_h = take({copies_of_h(p), blocks.units, b.capacity, v});
    b.gate_operands = take({matrix ? 1 : 0, blocks.units, b.capacity, slots, v});
    b.gate_pairs = take({matrix ? split.parts : 0, b.capacity, slots, v});
    b.d_kernel = take({blocks.units, kernel_rows, g, v});
    b.d_recurrent_kernel = take({blocks.units, recurrent_rows, g, v});
    b.d_bias = take({blocks.units, slots, v});
    groups.push_back(b);
  }
  elements = memory.total();
}

ReserveLayout::ReserveLayout(const Problem& p, const Schedule& schedule, int vector_length) {
  const Blocks blocks(p, vector_length);
  Allocator memory;
  auto take = [&](std::initializer_list<int64_t> sizes) {
    return memory.take(checked_product(sizes, "the reserve"));
  };
  for (const Group& group : schedule.groups) {
    PerGroup b;
    const int64_t n = group.real_steps();
    b.saved = take({blocks.units, n, saved_slots(p.cell), vector_length});
    b.h = take({blocks.units, n, vector_length});
    if (p.cell == Cell::kLstm) b.c = take({blocks.units, n, vector_length});
    groups.push_back(b);
  }
  elements = memory.total();
}

}  // namespace masked_rnn
