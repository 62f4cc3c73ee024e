#include "choose.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "cluster.h"
#include "error.h"
#include "resident.h"

namespace masked_rnn::cuda {
namespace {

// Rows of a chunk: its products fill any GPU, and at 1024 features and LSTM units its projection
// takes 256 MiB.
constexpr int64_t kChunkRows = 16384;
// A weight gradient's product has few tiles where the layer is small: its long sums over rows are
// split until the multiprocessors have work, into parts of at least this many rows.
constexpr int64_t kRowsOfPart = 512;
enum class Direction { kForward, kBackward };

struct Candidate {
  Resident resident;
  double microseconds;  // of a step, expected
};

// Whether the resident kernel's products are those of the tensor cores: always where they may round
// what they multiply. They take any option and any size, filled up with zeros to tiles of 16: a
// layer of a few units is bound by the meeting, not by products.
bool by_matrix(const Problem& p, const Options& options) {
  return bytes_of(p.dtype) == 2 || (p.dtype == DType::kFloat32 && options.tf32);
}

// Units of a block: 4, 8, 16 or 32, or all of them, filled up to whole lanes.
int64_t all_units(const Problem& p, bool matrix) {
  if (matrix) return ceil_div(p.units, kResidentUnitStep) * kResidentUnitStep;
  const int64_t span = kWarpLanes * resident_units(p.cell);
  if (p.units > span) return ceil_div(p.units, span) * span;
  int64_t units = kResidentUnitStep;
  while (units < p.units) units *= 2;
  return units;
}

constexpr int64_t kMostMatrixUnits = 1 << 16;  // none fits far below

// The resident kernel with `units` units a block, if shared memory and multiprocessors suffice.
//
// Expected time of a step, of which nothing has been measured yet (peaks are those of an H100):
//   product   128 multiply-adds per clock (64 in float64), at 60 % of the peak; not less than
//             reading the weights from shared memory, 128 bytes per clock. By four tensor cores,
//             16 clocks for each product of a tile of weights and eight rows; not less than reading
//             weights, and for each of their tiles the rows
//   exchange  of the rows' states, 25 bytes/ns into each multiprocessor; backward what is for a
//             state is sent and received
//   meeting   1.2 us for a barrier through L2, and a round trip to L2; within one block a tenth
//   formulas  0.4 us for each tile of rows: latencies of their loads, and block barriers
// Small batches are bound by the meeting, large ones by the product: (B, T, I, H) = (64, 128, 256,
// 512) in float32 has 2.0 us of multiply-adds at the peak of all multiprocessors, and 1.3 us of
// exchange; LSTM in bfloat16, 32 units a block, 0.9 us of reading weights, 0.7 us of exchange.
std::optional<Candidate> resident(const DeviceInfo& device, const Problem& p, Direction direction,
                                  bool matrix, int64_t units, int64_t batch) {
  Candidate c{};
  Resident& r = c.resident;
  if (matrix && p.units > kMostMatrixUnits) return std::nullopt;
  r.matrix = matrix;
  r.units = units;
  r.slices = ceil_div(p.units, units);
  const int64_t held = r.slices == 1 ? std::max<int64_t>(device.multiprocessors, 1)
                                     : device.multiprocessors / r.slices;
  if (held == 0) return std::nullopt;
  const int64_t rows_of_group = ceil_div(batch, held);
  const int64_t all_rows = std::max<int64_t>(p.batch, 1);
  r.groups = ceil_div(all_rows, ceil_div(all_rows, held));
  const bool forward = direction == Direction::kForward;
  const int64_t least = matrix    ? kMatrixRows
                        : forward ? resident_row_lanes(p.cell, units)
                                  : 1;
  const int64_t most = matrix ? kMatrixMostRows : forward ? least * kResidentRows : 32;
  const auto bytes = [&] {
    return forward ? resident_forward_bytes(p, r) : resident_backward_bytes(p, r);
  };
  for (r.rows = least; r.rows < rows_of_group && r.rows < most; r.rows *= 2) {
  }
  while (r.rows > least && bytes() > device.shared_bytes_per_block) r.rows /= 2;
  if (bytes() > device.shared_bytes_per_block) return std::nullopt;
  const double real = static_cast<double>(real_bytes(p.dtype));
  if (!forward && 2.0 * r.slices * batch * p.units * real > device.l2_bytes / 2) {
    return std::nullopt;  // what is sent has to stay in L2
  }

  constexpr double kClocks = 1700;  // per us
  const double rows = static_cast<double>(rows_of_group);
  const double tiles = static_cast<double>(ceil_div(rows_of_group, r.rows));
  double products, reads;  // clocks
  if (matrix) {
    const double element = static_cast<double>(bytes_of(p.dtype));
    const int64_t columns = ceil_div(gates(p.cell) * units, kMatrixTile);
    const double blocks = static_cast<double>(columns * ceil_div(p.units, kMatrixDepth));
    const double row_tiles = static_cast<double>(ceil_div(rows_of_group, kMatrixRows));
    products = blocks * row_tiles * (element / 2) * 16 / 4;  // TF32 takes two for a block
    reads = blocks * kMatrixDepth * element *
            (tiles * kMatrixTile + row_tiles * kMatrixRows) / 128;
  } else {
    const double weights = static_cast<double>(gates(p.cell) * units * p.units);
    products = rows * weights / (real == 8 ? 64 : 128) / 0.6;
    reads = tiles * weights * real / 128;
  }
  const double exchanged = (forward ? 1 : 2) * rows * p.units * real;
  const double meetings = p.cell == Cell::kGruResetBefore ? 2 : 1;
  c.microseconds = std::max(products, reads) / kClocks + exchanged / 25e3 + tiles * 0.4 +
                   meetings * (r.slices > 1 ? 1.5 : 0.15);
  return c;
}

// The general kernel's step: a launch (two for reset before), and 0.35 us for each part of its
// product's depth, whose operands come from L2 every time; as many blocks as fit work at once.
double general_microseconds(const DeviceInfo& device, const Problem& p, Direction direction,
                            int64_t batch) {
  const double blocks =
      static_cast<double>(ceil_div(batch, kStepRows) * ceil_div(p.units, kStepUnits));
  const double waves = std::max(1.0, blocks / (4.0 * std::max(device.multiprocessors, 1)));
  const double slots = direction == Direction::kForward ? 1 : 1.5;
  const double launches = p.cell == Cell::kGruResetBefore ? 2 : 1;
  return launches * 2.5 + 0.35 * slots * waves * static_cast<double>(ceil_div(p.units, kStepDepth));
}

// The resident kernel that is expected to be fastest, where there is one.
std::optional<Candidate> best_resident(const DeviceInfo& device, const Problem& p,
                                       const Options& options, Direction direction,
                                       int64_t batch) {
  std::optional<Candidate> best;
  if (device.capability < 80) return best;
  const bool matrix = by_matrix(p, options);
  const int64_t all = all_units(p, matrix);
  const auto consider = [&](int64_t units) {
    const auto candidate = resident(device, p, direction, matrix, units, batch);
    if (candidate && (!best || candidate->microseconds < best->microseconds)) best = candidate;
  };
  if (options.units > 0) {
    consider(std::min(options.units, all));
    return best;
  }
  for (int64_t units = kResidentUnitStep; units <= 32 && units < p.units; units *= 2) {
    consider(units);
  }
  consider(all);
  return best;
}

std::string resident_needs(const DeviceInfo& device) {
  return "kernel is 'resident', needed: a GPU of compute capability 8.0 whose multiprocessors hold "
         "recurrent_kernel in their shared memory; " + device.name + " has compute capability " +
         std::to_string(device.capability / 10) + "." + std::to_string(device.capability % 10) +
         ", " + std::to_string(device.multiprocessors) + " multiprocessors and " +
         std::to_string(device.shared_bytes_per_block) + " bytes of shared memory";
}

}  // namespace

// The kernel with the least expected time of a step. Small batches: clusters about 1 us (cluster.cc),
// resident about 2 us, general a launch, 2.5 us at the least, and all weights read again for every 16
// rows.
Choice choose(const Device& device, const Problem& p, const Options& options) {
  Choice choice;
  const std::string& asked = options.kernel;
  if (!asked.empty() && asked != "general" && asked != "resident" && asked != "cluster") {
    throw InvalidArgument("kernel is '" + asked + "', needed: general, resident or cluster");
  }
  const int64_t batch = options.deterministic ? kTypicalBatch : std::max<int64_t>(p.batch, 1);
  ClusterCandidate cluster;
  if (asked.empty() || asked == "cluster") {
    cluster = best_cluster(device, p, options, batch);
    if (asked == "cluster" && !cluster.refused.empty()) {
      throw InvalidArgument("kernel is 'cluster', but " + cluster.refused);
    }
    choice.cluster = cluster.shape;
  }
  const auto decide = [&](Direction direction, Kernel& kernel, Resident& resident) {
    double least = asked.empty() ? general_microseconds(device.info(), p, direction, batch)
                                 : std::numeric_limits<double>::infinity();
    if (asked.empty() || asked == "resident") {
      const auto best = best_resident(device.info(), p, options, direction, batch);
      if (!best && asked == "resident") throw InvalidArgument(resident_needs(device.info()));
      if (best && best->microseconds <= least) {
        kernel = Kernel::kResident;
        resident = best->resident;
        least = best->microseconds;
      }
    }
    const double twice_backward = direction == Direction::kForward ? 1 : 2;
    if (cluster.shape.blocks > 0 && twice_backward * cluster.microseconds <= least) {
      kernel = Kernel::kCluster;
    }
  };
  if (asked != "general") {
    decide(Direction::kForward, choice.forward, choice.resident_forward);
    decide(Direction::kBackward, choice.backward, choice.resident_backward);
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
  switch (kernel) {
    case Kernel::kGeneral: return "general";
    case Kernel::kResident: return "resident";
    case Kernel::kCluster: return "cluster";
  }
  return "";
}

}  // namespace masked_rnn::cuda
