// Backward: from the last packed step to the first, a chunk of steps at a time. Within a chunk
// the pointwise phase and the product with recurrent_kernel^T go step by step; then the chunk's
// gradients of the gates meet kernel^T (d_inputs), the inputs and the states (weight_gradients.h)
// while they are in the cache. Every group sums its own weight gradients; they are added in
// order at the end, so that a run repeats bit for bit.
#pragma once

#include "weight_gradients.h"

namespace masked_rnn {
namespace {

template <class CellT, class Acts, class Storage>
struct Backward : GateGradients<CellT, Storage> {
  using Base = GateGradients<CellT, Storage>;
  using Step = typename Base::Step;
  using Chunk = typename Base::Chunk;
  using StepTile = Tile<Step>;
  using Weights = WeightGradients<CellT, Storage>;
  using Base::group, Base::job, Base::p, Base::parts, Base::rows, Base::unit_blocks, Base::feature_blocks;
  using Base::layout, Base::buffers, Base::capacity, Base::d_gates, Base::each_input_gate,
      Base::each_recurrent_gate;
  using Base::G, Base::S, Base::kRow, Base::kTogether, Base::kCopies, Base::kStepCopies;
  using Base::kept_h, Base::kept_c, Base::saved, Base::gates_of, Base::gate_operand, Base::put_gate,
      Base::rows_at, Base::input_rows, Base::h_rows;
  static constexpr int kWidest = 4;  // vectors in a panel
  template <class K>  // the largest tile
  static constexpr int kProduct = Tile<K>::most_rows(kWidest) * kWidest * kVector;

  Backward(const Job& job, Member& member, int group_index)
      : Base(job, member, group_index),
        acts(p),
        width(layout.unit_panel),
        d_h(this->at(buffers.d_h)),
        d_c(this->at(buffers.d_c)),
        d_outputs(this->in(job.gradients.d_outputs)) {}

  const Acts acts;
  const int64_t width;
  Real *const d_h, *const d_c;
  const Storage* const d_outputs;

  static void run(const Job& job, Member& member) {
    [[maybe_unused]] const MatrixRegisters registers{};
    const Backward shared(job, member, 0);
    member.each(job.threads(), [&](int share) { shared.pack_weights(share); });
    if (job.split.parts > 1) {
      shared.time_loop();
    } else {
      member.each(job.split.groups, [&](int g) { Backward(job, member, g).time_loop(); });
    }
    member.each(job.threads(), [&](int share) {
      shared.finish_rows(share);
      Weights(shared).sum_groups(share);
    });
  }

  // Between two stages lies one step: the product of the step after with recurrent_kernel^T needs
  // that step's gradients of all units, and gives d_h of this thread's own.
  void time_loop() const {
    for (int64_t end = group.steps(); end > 0;) {
      this->member.ask_for_more();
      const int64_t begin = chunk_begin(group, end), start = group.offset[begin];
      for (int64_t s = end - 1; s >= begin; --s) {
        this->each_part([&](int part) {
          const Range panels = panels_of(part), units = units_of(panels);
          if (s == group.steps() - 1) {
            start_gradients(units);
            this->fill_half_blocks(part);
          }
          if (s == end - 1) gather(part, units, begin, end);
          if (s < end - 1) pass_to_state(panels, s + 1, start);
          if (d_outputs && p.return_sequences) add_output_gradients(units, s);
          if constexpr (CellT::kResetBefore) {
            candidate_phase(units, s, group.offset[s] - start);
          } else {
            phase(units, s, group.offset[s] - start);
          }
        });
        if constexpr (CellT::kResetBefore) {
          this->each_part([&](int part) {
            const Range panels = panels_of(part);
            reset_product(panels, s, group.offset[s] - start);
            reset_phase(units_of(panels), s, group.offset[s] - start);
          });
        }
      }
      this->each_part([&](int part) {
        const Range panels = panels_of(part), units = units_of(panels);
        pass_to_state(panels, begin, start);
        input_gradients(part, begin, end);
        Weights(*this).add(part, units, begin, end);
        if (begin == 0) put_initial_states(units);
      });
      end = begin;
    }
  }

