#pragma once

#include <pybind11/pybind11.h>

namespace masked_rnn::python {

// CudaArray, cuda_forward and cuda_backward.
void define_cuda_calls(pybind11::module_& m);

}  // namespace masked_rnn::python
