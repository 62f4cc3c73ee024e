// The weight gradients of backward: of a chunk's rows while they are in the cache, summed over chunks and
// groups.
#pragma once

#include "gate_gradients.h"

namespace masked_rnn {
namespace {

template <class CellT, class Storage>
struct WeightGradients : GateGradients<CellT, Storage> {
  using Base = GateGradients<CellT, Storage>;
  using Chunk = typename Base::Chunk;
  using Operand = typename Chunk::Operand;
  using Base::group, Base::job, Base::p, Base::unit_blocks;
  using Base::layout, Base::buffers, Base::capacity, Base::each_input_gate, Base::each_recurrent_gate;
  using Base::G, Base::S, Base::kRow, Base::kTogether, Base::kCopies;

  explicit WeightGradients(const Base& of) : Base(of) {}

  // Adds what the steps begin.. end of a chunk give to some units' gradients; each part has its place for
  // pairs. Where gates share their operands, all gates of a block of units meet them at once. Where dropout masks
  // make them differ, it goes slot by slot, so that the operand of one gate at a time fills the cache, and
  // for two blocks at once, as one vector does not keep a machine busy.
  void add(int part, Range units, int64_t begin, int64_t end) const {
    const int64_t start = group.offset[begin];
    const Sum sum{group.offset[end] - start, end == group.steps()};
    if (p.masks_each_gate()) {
      for (int slot = 0; slot < S; ++slot) {
        for (int64_t u = units.begin; u < units.end; u += 2) {
          const int blocks = static_cast<int>(least(2, units.end - u));
          add_slot(sum, start, u, blocks, slot, gates_of_slot(part, u, blocks, slot, sum.rows));
        }
      }
    }
    for (int64_t u = units.begin; u < units.end; ++u) {
      if (!p.masks_each_gate()) add_all(sum, start, u, gates_of_block(part, u, sum.rows));
      add_bias(sum, u);
    }
  }

  // Adds the groups' gradients in order and writes them in Keras's layout, a few blocks of units at a time, as
  // weights are packed (kernel.h).
  void sum_groups(int share) const {
    const Range mine = share_of(unit_blocks, share, job.threads());
    const auto gate = [](int g) { return g; };
    const auto recurrent_gate = [](int j) { return CellT::recurrent_gate(j); };
    const GroupSums kernel(*this, &BackwardLayout::PerGroup::d_kernel),
        recurrent(*this, &BackwardLayout::PerGroup::d_recurrent_kernel),
        bias(*this, &BackwardLayout::PerGroup::d_bias);
    this->by_four(mine, [&](Range some) {
      put_sums(some, kernel, p.features, layout.kernel_rows, gate, job.gradients.d_kernel);
      put_sums(some, recurrent, p.units, layout.recurrent_rows, recurrent_gate,
               job.gradients.d_recurrent_kernel);
      if (job.gradients.d_bias == nullptr) return;
      for (int64_t u = some.begin; u < some.end; ++u) {
        for (int g = 0; g < G; ++g) {
          put(job.gradients.d_bias, 0, g, u, bias.sum(u * kRow + (g + CellT::kKernelSlot) * kVector));
          if (CellT::kCell == Cell::kGru) {
            put(job.gradients.d_bias, 1, recurrent_gate(g), u, bias.sum(u * kRow + g * kVector));
          }
        }
      }
    });
  }

 private:
  // Over so many rows of a chunk, to begin with or to be added to that of the chunks before.
  struct Sum {
    int64_t rows;
    bool first;
  };

  // --- operands --------------------------------------------------------------------------------

  // The rows of a chunk, and how far it is from block to block of them, which pairs of rows know themselves.
  struct Rows {
    const Operand* at;
    int64_t block;
  };
  Rows inputs(int64_t mask) const { return {this->input_rows(mask), capacity * kVector}; }
  Rows states(int64_t mask, int64_t start) const {
    if constexpr (!kCopies) {
      if (p.recurrent_dropout_gates == 0) return {this->kept_h(0, start), this->real_steps * kVector};
    }
    return {this->h_rows(mask), capacity * kVector};
  }
  Rows reset_states() const { return {this->rows_at(buffers.reset_h), capacity * kVector}; }

  // The gradients of a block's gates, or those of one slot of a few blocks. Copies are made pairs first: they
  // serve all products while they are in the L1 cache.
  const Operand* gates_of_block(int part, int64_t u, int64_t rows) const {
    if constexpr (kCopies) {
      pair_gates<S>(u, 0, rows, pairs(part));
      return pairs(part);
    } else {
      return this->gates_of(u, 0);
    }
  }
  const Operand* gates_of_slot(int part, int64_t u, int blocks, int slot, int64_t rows) const {
    if constexpr (kCopies) {
      for (int v = 0; v < blocks; ++v) {
        pair_gates<1>(u + v, slot, rows, pairs(part) + v * size_of_vector<Chunk>(capacity));
      }
      return pairs(part);
    } else {
      return this->gates_of(u, 0) + slot * kVector;
    }
  }
  Operand* pairs(int part) const {
    return this->rows_at(buffers.gate_pairs) + part * S * size_of_vector<Chunk>(capacity);
  }
  template <int kCount>
  void pair_gates(int64_t u, int slot, int64_t rows, Operand* to) const {
    for (int j = 0; j < kCount; ++j) {
      const Operand* copy = this->gate_operand(u, 0, slot + j);
      for (int64_t r = 0; r < round_up(rows, kStrip); r += 2, copy += 2 * kRowOf<Chunk>) {
        store_pairs<Chunk>(to + pair_offset<Chunk>(r, j, kCount, capacity),
                           Chunk::pair_blocks(r < rows ? copy : nullptr,
                                              r + 1 < rows ? copy + kRowOf<Chunk> : nullptr));
      }
    }
  }

