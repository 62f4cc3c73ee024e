// NumPy arrays in and out of the core: dtype and layout checks, shapes, new arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "error.h"
#include "params.h"

namespace masked_rnn::python {

namespace py = pybind11;

inline std::string dtype_name(const py::array& array) {
  return py::str(array.dtype().attr("name"));
}

// float32, float64, float16, or bfloat16 of the package ml_dtypes.
inline DType dtype_of(const char* argument, const py::array& array) {
  const py::dtype dtype = array.dtype();
  // num() is NumPy's type number: the common cases without building a string.
  switch (dtype.num()) {
    case 11: return DType::kFloat32;
    case 12: return DType::kFloat64;
    case 23: return DType::kFloat16;
  }
  const std::string name = dtype_name(array);
  if (name == "bfloat16") return DType::kBFloat16;
  throw InvalidArgument(std::string(argument) + " has dtype " + name +
                        ", needed: float32, float64, float16 or bfloat16");
}

inline Shape shape_of(const std::optional<py::array>& array) {
  if (!array) return {};
  return {true, {array->shape(), array->shape() + array->ndim()}};
}

// The data of an array that must have `like`'s dtype and be C-contiguous; null where absent.
inline const void* data_of(const char* argument, const std::optional<py::array>& array,
                           const py::array& like) {
  if (!array) return nullptr;
  if (!array->dtype().is(like.dtype()) && !array->dtype().equal(like.dtype())) {
    throw InvalidArgument(std::string(argument) + " has dtype " + dtype_name(*array) +
                          ", needed: " + dtype_name(like) + ", as inputs");
  }
  if (!(array->flags() & py::array::c_style)) {
    throw InvalidArgument(std::string(argument) + " is not C-contiguous, needed: " +
                          "np.ascontiguousarray(" + argument + ")");
  }
  const auto address = reinterpret_cast<uintptr_t>(array->data());
  if (address % array->itemsize() != 0) {
    throw InvalidArgument(std::string(argument) + " is not aligned to its item size, needed: " +
                          "an aligned copy");
  }
  return array->data();
}

// An uninitialized array of the dtype of `like`.
inline py::array new_array(const py::array& like, const std::vector<int64_t>& shape) {
  return py::array(like.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

}  // namespace masked_rnn::python
