// The two ways in which blocks pass a step's state on, without the step: benchmarks/gpu.py times
// them, as no recurrence that is spread over blocks can be faster.
#pragma once

#include "arguments.h"
#include "primitives.cuh"

namespace masked_rnn::cuda {

// Through global memory, with a barrier of the grid.
__global__ void exchange_by_grid(ExchangeRounds a) {
  const unsigned size = gridDim.x * blockDim.x, own = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned other = (blockIdx.x + 1) % gridDim.x * blockDim.x + threadIdx.x;
  unsigned meeting = 0;
  float value = 0;
  for (int round = 0; round < a.rounds; ++round) {
    value = __ldcg(a.words + (round & 1) * size + other) + 1;
    __stcg(a.words + (~round & 1) * size + own, value);
    grid_barrier(a.arrived, meeting);
  }
  a.result[own] = value;
}

// Every thread sends 16 bytes to all blocks of its cluster; transactions are counted and there is
// no barrier. A block sends for round k + 2, into the buffer of round k, only when it has all of
// round k + 1, which its peers send when they have read round k.
__global__ void exchange_by_cluster(ExchangeRounds a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  MR_SHARED(memory);
  auto* barriers = reinterpret_cast<uint64_t*>(memory);      // [2]
  auto* slots = reinterpret_cast<uint32_t*>(memory + 16);    // [2][blocks][threads][4]
  const unsigned rank = cluster_rank(), size = cluster_size(), threads = blockDim.x;
  if (threadIdx.x == 0) {
    mbarrier_init(barriers, 1);
    mbarrier_init(barriers + 1, 1);
    mbarrier_publish();
  }
  cluster_barrier();
  float value = 0;
  for (int round = 0; round < a.rounds; ++round) {
    uint64_t* barrier = barriers + (round & 1);
    uint32_t* slot = slots + (round & 1) * size * threads * 4;
    if (threadIdx.x == 0) mbarrier_arrive_expect(barrier, size * threads * 16);
    uint32_t words[4] = {};
    memcpy(words, &value, sizeof(value));
    for (unsigned peer = 0; peer < size; ++peer) {
      store_async(slot + (rank * threads + threadIdx.x) * 4, (rank + peer) % size, words, barrier);
    }
    mbarrier_wait(barrier, unsigned(round >> 1) & 1);
    memcpy(&value, slot + ((rank + 1) % size * threads + threadIdx.x) * 4, sizeof(value));
    value += 1;
  }
  a.result[blockIdx.x * threads + threadIdx.x] = value;
  cluster_barrier();
#endif
}

}  // namespace masked_rnn::cuda
