#include "memory.h"

#include <algorithm>

#if defined(MASKED_RNN_POISON)
#include <sanitizer/asan_interface.h>
#endif

#include "check.h"
#include "kernels/tiles.h"

namespace masked_rnn::cuda {
namespace {

constexpr int64_t kAlignment = 256;

// Between two pieces: in the tests, memory that AddressSanitizer forbids.
#if defined(MASKED_RNN_POISON)
constexpr int64_t kGap = kAlignment;
void forbid(char* from, int64_t bytes) { ASAN_POISON_MEMORY_REGION(from, bytes); }
#else
constexpr int64_t kGap = 0;
void forbid(char*, int64_t) {}
#endif

// The barriers of a resident kernel's groups.
void* take_barriers(Arena& arena, Kernel kernel, const Resident& resident, int64_t element) {
  if (kernel != Kernel::kResident || resident.slices == 1) return nullptr;
  return arena.take({resident.groups, kBarrierWords}, element);
}

}  // namespace

void* Arena::take(std::initializer_list<int64_t> sizes, int64_t element) {
  int64_t bytes = element;
  for (int64_t size : sizes) bytes = checked_product({bytes, size}, "the workspace");
  char* piece = base_ == nullptr ? nullptr : base_ + used_;
  const int64_t with_gap = (bytes + kGap + kAlignment - 1) / kAlignment * kAlignment;
  used_ += with_gap;
  checked_product({used_, 2}, "the workspace");
  if (piece != nullptr) forbid(piece + bytes, with_gap - bytes);
  return piece;
}

Reserve::Reserve(Arena& arena, const Problem& p) {
  const int64_t real = real_bytes(p.dtype);
  saved = arena.take({p.batch, p.time, saved_slots(p.cell), p.units}, real);
  h = arena.take({p.batch, p.time, p.units}, real);
  c = p.cell == Cell::kLstm ? arena.take({p.batch, p.time, p.units}, real) : nullptr;
}

Shared::Shared(Arena& arena, const Problem& p) {
  const auto integers = [&](std::initializer_list<int64_t> sizes) {
    return static_cast<int32_t*>(arena.take(sizes, sizeof(int32_t)));
  };
  steps.count = integers({p.batch});
  steps.rank = integers({p.batch});
  steps.row = integers({p.batch});
  steps.ordinal = integers({p.batch, p.time});
  steps.position = integers({p.batch, p.time});
  steps.offset = static_cast<int64_t*>(arena.take({p.time + 1}, sizeof(int64_t)));
  const bool convert = bytes_of(p.dtype) < 4;
  const int64_t width = gates(p.cell) * p.units;
  kernel = convert ? arena.take({p.features, width}, 4) : nullptr;
  recurrent_kernel = convert ? arena.take({p.units, width}, 4) : nullptr;
}

ForwardMemory::ForwardMemory(Arena& arena, const Problem& p, const Choice& choice, bool training)
    : shared(arena, p), h(nullptr), c(nullptr), saved(nullptr), reset_h(nullptr) {
  const int64_t real = real_bytes(p.dtype), rows = choice.chunk_steps * p.batch;
  inputs = arena.take({copies(p.input_dropout_gates), rows, p.features}, real);
  projection = arena.take({rows, gates(p.cell), p.units}, real);
  if (!training) {
    h = arena.take({2, p.batch, p.units}, real);
    if (p.cell == Cell::kLstm) c = arena.take({2, p.batch, p.units}, real);
  }
  if (p.cell == Cell::kGruResetBefore) {
    if (!training) saved = arena.take({p.batch, saved_slots(p.cell), p.units}, real);
    reset_h = arena.take({p.batch, p.units}, real);
  }
  arrived = take_barriers(arena, choice.forward, choice.resident_forward, real);
}

BackwardMemory::BackwardMemory(Arena& arena, const Problem& p, const Choice& choice)
    : shared(arena, p), reset_h(nullptr), d_c(nullptr) {
  const int64_t real = real_bytes(p.dtype), rows = choice.chunk_steps * p.batch;
  const int64_t width = gates(p.cell) * p.units;
  inputs = arena.take({copies(p.input_dropout_gates), rows, p.features}, real);
  states = arena.take({copies(p.recurrent_dropout_gates), rows, p.units}, real);
  d_outputs = arena.take({rows, p.units}, real);
  d_gates = arena.take({rows, saved_slots(p.cell), p.units}, real);
  d_inputs = arena.take({copies(p.input_dropout_gates), rows, p.features}, real);
  if (p.cell == Cell::kGruResetBefore) reset_h = arena.take({rows, p.units}, real);
  d_h = arena.take({p.batch, p.units}, real);
  if (p.cell == Cell::kLstm) d_c = arena.take({p.batch, p.units}, real);
  d_kernel = arena.take({p.features, width}, real);
  d_recurrent_kernel = arena.take({p.units, width}, real);
  d_sums = arena.take({saved_slots(p.cell), p.units}, real);
  parts = choice.depth_parts > 1
              ? arena.take({choice.depth_parts, std::max(p.features, p.units),
                            saved_slots(p.cell) * p.units}, real)
              : nullptr;
  arrived = take_barriers(arena, choice.backward, choice.resident_backward, real);
  d_states = choice.backward == Kernel::kResident
                 ? arena.take({2, choice.resident_backward.slices, p.batch, p.units}, real)
                 : nullptr;
}

}  // namespace masked_rnn::cuda
