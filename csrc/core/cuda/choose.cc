#include "choose.h"

#include <algorithm>

#include "cluster.h"
#include "error.h"

namespace masked_rnn::cuda {
namespace {

// Rows of a chunk: its products fill any GPU, and at 1024 features and LSTM units its projection
// takes 256 MiB.
constexpr int64_t kChunkRows = 16384;
// A weight gradient's product has few tiles where the layer is small: its long sums over rows are
// split until the multiprocessors have work, into parts of at least this many rows.
constexpr int64_t kRowsOfPart = 512;

}  // namespace

// Clusters where they can do the call: a step of theirs is expected to take about 1 us, more where
// a batch needs several waves of them (cluster.cc). A step of the general kernel is a launch, 2.5
// us at the least, and reads all weights again for every 16 rows.
Choice choose(const Device& device, const Problem& p, const Options& options) {
  Choice choice;
  if (!options.kernel.empty() && options.kernel != "general" && options.kernel != "cluster") {
    throw InvalidArgument("kernel is '" + options.kernel + "', needed: general or cluster");
  }
  if (options.kernel != "general") {
    const ClusterCandidate cluster = best_cluster(device, p, options);
    if (cluster.refused.empty()) {
      choice.forward = choice.backward = Kernel::kCluster;
      choice.cluster = cluster.shape;
    } else if (options.kernel == "cluster") {
      throw InvalidArgument("kernel is 'cluster', but " + cluster.refused);
    }
  }
  const int64_t chunk_rows = options.chunk_rows > 0 ? options.chunk_rows : kChunkRows;
  choice.chunk_steps = std::clamp<int64_t>(chunk_rows / std::max<int64_t>(p.batch, 1), 1,
                                           std::max<int64_t>(p.time, 1));

  const int64_t rows = choice.chunk_steps * p.batch;
  const int64_t tiles = ((std::max(p.features, p.units) + kProductTile - 1) / kProductTile) *
                        ((gates(p.cell) * p.units + kProductTile - 1) / kProductTile);
  const int64_t wanted = (2 * device.info().multiprocessors + tiles - 1) / tiles;
  choice.depth_parts = std::clamp<int64_t>(std::min(wanted, rows / kRowsOfPart), 1, 32);
  return choice;
}

const char* name_of(Kernel kernel) {
  return kernel == Kernel::kCluster ? "cluster" : "general";
}

}  // namespace masked_rnn::cuda
