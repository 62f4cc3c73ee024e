// One call of the core, every array of it beside a forbidden page.
#pragma once

#include <array>
#include <vector>

#include "cases.h"
#include "guarded.h"
#include "rnn.h"

namespace masked_rnn::test {

class Call {
 public:
  Call(const Values& values, Guard guard);

  const Problem& problem() const { return problem_; }

  struct Forward {
    Guarded outputs, state_h, state_c, reserve;  // state_c of an LSTM only
  };
  // Every result is NaN before.
  Forward forward(const Options& options, bool keep_reserve) const;

  struct Backward {
    Guarded d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c;
  };
  Backward backward(const Options& options, const Guarded& reserve) const;

 private:
  Guarded fresh(const Array& like) const;
  Guarded fresh(int64_t elements) const;

  const Values& values_;
  const Guard guard_;
  Problem problem_;
  std::vector<Guarded> arguments_;  // what problem_ and these point to
  const void *d_outputs_, *d_state_h_, *d_state_c_;
};

}  // namespace masked_rnn::test
