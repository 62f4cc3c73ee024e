// The two calls of a Python module on NumPy arrays, for any PlanT with the members of Plan in
// core/rnn.h. The public functions, with their checks of what users pass, are in
// masked_rnn/numpy.py; here only what memory safety needs.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "gil.h"
#include "names.h"
#include "rnn.h"
#include "workspace.h"

namespace masked_rnn::python {

using Optional = std::optional<py::array>;

// The arguments that forward and backward share, checked and unpacked.
struct Call {
  Call(const std::string& cell, const py::array& inputs, const py::array& kernel,
       const py::array& recurrent_kernel, const Optional& bias, const Optional& mask,
       const Optional& initial_h, const Optional& initial_c, const Optional& input_dropout,
       const Optional& recurrent_dropout, const std::string& activation,
       const std::string& recurrent_activation, bool go_backwards, bool zero_output_for_mask,
       bool return_sequences, const std::string& isa, int threads)
      : like(inputs), options{threads, isa} {
    problem.cell = cell_from_name(cell);
    problem.dtype = dtype_of("inputs", inputs);
    problem.activation = activation_from_name("activation", activation);
    problem.recurrent_activation =
        activation_from_name("recurrent_activation", recurrent_activation);
    problem.go_backwards = go_backwards;
    problem.zero_output_for_mask = zero_output_for_mask;
    problem.return_sequences = return_sequences;
    Shapes shapes;
    shapes.inputs = shape_of(inputs);
    shapes.kernel = shape_of(kernel);
    shapes.recurrent_kernel = shape_of(recurrent_kernel);
    shapes.bias = shape_of(bias);
    shapes.mask = shape_of(mask);
    shapes.initial_h = shape_of(initial_h);
    shapes.initial_c = shape_of(initial_c);
    shapes.input_dropout = shape_of(input_dropout);
    shapes.recurrent_dropout = shape_of(recurrent_dropout);
    check_shapes(shapes, problem);
    problem.inputs = data_of("inputs", inputs, like);
    problem.kernel = data_of("kernel", kernel, like);
    problem.recurrent_kernel = data_of("recurrent_kernel", recurrent_kernel, like);
    problem.bias = data_of("bias", bias, like);
    problem.initial_h = data_of("initial_state (h)", initial_h, like);
    problem.initial_c = data_of("initial_state (c)", initial_c, like);
    problem.input_dropout = data_of("input_dropout", input_dropout, like);
    problem.recurrent_dropout = data_of("recurrent_dropout", recurrent_dropout, like);
    if (mask) {
      if (mask->dtype().kind() != 'b') {
        throw InvalidArgument("mask has dtype " + dtype_name(*mask) + ", needed: bool");
      }
      problem.mask = static_cast<const uint8_t*>(data_of("mask", mask, *mask));
    }
  }

  std::vector<int64_t> state_shape() const { return {problem.batch, problem.units}; }
  std::vector<int64_t> outputs_shape() const {
    if (!problem.return_sequences) return state_shape();
    return {problem.batch, problem.time, problem.units};
  }
  bool lstm() const { return problem.cell == Cell::kLstm; }

  const py::array& like;
  const Options options;
  Problem problem;
};

// Arrays for the results: those of `out`, checked, or new ones.
class Results {
 public:
  Results(const py::object& out, size_t count) {
    if (out.is_none()) return;
    given_ = out.cast<py::tuple>();
    if (given_->size() != count) {
      throw InvalidArgument("out has " + std::to_string(given_->size()) + " arrays, needed: " +
                            std::to_string(count));
    }
  }
  py::array take(size_t i, const py::array& like, const std::vector<int64_t>& shape) const {
    if (!given_) return new_array(like, shape);
    py::array array = (*given_)[i].cast<py::array>();
    const std::string name = "out[" + std::to_string(i) + "]";
    data_of(name.c_str(), array, like);
    if (shape_of(array).dims != shape || !array.writeable()) {
      throw InvalidArgument(name + " is read-only or has not the shape of its result");
    }
    return array;
  }

