#pragma once

#include <pybind11/pybind11.h>

namespace masked_rnn::python {

// cuda_mask_of_lengths and cuda_exchange.
void define_cuda_kernels(pybind11::module_& m);

}  // namespace masked_rnn::python
