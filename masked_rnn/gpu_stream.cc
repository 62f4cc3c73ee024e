// From an op's context to its CUDA stream. TensorFlow's C API does not say it for NVIDIA's GPUs,
// and its C++ API changes from version to version, so gpu.py compiles this where it is used, with
// the headers of the TensorFlow that is there.
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
// Not tensorflow/core/platform/stream_executor.h: in 2.19 it needs headers that no wheel brings.
#include "xla/stream_executor/stream.h"

// A CUstream; null where the context is not a GPU's.
extern "C" __attribute__((visibility("default"))) void* masked_rnn_stream_of(void* context) {
  auto* op = reinterpret_cast<tensorflow::OpKernelContext*>(context);
  const tensorflow::DeviceContext* device = op->op_device_context();
  if (device == nullptr || device->stream() == nullptr) return nullptr;
  return device->stream()->platform_specific_handle().stream;
}
