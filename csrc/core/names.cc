#include "names.h"

#include "error.h"

namespace masked_rnn {
namespace {

constexpr const char* kCellNames[] = {"gru", "gru_reset_before", "lstm", "simple_rnn"};
constexpr const char* kDTypeNames[] = {"float32", "float64", "bfloat16", "float16"};
constexpr const char* kActivationNames[kActivations] = {
    "tanh", "sigmoid", "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu",
    "softplus", "softsign", "silu", "hard_sigmoid", "hard_silu", "hard_tanh", "exponential",
    "mish", "log_sigmoid", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh_shrink",
    "soft_shrink", "hard_shrink"};

template <class Enum, size_t N>
Enum lookup(const char* const (&names)[N], std::string_view argument, std::string_view name) {
  for (size_t i = 0; i < N; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
  }
  std::string known;
  for (const char* n : names) known += std::string(known.empty() ? "" : ", ") + n;
  throw InvalidArgument(std::string(argument) + " is '" + std::string(name) +
                        "', needed: one of " + known);
}

}  // namespace

Cell cell_from_name(std::string_view name) { return lookup<Cell>(kCellNames, "cell", name); }

DType dtype_from_name(std::string_view name) { return lookup<DType>(kDTypeNames, "dtype", name); }

Activation activation_from_name(std::string_view argument, std::string_view name) {
  return lookup<Activation>(kActivationNames, argument, name);
}

const char* name_of(Cell cell) { return kCellNames[static_cast<int>(cell)]; }
const char* name_of(DType dtype) { return kDTypeNames[static_cast<int>(dtype)]; }
const char* name_of(Activation activation) {
  return kActivationNames[static_cast<int>(activation)];
}

std::vector<std::string> activation_names() {
  return {kActivationNames, kActivationNames + kActivations};
}

}  // namespace masked_rnn