  // --- products --------------------------------------------------------------------------------

  // Where a block's gradients lie, and how far it is from block to block.
  Real* d_kernel(int64_t u) const { return this->at(buffers.d_kernel) + u * d_kernel_block(); }
  Real* d_recurrent(int64_t u) const {
    return this->at(buffers.d_recurrent_kernel) + u * d_recurrent_block();
  }
  int64_t d_kernel_block() const { return layout.kernel_rows * G * kVector; }
  int64_t d_recurrent_block() const { return layout.recurrent_rows * G * kVector; }

  void add_all(Sum sum, int64_t start, int64_t u, const Operand* gates) const {
    const auto from = [&](int slot) {
      return gates + (kCopies ? pair_offset<Chunk>(0, slot, S, capacity) : slot * kVector);
    };
    product<G, kRow>(sum, inputs(0), p.features, from(CellT::kKernelSlot), 1, 0, d_kernel(u));
    product<kTogether, kRow>(sum, states(0, start), p.units, gates, 1, 0, d_recurrent(u));
    if constexpr (CellT::kResetBefore) {
      product<1, kRow>(sum, reset_states(), p.units, from(2), 1, 0, d_recurrent(u) + 2 * kVector);
    }
  }

  void add_slot(Sum sum, int64_t start, int64_t u, int blocks, int slot, const Operand* gates) const {
    constexpr int kStride = kCopies ? kVector : kRow;
    if (slot >= CellT::kKernelSlot) {
      const int gate = slot - CellT::kKernelSlot;
      product<1, kStride>(sum, inputs(each_input_gate ? gate : 0), p.features, gates, blocks,
                          d_kernel_block(), d_kernel(u) + gate * kVector);
    }
    if (slot < G) {
      const bool reset = CellT::kResetBefore && slot == 2;
      const int mask = each_recurrent_gate ? CellT::recurrent_gate(slot) : 0;
      product<1, kStride>(sum, reset ? reset_states() : states(mask, start), p.units, gates, blocks,
                          d_recurrent_block(), d_recurrent(u) + slot * kVector);
    }
  }

  // to[block][k][gates][V] (+)= operand^T @ gates for kCount gates, kStride from row to row, of so many blocks:
  // two at most, where kCount is one.
  template <int kCount, int kStride>
  MR_INLINE void product(Sum sum, Rows operand, int64_t width, const Operand* gates, int blocks,
                         int64_t to_block, Real* to) const {
    Operands<Chunk> o;
    o.accumulate = !sum.first;
    o.c_panel = to_block;
    if constexpr (kCopies) {
      o.b_vector = o.b_panel = size_of_vector<Chunk>(capacity);
      multiply_rows<Chunk, kCount, kStride>(operand.at, width, sum.rows, capacity, gates, o, G * kVector, to,
                                            blocks);
    } else {
      o.a_block = 0;
      o.block = o.k = sum.rows;
      o.b = gates;
      o.b_panel = capacity * kRow;
      o.c_row = G * kVector;
      o.c_vector = kVector;
      for (int64_t f = 0; f * kVector < width; ++f) {
        Tile<Chunk>::template each<kCount>(first_of(width, f), [&](int64_t l, int m) {
          o.a = operand.at + f * operand.block + l;
          o.c = to + (f * kVector + l) * G * kVector;
          Tile<Chunk>::template run<kCount, 1, kVector, kStride>(m, blocks, o);
        });
      }
    }
  }

  void add_bias(Sum sum, int64_t u) const {
    Real* to = this->at(buffers.d_bias) + u * kRow;
    V total[S];
    MR_UNROLL
    for (int j = 0; j < S; ++j) total[j] = zeros();
    for (const Real *d = this->gates_of(u, 0), *end = d + sum.rows * kRow; d < end; d += kRow) {
      MR_UNROLL
      for (int j = 0; j < S; ++j) total[j] = total[j] + load(d + j * kVector);
    }
    MR_UNROLL
    for (int j = 0; j < S; ++j) {
      store(to + j * kVector, sum.first ? total[j] : load(to + j * kVector) + total[j]);
    }
  }

  // --- the sum over groups ---------------------------------------------------------------------

  // One gradient of every group that has any.
  struct GroupSums {
    const Real* of_group[kMostThreads];
    int count = 0;

    GroupSums(const WeightGradients& w, Buffer BackwardLayout::PerGroup::* buffer) {
      for (int g = 0; g < w.job.split.groups; ++g) {
        if (w.job.schedule->groups[g].steps() > 0) of_group[count++] = w.at(w.layout.groups[g].*buffer);
      }
    }
    MR_INLINE V sum(int64_t offset) const {
      V sum = zeros();
      for (int g = 0; g < count; ++g) sum = sum + load(of_group[g] + offset);
      return sum;
    }
  };

  template <class Gate>
  void put_sums(Range units, const GroupSums& sums, int64_t rows, int64_t rows_of_block, const Gate& gate,
                void* gradient) const {
    for (int64_t k = 0; k < rows; ++k) {
      for (int j = 0; j < G; ++j) {
        for (int64_t u = units.begin; u < units.end; ++u) {
          put(gradient, k, gate(j), u, sums.sum(((u * rows_of_block + k) * G + j) * kVector));
        }
      }
    }
  }
  void put(void* gradient, int64_t row, int gate, int64_t u, V v) const {
    store_first(this->out(gradient) + (row * G + gate) * p.units + u * kVector, v,
                this->unit_count(u));
  }
};

}  // namespace
}  // namespace masked_rnn
