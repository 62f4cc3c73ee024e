#include "cluster.h"

#include <algorithm>
#include <climits>

#include "error.h"
#include "instances.h"
#include "names.h"

namespace masked_rnn::cuda {
namespace {

constexpr int kThreadsOfBlock = 1024;
constexpr int kMostUnits = 4096;  // none fits far below
constexpr int kLargestPortableCluster = 8;
constexpr int kLargestCluster = 16;

std::string forward_instance(const Problem& p, const ClusterShape& shape) {
  return instance_name(p, "forward_cluster", {shape.units, shape.blocks});
}
std::string backward_instance(const Problem& p, const ClusterShape& shape) {
  return instance_name(p, "backward_cluster", {shape.units, shape.blocks});
}

Launch launch_of(const ClusterShape& shape, int threads, int shared_bytes, int64_t rows) {
  Launch launch;
  const int64_t blocks = ceil_div(rows, kClusterRows) * shape.blocks;
  if (blocks > INT_MAX) {
    throw ResourceExhausted("a kernel needs " + std::to_string(blocks) +
                            " blocks, more than a GPU takes");
  }
  launch.grid = {static_cast<unsigned>(blocks), 1, 1};
  launch.block = {static_cast<unsigned>(threads), 1, 1};
  launch.shared_bytes = static_cast<unsigned>(shared_bytes);
  launch.cluster = static_cast<unsigned>(shape.blocks);
  return launch;
}
Launch forward_launch(const ClusterShape& shape, int64_t rows) {
  return launch_of(shape, shape.forward_threads(), shape.forward_shared_bytes(), rows);
}
Launch backward_launch(const ClusterShape& shape, int64_t rows) {
  return launch_of(shape, shape.backward_threads(), shape.backward_shared_bytes(), rows);
}

bool fits(const Device& device, const Problem& p, const ClusterShape& shape) {
  return std::max(shape.forward_threads(), shape.backward_threads()) <= kThreadsOfBlock &&
         std::max(shape.forward_shared_bytes(), shape.backward_shared_bytes()) <=
             device.info().shared_bytes_per_block &&
         device.has(forward_instance(p, shape)) && device.has(backward_instance(p, shape));
}

// Larger clusters need so many multiprocessors that lie together: a GPU may have too few such. To
// ask compiles the kernel.
bool is_held(const Device& device, const Problem& p, const ClusterShape& shape) {
  return shape.blocks <= kLargestPortableCluster ||
         device.resident(forward_instance(p, shape), forward_launch(shape, 1)) > 0;
}

// Expected microseconds of a step of `rows` rows, forward; a step backward takes about twice that.
// Nothing of it has been measured yet; the numbers are an H100's.
//   waiting   0.25 us for the barrier's wait, the chain of products, the formulas, and where the
//             cluster is larger than a block 0.35 us for the way of a store between multiprocessors
//   products  16 clocks of a tensor core for each (eight columns are half of what they are built
//             for), four of them at once; not less than reading the state for each warp, and
//             weights that registers cannot take, from shared memory, 128 bytes a clock
//   arriving  the state of the cluster's rows, 25 bytes a nanosecond into each multiprocessor
// Clusters that find no room wait until another is done. Small batches are bound by the waiting: at
// (B, T, I, H) = (64, 128, 256, 512), LSTM, eight clusters of 16 have 0.6 us of it, 0.6 of products
// and 0.3 of what arrives in bfloat16; in TF32 1.2 of products and 0.7 of what arrives.
double step_microseconds(const Device& device, const ClusterShape& shape, int64_t rows) {
  constexpr double kClocks = 1700;  // of a microsecond
  const double waiting = 0.25 + (shape.blocks > 1 ? 0.35 : 0);
  const int state = shape.units * kClusterRows * shape.operand_bytes;
  const int products = shape.forward_tiles() * shape.forward_products();
  const int rest = shape.forward_products() - shape.forward_kept();
  const double reads = shape.forward_threads() / 32.0 * state +
                       static_cast<double>(shape.forward_tiles()) * rest * kClusterTileBytes;
  const double multiplying = std::max(products / 4.0 * 16, reads / 128) / kClocks;
  const int64_t at_once = std::max(device.info().multiprocessors / shape.blocks, 1);
  const int64_t waves = ceil_div(ceil_div(std::max<int64_t>(rows, 1), kClusterRows), at_once);
  return static_cast<double>(waves) * (waiting + multiplying + state / 25e3);
}

std::string refused(const DeviceInfo& device, const Problem& p, const Options& options) {
  if (device.capability < 90) {
    return "this GPU's compute capability is " + std::to_string(device.capability / 10) + "." +
           std::to_string(device.capability % 10) + ", needed: 9.0 or above";
  }
  if (p.dtype == DType::kFloat64 || (p.dtype == DType::kFloat32 && !options.tf32)) {
    return std::string("dtype is ") + name_of(p.dtype) +
           ", needed: bfloat16, float16, or float32 where TF32 is allowed";
  }
  // Reset before would exchange twice a step; a dropout mask for each gate, a state for each.
  if (p.cell == Cell::kGruResetBefore) return "cell is gru_reset_before, needed: another";
  if (p.recurrent_dropout_gates > 1) {
    return "recurrent_dropout has a mask for each gate, needed: one for all";
  }
  return "";
}

}  // namespace

// Weights have to fit a cluster's registers and shared memory: LSTM and GRU up to 768 units in the
// 16-bit types and 512 in TF32, on clusters of 16.
ClusterCandidate best_cluster(const Device& device, const Problem& p, const Options& options,
                              int64_t batch) {
  ClusterCandidate best;
  best.refused = refused(device.info(), p, options);
  if (!best.refused.empty()) return best;
  for (int blocks = 1; blocks <= kLargestCluster; blocks *= 2) {
    const int64_t least = ceil_div(p.units, 16 * blocks) * 16 * blocks;
    if (least > kMostUnits) break;
    const ClusterShape shape{gates(p.cell), static_cast<int>(bytes_of(p.dtype)),
                             static_cast<int>(least), blocks};
    if (!fits(device, p, shape)) continue;
    const double microseconds = step_microseconds(device, shape, batch);
    const bool better = best.shape.blocks == 0 || microseconds < best.microseconds;
    if (!better || !is_held(device, p, shape)) continue;
    best.shape = shape;
    best.microseconds = microseconds;
  }
  if (best.shape.blocks == 0) {
    best.refused = "recurrent_kernel for " + std::to_string(p.units) +
                   " units does not fit a cluster, needed: fewer units";
  }
  return best;
}

void cluster_forward(const Queue& queue, const Choice& choice, const ForwardStep& step) {
  const Problem& p = queue.problem;
  if (p.batch == 0) return;
  queue.launch(forward_instance(p, choice.cluster), forward_launch(choice.cluster, p.batch), step);
}

void cluster_backward(const Queue& queue, const Choice& choice, const BackwardStep& step) {
  const Problem& p = queue.problem;
  if (p.batch == 0) return;
  queue.launch(backward_instance(p, choice.cluster), backward_launch(choice.cluster, p.batch),
               step);
}

}  // namespace masked_rnn::cuda
