// Arrays in a GPU's memory, in and out of Python by DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda/driver_device.h"

namespace masked_rnn::python {

namespace py = pybind11;

class CudaArray {
 public:
  // What a producer's `__dlpack__` gave. Throws InvalidArgument, in `argument`'s name.
  static CudaArray from_capsule(const std::string& argument, const py::capsule& capsule);
  // New memory, for the use of `stream`; `keep_alive` is the stream's Python object. `dtype` as
  // NumPy spells it.
  CudaArray(const cuda::DriverDevice& device, std::string dtype, std::vector<int64_t> shape,
            cuda::Stream stream, py::object keep_alive);

  void* data() const { return memory_->data; }
  const std::vector<int64_t>& shape() const { return shape_; }
  const std::string& dtype() const { return dtype_; }
  int ordinal() const { return ordinal_; }
  int64_t bytes() const;

  py::capsule to_capsule(const py::object& stream) const;
  py::dict cuda_array_interface() const;

 private:
  struct Memory {
    virtual ~Memory() = default;
    void* data = nullptr;
  };
  struct Given;
  struct Own;

  CudaArray() = default;

  std::shared_ptr<Memory> memory_;
  std::vector<int64_t> shape_;
  std::string dtype_;  // as NumPy spells it
  int ordinal_ = 0;
};

}  // namespace masked_rnn::python
