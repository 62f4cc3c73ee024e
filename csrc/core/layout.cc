#include "layout.h"

#include <algorithm>

#include "check.h"

namespace masked_rnn {
namespace {

// Too large a number stays as it is: whoever allocates it says so.
int64_t round_up(int64_t n, int64_t unit) {
  return n > INT64_MAX - unit ? n : (n + unit - 1) / unit * unit;
}

// Kernels whose operands have planes may read and write whole matrix registers: 16 rows of 32 values.
int64_t whole_rows(int planes, int64_t n) { return planes > 0 ? round_up(n, 16) : n; }
int64_t whole_blocks(int planes, int64_t n) { return planes > 0 ? round_up(n, 2) : n; }
// They read a copy of h, without dropout too.
int64_t copies_of_h(const Problem& p, int planes) {
  return std::max<int64_t>(p.recurrent_dropout_gates, planes > 0 ? 1 : 0);
}

// Gives one buffer after the other, each aligned to a cache line. Throws ResourceExhausted, which names what
// it is for.
class Allocator {
 public:
  explicit Allocator(const char* what) : what_(what) {}

  Buffer take(std::initializer_list<int64_t> sizes) { return take_elements(product(sizes)); }
  // For operands, of which two bfloat16 values fill one element of the compute type.
  Buffer take_operands(int planes, std::initializer_list<int64_t> sizes) {
    const int64_t n = product(sizes);
    return take_elements(planes > 0 ? (product({n, planes}) + 1) / 2 : n);
  }
  int64_t total() const { return next_; }

 private:
  int64_t product(std::initializer_list<int64_t> factors) const { return checked_product(factors, what_); }

  Buffer take_elements(int64_t n) {
    constexpr int64_t kLine = 64 / sizeof(float);
    const Buffer buffer{next_};
    if (__builtin_add_overflow(next_, round_up(n, kLine), &next_)) product({INT64_MAX, 2});
    return buffer;
  }

