// _cusim: the CUDA part on NumPy arrays, run on the CPU shim; forward and backward take what
// masked_rnn._core's take. Which device, order and options is asked of the environment at each call
// (device.h, plan.h). For the tests; not part of the package.
#include "plan.h"
#include "python/calls.h"

PYBIND11_MODULE(_cusim, m) { masked_rnn::python::define_calls<cusim::Plan>(m); }
