// What forward and backward share: typed views of a job, packing, gathering.
#pragma once

#include "../cells.h"
#include "../job.h"
#include "tile.h"

namespace masked_rnn {
namespace {

struct Range {
  int64_t begin, end;
};

MR_INLINE Range share_of(int64_t n, int part, int parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

MR_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Elements of a row of `n` that block `block` holds.
MR_INLINE int first_of(int64_t n, int64_t block) {
  return static_cast<int>(least(n - block * kVector, kVector));
}

// One thread's view of a job, on one group of rows.
template <class Storage>
struct Worker {
  using Step = typename Kinds<Storage>::Step;
  using Chunk = typename Kinds<Storage>::Chunk;

  Worker(const Job& job, Member& member, int group_index)
      : job(job),
        p(*job.problem),
        member(member),
        parts(job.split.parts),
        group_index(group_index),
        group(job.schedule->groups[group_index]),
        rows(group.rows()),
        unit_blocks((p.units + kVector - 1) / kVector),
        feature_blocks((p.features + kVector - 1) / kVector) {}

  const Job& job;
  const Problem& p;
  Member& member;
  const int parts, group_index;
  const Group& group;
  const int64_t rows, unit_blocks, feature_blocks;

  Real* at(Buffer buffer) const { return reinterpret_cast<Real*>(job.workspace) + buffer.offset; }
  template <class K>
  typename K::Operand* operands_at(Buffer buffer) const {
    return reinterpret_cast<typename K::Operand*>(at(buffer));
  }
  Real* reserve_at(Buffer buffer) const {
    return reinterpret_cast<Real*>(job.reserve) + buffer.offset;
  }
  static const Storage* in(const void* array) { return static_cast<const Storage*>(array); }
  static Storage* out(void* array) { return static_cast<Storage*>(array); }

  // A stage of the group's work: f(part) for each part, all done before any thread goes on.
  template <class F>
  MR_INLINE void each_part(const F& f) const {
    if (parts == 1) {
      f(0);
    } else {
      member.each(parts, f);
    }
  }

  int unit_count(int64_t u) const { return first_of(p.units, u); }

  // Zeros for the last block of operands where only its first half is used.
  template <class K>
  void fill_half_block(typename K::Operand* operands, int64_t blocks, int64_t capacity,
                       Range of_rows) const {
    if (whole_blocks<K>(blocks) == blocks) return;
    for (int64_t r = of_rows.begin; r < of_rows.end; ++r) {
      K::store_block(operands + block_offset<K>(blocks, r, capacity), zeros());
    }
  }

  // [D or 1][i][capacity][V]: the inputs of packed indices begin.. end, this part's share of the
  // rows, each multiplied with its dropout masks.
  template <class K>
  void gather_inputs(int part, int64_t begin, int64_t end, int64_t capacity,
                     typename K::Operand* to) const {
    const Range mine = share_of(end - begin, part, parts);
    const int64_t masks = p.input_dropout_gates;
    for (int64_t d = 0; d < (masks > 0 ? masks : 1); ++d) {
      fill_half_block<K>(to + d * size_of_rows<K>(feature_blocks, capacity), feature_blocks, capacity,
                         mine);
    }
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      const int64_t source = group.input[begin + r];
      fetch_ahead(in(p.inputs), p.features, &group.input[begin], r, mine.end);
      const Storage* from = in(p.inputs) + source * p.features;
      const int64_t batch_row = masks > 0 ? source / p.time : 0;
      for (int64_t f = 0; f < feature_blocks; ++f) {
        const V x = load_first(from + f * kVector, first_of(p.features, f));
        typename K::Operand* block = to + block_offset<K>(f, r, capacity);
        if (masks == 0) K::store_block(block, x);
        for (int64_t d = 0; d < masks; ++d) {
          K::store_block(block + d * size_of_rows<K>(feature_blocks, capacity),
                         x * dropout(p.input_dropout, d, batch_row, f, p.features));
        }
      }
    }
  }

  // The rows of a step lie far from each other, on a page each, where no prefetcher of the machine
  // finds them: row at[i + 8] of an array is asked for while row at[i] is worked on.
  static MR_INLINE void fetch_ahead(const Storage* array, int64_t width, const int64_t* at,
                                    int64_t i, int64_t rows) {
    constexpr int64_t kAhead = 8;
    if (i + kAhead >= rows) return;
    const Storage* row = array + at[i + kAhead] * width;
    for (int64_t k = 0; k < width; k += 64 / int64_t{sizeof(Storage)}) __builtin_prefetch(row + k);
  }

  // A block of row b of mask d of a [D,B,width] dropout array.
  V dropout(const void* masks, int64_t d, int64_t b, int64_t block, int64_t width) const {
    return load_first(in(masks) + (d * p.batch + b) * width + block * kVector,
                      first_of(width, block));
  }

  // Every other step takes the panels from the last to the first: weights that do not fit in a cache
  // then come from it as far as they do, where in one order each would be gone before its turn. One
  // row of LSTM with 64 units (64 KB, 48 KB of L1): 5 %; 512 units: up to 5 %.
  static bool goes_back(int64_t s) { return s % 2 != 0; }

  // f(some of them) for four blocks of units at a time, by which weights are read and their gradients
  // written: one by one, every row's page is turned to again for each, and calls of few steps take up to
  // 1.2 times as long at 512 units.
  template <class F>
  MR_INLINE void by_four(Range units, const F& f) const {
    for (int64_t u = units.begin; u < units.end; u += 4) f(Range{u, least(u + 4, units.end)});
  }

  // Weights [k][G*H] to panels of unit blocks u, each of gates first.. side by side.
  template <class K>
  void pack(const void* weights, int64_t k, int gates, int first, int count, Range units,
            typename K::Operand* to) const {
    const int64_t of_gate = p.units, width = gates * of_gate, depth = whole_depth<K>(k);
    const int64_t panel = count * size_of_vector<K>(k);
    // Weights that half of an L2 cache does not hold are fetched ahead: one step of 256 or 512 units 7 to 8 %.
    const bool far = k * width * int64_t{sizeof(Storage)} > (1 << 19);
    by_four(units, [&](Range some) {
      const int last = unit_count(some.end - 1);
      const Storage* row = in(weights) + first * of_gate + some.begin * kVector;
      typename K::Operand* panels = to + some.begin * panel;
      for (int64_t i = 0; i < depth; i += K::kPair, row += K::kPair * width) {
        const bool has_first = i < k, has_second = K::kPair > 1 && i + 1 < k;
        for (int g = 0; g < count; ++g) {
          const Storage* from = row + g * of_gate;
          typename K::Operand* pair = panels + pair_offset<K>(i, g, count, depth);
          for (int64_t left = some.end - some.begin; left > 0; --left, from += kVector, pair += panel) {
            const int n = left > 1 ? kVector : last;
            if (far) {
              MR_UNROLL
              for (int j = 0; j < K::kPair; ++j) __builtin_prefetch(from + (4 + j) * width);
            }
            store_pairs<K>(pair, K::pair(has_first ? load_first(from, n) : zeros(),
                                         has_second ? load_first(from + width, n) : zeros()));
          }
        }
      }
    });
  }

  // f(begin, end) for each run of masked steps of row b: times, or places `backwards` from the last.
  template <class F>
  MR_INLINE void each_masked_run(int64_t b, bool backwards, const F& f) const {
    const uint8_t* mask = p.mask + b * p.time + (backwards ? p.time - 1 : 0);
    const int64_t next = backwards ? -1 : 1;
    for (int64_t q = 0; q < p.time; ++q) {
      if (mask[q * next] != 0) continue;
      const int64_t begin = q;
      while (++q < p.time && mask[q * next] == 0) continue;
      f(begin, q);
    }
  }

  // The carried and zero outputs of masked steps, for one row. Before the first real step an
  // output is zero, whatever the initial state.
  void fill_masked_outputs(int64_t b) const {
    if (job.schedule->count[b] == p.time) return;
    Storage* y = out(job.results.outputs) + b * p.time * p.units;
    each_masked_run(b, p.go_backwards, [&](int64_t begin, int64_t end) {
      if (begin == 0 || p.zero_output_for_mask) {
        memset(y + begin * p.units, 0, (end - begin) * p.units * sizeof(Storage));
      } else {
        repeat_row(y + (begin - 1) * p.units, end - begin);
      }
    });
  }

  // A row of outputs so many times more, after it. What lies there is copied in ever larger pieces, up to
  // some that the L1 cache holds: row by row, GRU 512,30,32,32 half masked takes 2 % longer, in bfloat16 7 %.
  void repeat_row(Storage* row, int64_t times) const {
    const int64_t most = 1 + 4096 / (p.units * int64_t{sizeof(Storage)});
    for (int64_t rows = 1; times > 0;) {
      const int64_t n = least(times, least(rows, most));
      memcpy(row + rows * p.units, row, n * p.units * sizeof(Storage));
      rows += n;
      times -= n;
    }
  }

  // Whether the last output of row b is its last state, and not zero.
  bool last_output_is_state(int64_t b) const {
    if (job.schedule->count[b] == 0) return false;
    if (!p.zero_output_for_mask || p.mask == nullptr) return true;
    return p.mask[b * p.time + (p.go_backwards ? 0 : p.time - 1)] != 0;
  }
};

}  // namespace
}  // namespace masked_rnn
