// Memory that a call needs while it runs, and what NumPy calls keep for the gradient.
#pragma once

#include <cstddef>

#include "params.h"

namespace masked_rnn {

// A block aligned to a cache line, from a small process-wide cache: fresh pages cost 0.1 ms/MB
// in page faults, as much as the arithmetic of a short call. Contents are undefined: compiled with
// MASKED_RNN_POISON, for the tests, they are NaN in every element type.
class MASKED_RNN_API Workspace {
 public:
  explicit Workspace(size_t bytes);  // throws ResourceExhausted
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace masked_rnn
