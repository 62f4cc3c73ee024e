// masked_rnn._core: the core on NumPy arrays.

#include "at_exit.h"
#include "calls.h"
#include "cuda_calls.h"
#include "cuda_kernels.h"
#include "names.h"
#include "rnn.h"
#include "threads.h"

namespace masked_rnn::python {
namespace {

py::list kernel_list() {
  py::list list;
  for (const KernelName& name : kernels()) {
    py::dict row;
    row["cell"] = name.cell;
    row["dtype"] = name.dtype;
    row["isa"] = name.isa;
    list.append(row);
  }
  return list;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The kernels on NumPy arrays; see masked_rnn.numpy for the public functions.";
  park_daemon_threads_at_exit();
  define_calls<Plan>(m);
  define_cuda_calls(m);
  define_cuda_kernels(m);
  m.def("kernels", &kernel_list, "Every kernel this machine can run: cell, dtype, isa.");
  m.def("activations", &activation_names, "Names of the activations that the kernels know.");
  m.def("isa", &chosen_isa, "The instruction set in use.");
  m.def(
      "fma_peak",
      [](int threads, const std::string& dtype, const std::string& isa) {
        const WithoutGil without_gil;
        return fma_peak(dtype_from_name(dtype), threads, isa);
      },
      py::arg("threads") = 0, py::arg("dtype") = "float32", py::arg("isa") = "",
      "FLOP/s of multiply-adds in registers, measured for some 0.1 s.");
  m.def("threads", &default_threads, "Threads that a call may use.");
}

}  // namespace masked_rnn::python
