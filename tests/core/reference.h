// Slow, obvious float64 reference: one row after the other, one step after the other.
#pragma once

#include <vector>

#include "cases.h"

namespace masked_rnn::test {

struct Results {
  std::vector<double> outputs, state_h, state_c;
  std::vector<double> d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c;
};

// Forward and backward. state_c and d_initial_c are empty but for LSTM, d_bias where bias is absent.
Results reference(const Values& values);

}  // namespace masked_rnn::test
