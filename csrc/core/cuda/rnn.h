// The CUDA part's front door: a call on arrays in device memory, on a stream.
#pragma once

#include <memory>

#include "device.h"

namespace masked_rnn::cuda {

struct Choice;

struct Options {
  bool tf32 = false;           // float32 products may round their operands to TF32
  bool deterministic = false;  // own products in place of cuBLAS, which choose by no size: a row's
                               // bits do not depend on the batch
  std::string kernel;          // "": choose.h decides; "general", "resident", "cluster": that one,
                               // InvalidArgument where it cannot (tests and benchmarks)
  int64_t units = 0;           // units whose weights a block of the resident kernel keeps;
                               // 0: choose.h decides
  int64_t chunk_rows = 0;      // rows (of B*T) whose intermediate values lie in memory at once;
                               // 0: choose.h decides
};

// A call, planned on the host. All arrays of `problem` are device pointers and none is read here:
// how many real steps there are is known on the device only, so sizes are those of B*T steps.
// Forward and backward queue their work on the stream and return; nothing is copied to the host.
class MASKED_RNN_API Plan {
 public:
  // Throws InvalidArgument, ResourceExhausted.
  Plan(const Device& device, const Problem& problem, const Options& options = {});

  int64_t reserve_bytes() const;
  // Throws InvalidArgument where `bytes` is not what forward keeps. What is in a reserve is not
  // looked at; a wrong one gives wrong numbers, and reads nothing outside of it.
  void check_reserve(const void* reserve, int64_t bytes) const;
  int64_t forward_workspace_bytes(bool training) const;
  int64_t backward_workspace_bytes() const;

  // Workspace and reserve are aligned to 256 bytes; results.reserve is null where no gradient
  // will be taken. Contents of the workspace do not matter.
  void forward(const ForwardResults& results, void* workspace, Stream stream) const;
  void backward(const BackwardArrays& arrays, void* workspace, Stream stream) const;

  // "general", "resident" or "cluster".
  std::string forward_kernel() const;
  std::string backward_kernel() const;

 private:
  const Device& device_;
  Problem problem_;
  Options options_;
  std::shared_ptr<const Choice> choice_;
};

}  // namespace masked_rnn::cuda