  // A part's share: panels of recurrent_kernel^T, and the unit blocks that these give d_h of.
  Range panels_of(int part) const {
    return share_of((unit_blocks + width - 1) / width, part, parts);
  }
  Range units_of(Range panels) const {
    return {least(panels.begin * width, unit_blocks), least(panels.end * width, unit_blocks)};
  }

  // --- packing ---------------------------------------------------------------------------------

  // Rows of `weights` [n][G*H] as columns, in panels of `panel_width` blocks of rows, where k are the
  // values of slots `slot`.. in the order of the gates' gradients; `gate(j)` is the gate that comes
  // j-th. Padding is zero.
  template <class K, class Gate>
  void pack_transposed(const void* weights, int64_t n, int64_t panel_width, int slot, int count,
                       const Gate& gate, Range mine, typename K::Operand* to) const {
    const int64_t blocks = (n + kVector - 1) / kVector, depth = this->template depth_of<K>(slot, count);
    for (int64_t q = mine.begin; q < mine.end; ++q) {
      const int64_t first = q * panel_width, vectors = least(panel_width, blocks - first);
      typename K::Operand* panel = to + first * size_of_vector<K>(depth);
      if (K::kPair > 1) {
        memset(static_cast<void*>(panel), 0, vectors * size_of_vector<K>(depth) * sizeof(*panel));
      }
      for (int64_t v = 0; v < vectors; ++v) {
        const int known = first_of(n, first + v);
        for (int64_t u = 0; u < unit_blocks; ++u) {
          for (int j = 0; j < count; ++j) {
            const Storage* row = this->in(weights) + (first + v) * kVector * G * p.units +
                                 gate(j) * p.units + u * kVector;
            V columns[kVector];
            for (int c = 0; c < kVector; ++c, row += G * p.units) {
              columns[c] = c < known ? load_first(row, this->unit_count(u)) : zeros();
            }
            const int64_t begin = this->template block_of<K>(u, slot, count, j) * kVector;
            K::transpose_columns(columns, [&](int k, int plane, typename K::Vector vector) {
              K::store_vector(panel + pair_offset<K>(begin + k, v, vectors, depth) + plane * kPlaneOf<K>,
                              vector);
            });
          }
        }
      }
    }
  }

  Range share_of_panels(int share, int64_t blocks, int64_t panel_width) const {
    return share_of((blocks + panel_width - 1) / panel_width, share, job.threads());
  }
  // Elements of one gate's transposed panels.
  template <class K>
  int64_t gate_panels(int64_t blocks) const {
    return blocks * kVector * size_of_rows<K>(unit_blocks, 1);
  }
  // Those of the gates from slot `slot` on; `kernel_panels` from gate `g`.
  typename Step::Operand* recurrent_panels(int slot) const {
    return this->template operands_at<Step>(layout.recurrent_kernel_t) +
           slot * gate_panels<Step>(unit_blocks);
  }
  typename Chunk::Operand* kernel_panels(int g) const {
    return this->template operands_at<Chunk>(layout.kernel_t) + g * gate_panels<Chunk>(feature_blocks);
  }

  void pack_weights(int share) const {
    const int input_count = each_input_gate ? 1 : G;
    for (int g = 0; g < G; g += input_count) {
      pack_transposed<Chunk>(p.kernel, p.features, layout.feature_panel, CellT::kKernelSlot + g,
                             input_count, [g](int j) { return g + j; },
                             share_of_panels(share, feature_blocks, layout.feature_panel),
                             kernel_panels(g));
    }
    for (int slot = 0; slot < G;) {
      const int count = slot < kTogether && !each_recurrent_gate ? kTogether : 1;
      pack_transposed<Step>(p.recurrent_kernel, p.units, width, slot, count,
                            [slot](int j) { return CellT::recurrent_gate(slot + j); },
                            share_of_panels(share, unit_blocks, width), recurrent_panels(slot));
      slot += count;
    }
  }

  // --- start and end ---------------------------------------------------------------------------

