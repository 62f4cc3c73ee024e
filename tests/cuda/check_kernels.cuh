// Small kernels, one for each thing the CPU shim emulates, and with -DFAULT_... one fault each.
// tests/test_cusim.py builds and runs them.
#include <cstdint>

#include "core/cuda/kernels/primitives.cuh"

namespace masked_rnn::cuda {

// A masked tanh RNN over a cooperative grid: a block owns some units, its weights stay in shared
// memory, h passes through global memory.
struct GridRnn {
  const float *x, *weights;  // [T,B,H], [H,H]
  float *y, *h;              // [T,B,H], [2,B,H], zero
  unsigned* arrived;
  int time, batch, units;
};

__global__ void grid_rnn(GridRnn a) {
  MR_SHARED(memory);
  const int units = a.units / int(gridDim.x), first = int(blockIdx.x) * units;
  const int threads = int(blockDim.x), lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  float* weights = reinterpret_cast<float*>(memory);  // [units][H]
  float* h = weights + units * a.units;               // [B][H]
  unsigned meeting = 0;
  for (int i = int(threadIdx.x); i < units * a.units; i += threads) {
    weights[i] = a.weights[i % a.units * a.units + first + i / a.units];
  }
  for (int t = 0; t < a.time; ++t) {
    const float* from = a.h + (t & 1) * a.batch * a.units;
    float* to = a.h + (~t & 1) * a.batch * a.units;
#ifdef FAULT_SHARED_INDEX
    const int loaded = a.batch * a.units + 1;
#else
    const int loaded = a.batch * a.units;
#endif
    for (int i = int(threadIdx.x); i < loaded; i += threads) h[i] = __ldcg(from + i % (a.batch * a.units));
#ifdef FAULT_DIVERGENT_BARRIER
    if (warp == 0)
#endif
#ifndef FAULT_MISSING_BARRIER
    __syncthreads();
#endif
    for (int o = warp; o < a.batch * units; o += threads / kWarp) {
      const int b = o / units, u = o % units;
      float sum = 0;
      for (int k = lane; k < a.units; k += kWarp) sum += h[b * a.units + k] * weights[u * a.units + k];
      for (int d = kWarp / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
      if (lane == 0) {
        const int at = b * a.units + first + u;
        const float value = tanhf(a.x[t * a.batch * a.units + at] + sum);
        __stcg(to + at, value);
        a.y[t * a.batch * a.units + at] = value;
      }
    }
#ifdef FAULT_MISSING_GRID_BARRIER
    __syncthreads();
#else
    grid_barrier(a.arrived, meeting);
#endif
  }
}

// The blocks of a cluster pass a vector around: each adds its rank + 1 to what its neighbour sends.
struct ClusterRing {
  float* sums;  // [clusters * cluster size][width]
  int rounds, width;
};

__global__ void cluster_ring(ClusterRing a) {
  MR_SHARED(memory);
  auto* barriers = reinterpret_cast<uint64_t*>(memory);      // [2]
  float* values = reinterpret_cast<float*>(memory + 16);     // [2][width]
  const unsigned rank = cluster_rank(), next = (rank + 1) % cluster_size();
  const int i = int(threadIdx.x);
  if (i == 0) {
    mbarrier_init(barriers, 1);
    mbarrier_init(barriers + 1, 1);
    mbarrier_publish();
  }
  values[i] = float(i);
  cluster_barrier();
  for (int round = 0; round < a.rounds; ++round) {
    const int now = round & 1, then = now ^ 1;
    if (i == 0) mbarrier_arrive_expect(barriers + then, unsigned(a.width) * sizeof(float));
    if (i % 4 == 0) {  // four values, in one store, two or four
      uint32_t v[4];
      for (int j = 0; j < 4; ++j) {
        const float sum = values[now * a.width + i + j] + float(rank + 1);
        memcpy(v + j, &sum, sizeof(sum));
      }
      float* to = values + then * a.width + i;
      if (i % 12 == 0) {
        store_async(to, next, v, barriers + then);
      } else if (i % 12 == 4) {
        for (int j = 0; j < 4; j += 2) {
          store_async(to + j, next, uint64_t(v[j]) | uint64_t(v[j + 1]) << 32, barriers + then);
        }
      } else {
        for (int j = 0; j < 4; ++j) store_async(to + j, next, v[j], barriers + then);
      }
    }
#ifndef FAULT_MISSING_WAIT
    mbarrier_wait(barriers + then, unsigned(round >> 1) & 1);
#endif
    cluster_barrier();  // a neighbour that lags still reads what the next round would overwrite
  }
  // Read from the neighbour's shared memory, to see that too.
  const float* last = values + (a.rounds & 1) * a.width + i;
  a.sums[blockIdx.x * unsigned(a.width) + unsigned(i)] = load_from_block(last, next);
  cluster_barrier();
}

// c [16,8] = a [16,16] @ b [16,8] in bfloat16, float16 and TF32 (float bits, k in two halves).
struct MatrixProducts {
  const uint16_t *a_bfloat16, *b_bfloat16, *a_float16, *b_float16;  // [16,16], [8,16] (transposed)
  const float *a, *b;                                               // likewise
  float* c;                                                         // [3][16,8]
};

__global__ void matrix_products(MatrixProducts p) {
  const int lane = int(threadIdx.x), group = lane >> 2, quad = lane & 3;
  float c[3][4] = {};
  const auto pair = [](const uint16_t* m, int row, int k) {
    return uint32_t(m[row * 16 + k]) | uint32_t(m[row * 16 + k + 1]) << 16;
  };
  uint32_t a[4], b[2];
  for (int kind = 0; kind < 2; ++kind) {
    const uint16_t* ma = kind ? p.a_float16 : p.a_bfloat16;
    const uint16_t* mb = kind ? p.b_float16 : p.b_bfloat16;
    for (int r = 0; r < 4; ++r) a[r] = pair(ma, group + (r & 1) * 8, quad * 2 + (r >> 1) * 8);
    for (int r = 0; r < 2; ++r) b[r] = pair(mb, group, quad * 2 + r * 8);
    kind ? multiply_float16(c[1], a, b) : multiply_bfloat16(c[0], a, b);
  }
  for (int half = 0; half < 2; ++half) {
    for (int r = 0; r < 4; ++r) {
      a[r] = round_to_tf32(p.a[(group + (r & 1) * 8) * 16 + half * 8 + quad + (r >> 1) * 4]);
    }
    for (int r = 0; r < 2; ++r) b[r] = round_to_tf32(p.b[group * 16 + half * 8 + quad + r * 4]);
    multiply_tf32(c[2], a, b);
  }
  for (int kind = 0; kind < 3; ++kind) {
    for (int i = 0; i < 4; ++i) {
      p.c[kind * 128 + (group + (i >> 1) * 8) * 8 + quad * 2 + (i & 1)] = c[kind][i];
    }
  }
}

// Votes, shuffles in every direction, counting barriers, asynchronous copies.
struct WarpWords {
  unsigned* words;        // [7] of each thread
  const unsigned* input;  // [threads][4], 16-byte aligned
};

__global__ void warp_words(WarpWords a) {
  MR_SHARED(memory);
  auto* copied = reinterpret_cast<unsigned*>(memory);  // [threads][4]
  const unsigned i = threadIdx.x;
  unsigned* to = a.words + i * 7;
  copy_async(copied + i * 4, a.input + i * 4, 8);
  commit_copies();
  to[0] = __ballot_sync(kAllLanes, i % 3 == 0);
  to[1] = __shfl_up_sync(kAllLanes, i, 1);
  to[2] = __shfl_down_sync(kAllLanes, i, 2, 16);
  to[3] = __shfl_sync(kAllLanes, i, 5, 8);
  to[4] = unsigned(__syncthreads_count(i % 2 == 0));
  wait_for_copies<0>();
  __syncthreads();
  const unsigned other = blockDim.x - 1 - i;
  to[5] = copied[other * 4 + 1];
  to[6] = copied[other * 4 + 2];
}

}  // namespace masked_rnn::cuda
