// Where a call on arrays in a GPU's memory goes, and memory for its time.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cuda_array.h"

namespace masked_rnn::python {

struct Target {
  Target(int ordinal, py::object stream_object, uintptr_t stream_number)
      : device(cuda::DriverDevice::of_ordinal(ordinal)),
        stream(reinterpret_cast<cuda::Stream>(stream_number)),
        keep_alive(std::move(stream_object)) {}

  CudaArray array(const std::string& dtype, const std::vector<int64_t>& shape) const {
    return CudaArray(device, dtype, shape, stream, keep_alive);
  }

  const cuda::DriverDevice& device;
  const cuda::Stream stream;
  const py::object keep_alive;
};

// Memory in the order of the target's stream.
class Workspace {
 public:
  Workspace(const Target& target, int64_t bytes)
      : target_(target), data_(target.device.allocate(size_t(bytes), target.stream)) {}
  ~Workspace() { target_.device.free(data_, target_.stream); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  const Target& target_;
  void* const data_;
};

}  // namespace masked_rnn::python
