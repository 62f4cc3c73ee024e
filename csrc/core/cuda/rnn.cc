#include "rnn.h"

#include <algorithm>
#include <climits>
#include <cstdlib>

#include "choose.h"
#include "error.h"
#include "general.h"
#include "memory.h"

namespace masked_rnn::cuda {

Plan::Plan(const Device& device, const Problem& problem, const Options& options)
    : device_(device), problem_(problem), options_(options) {
  if (problem.batch > INT32_MAX || problem.time > INT32_MAX) {
    throw ResourceExhausted("inputs has " + std::to_string(problem.batch) + " rows and " +
                            std::to_string(problem.time) +
                            " time steps, more than 2147483647 of either");
  }
  // A way back for whoever meets trouble with one of them on a GPU.
  const char* kernel = std::getenv("MASKED_RNN_CUDA_KERNEL");
  if (kernel != nullptr && options_.kernel.empty()) options_.kernel = kernel;
  choice_ = std::make_shared<const Choice>(choose(device, problem, options_));
}

int64_t Plan::reserve_bytes() const {
  Arena arena(nullptr);
  const Reserve reserve(arena, problem_);
  return std::max<int64_t>(arena.bytes(), 1);  // none at all says that forward kept none
}

void Plan::check_reserve(const void* reserve, int64_t bytes) const {
  if (reserve == nullptr || bytes == 0) {
    throw InvalidArgument("reserve has 0 bytes: the forward call kept none; needed: "
                          "keep_reserve=True there");
  }
  if (bytes != reserve_bytes()) {
    throw InvalidArgument("reserve (" + std::to_string(bytes) +
                          " bytes) was not written by a forward call with these shapes, cell and "
                          "dtype: that keeps " + std::to_string(reserve_bytes()) + " bytes");
  }
}

int64_t Plan::forward_workspace_bytes(bool training) const {
  Arena arena(nullptr);
  const ForwardMemory memory(arena, problem_, *choice_, training);
  return arena.bytes();
}

int64_t Plan::backward_workspace_bytes() const {
  Arena arena(nullptr);
  const BackwardMemory memory(arena, problem_, *choice_);
  return arena.bytes();
}

void Plan::forward(const ForwardResults& results, void* workspace, Stream stream) const {
  const bool training = results.reserve != nullptr;
  Arena arena(workspace);
  ForwardMemory memory(arena, problem_, *choice_, training);
  if (training) {
    Arena kept(results.reserve);
    const Reserve reserve(kept, problem_);
    memory.h = reserve.h;
    memory.c = reserve.c;
    memory.saved = reserve.saved;
  }
  const Queue queue(device_, problem_, options_, memory.shared, stream);
  forward_general(queue, *choice_, memory, results);
}

void Plan::backward(const BackwardArrays& arrays, void* workspace, Stream stream) const {
  Arena arena(workspace);
  const BackwardMemory memory(arena, problem_, *choice_);
  const Queue queue(device_, problem_, options_, memory.shared, stream, choice_->depth_parts,
                    memory.parts);
  backward_general(queue, *choice_, memory, arrays);
}

std::string Plan::forward_kernel() const {
  return name_of(choice_->forward);
}
std::string Plan::backward_kernel() const {
  return name_of(choice_->backward);
}

}  // namespace masked_rnn::cuda
