// Memory that a call needs while it runs.
#pragma once

#include <cstddef>

namespace masked_rnn {

// A block aligned to a cache line, from a small process-wide cache: fresh pages cost 0.1 ms/MB
// in page faults, as much as the arithmetic of a short call. Contents are undefined: compiled with
// MASKED_RNN_POISON, for the tests, they are NaN in every element type.
class Workspace {
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
