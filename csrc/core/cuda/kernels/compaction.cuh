// Compaction on the device: each row's real steps, the rows' order, the packed offsets.
#pragma once

#include "real.cuh"
#include "tiles.h"

namespace masked_rnn::cuda {

// What a thread works on in a grid of element_blocks, and a warp in one of row_blocks.
MR_INLINE int64_t element_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
MR_INLINE int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kPackRows + threadIdx.x / kWarp;
}

MR_INLINE int64_t live(const Steps& steps, int64_t step) {
  return steps.offset[step + 1] - steps.offset[step];
}

// The time of a position, and back.
MR_INLINE int64_t time_of(const Problem& p, int64_t position) {
  return p.go_backwards ? p.time - 1 - position : position;
}

MR_INLINE bool is_real(const Problem& p, int64_t b, int64_t position) {
  return p.mask == nullptr || p.mask[b * p.time + time_of(p, position)] != 0;
}

__global__ void count_steps(CountSteps a) {
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t b = row_of_warp();
  if (b >= p.batch) return;
  int found = 0;
  for (int64_t base = 0; base < p.time; base += kWarp) {
    const int64_t q = base + lane;
    const bool real = q < p.time && is_real(p, b, q);
    const unsigned votes = __ballot_sync(kAllLanes, real);
    const int ordinal = found + __popc(votes & (kAllLanes >> (kWarp - 1 - lane)));
    if (q < p.time) steps.ordinal[b * p.time + q] = ordinal;
    if (real) steps.position[b * p.time + ordinal - 1] = static_cast<int32_t>(q);
    found += __popc(votes);
  }
  if (lane == 0) steps.count[b] = found;
}

// Every row counts those before it: B * B comparisons, nothing beside a call's products.
__global__ void sort_rows(SortRows a) {
  const int64_t batch = a.call.problem.batch;
  const Steps& steps = a.call.steps;
  const int64_t b = element_of_thread();
  if (b >= batch) return;
  const int32_t own = steps.count[b];
  int32_t rank = 0;
  for (int64_t other = 0; other < batch; ++other) {
    const int32_t count = steps.count[other];
    rank += count > own || (count == own && other < b);
  }
  steps.rank[b] = rank;
  steps.row[rank] = static_cast<int32_t>(b);
}

// Rows with more than `step` real steps.
MR_INLINE int64_t rows_beyond(const Steps& steps, int64_t batch, int64_t step) {
  int64_t low = 0, high = batch;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (steps.count[steps.row[middle]] > step) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// One block: each thread adds up a stretch of steps, then what lies before its own.
__global__ void add_up_steps(AddUpSteps a) {
  MR_SHARED(memory);
  auto* sums = reinterpret_cast<int64_t*>(memory);  // [kAddUpThreads]
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t stretch = (p.time + kAddUpThreads - 1) / kAddUpThreads;
  const int64_t begin = threadIdx.x * stretch;
  const int64_t end = begin + stretch < p.time ? begin + stretch : p.time;
  int64_t sum = 0;
  for (int64_t s = begin; s < end; ++s) sum += rows_beyond(steps, p.batch, s);
  sums[threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) sum += sums[t];
  if (threadIdx.x == 0) steps.offset[0] = 0;
  for (int64_t s = begin; s < end; ++s) {
    sum += rows_beyond(steps, p.batch, s);
    steps.offset[s + 1] = sum;
  }
}

}  // namespace masked_rnn::cuda
