// The table of cases that every kernel runs through, and the arrays of a case.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "params.h"

namespace masked_rnn::test {

enum class Mask { kNone, kFull, kEmpty, kRightPadded, kLeftPadded, kHoles, kOneRowEmpty, kSparse };
enum class Dropout { kNone, kShared, kPerGate };  // D = 0, 1, G

struct Case {
  int64_t batch = 5, time = 7, features = 3, units = 17;
  Mask mask = Mask::kHoles;
  bool go_backwards = false, zero_output_for_mask = false, return_sequences = true;
  bool bias = true, initial_state = true, d_outputs = true, d_states = true;
  Dropout input_dropout = Dropout::kNone, recurrent_dropout = Dropout::kNone;
  Activation activation = Activation::kTanh;
  Activation recurrent_activation = Activation::kSigmoid;
  bool split = false;  // large enough for several threads
};

std::string name_of(const Case& c);

// Whether the kernels of an instruction set that are only for bfloat16 round a product's operands to it.
inline bool multiplies_bfloat16(DType dtype, const std::string& isa) {
  return dtype == DType::kBFloat16 && (isa == "avx512bf16" || isa == "amx");
}

std::vector<Case> table();

// An absent array has no value, one of an empty batch has no elements.
using Array = std::optional<std::vector<double>>;

// The arrays of a case, in float64, each element one that the dtype can hold. What a call must not
// read is NaN: inputs at masked steps, gradients of outputs that are a constant zero.
struct Values {
  Problem problem;  // without pointers
  std::vector<uint8_t> mask;
  bool has_mask = false;
  Array inputs, kernel, recurrent_kernel, bias, initial_h, initial_c, input_dropout,
      recurrent_dropout;
  Array d_outputs, d_state_h, d_state_c;

  bool is_real(int64_t row, int64_t t) const {
    return !has_mask || mask[row * problem.time + t] != 0;
  }
};

// The same on every machine: drawn from a generator seeded with the case's name.
Values draw(const Case& c, Cell cell, DType dtype);

}  // namespace masked_rnn::test
