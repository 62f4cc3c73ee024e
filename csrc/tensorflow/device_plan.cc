#include "device_plan.h"

#include <atomic>

namespace masked_rnn::tensorflow {
namespace {

// Null: TensorFlow's stream is not known, or the context has none.
using StreamOf = void* (*)(TF_OpKernelContext*);
std::atomic<StreamOf> stream_of{nullptr};

// Memory from TensorFlow, which may give it to the next op of the stream when this ends.
Tensor temporary(TF_OpKernelContext* context, int64_t bytes) {
  TF_AllocatorAttributes attributes = {};
  attributes.struct_size = offsetof(TF_AllocatorAttributes, on_host) + 1;
  const Status status;
  Tensor tensor(TF_AllocateTemp(context, TF_UINT8, &bytes, 1, &attributes, status.get()));
  status.check();
  return tensor;
}

}  // namespace

// Called from masked_rnn/gpu.py.
extern "C" __attribute__((visibility("default"))) void masked_rnn_set_stream_of(void* function) {
  stream_of.store(reinterpret_cast<StreamOf>(function));
}

DevicePlan::DevicePlan(const Problem& problem, const DeviceOptions& options)
    : device_(cuda::DriverDevice::current()),
      plan_(device_, problem, {options.tf32, options.deterministic, "", 0}),
      context_(options.context) {}

DevicePlan::DevicePlan(const Problem& problem, const void* reserve, int64_t reserve_bytes,
                       const DeviceOptions& options)
    : DevicePlan(problem, options) {
  plan_.check_reserve(reserve, reserve_bytes);
}

template <class Body>
void DevicePlan::run(int64_t workspace_bytes, const Body& body) const {
  const Tensor workspace = temporary(context_, workspace_bytes);
  void* const memory = TF_TensorData(workspace.get());
  const StreamOf find = stream_of.load();
  if (void* const stream = find ? find(context_) : nullptr) {
    body(memory, stream);
    return;
  }
  const cuda::Stream own = device_.own_stream();
  device_.synchronize();
  body(memory, own);
  device_.synchronize(own);
}

void DevicePlan::forward(const ForwardResults& results) const {
  run(plan_.forward_workspace_bytes(results.reserve != nullptr),
      [&](void* memory, cuda::Stream stream) { plan_.forward(results, memory, stream); });
}

void DevicePlan::backward(const BackwardArrays& arrays) const {
  run(plan_.backward_workspace_bytes(),
      [&](void* memory, cuda::Stream stream) { plan_.backward(arrays, memory, stream); });
}

}  // namespace masked_rnn::tensorflow
