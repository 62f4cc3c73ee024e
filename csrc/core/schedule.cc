#include "schedule.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace masked_rnn {

void Schedule::count_steps(const Problem& p) {
  count.assign(p.batch, p.time);
  if (p.mask == nullptr) return;
  for (int64_t b = 0; b < p.batch; ++b) {
    const uint8_t* mask = p.mask + b * p.time;
    int64_t real = 0;
    for (int64_t t = 0; t < p.time; ++t) real += mask[t] != 0;
    count[b] = real;
  }
}

int64_t Schedule::rows() const {
  return std::count_if(count.begin(), count.end(), [](int64_t c) { return c > 0; });
}

int64_t Schedule::real_steps() const {
  return std::accumulate(count.begin(), count.end(), int64_t{0});
}

namespace {

// Rows that have a real step, by their number of them, most first; equal ones in their order.
std::vector<int64_t> sorted_rows(const std::vector<int64_t>& count) {
  const int64_t most = count.empty() ? 0 : *std::max_element(count.begin(), count.end());
  std::vector<int64_t> place(most + 1);  // of the next row with that many
  for (int64_t c : count) ++place[c];
  int64_t rows = 0;
  for (int64_t c = most; c > 0; --c) rows += std::exchange(place[c], rows);
  std::vector<int64_t> order(rows);
  for (size_t b = 0; b < count.size(); ++b) {
    if (count[b] > 0) order[place[count[b]]++] = static_cast<int64_t>(b);
  }
  return order;
}

}  // namespace

void Schedule::deal(const Problem& p, int number_of_groups) {
  // Longest row first, to the group with the least work: groups differ by one row at most.
  groups.assign(number_of_groups, {});
  std::vector<int64_t> work(number_of_groups, 0);
  for (int64_t b : sorted_rows(count)) {
    const auto least = std::min_element(work.begin(), work.end()) - work.begin();
    groups[least].row.push_back(b);
    work[least] += count[b];
  }

  for (Group& g : groups) {
    if (g.row.empty()) continue;
    const int64_t steps = count[g.row[0]];
    g.live.resize(steps);
    g.offset.resize(steps + 1);
    g.offset[0] = 0;
    int64_t n = g.rows();
    for (int64_t s = 0; s < steps; ++s) {
      while (count[g.row[n - 1]] <= s) --n;
      g.live[s] = n;
      g.offset[s + 1] = g.offset[s] + n;
    }
    g.input.resize(g.real_steps());
    g.output.resize(g.real_steps());
    // Step by step: the entries of one row lie a step's rows apart, where many fall on the same lines
    // of the L1 cache (512 rows of 30 steps row by row: 90 us).
    std::vector<int64_t> next(g.rows(), 0);  // processing position of a row's next step
    for (int64_t s = 0, n = 0; s < steps; ++s) {
      for (int64_t i = 0; i < g.live[s]; ++i, ++n) {
        const int64_t first = g.row[i] * p.time;
        int64_t q = next[i];
        while (p.mask != nullptr && p.mask[first + time_of(p, q)] == 0) ++q;
        g.input[n] = first + time_of(p, q);
        g.output[n] = first + q;
        next[i] = q + 1;
      }
    }
  }
}

namespace {

// Whether the average step has an eighth less than `rows` live rows, where more of them count as `rows`.
bool has_fewer_rows(std::vector<int64_t> count, int64_t rows) {
  const int64_t longest = *std::max_element(count.begin(), count.end());
  // The sum over steps of min(live, rows) is that over the longest rows of their steps.
  if (rows < static_cast<int64_t>(count.size())) {
    std::nth_element(count.begin(), count.begin() + rows, count.end(), std::greater<>());
    count.resize(rows);
  }
  const int64_t steps = std::accumulate(count.begin(), count.end(), int64_t{0});
  return double(steps) < 7.0 / 8 * double(rows) * double(longest);
}

}  // namespace

Split choose_split(const Problem& p, const Schedule& schedule, int64_t unit_blocks, int threads,
                   SharingCost cost) {
  const int64_t real_steps = schedule.real_steps();
  const int64_t rows = schedule.rows();
  if (threads < 2 || rows == 0) return {};

  // Waking a thread costs some 5 us, as much as 0.5 M multiply-adds on one core.
  const double multiply_adds = double(real_steps) * weights_from(p.features + p.units, p);
  if (multiply_adds < 1e6) return {};

  // Parts share the weights, of which each may then keep its own.
  const double recurrent_weights = weights_from(p.units, p);
  if (recurrent_weights > cost.near_weights && unit_blocks >= threads &&
      has_fewer_rows(schedule.count, cost.far_rows * threads)) {
    return {1, threads};
  }
  // Groups that keep eight rows, a full tile, need no meeting between steps. Fewer rows are split
  // by units where each part then loads so many weights less that a meeting after each step pays.
  if (rows >= 8 * threads) return {threads, 1};
  int parts = static_cast<int>(std::min<int64_t>(threads, unit_blocks));
  const double step = cost.meeting + cost.element * double(rows) * double(p.units);
  while (parts > 1 && recurrent_weights < step * parts) --parts;
  const int groups = static_cast<int>(std::min<int64_t>(rows, threads));
  if (parts == 1 || (parts < threads && rows >= 4 * groups)) return {groups, 1};
  return {1, parts};
}

}  // namespace masked_rnn
