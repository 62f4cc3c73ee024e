#include "choose.h"

#include <algorithm>

#include "error.h"
#include "instances.h"
#include "names.h"

namespace masked_rnn::cuda {
namespace {

// Rows of a chunk: its products fill any GPU, and at 1024 features and LSTM units its projection
// takes 256 MiB.
constexpr int64_t kChunkRows = 16384;
// A weight gradient's product has few tiles where the layer is small: its long sums over rows are
// split until the multiprocessors have work, into parts of at least this many rows.
constexpr int64_t kRowsOfPart = 512;

int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// --- clusters ------------------------------------------------------------------------------------

// A multiprocessor's registers, and how many a thread needs beside its weights.
constexpr int kRegisters = 65536;
constexpr int kRegistersOfThread = 255;
constexpr int kOtherRegisters = 72;
constexpr int kLargestPortableCluster = 8;

bool weights_fit(int threads, int weights) {
  const int all = weights + kOtherRegisters;
  return threads <= 1024 && all <= kRegistersOfThread && threads * all <= kRegisters;
}

bool fits(const Device& device, const Problem& p, const ClusterShape& shape) {
  if (!weights_fit(shape.forward_threads(), shape.forward_registers()) ||
      !weights_fit(shape.backward_threads(), shape.backward_registers()) ||
      shape.backward_shared_bytes() > device.info().shared_bytes_per_block) {
    return false;
  }
  const std::string forward = instance_name(p, "forward_cluster", shape);
  const std::string backward = instance_name(p, "backward_cluster", shape);
  if (!device.has(forward) || !device.has(backward)) return false;
  // Larger clusters need multiprocessors that lie together, of which a GPU may have too few.
  return shape.blocks <= kLargestPortableCluster ||
         (device.resident(forward, cluster_launch(shape, 1, shape.forward_threads(),
                                                  shape.forward_shared_bytes())) > 0 &&
          device.resident(backward, cluster_launch(shape, 1, shape.backward_threads(),
                                                   shape.backward_shared_bytes())) > 0);
}

// Expected microseconds of a step of `rows` rows, forward. Designed for, on the numbers of an H100;
// not measured yet.
//  - waiting: the barrier's wait, the chain of products, the formulas, loads and stores; and where
//    there is more than one block, the way of a store to another multiprocessor
//  - products: a tile's take 16 clocks each of the tensor cores' (8 columns are half of what they
//    are built for), four at once
//  - what arrives from the cluster, 25 bytes a nanosecond
// Clusters that find no room wait until another is done.
double cluster_step(const Device& device, const ClusterShape& shape, int64_t rows) {
  constexpr double kClocks = 1700;  // of a microsecond
  const double waiting = 0.25 + (shape.blocks > 1 ? 0.35 : 0.05);
  const double products = shape.forward_tiles() * (shape.units * shape.operand_bytes / 32) / 4.0;
  const double arriving = shape.units * kClusterRows * shape.operand_bytes / 25e3;
  const int64_t at_once = std::max(device.info().multiprocessors / shape.blocks, 1);
  const int64_t waves = ceil_div(ceil_div(std::max<int64_t>(rows, 1), kClusterRows), at_once);
  return waves * (waiting + products * 16 / kClocks + arriving);
}

// Why no kernel of clusters can do the call; "" where one can, of the shape with the least
// expected time. The weights of a block must fit its registers, so units * units * gates is
// limited: at most 512 LSTM units of 16 bits, on clusters of 16.
std::string choose_cluster(const Device& device, const Problem& p, const Options& options,
                           ClusterShape* best) {
  if (device.info().capability < 90) {
    return "this GPU's compute capability is " + std::to_string(device.info().capability / 10) +
           "." + std::to_string(device.info().capability % 10) + ", needed: 9.0 or above";
  }
  if (p.dtype == DType::kFloat64 || (p.dtype == DType::kFloat32 && !options.tf32)) {
    return std::string("dtype is ") + name_of(p.dtype) +
           ", needed: bfloat16, float16, or float32 where TF32 is allowed";
  }
  // Reset before would exchange twice a step; a dropout mask for each gate, a state for each.
  if (p.cell == Cell::kGruResetBefore) return "cell is gru_reset_before, needed: another";
  if (p.recurrent_dropout_gates > 1) {
    return "recurrent_dropout has a mask for each gate, needed: one mask";
  }
  // A row's bits may not depend on the batch under op determinism, so the shape may not either.
  const int64_t rows = options.deterministic ? kClusterRows : p.batch;
  double least = 0;
  for (int blocks = 1; blocks <= 16; blocks *= 2) {
    const int64_t units = ceil_div(p.units, 16 * blocks) * 16 * blocks;
    if (units > 4096) break;  // far beyond what fits; sizes below are int
    const ClusterShape shape{gates(p.cell), static_cast<int>(std::min<size_t>(bytes_of(p.dtype), 4)),
                             static_cast<int>(units), blocks};
    if (!fits(device, p, shape)) continue;
    const double time = cluster_step(device, shape, rows);
    if (best->units != 0 && time >= least) continue;
    least = time;
    *best = shape;
  }
  if (best->units != 0) return "";
  return "recurrent_kernel for " + std::to_string(p.units) +
         " units does not fit the registers of a cluster, needed: fewer units";
}

}  // namespace

Launch cluster_launch(const ClusterShape& shape, int64_t clusters, int threads, int shared_bytes) {
  Launch launch;
  launch.grid = {static_cast<unsigned>(clusters * shape.blocks), 1, 1};
  launch.block = {static_cast<unsigned>(threads), 1, 1};
  launch.shared_bytes = static_cast<unsigned>(shared_bytes);
  launch.cluster = static_cast<unsigned>(shape.blocks);
  return launch;
}

// Clusters where they can be had: a step of theirs is expected to take about 1 us, one launch a
// chunk; the general kernel takes a launch a step, 3 us at least, and reads all weights again.
Choice choose(const Device& device, const Problem& p, const Options& options) {
  Choice choice;
  if (!options.kernel.empty() && options.kernel != "general" && options.kernel != "cluster") {
    throw InvalidArgument("kernel is '" + options.kernel + "', needed: general or cluster");
  }
  if (options.kernel != "general") {
    const std::string wrong = choose_cluster(device, p, options, &choice.cluster);
    if (wrong.empty()) {
      choice.forward = choice.backward = Kernel::kCluster;
    } else if (options.kernel == "cluster") {
      throw InvalidArgument("kernel is 'cluster', but " + wrong);
    }
  }
  const int64_t chunk_rows = options.chunk_rows > 0 ? options.chunk_rows : kChunkRows;
  choice.chunk_steps = std::clamp<int64_t>(chunk_rows / std::max<int64_t>(p.batch, 1), 1,
                                           std::max<int64_t>(p.time, 1));

  const int64_t rows = choice.chunk_steps * p.batch;
  const int64_t tiles = ceil_div(std::max(p.features, p.units), kProductTile) *
                        ceil_div(gates(p.cell) * p.units, kProductTile);
  const int64_t wanted = ceil_div(2 * device.info().multiprocessors, tiles);
  choice.depth_parts = std::clamp<int64_t>(std::min(wanted, rows / kRowsOfPart), 1, 32);
  return choice;
}

const char* name_of(Kernel kernel) {
  return kernel == Kernel::kCluster ? "cluster" : "general";
}

}  // namespace masked_rnn::cuda
