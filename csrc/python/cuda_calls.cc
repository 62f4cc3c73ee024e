// The two calls on arrays in a GPU's memory. They queue their work on a stream and return.

#include "cuda_calls.h"

#include <pybind11/stl.h>

#include <optional>

#include "check.h"
#include "cuda/rnn.h"
#include "cuda/shared_library.h"
#include "cuda_target.h"
#include "error.h"
#include "gil.h"
#include "names.h"

namespace masked_rnn::python {
namespace {

using Optional = std::optional<CudaArray>;

Shape shape_of(const Optional& array) {
  if (!array) return {};
  return {true, array->shape()};
}

// The arguments that forward and backward share: those of `_core.forward`.
struct Arguments {
  std::string cell;
  Optional inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c;
  Optional input_dropout, recurrent_dropout;
  std::string activation, recurrent_activation;
  bool go_backwards, zero_output_for_mask, return_sequences;
  int ordinal = 0;

  explicit Arguments(const py::tuple& given) {
    size_t at = 0;
    auto take = [&](auto& value) {
      value = given[at++].cast<std::decay_t<decltype(value)>>();
    };
    take(cell);
    for (Optional* array : {&inputs, &kernel, &recurrent_kernel, &bias, &mask, &initial_h,
                            &initial_c, &input_dropout, &recurrent_dropout}) {
      take(*array);
    }
    take(activation);
    take(recurrent_activation);
    take(go_backwards);
    take(zero_output_for_mask);
    take(return_sequences);
    ordinal = inputs->ordinal();
  }

  // The memory of an array like the inputs; null where it is absent.
  void* data(const char* argument, const Optional& array) const {
    if (!array) return nullptr;
    check_device(argument, *array);
    if (array->dtype() != inputs->dtype()) {
      throw InvalidArgument(std::string(argument) + " has dtype " + array->dtype() +
                            ", needed: " + inputs->dtype() + ", as inputs");
    }
    return array->data();
  }

  Problem problem() const {
    Problem p;
    p.cell = cell_from_name(cell);
    p.dtype = dtype_from_name(inputs->dtype());
    p.activation = activation_from_name("activation", activation);
    p.recurrent_activation = activation_from_name("recurrent_activation", recurrent_activation);
    p.go_backwards = go_backwards;
    p.zero_output_for_mask = zero_output_for_mask;
    p.return_sequences = return_sequences;
    Shape steps = shape_of(mask);
    if (steps.dims.size() == 3 && steps.dims[2] == 1) steps.dims.pop_back();
    check_shapes({shape_of(inputs), shape_of(kernel), shape_of(recurrent_kernel), shape_of(bias),
                  steps, shape_of(initial_h), shape_of(initial_c),
                  shape_of(input_dropout), shape_of(recurrent_dropout)},
                 p);
    p.inputs = data("inputs", inputs);
    p.kernel = data("kernel", kernel);
    p.recurrent_kernel = data("recurrent_kernel", recurrent_kernel);
    p.bias = data("bias", bias);
    p.initial_h = data("initial_state (h)", initial_h);
    p.initial_c = data("initial_state (c)", initial_c);
    p.input_dropout = data("input_dropout", input_dropout);
    p.recurrent_dropout = data("recurrent_dropout", recurrent_dropout);
    if (mask) {
      check_device("mask", *mask);
      if (mask->dtype() != "bool" && mask->dtype() != "uint8") {
        throw InvalidArgument("mask has dtype " + mask->dtype() + ", needed: bool or uint8");
      }
      p.mask = static_cast<const uint8_t*>(mask->data());
    }
    return p;
  }

