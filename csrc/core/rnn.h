// The core's front door: all that a binding includes beside check.h, names.h and error.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "params.h"

namespace masked_rnn {

struct Options {
  int threads = 0;   // 0: default_threads()
  std::string isa;   // "": the best this machine has, see MASKED_RNN_ISA
  // Whoever waits for the call does so on another core, as TensorFlow's callers do: a short call leaves it
  // that core, and what is in its caches. The same in both passes of training.
  bool awaited_elsewhere = false, training = false;
};

// A call, planned: which kernel, which rows on which thread, how much memory. The arrays of
// `problem` are read when forward or backward runs; the mask already when the plan is made.
class MASKED_RNN_API Plan {
 public:
  // Throws InvalidArgument, ResourceExhausted.
  explicit Plan(const Problem& problem, const Options& options = {});
  // For backward: the rows are dealt as in the forward call that wrote `reserve`.
  // Throws InvalidArgument where it was written by another problem or is too small.
  Plan(const Problem& problem, const void* reserve, int64_t reserve_bytes,
       const Options& options = {});
  ~Plan();
  Plan(Plan&&) noexcept;

  // Bytes that forward keeps for backward; aligned to 64.
  int64_t reserve_bytes() const;
  // Whether it takes some 0.1 ms at most and no other thread, so that handing a lock to another
  // thread for that time would take longer.
  bool is_short() const;
  void forward(const ForwardResults& results) const;
  void backward(const BackwardArrays& arrays) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct KernelName {
  std::string cell, dtype, isa;
};

// Every kernel this machine can run.
MASKED_RNN_API std::vector<KernelName> kernels();
// Multiply-adds per second, times two, that `threads` threads reach in registers with a kernel's
// instructions, measured for some 0.1 s. Benchmarks report fractions of it.
MASKED_RNN_API double fma_peak(DType dtype, int threads, const std::string& isa);
// The instruction set that is used where none is asked for.
MASKED_RNN_API std::string chosen_isa();

}  // namespace masked_rnn