  // d_h and d_c after the last step: what reaches the final state, and the last output.
  void start_gradients(Range units) const {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t b = group.row[i];
      const bool last_output = d_outputs && !p.return_sequences && this->last_output_is_state(b);
      for (int64_t u = units.begin; u < units.end; ++u) {
        V d = state_gradient(job.gradients.d_state_h, b, u);
        if (last_output) d = d + load_unit(d_outputs + b * p.units, u);
        store(d_h + (u * rows + i) * kVector, d);
        if (CellT::kState) {
          store(d_c + (u * rows + i) * kVector, state_gradient(job.gradients.d_state_c, b, u));
        }
      }
    }
  }

  V load_unit(const Storage* row, int64_t u) const {
    return load_first(row + u * kVector, this->unit_count(u));
  }
  V state_gradient(const void* gradient, int64_t b, int64_t u) const {
    return gradient ? load_unit(this->in(gradient) + b * p.units, u) : zeros();
  }

  void put_initial_states(Range units) const {
    for (int64_t u = units.begin; u < units.end; ++u) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t to = group.row[i] * p.units + u * kVector;
        put_initial(job.gradients.d_initial_h, to, d_h + (u * rows + i) * kVector, u);
        if (CellT::kState) {
          put_initial(job.gradients.d_initial_c, to, d_c + (u * rows + i) * kVector, u);
        }
      }
    }
  }

  // Zeros for the inputs of masked steps; rows without a real step hand the state's gradient on.
  void finish_rows(int share) const {
    const Range mine = share_of(p.batch, share, job.threads());
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      if (job.schedule->count[b] < p.time) zero_masked_inputs(b);
      if (job.schedule->count[b] > 0) continue;
      pass_state(job.gradients.d_state_h, job.gradients.d_initial_h, b);
      if (CellT::kState) pass_state(job.gradients.d_state_c, job.gradients.d_initial_c, b);
    }
  }

  void put_initial(void* gradient, int64_t to, const Real* from, int64_t u) const {
    if (gradient) store_first(this->out(gradient) + to, load(from), this->unit_count(u));
  }

  void zero_masked_inputs(int64_t b) const {
    Storage* row = this->out(job.gradients.d_inputs) + b * p.time * p.features;
    this->each_masked_run(b, false, [&](int64_t begin, int64_t end) {
      memset(row + begin * p.features, 0, (end - begin) * p.features * sizeof(Storage));
    });
  }

  void pass_state(const void* from, void* to, int64_t b) const {
    if (to == nullptr) return;
    const size_t bytes = p.units * sizeof(Storage);
    Storage* row = this->out(to) + b * p.units;
    if (from == nullptr) {
      memset(row, 0, bytes);
    } else {
      memcpy(row, this->in(from) + b * p.units, bytes);
    }
  }

  // --- one chunk -------------------------------------------------------------------------------

  // Operands of the weight gradients that forward did not keep in this form.
  void gather(int part, Range units, int64_t begin, int64_t end) const {
    if constexpr (kCopies) {
      gather_pairs(part, group.offset[begin], group.offset[end]);
    } else {
      gather_rows(part, units, begin, end);
    }
  }

  void gather_rows(int part, Range units, int64_t begin, int64_t end) const {
    this->template gather_inputs<Chunk>(part, group.offset[begin], group.offset[end], capacity, input_rows(0));
    if (p.recurrent_dropout_gates == 0) return;
    for (int64_t u = units.begin; u < units.end; ++u) {
      for (int64_t s = begin; s < end; ++s) {
        for (int64_t i = 0; i < group.live[s]; ++i) {
          const int64_t n = group.offset[s] + i, r = n - group.offset[begin];
          for (int64_t d = 0; d < p.recurrent_dropout_gates; ++d) {
            store(h_rows(d) + (u * capacity + r) * kVector, load(kept_h(u, n)) * recurrent_mask(d, i, u));
          }
        }
      }
    }
  }

  // The same as pairs of the rows from packed index `start` on.
  void gather_pairs(int part, int64_t start, int64_t end) const {
    const int64_t n = end - start;
    const int64_t* source = &group.input[start];
    const Range mine = strips_of(n, part, parts);
    const bool masked = p.input_dropout_gates > 0 || p.recurrent_dropout_gates > 0;
    for (int64_t strip = mine.begin; strip < mine.end; ++strip) {
      int64_t batch_row[kStrip] = {};
      for (int64_t r = strip * kStrip; masked && r < least(n, (strip + 1) * kStrip); ++r) {
        batch_row[r % kStrip] = source[r] / p.time;
      }
      const auto pack = [&](int64_t blocks, typename Chunk::Operand* to, const auto& value) {
        pack_rows<Chunk>({strip, strip + 1}, n, blocks, capacity, value, to);
      };
      for (int64_t d = 0; d < (each_input_gate ? G : 1); ++d) {
        pack(feature_blocks, input_rows(d), [&](int64_t f, int64_t r) {
          if (f == 0 && d == 0) this->fetch_ahead(this->in(p.inputs), p.features, source, r, n);
          const V x = load_first(this->in(p.inputs) + source[r] * p.features + f * kVector,
                                 first_of(p.features, f));
          if (p.input_dropout_gates == 0) return x;
          return x * this->dropout(p.input_dropout, d, batch_row[r % kStrip], f, p.features);
        });
      }
      const auto dropped = [&](V h, int64_t d, int64_t r, int64_t u) {
        if (p.recurrent_dropout_gates == 0) return h;
        return h * this->dropout(p.recurrent_dropout, d, batch_row[r % kStrip], u, p.units);
      };
      for (int64_t d = 0; d < (each_recurrent_gate ? kTogether : 1); ++d) {
        pack(unit_blocks, h_rows(d), [&](int64_t u, int64_t r) {
          return dropped(load(kept_h(u, start + r)), d, r, u);
        });
      }
      if constexpr (CellT::kResetBefore) {
        pack(unit_blocks, rows_at(buffers.reset_h), [&](int64_t u, int64_t r) {
          const V reset = acts.gate_value(load(saved(u, start + r) + kVector));
          return dropped(reset * load(kept_h(u, start + r)), p.recurrent_dropout_gates - 1, r, u);
        });
      }
    }
  }

  V recurrent_mask(int64_t d, int64_t i, int64_t u) const {
    return this->dropout(p.recurrent_dropout, d, group.row[i], u, p.units);
  }

  // d_h before step s, from the gradients of its gates.
  void pass_to_state(Range panels, int64_t s, int64_t start) const {
    recurrent_product<kTogether>(panels, s, group.offset[s] - start);
  }

  // The output of a real step stands until the next one (or the end), unless masked outputs are
  // zero: the gradients of all of them come together.
  void add_output_gradients(Range units, int64_t s) const {
    const int64_t live_next = group.live_after(s);
    for (int64_t i = 0; i < group.live[s]; ++i) {
      this->fetch_ahead(d_outputs, p.units, &group.output[group.offset[s]], i, group.live[s]);
      const int64_t first = group.output[group.offset[s] + i];
      int64_t last = first + 1;
      if (!p.zero_output_for_mask) {
        last = i < live_next ? group.output[group.offset[s + 1] + i]
                             : (group.row[i] + 1) * p.time;
      }
      const Storage* row = d_outputs + first * p.units;
      for (int64_t q = first; q < last; ++q, row += p.units) {
        for (int64_t u = units.begin; u < units.end; ++u) {
          Real* d = d_h + (u * rows + i) * kVector;
          store(d, load(d) + load_unit(row, u));
        }
      }
    }
  }

  void phase(Range units, int64_t s, int64_t r) const {
    if constexpr (!CellT::kResetBefore) {
      for (int64_t u = units.begin; u < units.end; ++u) {
        const int count = this->unit_count(u);
        const Real* keep = saved(u, group.offset[s]);
        const Real* h = kept_h(u, group.offset[s]);
        const Real* c = CellT::kState ? kept_c(u, group.offset[s]) : h;
        Real* to = gates_of(u, r);
        typename Chunk::Operand* copy[S];
        for (int j = 0; j < S; ++j) copy[j] = kCopies ? gate_operand(u, r, j) : nullptr;
        Real* dh = d_h + u * rows * kVector;
        Real* dc = CellT::kState ? d_c + u * rows * kVector : nullptr;
        for (int64_t i = 0; i < group.live[s]; ++i, keep += kRow, to += kRow) {
          V kept[S], d[S], dc_i = CellT::kState ? load(dc + i * kVector) : zeros();
          MR_UNROLL
          for (int j = 0; j < S; ++j) kept[j] = load(keep + j * kVector);
          const V rest = CellT::backward(acts, kept, load(h + i * kVector), load(c + i * kVector),
                                         load(dh + i * kVector), dc_i, d);
          // Past the last unit an activation may have left Inf: zeros keep it out of the sums.
          MR_UNROLL
          for (int j = 0; j < S; ++j) {
            const V known = keep_first(d[j], count);
            store(to + j * kVector, known);
            if constexpr (kCopies) Chunk::store_block(copy[j] + i * kRowOf<Chunk>, known);
          }
          store(dh + i * kVector, rest);
          if (CellT::kState) store(dc + i * kVector, dc_i);
        }
      }
    }
  }

  void candidate_phase(Range units, int64_t s, int64_t r) const {
    if constexpr (CellT::kResetBefore) {
      for (int64_t u = units.begin; u < units.end; ++u) {
        const int count = this->unit_count(u);
        for (int64_t i = 0; i < group.live[s]; ++i) {
          const int64_t n = group.offset[s] + i;
          V kept[S], d[S];
          for (int j = 0; j < S; ++j) kept[j] = load(saved(u, n) + j * kVector);
          const V h = load(kept_h(u, n));
          Real* dh = d_h + (u * rows + i) * kVector;
          store(dh, CellT::backward_candidate(acts, kept, h, load(dh), d));
          put_gate(u, r + i, 0, keep_first(d[0], count));
          put_gate(u, r + i, 2, keep_first(d[2], count));
          if constexpr (kCopies) continue;  // packed with the inputs
          // r * h again, dropped, for the gradient of the candidate's recurrent kernel.
          V reset_h = acts.gate_value(kept[1]) * h;
          if (p.recurrent_dropout_gates) {
            reset_h = reset_h * recurrent_mask(p.recurrent_dropout_gates - 1, i, u);
          }
          store(this->at(buffers.reset_h) + (u * capacity + r + i) * kVector, reset_h);
        }
      }
    }
  }

  void reset_phase(Range units, int64_t s, int64_t r) const {
    if constexpr (CellT::kResetBefore) {
      for (int64_t u = units.begin; u < units.end; ++u) {
        const int count = this->unit_count(u);
        for (int64_t i = 0; i < group.live[s]; ++i) {
          const int64_t n = group.offset[s] + i;
          V kept[S], d[S];
          for (int j = 0; j < S; ++j) kept[j] = load(saved(u, n) + j * kVector);
          V d_reset = load(this->at(buffers.d_reset_h) + (u * buffers.rows + i) * kVector);
          if (p.recurrent_dropout_gates) {
            d_reset = d_reset * recurrent_mask(p.recurrent_dropout_gates - 1, i, u);
          }
          Real* dh = d_h + (u * rows + i) * kVector;
          store(dh, CellT::backward_reset(acts, kept, load(kept_h(u, n)), d_reset, load(dh), d));
          put_gate(u, r + i, 1, keep_first(d[1], count));
        }
      }
    }
  }

  // --- products with transposed weights --------------------------------------------------------

  // c[rows][vectors] (+)= d_gates, slots slot.. of kCount gates, times a panel of `vectors`.
  template <class K, int kCount>
  MR_INLINE void transposed_tile(int vectors, int slot, int64_t r, int m, int wide,
                                 const typename K::Operand* panel, Operands<K>& o) const {
    constexpr bool kFromCopies = K::kPair > 1;
    constexpr int kStride = kFromCopies ? kRowOf<K> : kRow;
    o.k = this->template depth_of<K>(slot, kCount);
    if constexpr (kFromCopies) {
      o.a = gate_operand(0, r, slot);
      o.a_block = capacity * kRowOf<K>;
      o.block = K::kBlock;
    } else {
      o.a = d_gates + r * kRow + slot * kVector;
      o.a_block = capacity * kRow;
      o.block = kCount * kVector;
    }
    o.b = panel;
    o.b_vector = size_of_vector<K>(o.k);
    o.b_panel = vectors * o.b_vector;
    switch (vectors) {
      case 1: return Tile<K>::template run<1, kStride, 1, 1 * kVector>(m, wide, o);
      case 2: return Tile<K>::template run<2, kStride, 1, 2 * kVector>(m, wide, o);
      case 3: return Tile<K>::template run<3, kStride, 1, 3 * kVector>(m, wide, o);
      default: return Tile<K>::template run<4, kStride, 1, 4 * kVector>(m, wide, o);
    }
  }

  // Panel q of the transposed weights of `count` gates, all but the last `panel_width` blocks wide.
  template <class K>
  const typename K::Operand* panel_of(const typename K::Operand* panels, int64_t panel_width, int slot,
                                      int count, int64_t q) const {
    return panels + q * panel_width * size_of_vector<K>(this->template depth_of<K>(slot, count));
  }
  const typename Step::Operand* recurrent_panel(int slot, int count, int64_t q) const {
    return panel_of<Step>(recurrent_panels(slot), width, slot, count, q);
  }

  // f(panel, its vectors, panels) over the panels of a step. One or two rows take several of full width at
  // once, unless `one_by_one`.
  template <class F>
  MR_INLINE void for_panels(Range panels, int64_t s, bool one_by_one, const F& f) const {
    const int64_t n = group.live[s];
    const bool several = n <= 2 && !one_by_one, back = this->goes_back(s) && !several;
    for (int64_t left = panels.end - panels.begin; left > 0;) {
      const int64_t q = back ? panels.begin + left - 1 : panels.end - left;
      const int vectors = static_cast<int>(least(width, unit_blocks - q * width));
      int wide = several ? StepTile::panels_at_once(static_cast<int>(n), vectors) : 1;
      if (wide > left || (q + wide) * vectors > unit_blocks) wide = 1;
      f(q, vectors, wide);
      left -= wide;
    }
  }

  // d_h += the part that passes through recurrent_kernel; for LSTM there is no other. The gradients of
  // step s's gates begin at row r of the chunk.
  template <int kCount>
  void recurrent_product(Range panels, int64_t s, int64_t r) const {
    // Matrix registers write sixteen rows, also over rows that still wait for their last step.
    if (kStepCopies || p.recurrent_dropout_gates > 0) return buffered_product<kCount>(panels, s, r);
    Operands<Step> o;
    o.c_row = kVector;
    o.c_vector = rows * kVector;
    o.c_panel = width * rows * kVector;
    o.accumulate = !CellT::kState;
    for_panels(panels, s, false, [&](int64_t q, int vectors, int wide) {
      StepTile::template each<kWidest>(group.live[s], [&](int64_t i, int m) {
        o.c = d_h + (q * width * rows + i) * kVector;
        transposed_tile<Step, kCount>(vectors, 0, r + i, m, wide, recurrent_panel(0, kCount, q), o);
      });
    });
  }

  // The same by way of a buffer, where the operand of each gate may have had a dropout mask.
  template <int kCount>
  void buffered_product(Range panels, int64_t s, int64_t r) const {
    Operands<Step> o;
    o.accumulate = false;
    o.c_vector = kVector;
    o.c_panel = 0;
    for_panels(panels, s, true, [&](int64_t q, int vectors, int) {
      o.c_row = vectors * kVector;
      StepTile::template each<kWidest>(group.live[s], [&](int64_t i, int m) {
        alignas(64) Real product[kProduct<Step>];
        o.c = product;
        for (int j = 0; j < kCount; ++j) {
          if (each_recurrent_gate) {
            transposed_tile<Step, 1>(vectors, j, r + i, m, 1, recurrent_panel(j, 1, q), o);
          } else if (j == 0) {
            transposed_tile<Step, kCount>(vectors, 0, r + i, m, 1, recurrent_panel(0, kCount, q), o);
          } else {
            break;
          }
          const int64_t d = each_recurrent_gate ? CellT::recurrent_gate(j) : 0;
          const bool masked = p.recurrent_dropout_gates > 0, overwrite = CellT::kState && j == 0;
          const Storage* masks = this->in(p.recurrent_dropout) + d * p.batch * p.units;
          for (int v = 0; v < vectors; ++v) {
            const int64_t u = q * width + v, mask_row = p.units;
            const int count = this->unit_count(u);
            const int64_t* row = &group.row[i];
            Real* to = d_h + (u * rows + i) * kVector;
            const Real* from = product + v * kVector;
            for (int k = 0; k < m; ++k, to += kVector, from += o.c_row) {
              V part = load(from);
              if (masked) part = part * load_first(masks + row[k] * mask_row + u * kVector, count);
              store(to, overwrite ? part : load(to) + part);
            }
          }
        }
      });
    });
  }

  // d(r * h) = d_x_h @ candidate's recurrent_kernel^T, before its mask.
  void reset_product(Range panels, int64_t s, int64_t r) const {
    Operands<Step> o;
    o.c_row = kVector;
    o.c_vector = buffers.rows * kVector;
    o.c_panel = 0;
    o.accumulate = false;
    for_panels(panels, s, true, [&](int64_t q, int vectors, int) {
      StepTile::template each<kWidest>(group.live[s], [&](int64_t i, int m) {
        o.c = this->at(buffers.d_reset_h) + (q * width * buffers.rows + i) * kVector;
        transposed_tile<Step, 1>(vectors, 2, r + i, m, 1, recurrent_panel(2, 1, q), o);
      });
    });
  }

  // d_inputs of the chunk's rows, this part's share.
  void input_gradients(int part, int64_t begin, int64_t end) const {
    const Range mine = share_of(group.offset[end] - group.offset[begin], part, parts);
    const int64_t panel_width = layout.feature_panel;
    Operands<Chunk> o;
    o.accumulate = false;
    o.c_vector = kVector;
    o.c_panel = 0;
    for (int64_t q = 0; q * panel_width < feature_blocks; ++q) {
      const int vectors = static_cast<int>(least(panel_width, feature_blocks - q * panel_width));
      o.c_row = vectors * kVector;
      Tile<Chunk>::template each<kWidest>(mine.end - mine.begin, [&](int64_t i, int m) {
        alignas(64) Real product[kProduct<Chunk>], sum[kProduct<Chunk>];
        o.c = product;
        const int64_t r = mine.begin + i;
        const int64_t masks = p.input_dropout_gates;
        const int64_t* source = &group.input[group.offset[begin] + r];
        for (int g = 0; g < (each_input_gate ? G : 1); ++g) {
          const int count = each_input_gate ? 1 : G;
          const int slot = CellT::kKernelSlot + g;
          const auto* panel = panel_of<Chunk>(kernel_panels(g), panel_width, slot, count, q);
          if (each_input_gate) {
            transposed_tile<Chunk, 1>(vectors, slot, r, m, 1, panel, o);
          } else {
            transposed_tile<Chunk, G>(vectors, slot, r, m, 1, panel, o);
          }
          if (masks == 0) break;
          for (int k = 0; k < m; ++k) {
            for (int v = 0; v < vectors; ++v) {
              const int64_t at = (k * vectors + v) * kVector;
              const V masked = load(product + at) *
                               this->dropout(p.input_dropout, g, source[k] / p.time,
                                             q * panel_width + v, p.features);
              store(sum + at, g == 0 ? masked : load(sum + at) + masked);
            }
          }
        }
        for (int k = 0; k < m; ++k) {
          Storage* row = this->out(job.gradients.d_inputs) + source[k] * p.features;
          for (int v = 0; v < vectors; ++v) {
            const int64_t f = q * panel_width + v;
            store_first(row + f * kVector,
                        load((masks ? sum : product) + (k * vectors + v) * kVector),
                        first_of(p.features, f));
          }
        }
      });
    }
  }
};

}  // namespace
}  // namespace masked_rnn
