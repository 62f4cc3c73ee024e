// CUDA's words as C++, for kernel sources that are compiled for the CPU. Static shared memory is
// left out on purpose: kernels take dynamic shared memory, through MR_SHARED.
#pragma once

#include <cmath>
#include <cstring>

#include "grid.h"

#define __global__ inline  // as a header may hold kernels that are no templates
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))

inline void __syncthreads() { cusim::block_barrier(); }
inline int __syncthreads_count(int p) { return cusim::block_barrier_count(p != 0); }
inline int __syncthreads_or(int p) { return cusim::block_barrier_count(p != 0) > 0; }
inline void __syncwarp(unsigned mask = ~0u) { cusim::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace cusim {
template <class T>
T from_lane(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) <= kExchangeBytes);
  exchange(mask, &value, sizeof(T));
  read_lane(lane, &value, sizeof(T));
  return value;
}
}  // namespace cusim

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const int own = cusim::position().lane;
  return cusim::from_lane(mask, value, (own & ~(width - 1)) + (lane & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int own = cusim::position().lane, other = own ^ bits;
  return cusim::from_lane(mask, value, other / width <= own / width ? other : own);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int own = cusim::position().lane, to = (own & (width - 1)) + static_cast<int>(distance);
  return cusim::from_lane(mask, value, to < width ? own + static_cast<int>(distance) : own);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int own = cusim::position().lane, d = static_cast<int>(distance);
  return cusim::from_lane(mask, value, (own & (width - 1)) >= d ? own - d : own);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  cusim::exchange(mask, &predicate, sizeof(predicate));
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    cusim::read_lane(lane, &predicate, sizeof(predicate));
    votes |= static_cast<unsigned>(predicate != 0) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }

template <class T>
T __ldcg(const T* p) { return *p; }
template <class T>
void __stcg(T* p, T value) { *p = value; }
template <class T>
T __ldg(const T* p) { return *p; }

// Atomic for ThreadSanitizer too; relaxed, as in CUDA.
template <class T>
T atomicAdd(T* p, T value) {
  cusim::note_progress();
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicExch(T* p, T value) {
  cusim::note_progress();
  return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicCAS(T* p, T expected, T value) {
  cusim::note_progress();
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
