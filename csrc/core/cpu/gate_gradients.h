// What the products of backward read of one group: the gradients of the gates, their copies, and what
// forward kept. Copies are there where a machine multiplies bfloat16 values, rounded or in planes
// (operands.h): of the gates' gradients written beside them, of inputs and states packed in pairs of rows
// (row_operands.h).
#pragma once

#include "row_operands.h"

namespace masked_rnn {
namespace {

template <class CellT, class Storage>
struct GateGradients : Worker<Storage> {
  using Base = Worker<Storage>;
  using Step = typename Base::Step;
  using Chunk = typename Base::Chunk;
  using Base::group, Base::job, Base::p, Base::parts, Base::unit_blocks, Base::feature_blocks;
  static constexpr int G = CellT::kGates, S = CellT::kSlots;
  static constexpr int kRow = S * kVector;  // stride of d_gates between rows
  static constexpr int kTogether = CellT::kResetBefore ? 2 : G;
  // Whether the products of a chunk read copies of the gates' gradients, and those of a step too.
  static constexpr bool kCopies = Chunk::kPair > 1, kStepCopies = Step::kPair > 1;

  GateGradients(const Job& job, Member& member, int group_index)
      : Base(job, member, group_index),
        layout(*job.backward_layout),
        buffers(layout.groups[this->group_index]),
        reserve(job.reserve_layout->groups[this->group_index]),
        capacity(buffers.capacity),
        real_steps(group.real_steps()),
        d_gates(this->at(buffers.d_gates)),
        each_input_gate(p.input_dropout_gates > 1),
        each_recurrent_gate(p.recurrent_dropout_gates > 1),
        before(*this) {}

  // Where the copies of gates' gradients (below) of each slot's range begin, in blocks; of slot S, where
  // the last ends.
  struct Before {
    int64_t blocks[S + 1] = {};

    explicit Before(const GateGradients& g) {
      for (int slot = 0, end; slot < S; slot = end) {
        end = g.end_like(slot);
        const int64_t next = blocks[slot] + whole_blocks<Chunk>(g.unit_blocks * (end - slot));
        for (int j = slot + 1; j < end; ++j) blocks[j] = blocks[slot];
        blocks[end] = next;
      }
    }
  };

  const BackwardLayout& layout;
  const BackwardLayout::PerGroup& buffers;
  const ReserveLayout::PerGroup& reserve;
  const int64_t capacity, real_steps;
  Real* const d_gates;
  const bool each_input_gate, each_recurrent_gate;
  const Before before;

  typename Chunk::Operand* rows_at(Buffer buffer) const {
    return this->template operands_at<Chunk>(buffer);
  }
  // The rows of a chunk times dropout mask d; copies are packed.
  typename Chunk::Operand* input_rows(int64_t d) const {
    return rows_at(buffers.inputs) + d * feature_blocks * capacity * kVector * Chunk::kPlanes;
  }
  typename Chunk::Operand* h_rows(int64_t d) const {
    return rows_at(buffers.dropped_h) + d * unit_blocks * capacity * kVector * Chunk::kPlanes;
  }
  const Real* kept_h(int64_t u, int64_t n) const {
    return this->reserve_at(reserve.h) + (u * real_steps + n) * kVector;
  }
  const Real* kept_c(int64_t u, int64_t n) const {
    return this->reserve_at(reserve.c) + (u * real_steps + n) * kVector;
  }
  const Real* saved(int64_t u, int64_t n) const {
    return this->reserve_at(reserve.saved) + (u * real_steps + n) * kRow;
  }
  Real* gates_of(int64_t u, int64_t r) const { return d_gates + (u * capacity + r) * kRow; }

  // The products with transposed weights read the copies in this order of blocks of k: slots that
  // only the recurrent kernel's reads, those of both, those that it does not read, each unit by
  // unit; or slot by slot where gates have dropout masks of their own. So each product's are one range.
  // Without copies they read d_gates, all slots of a unit together.
  int first_like(int slot) const {
    if (p.masks_each_gate()) return slot;
    return slot < CellT::kKernelSlot ? 0 : slot < kTogether ? CellT::kKernelSlot : kTogether;
  }
  int end_like(int slot) const {
    if (p.masks_each_gate()) return slot + 1;
    return slot < CellT::kKernelSlot ? CellT::kKernelSlot : slot < kTogether ? kTogether : S;
  }
  // Block of the j-th of `count` slots from `slot` on, counted from the first of their range.
  template <class K>
  int64_t block_of(int64_t u, int slot, int count, int j) const {
    if constexpr (K::kPair == 1) return u * count + j;
    const int first = first_like(slot + j);
    return before.blocks[first] - before.blocks[slot] + u * (end_like(first) - first) + (slot + j - first);
  }
  template <class K>
  int64_t depth_of(int slot, int count) const {
    if constexpr (K::kPair == 1) return unit_blocks * count * kVector;
    return (before.blocks[slot + count] - before.blocks[slot]) * kVector;
  }

  // Where the copy of a slot's gradient goes.
  typename Chunk::Operand* gate_operand(int64_t u, int64_t r, int slot) const {
    return rows_at(buffers.gate_operands) +
           block_offset<Chunk>(block_of<Chunk>(u, 0, S, slot), r, capacity);
  }
  // Zeros where the slots of a range fill but the first half of its last block.
  void fill_half_blocks(int part) const {
    for (int slot = 0; kCopies && slot < S; slot = end_like(slot)) {
      this->template fill_half_block<Chunk>(gate_operand(0, 0, slot),
                                            unit_blocks * (end_like(slot) - slot), capacity,
                                            share_of(capacity, part, parts));
    }
  }
  MR_INLINE void put_gate(int64_t u, int64_t r, int slot, V d) const {
    store(gates_of(u, r) + slot * kVector, d);
    if constexpr (kCopies) Chunk::store_block(gate_operand(u, r, slot), d);
  }
};

}  // namespace
}  // namespace masked_rnn
