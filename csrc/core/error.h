// What the core throws. The bindings turn these into Python exceptions.
#pragma once

#include <new>
#include <stdexcept>
#include <string>

#include "params.h"

namespace masked_rnn {

// The caller's fault: names the argument, what was given and what is needed.
struct MASKED_RNN_API InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Memory that cannot be had: names the size asked for.
struct MASKED_RNN_API ResourceExhausted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A device or its driver that is missing, too old or has failed: says what to install or do.
struct MASKED_RNN_API DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace masked_rnn
