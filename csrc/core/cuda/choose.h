// Which kernels a call takes, and in what pieces: the one place that decides.
#pragma once

#include "device.h"
#include "kernels/tiles.h"
#include "rnn.h"

namespace masked_rnn::cuda {

enum class Kernel { kGeneral, kResident, kCluster };

// Bits may not depend on the batch under op determinism, and do depend on the kernel and on how it
// shares out its work: these are chosen for a batch of this size then.
constexpr int64_t kTypicalBatch = 64;

// How the resident kernel shares out a recurrence: slices of units times groups of rows, a block
// each.
struct Resident {
  bool matrix = false;  // products by the tensor cores, which round what they multiply
  int64_t units = 0;   // of a slice
  int64_t rows = 0;    // of a group that are worked on at a time
  int64_t slices = 0, groups = 0;
};

struct Choice {
  Kernel forward = Kernel::kGeneral;
  Kernel backward = Kernel::kGeneral;
  Resident resident_forward, resident_backward;  // where it is that kernel
  ClusterShape cluster{};   // where it is that kernel
  int64_t chunk_steps = 1;   // time steps whose inputs, projections and gate gradients lie in memory
  int64_t depth_parts = 1;   // parts that the sums of the weight gradients are split in
};

// Throws InvalidArgument where `options.kernel` asks for a kernel that cannot do it.
Choice choose(const Device& device, const Problem& problem, const Options& options);

const char* name_of(Kernel kernel);

}  // namespace masked_rnn::cuda