  const char* const what_;
  int64_t next_ = 0;
};

// Whether a group's rows meet the weights so rarely that packing them takes longer. In place a step costs
// two units and each of its rows one, with vectors of 64 bytes; as many as below are worth packing weights
// that a fraction of an L2 cache holds, that all of it does, or that come from further.
bool passes_weights_rarely(const Problem& p, const Schedule& schedule, int64_t vector_bytes) {
  const double bytes = weights_from(p.units, p) * double(real_bytes(p.dtype));
  const int64_t worth_packing = bytes <= 1 << 18 ? 40 : bytes <= 1 << 20 ? 20 : 10;
  return std::all_of(schedule.groups.begin(), schedule.groups.end(), [&](const Group& group) {
    const int64_t work = 2 * group.steps() + group.real_steps() * 64 / vector_bytes;
    return work <= worth_packing;
  });
}

}  // namespace

Blocks::Blocks(const Problem& p, int vector_length)
    : units((p.units + vector_length - 1) / vector_length),
      features((p.features + vector_length - 1) / vector_length),
      vector(vector_length) {}

int64_t chunk_end(const Group& g, int64_t step, int64_t limit) {
  int64_t end = step + 1;
  while (end < g.steps() && g.offset[end + 1] - g.offset[step] <= limit) ++end;
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
                             OperandPlanes planes, bool training) {
  const Blocks blocks(p, vector_length);
  const int64_t units = whole_blocks(planes.step, blocks.units);
  const int64_t features = whole_blocks(planes.chunk, blocks.features);
  const int64_t v = vector_length, g = gates(p.cell);
  Allocator memory("the forward workspace");
  auto depth_of = [&](int planes_of, int64_t k) { return planes_of > 0 ? round_up(k, 32) : k; };
  kernel = memory.take_operands(planes.chunk, {blocks.units, depth_of(planes.chunk, p.features), g, v});
  recurrent_kernel = memory.take_operands(planes.step, {blocks.units, depth_of(planes.step, p.units), g, v});
  bias = memory.take({blocks.units, g, v});
  recurrent_bias = memory.take({blocks.units, v});
  const bool needs_packing = planes.step > 0 || bytes_of(p.dtype) != size_t(real_bytes(p.dtype)) ||
                             p.masks_each_gate();
  in_place = !needs_packing && passes_weights_rarely(p, schedule, v * real_bytes(p.dtype));
  if (planes.chunk > 1 && p.input_dropout_gates < 2) {
    constexpr int64_t kFewRows = 2 * kMostRowsInPlace;
    packs_for_singles = std::any_of(schedule.groups.begin(), schedule.groups.end(),
                                    [](const Group& group) { return group.singles() > kFewRows; });
    if (packs_for_singles) kernel_for_singles = memory.take({blocks.units, p.features, g, v});
  }
  for (const Group& group : schedule.groups) {
    PerGroup b;
    b.capacity = whole_rows(planes.chunk, chunk_capacity(group, forward_chunk(planes.chunk)));
    b.rows = whole_rows(planes.step, group.rows());
    b.inputs = memory.take_operands(
        planes.chunk, {std::max<int64_t>(1, p.input_dropout_gates), features, b.capacity, v});
    const int64_t singles = planes.chunk > 1 ? group.singles() : 0;
    b.single_inputs =
        memory.take({std::max<int64_t>(1, p.input_dropout_gates), blocks.features, singles, v});
    b.projection = memory.take({blocks.units, b.capacity, g, v});
    if (!training) {
      b.h = memory.take({blocks.units, 2, group.rows(), v});
      if (p.cell == Cell::kLstm) b.c = memory.take({blocks.units, 2, group.rows(), v});
    }
    if (p.cell == Cell::kGruResetBefore) {
      b.reset_h = memory.take_operands(planes.step, {units, b.rows, v});
    }
    b.dropped_h = memory.take_operands(planes.step, {2, copies_of_h(p, planes.step), units, b.rows, v});
    if (in_place) b.product = memory.take({blocks.units, kMostRowsInPlace, g, v});
    groups.push_back(b);
  }
  elements = memory.total();
}

BackwardLayout::BackwardLayout(const Problem& p, const Schedule& schedule, const Split& split,
                               int vector_length, OperandPlanes planes) {
  const Blocks blocks(p, vector_length);
  const int64_t v = vector_length, g = gates(p.cell);
  // d_gates has the saved slots of the cell: as many.
  const int64_t slots = saved_slots(p.cell);
  // Four vectors of columns make the best tile (6 x 4 of 32 registers); each thread of a group
  // needs a panel of its own.
  constexpr int64_t kWidest = 4;
  unit_panel = std::clamp<int64_t>(blocks.units / split.parts, 1, kWidest);
  feature_panel = std::clamp<int64_t>(blocks.features, 1, kWidest);
  Allocator memory("the backward workspace");
  const bool copies = planes.chunk > 0;
  const int64_t units = whole_blocks(planes.chunk, blocks.units);
  kernel_rows = whole_rows(planes.chunk, p.features);
  recurrent_rows = whole_rows(planes.chunk, p.units);
  kernel_t = memory.take_operands(planes.chunk, {blocks.features, v, units, g, v});
  recurrent_kernel_t =
      memory.take_operands(planes.step, {blocks.units, v, whole_blocks(planes.step, blocks.units), g, v});
  for (const Group& group : schedule.groups) {
    PerGroup b;
    b.capacity = chunk_capacity(group, backward_chunk(group));
    if (copies) b.capacity = round_up(b.capacity, 32) + 32;  // a tile starts at any row
    b.rows = whole_rows(planes.step, group.rows());
    b.d_gates = memory.take({blocks.units, b.capacity, slots, v});
    b.d_h = memory.take({blocks.units, group.rows(), v});
    if (p.cell == Cell::kLstm) b.d_c = memory.take({blocks.units, group.rows(), v});
    if (p.cell == Cell::kGruResetBefore) {
      b.d_reset_h = memory.take({blocks.units, b.rows, v});
      b.reset_h = memory.take_operands(planes.chunk, {blocks.units, b.capacity, v});
    }
    b.inputs = memory.take_operands(
        planes.chunk, {std::max<int64_t>(1, p.input_dropout_gates), blocks.features, b.capacity, v});
    b.dropped_h =
        memory.take_operands(planes.chunk, {copies_of_h(p, planes.chunk), blocks.units, b.capacity, v});
    b.gate_operands = memory.take_operands(planes.chunk, {copies ? 1 : 0, units, b.capacity, slots, v});
    b.gate_pairs = memory.take_operands(planes.chunk, {copies ? split.parts : 0, b.capacity, slots, v});
    b.d_kernel = memory.take({blocks.units, kernel_rows, g, v});
    b.d_recurrent_kernel = memory.take({blocks.units, recurrent_rows, g, v});
    b.d_bias = memory.take({blocks.units, slots, v});
    groups.push_back(b);
  }
  elements = memory.total();
}

ReserveLayout::ReserveLayout(const Problem& p, const Schedule& schedule, int vector_length) {
  const Blocks blocks(p, vector_length);
  Allocator memory("the reserve");
  for (const Group& group : schedule.groups) {
    PerGroup b;
    const int64_t n = group.real_steps();
    b.saved = memory.take({blocks.units, n, saved_slots(p.cell), vector_length});
    b.h = memory.take({blocks.units, n, vector_length});
    if (p.cell == Cell::kLstm) b.c = memory.take({blocks.units, n, vector_length});
    groups.push_back(b);
  }
  elements = memory.total();
}

}  // namespace masked_rnn
