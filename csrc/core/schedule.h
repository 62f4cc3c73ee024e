// Compaction: which rows work at which packed step.
//
// A masked step carries the state, so a row's recurrence runs over its real steps only. Rows are
// sorted by their number of real steps (descending, stable); at packed step s the first live(s)
// rows still have one. Right-padded, left-padded and holes become the same thing here, and
// nothing after this file knows about masks, except the fill of masked outputs.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "params.h"

namespace masked_rnn {

// Rows that are worked on together. Packed index n = offset[s] + i for the i-th
// sorted row at packed step s.
struct Group {
  std::vector<int64_t> row;       // [rows] batch row of sorted row i; each has a real step
  std::vector<int64_t> live;      // [steps] rows that have a real step s
  std::vector<int64_t> offset;    // [steps+1]
  // [real_steps] of packed index n: b * T + time, the row of inputs; b * T + processing position,
  // that of outputs.
  std::vector<int64_t> input, output;

  int64_t rows() const { return static_cast<int64_t>(row.size()); }
  int64_t steps() const { return static_cast<int64_t>(live.size()); }
  int64_t real_steps() const { return offset.empty() ? 0 : offset.back(); }
  int64_t live_after(int64_t step) const { return step + 1 < steps() ? live[step + 1] : 0; }
  // Packed indices of the rows that have one real step only, from here to the end of step 0.
  int64_t first_single() const { return live_after(0); }
  int64_t singles() const { return steps() > 0 ? live[0] - first_single() : 0; }
};

struct Schedule {
  std::vector<int64_t> count;  // [batch] real steps of each row
  std::vector<Group> groups;

  // Real steps per row; then the rows dealt to `groups` groups of nearly equal work.
  void count_steps(const Problem& problem);
  void deal(const Problem& problem, int groups);
  int64_t rows() const;  // that have a real step
  int64_t real_steps() const;
};

// How a call is shared out: either groups of rows, which need each other never, or one group
// whose units are split in parts, which meet after every step.
struct Split {
  int groups = 1;
  int parts = 1;
  int threads() const { return groups * parts; }  // one of the two is 1
};

// What decides between the two on a machine. Costs are in recurrent weights that a core would multiply
// with a row meanwhile.
struct SharingCost {
  // Of parts that meet after a step: the meeting itself, and each element of the state, half of which
  // comes from another core's cache.
  double meeting, element;
  // A core keeps so many recurrent weights from step to step. More have to come again in each, from
  // where a product with fewer than `far_rows` rows waits for them.
  double near_weights = std::numeric_limits<double>::infinity();
  int64_t far_rows = 0;
};

Split choose_split(const Problem& problem, const Schedule& schedule, int64_t unit_blocks,
                   int threads, SharingCost cost);

// Weights of a matrix from `depth` values to the gates.
inline double weights_from(int64_t depth, const Problem& p) {
  return double(depth) * double(gates(p.cell) * p.units);
}

// Time index of a processing position.
inline int64_t time_of(const Problem& p, int64_t position) {
  return p.go_backwards ? p.time - 1 - position : position;
}

}  // namespace masked_rnn
