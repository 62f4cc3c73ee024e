// Which kernels a call takes, and in what pieces: the one place that decides.
#pragma once

#include "device.h"
#include "kernels/tiles.h"
#include "rnn.h"

namespace masked_rnn::cuda {

enum class Kernel { kGeneral, kCluster };

struct Choice {
  Kernel forward = Kernel::kGeneral;
  Kernel backward = Kernel::kGeneral;
  ClusterShape cluster{};   // where it is that kernel
  int64_t chunk_steps = 1;   // time steps whose inputs, projections and gate gradients lie in memory
  int64_t depth_parts = 1;   // parts that the sums of the weight gradients are split in
};

// Throws InvalidArgument where `options.kernel` asks for a kernel that cannot do it.
Choice choose(const Device& device, const Problem& problem, const Options& options);

const char* name_of(Kernel kernel);

}  // namespace masked_rnn::cuda
