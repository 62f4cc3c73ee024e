#include "check.h"

#include "error.h"
#include "names.h"

namespace masked_rnn {
namespace {

std::string text(const std::vector<int64_t>& dims) {
  std::string s = "[";
  for (size_t i = 0; i < dims.size(); ++i) s += (i ? "," : "") + std::to_string(dims[i]);
  return s + "]";
}

// `meaning` spells the needed shape in letters, `needed` in numbers.
void require(const char* argument, const Shape& given, const std::vector<int64_t>& needed,
             const char* meaning) {
  if (!given.present || given.dims == needed) return;
  throw InvalidArgument(std::string(argument) + " has shape " + text(given.dims) + ", needed: " +
                        meaning + " = " + text(needed));
}

void require_present(const char* argument, const Shape& given, size_t rank, const char* meaning) {
  if (!given.present) {
    throw InvalidArgument(std::string(argument) + " is missing, needed: " + meaning);
  }
  if (given.dims.size() != rank) {
    throw InvalidArgument(std::string(argument) + " has shape " + text(given.dims) +
                          ", needed: " + meaning);
  }
}

int64_t check_dropout(const char* argument, const Shape& given, int64_t gates, int64_t batch,
                      int64_t width, const char* meaning) {
  if (!given.present) return 0;
  if (given.dims.size() == 3 && (given.dims[0] == 1 || given.dims[0] == gates) &&
      given.dims[1] == batch && given.dims[2] == width) {
    return given.dims[0];
  }
  throw InvalidArgument(std::string(argument) + " has shape " + text(given.dims) +
                        ", needed: " + meaning + " with D = 1 or " + std::to_string(gates) +
                        ", B = " + std::to_string(batch) + " and width " + std::to_string(width));
}

}  // namespace

int64_t checked_product(std::initializer_list<int64_t> factors, const char* what) {
  int64_t product = 1;
  for (int64_t f : factors) {
    if (__builtin_mul_overflow(product, f, &product)) {
      std::string sizes;
      for (int64_t g : factors) sizes += (sizes.empty() ? "" : " x ") + std::to_string(g);
      throw ResourceExhausted(std::string(what) + " needs " + sizes +
                              " bytes, more than a 64-bit size can hold");
    }
  }
  return product;
}

void check_shapes(const Shapes& s, Problem& p) {
  const int64_t g = gates(p.cell);
  require_present("inputs", s.inputs, 3, "[batch,time,features]");
  require_present("recurrent_kernel", s.recurrent_kernel, 2, "[units,gates*units]");
  require_present("kernel", s.kernel, 2, "[features,gates*units]");
  p.batch = s.inputs.dims[0];
  p.time = s.inputs.dims[1];
  p.features = s.inputs.dims[2];
  p.units = s.recurrent_kernel.dims[0];
  if (p.units < 1) {
    throw InvalidArgument("recurrent_kernel has shape " + text(s.recurrent_kernel.dims) +
                          ", needed: [units,gates*units] with at least one unit");
  }
  const int64_t gate_units = checked_product({g, p.units}, "gates*units");
  require("recurrent_kernel", s.recurrent_kernel, {p.units, gate_units}, "[units,gates*units]");
  require("kernel", s.kernel, {p.features, gate_units}, "[features,gates*units]");
  if (p.cell == Cell::kGru) {
    require("bias", s.bias, {2, gate_units}, "[2,gates*units] (reset_after)");
  } else {
    require("bias", s.bias, {gate_units}, "[gates*units]");
  }
  require("mask", s.mask, {p.batch, p.time}, "[batch,time]");
  require("initial_state (h)", s.initial_h, {p.batch, p.units}, "[batch,units]");
  if (p.cell != Cell::kLstm && s.initial_c.present) {
    throw InvalidArgument(std::string("initial_state (c) is given, but cell '") +
                          name_of(p.cell) + "' has one state");
  }
  require("initial_state (c)", s.initial_c, {p.batch, p.units}, "[batch,units]");
  p.input_dropout_gates = check_dropout("input_dropout", s.input_dropout, g, p.batch, p.features,
                                        "[D,batch,features]");
  p.recurrent_dropout_gates = check_dropout("recurrent_dropout", s.recurrent_dropout, g, p.batch,
                                            p.units, "[D,batch,units]");
  checked_product({p.batch, p.time, p.features, 8}, "inputs");
  checked_product({p.batch, p.time, p.units, 8 * (g + 2)}, "outputs");
  checked_product({p.batch, p.units, 8}, "the state");
  checked_product({p.batch, 8}, "the schedule");
  checked_product({p.features, gate_units, 8}, "kernel");
  checked_product({p.units, gate_units, 8}, "recurrent_kernel");
}

void check_gradient_shapes(const GradientShapes& s, const Problem& p) {
  if (p.return_sequences) {
    require("d_outputs", s.d_outputs, {p.batch, p.time, p.units}, "[batch,time,units]");
  } else {
    require("d_outputs", s.d_outputs, {p.batch, p.units}, "[batch,units]");
  }
  require("d_state (h)", s.d_state_h, {p.batch, p.units}, "[batch,units]");
  if (p.cell != Cell::kLstm && s.d_state_c.present) {
    throw InvalidArgument(std::string("d_state (c) is given, but cell '") + name_of(p.cell) +
                          "' has one state");
  }
  require("d_state (c)", s.d_state_c, {p.batch, p.units}, "[batch,units]");
}

}  // namespace masked_rnn
