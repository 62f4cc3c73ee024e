#include "resident.h"

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

Layout forward_layout(const Problem& p, int64_t units, int64_t rows) {
  const int64_t depth = vectors(p, p.units);
  const int64_t together = p.cell == Cell::kGruResetBefore ? 2 : gates(p.cell);
  const int64_t copies = p.recurrent_dropout_gates > 1 ? together : 1;
  const int64_t stride = depth | 1;  // odd: the rows of a warp's lanes lie in different banks
  const int64_t weights = depth * gates(p.cell) * units;
  const int64_t sums = weights + copies * rows * stride;
  Layout layout{};
  layout.share.units = static_cast<int32_t>(units);
  layout.share.rows = static_cast<int32_t>(rows);
  layout.share.part = static_cast<int32_t>(ceil_div(depth, kResidentWarps));
  layout.share.stride = static_cast<int32_t>(stride);
  layout.share.operands = static_cast<int32_t>(weights);
  layout.share.sums = static_cast<int32_t>(sums);
  layout.end = sums + vectors(p, kResidentThreads * kResidentRows * together *
                                     resident_units(p.cell));
  return layout;
}

Layout backward_layout(const Problem& p, int64_t units, int64_t rows) {
  const int64_t stride = gates(p.cell) * vectors(p, units);
  Layout layout{};
  layout.share.units = static_cast<int32_t>(units);
  layout.share.rows = static_cast<int32_t>(rows);
  layout.share.stride = static_cast<int32_t>(stride);
  layout.share.operands = static_cast<int32_t>(stride * p.units);
  layout.end = stride * (p.units + rows);
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
bool run(const Queue& queue, const char* name, const Resident& resident, const Layout& layout,
         void* arrived, Arguments arguments) {
  const Launch launch = launch_of(resident, layout);
  const std::string kernel = queue.of_cell(name);
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

int64_t resident_forward_bytes(const Problem& p, int64_t units, int64_t rows) {
  return forward_layout(p, units, rows).end * kVectorBytes;
}
int64_t resident_backward_bytes(const Problem& p, int64_t units, int64_t rows) {
  return backward_layout(p, units, rows).end * kVectorBytes;
}

int64_t resident_row_lanes(Cell cell, int64_t units) {
  const int64_t lanes = units / resident_units(cell);
  return lanes < kWarpLanes ? kWarpLanes / lanes : 1;
}

bool resident_forward(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                      const ForwardStep& step) {
  const Resident& resident = choice.resident_forward;
  return run(queue, "resident_forward", resident,
             forward_layout(queue.problem, resident.units, resident.rows), memory.arrived,
             ResidentForward{step, {}});
}

bool resident_backward(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                       const BackwardStep& step) {
  const Resident& resident = choice.resident_backward;
  return run(queue, "resident_backward", resident,
             backward_layout(queue.problem, resident.units, resident.rows), memory.arrived,
             ResidentBackward{step, {}, memory.d_states});
}

}  // namespace masked_rnn::cuda
