// The library's kernels for the CPU, of one storage type: compiled once for each
// (MR_STORAGE, and MR_REAL, MR_COMMON, MR_CLUSTER as instances.inc wants them).
#include "core/cuda/kernels/kernels.cu"

#include "kernels.h"

#define MR_CONCAT_(a, b) a##b
#define MR_CONCAT(a, b) MR_CONCAT_(a, b)

namespace masked_rnn::cuda {
namespace {

template <class Arguments, void (*kKernel)(Arguments)>
void run(void** arguments) {
  kKernel(*static_cast<const Arguments*>(arguments[0]));
}

}  // namespace
}  // namespace masked_rnn::cuda

namespace cusim {

using namespace masked_rnn;        // NOLINT: the names in instances.inc are those of the kernels
using namespace masked_rnn::cuda;  // NOLINT

#define MR_INSTANCE(Arguments, ...) \
  {#__VA_ARGS__, masked_rnn::cuda::run<Arguments, masked_rnn::cuda::__VA_ARGS__>},

void MR_CONCAT(add_instances_, MR_STORAGE)(std::vector<Instance>& to) {
  static constexpr Instance instances[] = {
#include "core/cuda/kernels/instances.inc"
  };
  to.insert(to.end(), std::begin(instances), std::end(instances));
}

}  // namespace cusim
