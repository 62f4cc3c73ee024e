#include "resident.h"

#include <algorithm>

#include "error.h"

namespace masked_rnn::cuda {
namespace {

constexpr int64_t kVectorBytes = 16;

int64_t vectors(const Problem& p, int64_t elements) {
  return ceil_div(elements * real_bytes(p.dtype), kVectorBytes);
}

// A block's shared memory, in vectors: share, and where it ends.
struct Layout {
  Share share;
  int64_t end;
};

Layout started(const Resident& resident, int64_t stride, int64_t weights) {
  Layout layout{};
  layout.share.units = static_cast<int32_t>(resident.units);
  layout.share.rows = static_cast<int32_t>(resident.rows);
  layout.share.stride = static_cast<int32_t>(stride);
  layout.share.operands = static_cast<int32_t>(weights);
  layout.end = weights;
  return layout;
}

// --- matrix products: weights in tiles, the operand in pieces -----------------------------------

MatrixGates gates_of(const Problem& p, const Resident& resident) {
  return {static_cast<int>(gates(p.cell)), static_cast<int>(resident.units),
          p.cell == Cell::kGruResetBefore, p.recurrent_dropout_gates > 1};
}

// Weights [tiles][chunks] of 16 by 16 elements, and an operand of `rows` rows.
Layout matrix_layout(const Problem& p, const Resident& resident, int64_t tiles, int64_t chunks,
                     int64_t rows) {
  const int64_t bytes = bytes_of(p.dtype);
  // An odd number of four pieces: rows that lanes read together lie in different banks.
  const int64_t stride = kMatrixDepth / kPiece * (chunks | 1);
  Layout layout =
      started(resident, stride, tiles * chunks * kMatrixTile * kMatrixDepth * bytes / kVectorBytes);
  layout.end += ceil_div(rows * stride * kPiece * bytes, kVectorBytes);
  return layout;
}

Layout matrix_forward_layout(const Problem& p, const Resident& resident) {
  const MatrixGates gates = gates_of(p, resident);
  const int together = gates.together();
  const int64_t copies = gates.masked_apart ? together : 1;
  Layout layout = matrix_layout(p, resident, gates.end() / kMatrixTile,
                                ceil_div(p.units, kMatrixDepth), copies * resident.rows);
  int sums = matrix_sums(gates.tiles(0, together));
  if (gates.reset_before) sums = std::max(sums, matrix_sums(gates.tiles(2, 1)));
  layout.share.sums = static_cast<int32_t>(layout.end);
  layout.end += vectors(p, resident.rows * sums);
  return layout;
}

Layout matrix_backward_layout(const Problem& p, const Resident& resident) {
  return matrix_layout(p, resident, ceil_div(p.units, kMatrixTile),
                       gates_of(p, resident).end() / kMatrixDepth, resident.rows);
}

// --- either kind --------------------------------------------------------------------------------

Layout forward_layout(const Problem& p, const Resident& resident) {
  if (resident.matrix) return matrix_forward_layout(p, resident);
  const int64_t depth = vectors(p, p.units);
  const int64_t together = p.cell == Cell::kGruResetBefore ? 2 : gates(p.cell);
  const int64_t copies = p.recurrent_dropout_gates > 1 ? together : 1;
  const int64_t stride = depth | 1;  // odd: the rows of a warp's lanes lie in different banks
  Layout layout = started(resident, stride, depth * gates(p.cell) * resident.units);
  layout.end += copies * resident.rows * stride;
  layout.share.part = static_cast<int32_t>(ceil_div(depth, kResidentWarps));
  layout.share.sums = static_cast<int32_t>(layout.end);
  layout.end += vectors(p, kResidentThreads * kResidentRows * together * resident_units(p.cell));
  return layout;
}

Layout backward_layout(const Problem& p, const Resident& resident) {
  if (resident.matrix) return matrix_backward_layout(p, resident);
  const int64_t stride = gates(p.cell) * vectors(p, resident.units);
  Layout layout = started(resident, stride, stride * p.units);
  layout.end += stride * resident.rows;
  return layout;
}

Launch launch_of(const Resident& resident, const Layout& layout) {
  Launch launch;
  launch.grid = {static_cast<unsigned>(resident.slices), static_cast<unsigned>(resident.groups), 1};
  launch.block = {kResidentThreads, 1, 1};
  launch.shared_bytes = static_cast<unsigned>(layout.end * kVectorBytes);
  launch.cooperative = resident.slices > 1;
  return launch;
}

template <class Arguments>
bool run(const Queue& queue, const std::string& name, const Resident& resident,
         const Layout& layout, void* arrived, Arguments arguments) {
  const Launch launch = launch_of(resident, layout);
  const std::string kernel = queue.of_cell((name + (resident.matrix ? "_matrix" : "")).c_str());
  if (launch.cooperative) {
    const int64_t blocks = resident.slices * resident.groups, held = queue.held(kernel, launch);
    if (held < blocks) {
      if (!queue.asked_for()) return false;
      throw ResourceExhausted("kernel is 'resident', which needs " + std::to_string(blocks) +
                              " blocks at once; the device holds " + std::to_string(held));
    }
    queue.set_zero(arrived, resident.groups * kBarrierWords);
  }
  arguments.share = layout.share;
  arguments.share.arrived = static_cast<unsigned*>(arrived);
  queue.launch(kernel, launch, arguments);
  return true;
}

}  // namespace

int64_t resident_forward_bytes(const Problem& p, const Resident& resident) {
  return forward_layout(p, resident).end * kVectorBytes;
}
int64_t resident_backward_bytes(const Problem& p, const Resident& resident) {
  return backward_layout(p, resident).end * kVectorBytes;
}

int64_t resident_row_lanes(Cell cell, int64_t units) {
  const int64_t lanes = units / resident_units(cell);
  return lanes < kWarpLanes ? kWarpLanes / lanes : 1;
}

bool resident_forward(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                      const ForwardStep& step) {
  const Resident& resident = choice.resident_forward;
  return run(queue, "resident_forward", resident,
             forward_layout(queue.problem, resident), memory.arrived, ResidentForward{step, {}});
}

bool resident_backward(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                       const BackwardStep& step) {
  const Resident& resident = choice.resident_backward;
  return run(queue, "resident_backward", resident,
             backward_layout(queue.problem, resident), memory.arrived,
             ResidentBackward{step, {}, memory.d_states});
}

}  // namespace masked_rnn::cuda
