#include "plan.h"

#if defined(MASKED_RNN_POISON)
#include <sanitizer/asan_interface.h>
#endif

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace cusim {

using masked_rnn::BackwardArrays;
using masked_rnn::bytes_of;
using masked_rnn::ForwardResults;
using masked_rnn::Problem;

namespace {

void poison(void* array, int64_t bytes) {
  if (array != nullptr && bytes > 0) std::memset(array, 0xff, static_cast<size_t>(bytes));
}

// The caller may copy the reserve as a whole.
void allow([[maybe_unused]] const void* reserve, [[maybe_unused]] int64_t bytes) {
#if defined(MASKED_RNN_POISON)
  if (reserve != nullptr) ASAN_UNPOISON_MEMORY_REGION(reserve, bytes);
#endif
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

PlanOptions PlanOptions::from_environment() {
  PlanOptions options;
  options.call.tf32 = std::atoi(variable("CUSIM_TF32").c_str()) != 0;
  options.call.deterministic = std::atoi(variable("CUSIM_DETERMINISTIC").c_str()) != 0;
  options.call.chunk_rows = std::atoll(variable("CUSIM_CHUNK_ROWS").c_str());
  options.call.kernel = variable("CUSIM_KERNEL");
  options.call.units = std::atoll(variable("CUSIM_UNITS").c_str());
  return options;
}

Plan::Plan(const Problem& problem, const masked_rnn::Options&)
    : problem_(problem),
      options_(PlanOptions::from_environment()),
      device_(kernel_instances(), options_.device),
      plan_(device_, problem, options_.call) {}

Plan::Plan(const Problem& problem, const void* reserve, int64_t reserve_bytes,
           const masked_rnn::Options& options)
    : Plan(problem, options) {
  plan_.check_reserve(reserve, reserve_bytes);
}

void Plan::forward(const ForwardResults& results) const {
  const Problem& p = problem_;
  const int64_t state = p.batch * p.units * static_cast<int64_t>(bytes_of(p.dtype));
  poison(results.outputs, p.return_sequences ? state * p.time : state);
  poison(results.state_h, state);
  if (p.cell == masked_rnn::Cell::kLstm) poison(results.state_c, state);
  poison(results.reserve, reserve_bytes());
  const Memory workspace(plan_.forward_workspace_bytes(results.reserve != nullptr));
  plan_.forward(results, workspace.data(), nullptr);
  allow(results.reserve, reserve_bytes());
}

void Plan::backward(const BackwardArrays& arrays) const {
  const Problem& p = problem_;
  const auto element = static_cast<int64_t>(bytes_of(p.dtype));
  const int64_t width = gates(p.cell) * p.units;
  poison(arrays.d_inputs, p.batch * p.time * p.features * element);
  poison(arrays.d_kernel, p.features * width * element);
  poison(arrays.d_recurrent_kernel, p.units * width * element);
  poison(arrays.d_bias, (p.cell == masked_rnn::Cell::kGru ? 2 : 1) * width * element);
  poison(arrays.d_initial_h, p.batch * p.units * element);
  poison(arrays.d_initial_c, p.batch * p.units * element);
  const Memory workspace(plan_.backward_workspace_bytes());
  plan_.backward(arrays, workspace.data(), nullptr);
  allow(arrays.reserve, reserve_bytes());
}

}  // namespace cusim
