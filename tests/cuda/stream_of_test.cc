// gpu_stream.cc, or what takes its place, on an op's context that is put together here, with the
// headers of the TensorFlow that is installed: its device context has no stream, or one with a known
// handle. Built and called by tests/test_gpu.py.
#include "../../masked_rnn/gpu_stream.cc"

#include <string>
#include <utility>
#include <variant>

namespace {

#if __has_include("xla/stream_executor/device_address.h")  // TensorFlow 2.21
using Memory = stream_executor::DeviceAddressBase;
#else
using Memory = stream_executor::DeviceMemoryBase;
#endif

// What TensorFlow 2.18 to 2.21 want of a stream; two names are those of 2.18 alone.
class FakeStream final : public stream_executor::Stream {
  using Status = absl::Status;

 public:
  explicit FakeStream(void* handle) : handle_(handle) {}
  PlatformSpecificHandle platform_specific_handle() const { return {handle_}; }
  bool ok() const { return true; }
  absl::StatusOr<Stream*> GetOrCreateSubStream() { return nullptr; }
  void ReturnSubStream(Stream*) {}
  Status WaitFor(Stream*) { return {}; }
  Status WaitFor(stream_executor::Event*) { return {}; }
  Status RecordEvent(stream_executor::Event*) { return {}; }
  Status Memcpy(void*, const Memory&, uint64_t) { return {}; }
  Status Memcpy(Memory*, const void*, uint64_t) { return {}; }
  Status BlockHostUntilDone() { return {}; }
  Status DoHostCallbackWithStatus(absl::AnyInvocable<Status() &&>) { return {}; }
  stream_executor::StreamExecutor* parent() const { return nullptr; }
  stream_executor::CudaComputeCapability GetCudaComputeCapability() const { return {9, 0}; }
  stream_executor::RocmComputeCapability GetRocmComputeCapability() const { return {}; }
#if __has_include("xla/stream_executor/device_address.h")
  stream_executor::OneAPIComputeCapability GetOneAPIComputeCapability() const { return {}; }
#endif
  std::variant<stream_executor::StreamPriority, int> priority() const { return 0; }
  const std::string& GetName() const { return name_; }
  void SetName(std::string name) { name_ = std::move(name); }
  absl::string_view name() const { return name_; }
  void set_name(absl::string_view) {}

 private:
  void* handle_;
  std::string name_;
};

class FakeDeviceContext final : public tensorflow::DeviceContext {
 public:
  explicit FakeDeviceContext(stream_executor::Stream* stream) : stream_(stream) {}
  stream_executor::Stream* stream() const override { return stream_; }

 private:
  stream_executor::Stream* stream_;
};

}  // namespace

// kind 0: a context without a device context; 1: one without a stream; 2: a stream of this handle;
// 3: the same, and the device context is not the op's own but its device's, as on GPUs.
extern "C" __attribute__((visibility("default"))) void* stream_of_context(int kind, void* handle,
                                                                          void* (*find)(void*)) {
  tensorflow::DeviceBase device(tensorflow::Env::Default());
  FakeStream stream(handle);
  FakeDeviceContext* device_context = new FakeDeviceContext(kind >= 2 ? &stream : nullptr);
  tensorflow::DeviceBase::AcceleratorDeviceInfo info;
  info.default_context = device_context;
  if (kind == 3) device.set_tensorflow_accelerator_device_info(&info);
  tensorflow::OpKernelContext::Params params;
  params.device = &device;
  if (kind == 1 || kind == 2) params.op_device_context = device_context;
  void* found;
  {
    tensorflow::OpKernelContext context(&params, 0);
    found = find(&context);
  }
  device_context->Unref();
  return found;
}