 private:
  std::optional<py::tuple> given_;
};

// In memory of the workspace cache, as the reserve of a vjp lives no longer than the call: from NumPy
// it would come with fresh pages, 805 page faults a call at LSTM 256,50,128,256.
inline py::array_t<uint8_t> reserve_array(int64_t bytes) {
  auto memory = std::make_unique<Workspace>(static_cast<size_t>(bytes));
  auto* data = reinterpret_cast<uint8_t*>(memory->data());
  const py::capsule owner(memory.get(), [](void* p) { delete static_cast<Workspace*>(p); });
  memory.release();
  return py::array_t<uint8_t>(bytes, data, owner);
}

template <class PlanT>
py::tuple forward(const std::string& cell, const py::array& inputs, const py::array& kernel,
                  const py::array& recurrent_kernel, const Optional& bias, const Optional& mask,
                  const Optional& initial_h, const Optional& initial_c,
                  const Optional& input_dropout, const Optional& recurrent_dropout,
                  const std::string& activation, const std::string& recurrent_activation,
                  bool go_backwards, bool zero_output_for_mask, bool return_sequences,
                  bool keep_reserve, const std::string& isa, int threads,
                  const py::object& out) {
  const Call call(cell, inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c,
                  input_dropout, recurrent_dropout, activation, recurrent_activation, go_backwards,
                  zero_output_for_mask, return_sequences, isa, threads);
  const Results take(out, 3);
  py::array outputs = take.take(0, inputs, call.outputs_shape());
  py::array state_h = take.take(1, inputs, call.state_shape());
  py::object state_c = py::none(), reserve = py::none();
  ForwardResults results;
  results.outputs = outputs.mutable_data();
  results.state_h = state_h.mutable_data();
  if (call.lstm()) {
    py::array c = take.take(2, inputs, call.state_shape());
    results.state_c = c.mutable_data();
    state_c = c;
  }
  const PlanT plan(call.problem, call.options);
  if (keep_reserve) {
    auto bytes = reserve_array(plan.reserve_bytes());
    results.reserve = bytes.mutable_data();
    reserve = std::move(bytes);
  }
  {
    const WithoutGil without_gil(!plan.is_short());
    plan.forward(results);
  }
  return py::make_tuple(outputs, state_h, state_c, reserve);
}

template <class PlanT>
py::tuple backward(const std::string& cell, const py::array& inputs, const py::array& kernel,
                   const py::array& recurrent_kernel, const Optional& bias, const Optional& mask,
                   const Optional& initial_h, const Optional& initial_c,
                   const Optional& input_dropout, const Optional& recurrent_dropout,
                   const std::string& activation, const std::string& recurrent_activation,
                   bool go_backwards, bool zero_output_for_mask, bool return_sequences,
                   const py::array_t<uint8_t, py::array::c_style>& reserve,
                   const Optional& d_outputs, const Optional& d_state_h,
                   const Optional& d_state_c, const std::string& isa, int threads,
                   const py::object& out) {
  const Call call(cell, inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c,
                  input_dropout, recurrent_dropout, activation, recurrent_activation, go_backwards,
                  zero_output_for_mask, return_sequences, isa, threads);
  check_gradient_shapes({shape_of(d_outputs), shape_of(d_state_h), shape_of(d_state_c)},
                        call.problem);
  BackwardArrays arrays;
  arrays.reserve = reserve.data();
  arrays.d_outputs = data_of("d_outputs", d_outputs, inputs);
  arrays.d_state_h = data_of("d_state (h)", d_state_h, inputs);
  arrays.d_state_c = data_of("d_state (c)", d_state_c, inputs);
  const Results take(out, 6);
  auto like = [&](size_t i, const py::array& array) {
    return take.take(i, inputs, {array.shape(), array.shape() + array.ndim()});
  };
  py::array d_inputs = like(0, inputs), d_kernel = like(1, kernel),
            d_recurrent_kernel = like(2, recurrent_kernel),
            d_initial_h = take.take(4, inputs, call.state_shape());
  arrays.d_inputs = d_inputs.mutable_data();
  arrays.d_kernel = d_kernel.mutable_data();
  arrays.d_recurrent_kernel = d_recurrent_kernel.mutable_data();
  arrays.d_initial_h = d_initial_h.mutable_data();
  py::object d_bias = py::none(), d_initial_c = py::none();
  if (bias) {
    py::array array = like(3, *bias);
    arrays.d_bias = array.mutable_data();
    d_bias = array;
  }
  if (call.lstm()) {
    py::array array = take.take(5, inputs, call.state_shape());
    arrays.d_initial_c = array.mutable_data();
    d_initial_c = array;
  }
  {
    const PlanT plan(call.problem, reserve.data(), reserve.size(), call.options);
    const WithoutGil without_gil(!plan.is_short());
    plan.backward(arrays);
  }
  return py::make_tuple(d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c);
}

// forward and backward of `m`, and the exceptions that they throw.
template <class PlanT>
void define_calls(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ResourceExhausted& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    }
  });
  m.def("forward", &forward<PlanT>, py::arg("cell"), py::arg("inputs"), py::arg("kernel"),
        py::arg("recurrent_kernel"), py::arg("bias"), py::arg("mask"), py::arg("initial_h"),
        py::arg("initial_c"), py::arg("input_dropout"), py::arg("recurrent_dropout"),
        py::arg("activation"), py::arg("recurrent_activation"), py::arg("go_backwards"),
        py::arg("zero_output_for_mask"), py::arg("return_sequences"), py::arg("keep_reserve"),
        py::arg("isa") = "", py::arg("threads") = 0, py::arg("out") = py::none(),
        "out: arrays for outputs, state_h, state_c, instead of new ones.");
  m.def("backward", &backward<PlanT>, py::arg("cell"), py::arg("inputs"), py::arg("kernel"),
        py::arg("recurrent_kernel"), py::arg("bias"), py::arg("mask"), py::arg("initial_h"),
        py::arg("initial_c"), py::arg("input_dropout"), py::arg("recurrent_dropout"),
        py::arg("activation"), py::arg("recurrent_activation"), py::arg("go_backwards"),
        py::arg("zero_output_for_mask"), py::arg("return_sequences"), py::arg("reserve"),
        py::arg("d_outputs"), py::arg("d_state_h"), py::arg("d_state_c"), py::arg("isa") = "",
        py::arg("threads") = 0, py::arg("out") = py::none(),
        "out: arrays for the six gradients, instead of new ones.");
}

}  // namespace masked_rnn::python
