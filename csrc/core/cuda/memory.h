// Where each buffer of a call lies in its workspace and its reserve: described once, for the code
// that asks for the bytes and the code that runs.
#pragma once

#include "choose.h"
#include "kernels/arguments.h"

namespace masked_rnn::cuda {

// Hands out pieces of a block of device memory, aligned to 256 bytes; without a block, counts.
// Compiled with MASKED_RNN_POISON, for the tests, there is forbidden memory behind each.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  void* take(std::initializer_list<int64_t> sizes, int64_t element);
  int64_t bytes() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// What forward keeps, in the compute type, for packed rows (real steps only, room for B * T):
// saved [N][S][H], h and c of the step before [N][H].
struct Reserve {
  Reserve(Arena& arena, const Problem& p);
  void *saved, *h, *c;
};

// In front of either call's own buffers: compaction, and weights in the compute type.
struct Shared {
  Shared(Arena& arena, const Problem& p);
  Steps steps;
  void *kernel, *recurrent_kernel;  // null where the caller's are of the compute type
};

struct ForwardMemory {
  ForwardMemory(Arena& arena, const Problem& p, const Choice& choice, bool training);
  Shared shared;
  void *inputs, *projection;  // local
  void *h, *c, *saved;        // where there is no reserve
  void* reset_h;
  void* arrived;  // resident: barriers of the groups
};

struct BackwardMemory {
  BackwardMemory(Arena& arena, const Problem& p, const Choice& choice);
  Shared shared;
  void *inputs, *states, *d_outputs, *d_gates, *d_inputs, *reset_h;  // local
  void *d_h, *d_c;
  void *d_kernel, *d_recurrent_kernel, *d_sums;  // compute type; summed over the chunks
  void* parts;                                   // of the weight gradients' sums
  void *arrived, *d_states;                      // resident
};

// Copies of an operand: one for each dropout mask.
constexpr int64_t copies(int64_t dropout_gates) { return dropout_gates > 0 ? dropout_gates : 1; }

}  // namespace masked_rnn::cuda
