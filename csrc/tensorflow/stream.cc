// From an op's context to its CUDA stream as masked_rnn/gpu_stream.cc goes, but without TensorFlow's
// headers and a compiler: for the builds whose classes' layout is known.
#include <cstdint>
#include <cstring>

namespace masked_rnn::tensorflow {
namespace {

// In bytes; masked_rnn/gpu_offsets.py says what each is.
struct Offsets {
  int64_t params, op_device_context, device, device_info, default_context, stream, implementation,
      handle;
};
Offsets offsets;

void* at(const void* object, int64_t offset) {
  void* pointer;
  std::memcpy(&pointer, static_cast<const char*>(object) + offset, sizeof pointer);
  return pointer;
}

// Of a virtual function that takes nothing and returns a pointer, or a struct of one.
void* call(void* object, int64_t function) {
  return reinterpret_cast<void* (*)(void*)>(at(at(object, 0), function))(object);
}

void* device_context_of(const void* context) {
  const void* const params = at(context, offsets.params);
  if (void* const own = at(params, offsets.op_device_context)) return own;
  const void* const info = call(at(params, offsets.device), offsets.device_info);
  return info == nullptr ? nullptr : at(info, offsets.default_context);
}

}  // namespace

// From masked_rnn/gpu.py, before any op runs.
extern "C" __attribute__((visibility("default"))) void masked_rnn_set_stream_offsets(
    const int64_t* values) {
  std::memcpy(&offsets, values, sizeof offsets);
}

// A CUstream; null where the context is not a GPU's.
extern "C" __attribute__((visibility("default"))) void* masked_rnn_stream_by_offsets(
    const void* context) {
  void* const device_context = device_context_of(context);
  if (device_context == nullptr) return nullptr;
  void* const stream = call(device_context, offsets.stream);
  if (stream == nullptr) return nullptr;
  return call(offsets.implementation ? at(stream, offsets.implementation) : stream, offsets.handle);
}

}  // namespace masked_rnn::tensorflow
