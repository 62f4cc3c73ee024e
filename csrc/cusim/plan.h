// A call of the CUDA part on arrays in the host's memory, run on the shim: has the members of Plan
// in core/rnn.h, so that bindings take either.
#pragma once

#include "core/cuda/rnn.h"
#include "core/rnn.h"
#include "device.h"

namespace cusim {

struct PlanOptions {
  DeviceOptions device = DeviceOptions::from_environment();
  // CUSIM_TF32, CUSIM_DETERMINISTIC, CUSIM_CHUNK_ROWS, CUSIM_KERNEL, CUSIM_UNITS
  masked_rnn::cuda::Options call;
  static PlanOptions from_environment();
};

class Plan {
 public:
  Plan(const masked_rnn::Problem& problem, const masked_rnn::Options&);
  Plan(const masked_rnn::Problem& problem, const void* reserve, int64_t reserve_bytes,
       const masked_rnn::Options&);

  int64_t reserve_bytes() const { return plan_.reserve_bytes(); }
  bool is_short() const { return false; }
  // Results are NaN until they are written.
  void forward(const masked_rnn::ForwardResults& results) const;
  void backward(const masked_rnn::BackwardArrays& arrays) const;

 private:
  masked_rnn::Problem problem_;
  PlanOptions options_;
  Device device_;
  masked_rnn::cuda::Plan plan_;
};

}  // namespace cusim
