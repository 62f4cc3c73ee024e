// One pool of worker threads for the whole process, and the barrier they meet at.
#pragma once

#include <atomic>
#include <cstdint>

#include "params.h"

namespace masked_rnn {

// Threads a call may use when the caller names no number: MASKED_RNN_NUM_THREADS, else the
// CPUs of the affinity mask.
MASKED_RNN_API int default_threads();

// Calls job(argument, i) for i in 0..threads-1, one on this thread, the others on pool threads,
// and returns when all are done. The job must not throw.
//
// Calls queue for cores in the order they come: one that wants more threads than are free waits
// until they are. Two calls at once are then never slower than one after the other, where more
// runnable threads than cores would stall every barrier.
void run_on_threads(int threads, void (*job)(void* argument, int thread), void* argument);

// Threads that run_on_threads can give at once.
MASKED_RNN_API int pool_size();

// All of `parties` threads arrive before any leaves. Spins for some 20 us, as a step of the time
// loop takes less, then sleeps in the kernel, so that a thread that has lost its core gets it.
class Barrier {
 public:
  explicit Barrier(int parties) : parties_(parties), waiting_for_(parties) {}
  void arrive_and_wait();

 private:
  const int parties_;
  alignas(64) std::atomic<int32_t> waiting_for_;
  alignas(64) std::atomic<int32_t> round_{0};
};

}  // namespace masked_rnn
