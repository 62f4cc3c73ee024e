// One validator for both bindings: shapes as they came, before any pointer is read.
#pragma once

#include <string>
#include <vector>

#include "params.h"

namespace masked_rnn {

// A shape as a binding saw it. `present` is false for an absent optional array.
struct Shape {
  bool present = false;
  std::vector<int64_t> dims;
};

struct Shapes {
  Shape inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c;
  Shape input_dropout, recurrent_dropout;
};

struct GradientShapes {
  Shape d_outputs, d_state_h, d_state_c;
};

// Fills in the sizes of `problem` (cell and dtype are set by the caller) from the shapes.
// Throws InvalidArgument where they do not fit, ResourceExhausted where a size overflows.
MASKED_RNN_API void check_shapes(const Shapes& shapes, Problem& problem);

MASKED_RNN_API void check_gradient_shapes(const GradientShapes& shapes, const Problem& problem);

// a * b * c..., or ResourceExhausted with `what` where the product leaves int64.
MASKED_RNN_API int64_t checked_product(std::initializer_list<int64_t> factors, const char* what);

}  // namespace masked_rnn