 private:
  void check_device(const char* argument, const CudaArray& array) const {
    if (array.ordinal() == ordinal) return;
    throw InvalidArgument(std::string(argument) + " is on CUDA device " +
                          std::to_string(array.ordinal()) + ", needed: " +
                          std::to_string(ordinal) + ", the device of inputs");
  }
};

std::vector<int64_t> state_shape(const Problem& p) { return {p.batch, p.units}; }

// The names of the kernels that forward and backward of such a call take.
py::tuple kernels(const py::tuple& given, bool tf32, bool deterministic,
                  const std::string& kernel) {
  const Arguments arguments(given);
  const cuda::Plan plan(cuda::DriverDevice::of_ordinal(arguments.ordinal), arguments.problem(),
                        {tf32, deterministic, kernel, 0});
  return py::make_tuple(plan.forward_kernel(), plan.backward_kernel());
}

py::tuple forward(const py::tuple& given, bool keep_reserve, const py::object& stream_object,
                  uintptr_t stream, bool tf32, bool deterministic, const std::string& kernel) {
  const Arguments arguments(given);
  const Problem problem = arguments.problem();
  const Target target(arguments.ordinal, stream_object, stream);
  const cuda::Plan plan(target.device, problem, {tf32, deterministic, kernel, 0});
  const auto array = [&](const std::vector<int64_t>& shape) {
    return target.array(arguments.inputs->dtype(), shape);
  };
  std::vector<int64_t> outputs_shape = state_shape(problem);
  if (problem.return_sequences) outputs_shape.insert(outputs_shape.begin() + 1, problem.time);
  Optional outputs = array(outputs_shape), state_h = array(state_shape(problem)), state_c, reserve;
  ForwardResults results;
  results.outputs = outputs->data();
  results.state_h = state_h->data();
  if (problem.cell == Cell::kLstm) {
    state_c = array(state_shape(problem));
    results.state_c = state_c->data();
  }
  if (keep_reserve) {
    reserve = target.array("uint8", {plan.reserve_bytes()});
    results.reserve = reserve->data();
  }
  {
    const Workspace workspace(target, plan.forward_workspace_bytes(keep_reserve));
    const WithoutGil without_gil;
    plan.forward(results, workspace.data(), target.stream);
  }
  return py::make_tuple(outputs, state_h, state_c, reserve);
}

py::tuple backward(const py::tuple& given, const CudaArray& reserve, const Optional& d_outputs,
                   const Optional& d_state_h, const Optional& d_state_c,
                   const py::object& stream_object, uintptr_t stream, bool tf32,
                   bool deterministic, const std::string& kernel) {
  const Arguments arguments(given);
  const Problem problem = arguments.problem();
  check_gradient_shapes({shape_of(d_outputs), shape_of(d_state_h), shape_of(d_state_c)}, problem);
  const Target target(arguments.ordinal, stream_object, stream);
  const cuda::Plan plan(target.device, problem, {tf32, deterministic, kernel, 0});
  plan.check_reserve(reserve.data(), reserve.bytes());
  BackwardArrays arrays;
  arrays.reserve = reserve.data();
  arrays.d_outputs = arguments.data("d_outputs", d_outputs);
  arrays.d_state_h = arguments.data("d_state (h)", d_state_h);
  arrays.d_state_c = arguments.data("d_state (c)", d_state_c);
  const auto array = [&](const std::vector<int64_t>& shape) {
    return target.array(arguments.inputs->dtype(), shape);
  };
  Optional d_inputs = array(arguments.inputs->shape()),
           d_kernel = array(arguments.kernel->shape()),
           d_recurrent_kernel = array(arguments.recurrent_kernel->shape()),
           d_initial_h = array(state_shape(problem)), d_bias, d_initial_c;
  arrays.d_inputs = d_inputs->data();
  arrays.d_kernel = d_kernel->data();
  arrays.d_recurrent_kernel = d_recurrent_kernel->data();
  arrays.d_initial_h = d_initial_h->data();
  if (arguments.bias) {
    d_bias = array(arguments.bias->shape());
    arrays.d_bias = d_bias->data();
  }
  if (problem.cell == Cell::kLstm) {
    d_initial_c = array(state_shape(problem));
    arrays.d_initial_c = d_initial_c->data();
  }
  {
    const Workspace workspace(target, plan.backward_workspace_bytes());
    const WithoutGil without_gil;
    plan.backward(arrays, workspace.data(), target.stream);
  }
  return py::make_tuple(d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c);
}

}  // namespace

void define_cuda_calls(py::module_& m) {
  py::class_<CudaArray>(m, "CudaArray", "An array in a GPU's memory; read it through DLPack.")
      .def_static("from_capsule", &CudaArray::from_capsule)
      .def_property_readonly(
          "shape", [](const CudaArray& array) { return py::tuple(py::cast(array.shape())); })
      .def_property_readonly("dtype", &CudaArray::dtype)
      .def_property_readonly("device", &CudaArray::ordinal)
      .def("__dlpack_device__",
           [](const CudaArray& array) { return py::make_tuple(2, array.ordinal()); })
      .def(
          "__dlpack__",
          [](const CudaArray& array, const py::object& stream, const py::object&,
             const py::object& device, const py::object& copy) {
            if ((!device.is_none() && !device.equal(py::make_tuple(2, array.ordinal()))) ||
                (!copy.is_none() && copy.cast<bool>())) {
              PyErr_SetString(PyExc_BufferError, "no copy is made, on no device");
              throw py::error_already_set();
            }
            return array.to_capsule(stream);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def_property_readonly("__cuda_array_interface__", &CudaArray::cuda_array_interface)
      .def("__repr__", [](const CudaArray& array) {
        const py::tuple shape(py::cast(array.shape()));
        return "CudaArray(shape=" + py::repr(shape).cast<std::string>() + ", dtype=" +
               array.dtype() + ", device=" + std::to_string(array.ordinal()) + ")";
      });
  m.def("cuda_forward", &forward, py::arg("arguments"), py::arg("keep_reserve"),
        py::arg("stream_object"), py::arg("stream"), py::arg("tf32") = false,
        py::arg("deterministic") = false, py::arg("kernel") = "",
        "forward, its arguments as a tuple of CudaArray, up to return_sequences.");
  m.def("cuda_backward", &backward, py::arg("arguments"), py::arg("reserve"),
        py::arg("d_outputs"), py::arg("d_state_h"), py::arg("d_state_c"),
        py::arg("stream_object"), py::arg("stream"), py::arg("tf32") = false,
        py::arg("deterministic") = false, py::arg("kernel") = "");
  m.def("cuda_kernels", &kernels, py::arg("arguments"), py::arg("tf32") = false,
        py::arg("deterministic") = false, py::arg("kernel") = "",
        "The names of the kernels that forward and backward take.");
  m.def("cuda_unusable_because", &cuda::unusable_because,
        "\"\" where GPUs can be used, else what is missing.");
  m.def("cuda_cache_folder", &cuda::DiskCache::default_folder,
        "Where compiled kernels are kept; \"\" where they are not.");
  m.def("set_cuda_library_folders", &cuda::set_library_folders,
        "Where NVIDIA's libraries are looked for that the loader does not find.");
}

}  // namespace masked_rnn::python
