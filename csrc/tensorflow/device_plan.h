// A call on tensors in a GPU's memory, with the members that kernels.cc asks of a plan.
#pragma once

#include <cstdint>
#include <optional>

#include "cuda/driver_device.h"
#include "cuda/rnn.h"
#include "handles.h"

namespace masked_rnn::tensorflow {

struct DeviceOptions {
  TF_OpKernelContext* context;
  bool tf32;
  bool deterministic;
};

// Queues its work on TensorFlow's stream, where that is known (masked_rnn/gpu.py); else it waits
// for all that the device does, runs on a stream of its own, and waits for that.
class DevicePlan {
 public:
  DevicePlan(const Problem& problem, const DeviceOptions& options);
  // For backward. Throws InvalidArgument where `reserve` has another size than forward keeps.
  DevicePlan(const Problem& problem, const void* reserve, int64_t reserve_bytes,
             const DeviceOptions& options);

  int64_t reserve_bytes() const { return plan_.reserve_bytes(); }
  void forward(const ForwardResults& results) const;
  void backward(const BackwardArrays& arrays) const;

 private:
  template <class Body>
  void run(int64_t workspace_bytes, const Body& body) const;

  const cuda::DriverDevice& device_;
  const cuda::Plan plan_;
  TF_OpKernelContext* const context_;
};

}  // namespace masked_rnn::tensorflow
