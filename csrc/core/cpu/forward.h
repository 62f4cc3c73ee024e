// Forward: pack weights, then step by step product and pointwise phase.
#pragma once

#include "kernel.h"
#include "tile_in_place.h"

namespace masked_rnn {
namespace {

template <class CellT, class Acts, class Storage>
struct Forward : Worker<Storage> {
  using Base = Worker<Storage>;
  using Step = typename Base::Step;
  using Chunk = typename Base::Chunk;
  using StepTile = Tile<Step>;
  using ChunkTile = Tile<Chunk>;
  static constexpr bool kOneKind = is_same<Step, Chunk>;  // not where floats are split into planes
  static constexpr bool kInPlace = is_same<Storage, Real> && is_same<Step, Reals>;
  using Base::group, Base::job, Base::p, Base::parts, Base::rows, Base::unit_blocks;
  static constexpr int G = CellT::kGates, S = CellT::kSlots;
  // Gates of the first product of a step: the candidate of reset before has its own.
  static constexpr int kTogether = CellT::kResetBefore ? 2 : G;
  // The largest tile: of one vector, two panels.
  static constexpr int kProduct = 2 * StepTile::most_rows(1) * G * kVector;

  // Bytes of recurrent weights that a core's L2 cache keeps from step to step. More of them come from
  // the L3 cache: fetched a panel ahead, a step of 512 units takes 5 % less time on two cores.
  static constexpr int64_t kNear = 1 << 20;

  Forward(const Job& job, Member& member, int group_index)
      : Base(job, member, group_index),
        acts(p),
        layout(*job.forward_layout),
        buffers(layout.groups[this->group_index]),
        training(job.reserve != nullptr),
        each_input_gate(p.input_dropout_gates > 1),
        each_recurrent_gate(p.recurrent_dropout_gates > 1) {
    const int64_t steps_kept = training ? group.real_steps() : 2 * rows;
    state_block = steps_kept * kVector;
    if (training) {
      const auto& reserve = job.reserve_layout->groups[this->group_index];
      h_base = this->reserve_at(reserve.h);
      c_base = this->reserve_at(reserve.c);
      saved_base = this->reserve_at(reserve.saved);
    } else {
      h_base = this->at(buffers.h);
      c_base = this->at(buffers.c);
    }
  }

  const Acts acts;
  const ForwardLayout& layout;
  const ForwardLayout::PerGroup& buffers;
  const bool training, each_input_gate, each_recurrent_gate;
  Real *h_base, *c_base, *saved_base = nullptr;
  int64_t state_block;

  static void run(const Job& job, Member& member) {
    [[maybe_unused]] const MatrixRegisters registers{};
    const Forward shared(job, member, 0);
    member.each(job.threads(), [&](int share) { shared.pack_weights(share); });
    if (job.split.parts > 1) {
      shared.time_loop();
    } else {
      member.each(job.split.groups, [&](int g) { Forward(job, member, g).time_loop(); });
    }
    member.each(job.threads(), [&](int share) { shared.finish_empty_rows(share); });
  }

  void time_loop() const {
    for (int64_t begin = 0; begin < group.steps();) {
      this->member.ask_for_more();
      const int64_t end = chunk_end(group, begin, forward_chunk(Chunk::kPlanes));
      const int64_t start = group.offset[begin];
      this->each_part([&](int part) {
        if (begin == 0) start_states(units_of(part));
        if (singles(begin) < group.offset[end] - start) {
          this->template gather_inputs<Chunk>(part, start, group.offset[end], buffers.capacity,
                                              inputs());
        }
        if (singles(begin) > 0) {
          this->template gather_inputs<Reals>(part, group.first_single(), group.live[0],
                                              group.singles(), single_inputs());
        }
      });
      const bool alone = projects_with_step(begin, end);
      for (int64_t s = begin; s < end; ++s) {
        this->each_part([&](int part) {
          const Range units = units_of(part);
          fetch_others_states(units, s);
          if (s == begin && !alone) project(units, group.offset[end] - start, singles(begin));
          step(units, s, group.offset[s] - start, alone);
        });
        if constexpr (CellT::kResetBefore) {
          this->each_part([&](int part) {
            candidate_step(units_of(part), s, group.offset[s] - start);
          });
        }
      }
      begin = end;
    }
    this->each_part([&](int part) {
      const Range mine = share_of(rows, part, parts);
      for (int64_t i = mine.begin; i < mine.end; ++i) finish_row(group.row[i]);
    });
  }

  Range units_of(int part) const { return share_of(unit_blocks, part, parts); }

  // Where the state before step s lies; block u is u * state_block further.
  int64_t state_offset(int64_t s) const {
    return (training ? group.offset[s] : (s & 1) * rows) * kVector;
  }

  // Rows of the chunk from step `begin` whose inputs are multiplied as floats where those of others are
  // planes: of one real step only. Calls of one step, one after the other on a stream, then pack nothing:
  // 1,1,256,256 takes a third of the time. By that a row's bits still depend on the row alone.
  int64_t singles(int64_t begin) const {
    return !kOneKind && begin == 0 ? group.singles() : 0;
  }
  Real* single_inputs() const { return this->at(buffers.single_inputs); }
  Real* kernel_for_singles() const { return this->at(layout.kernel_for_singles); }

  typename Chunk::Operand* inputs() const {
    return this->template operands_at<Chunk>(buffers.inputs);
  }
  typename Chunk::Operand* kernel() const {
    return this->template operands_at<Chunk>(layout.kernel);
  }
  typename Step::Operand* recurrent_kernel() const {
    return this->template operands_at<Step>(layout.recurrent_kernel);
  }

  // Whether no row is multiplied with a packed kernel.
  bool packs_no_kernel() const {
    if (kOneKind) return layout.in_place;
    for (const Group& g : job.schedule->groups) {
      if (g.first_single() > 0) return false;
    }
    return true;
  }
  // Whether kernel is packed before the first step. In a call of few steps a group that is alone packs
  // planes of it only when they are multiplied, while they are in the cache: LSTM 1,2,512,512 1.2 times
  // as fast.
  bool packs_kernel_first() const { return !layout.in_place || job.split.groups > 1; }

  void pack_kernel(Range units) const {
    if (!kOneKind && layout.packs_for_singles) {
      this->template pack<Reals>(p.kernel, p.features, G, 0, G, units, kernel_for_singles());
    }
    if (packs_no_kernel()) return;
    if (each_input_gate) {
      const int64_t gate = unit_blocks * size_of_vector<Chunk>(p.features);  // one gate's panels
      for (int g = 0; g < G; ++g) {
        this->template pack<Chunk>(p.kernel, p.features, G, g, 1, units, kernel() + g * gate);
      }
    } else if (packs_kernel_first()) {
      this->template pack<Chunk>(p.kernel, p.features, G, 0, G, units, kernel());
    }
  }

  void pack_weights(int share) const {
    const Range mine = share_of(unit_blocks, share, job.threads());
    pack_kernel(mine);
    const int64_t recurrent_gate = unit_blocks * size_of_vector<Step>(p.units);
    const int together = each_recurrent_gate ? 1 : kTogether;
    for (int g = 0; g < G && !layout.in_place; g += g < kTogether ? together : 1) {
      this->template pack<Step>(p.recurrent_kernel, p.units, G, g, g < kTogether ? together : 1, mine,
                                recurrent_kernel() + g * recurrent_gate);
    }
    for (int64_t u = mine.begin; u < mine.end; ++u) {
      for (int g = 0; g < G; ++g) store(this->at(layout.bias) + (u * G + g) * kVector, bias(u, g));
      store(this->at(layout.recurrent_bias) + u * kVector,
            CellT::kCell == Cell::kGru ? bias_row(u, G + 2) : zeros());
    }
  }

  V bias_row(int64_t u, int row) const {
    if (p.bias == nullptr) return zeros();
    return load_first(this->in(p.bias) + row * p.units + u * kVector, this->unit_count(u));
  }
  // GRU's two biases of z and r only ever appear as a sum.
  V bias(int64_t u, int g) const {
    if (CellT::kCell == Cell::kGru && g < 2) return bias_row(u, g) + bias_row(u, G + g);
    return bias_row(u, g);
  }

  void start_states(Range units) const {
    for (int64_t u = units.begin; u < units.end; ++u) {
      for (int64_t i = 0; i < rows; ++i) {
        put_state(h_base, p.initial_h, u, i);
        if (CellT::kState) put_state(c_base, p.initial_c, u, i);
        put_dropped(0, u, i, load(h_base + u * state_block + i * kVector));
      }
    }
    if (Step::kPair == 1 || units.end < unit_blocks) return;
    for (int64_t s = 0; s < 2; ++s) {
      for (int64_t d = 0; d < h_copies(); ++d) {
        this->template fill_half_block<Step>(dropped(s, d), unit_blocks, buffers.rows, {0, rows});
      }
    }
    if (CellT::kResetBefore) {
      this->template fill_half_block<Step>(reset_h(), unit_blocks, buffers.rows, {0, rows});
    }
  }

  void put_state(Real* base, const void* initial, int64_t u, int64_t i) const {
    const V v = initial == nullptr ? zeros()
                                   : load_first(this->in(initial) + group.row[i] * p.units +
                                                    u * kVector,
                                                this->unit_count(u));
    store(base + u * state_block + i * kVector, v);
  }

  // The operands of step s's products where h itself is none: h times its dropout masks, or a
  // rounded copy. Two steps alternate. Past the last unit they are zero.
  bool copies_h() const { return Step::kPair > 1 || p.recurrent_dropout_gates > 0; }

  MR_INLINE void put_dropped(int64_t s, int64_t u, int64_t i, V h) const {
    const int64_t at = block_offset<Step>(u, i, buffers.rows);
    if (p.recurrent_dropout_gates > 0) return put_masked(dropped(s, 0) + at, u, i, h);
    if (Step::kPair > 1) Step::store_block(dropped(s, 0) + at, keep_first(h, this->unit_count(u)));
  }
  __attribute__((noinline)) void put_masked(typename Step::Operand* to, int64_t u, int64_t i, V h) const {
    const int count = this->unit_count(u);
    const int64_t gates = p.recurrent_dropout_gates, next_mask = p.batch * p.units;
    const int64_t next = size_of_rows<Step>(unit_blocks, buffers.rows);
    const Storage* mask = this->in(p.recurrent_dropout) + group.row[i] * p.units + u * kVector;
    for (int64_t d = 0; d < gates; ++d, to += next, mask += next_mask) {
      const V masked = h * load_first(mask, count);
      Step::store_block(to, Step::kPair > 1 ? keep_first(masked, count) : masked);
    }
  }
  int64_t h_copies() const { return p.recurrent_dropout_gates > 0 ? p.recurrent_dropout_gates : 1; }
  typename Step::Operand* dropped(int64_t s, int64_t d) const {
    return this->template operands_at<Step>(buffers.dropped_h) +
           ((s & 1) * h_copies() + d) * size_of_rows<Step>(unit_blocks, buffers.rows);
  }
  typename Step::Operand* reset_h() const { return this->template operands_at<Step>(buffers.reset_h); }

  // The state of other parts' units comes from their cores' caches. Asked for at once: the product would wait
  // for a few lines at a time. GRU 8,1000,64,256 on two cores: 5 %.
  void fetch_others_states(Range units, int64_t s) const {
    if (parts == 1 || copies_h()) return;
    for (int64_t u = 0; u < unit_blocks; ++u) {
      if (u >= units.begin && u < units.end) continue;
      const Real* h = h_base + u * state_block + state_offset(s);
      for (int64_t i = 0; i < group.live[s]; ++i) __builtin_prefetch(h + i * kVector);
    }
  }

  // A step that fills a chunk alone multiplies its inputs tile by tile, beside the states: their
  // projection written and read again takes 4 % of LSTM 256,50,128,256.
  bool projects_with_step(int64_t begin, int64_t end) const {
    return kOneKind && !CellT::kResetBefore && !each_input_gate && !each_recurrent_gate &&
           !layout.in_place && end == begin + 1 && group.live[begin] > 2;
  }

  // c[panel][row][G][V] = inputs @ kernel for `panels` unit blocks and m of the `capacity` rows at `a`.
  template <class K>
  MR_INLINE void input_product(const typename K::Operand* a, int64_t capacity,
                               const typename K::Operand* kernel, int64_t u, int panels, int64_t row,
                               int m, int64_t c_panel, Real* c) const {
    Operands<K> o;
    o.a = a + row * kRowOf<K>;
    o.a_block = capacity * kRowOf<K>;
    o.block = K::kBlock;
    o.b_vector = size_of_vector<K>(p.features);
    o.b_panel = G * o.b_vector;
    o.b = kernel + u * o.b_panel;
    o.c = c;
    o.c_row = G * kVector;
    o.c_vector = kVector;
    o.c_panel = c_panel;
    o.k = p.features;
    o.accumulate = false;
    Tile<K>::template run<G, kRowOf<K>, 1, G * kVector>(m, panels, o);
  }

  // projection[u][row][g] = inputs[row] @ kernel for some units and n rows.
  void project(Range units, int64_t n, int64_t singles) const {
    if constexpr (kInPlace) {
      if (kOneKind && layout.in_place) {
        return project_in_place(units, reinterpret_cast<const Real*>(inputs()), buffers.capacity, 0, n);
      }
    }
    if (singles < n) project_packed(units, n);  // of singles too: few, beside others
    if constexpr (kInPlace) {
      if (singles > 0 && layout.packs_for_singles) {
        project_rows<Reals>(units, single_inputs(), singles, kernel_for_singles(), group.first_single(),
                            singles);
      } else if (singles > 0) {
        project_in_place(units, single_inputs(), singles, group.first_single(), singles);
      }
    }
  }

  void project_packed(Range units, int64_t n) const {
    const int64_t capacity = buffers.capacity;
    if (each_input_gate) {
      Operands<Chunk> o;
      o.a_block = capacity * kRowOf<Chunk>;
      o.block = Chunk::kBlock;
      o.b_panel = size_of_vector<Chunk>(p.features);
      o.c_row = G * kVector;
      o.c_vector = kVector;
      o.c_panel = capacity * G * kVector;
      o.k = p.features;
      o.accumulate = false;
      for_panels<ChunkTile, 1>(units, n, false, [&](int64_t u, int panels, int64_t i, int m) {
        for (int g = 0; g < G; ++g) {
          o.a = inputs() + g * size_of_rows<Chunk>(this->feature_blocks, capacity) + i * kRowOf<Chunk>;
          o.b = kernel() + (g * unit_blocks + u) * o.b_panel;
          o.c = projection_of(u, i) + g * kVector;
          ChunkTile::template run<1, kRowOf<Chunk>, 1, kVector>(m, panels, o);
        }
      });
      return;
    }
    const auto multiply = [&](Range some, const typename Chunk::Operand* kernel) {
      project_rows<Chunk>(some, inputs(), capacity, kernel, 0, n);
    };
    if (packs_kernel_first()) return multiply(units, kernel());
    this->by_four(units, [&](Range some) {
      // All in the place of the first.
      typename Chunk::Operand* panels =
          kernel() + (units.begin - some.begin) * G * size_of_vector<Chunk>(p.features);
      this->template pack<Chunk>(p.kernel, p.features, G, 0, G, some, panels);
      multiply(some, panels);
    });
  }

  // The same for `n` rows from `first` on, whose operands are the first of `capacity`.
  template <class K>
  void project_rows(Range units, const typename K::Operand* operands, int64_t capacity,
                    const typename K::Operand* kernel, int64_t first, int64_t n) const {
    for_panels<Tile<K>, G>(units, n, false, [&](int64_t u, int panels, int64_t i, int m) {
      input_product<K>(operands, capacity, kernel, u, panels, i, m, buffers.capacity * G * kVector,
                       projection_of(u, first + i));
    });
  }
  void project_in_place(Range units, const Real* operands, int64_t capacity, int64_t first,
                        int64_t n) const {
    const int64_t block = capacity * kVector;
    Tile<Reals>::template each<1>(n, [&](int64_t i, int m) {
      const auto multiply = [&](const Real* a, int gate, int count) {
        product_in_place(p.kernel, p.features, units, gate, count, a + i * kVector, block, m,
                         buffers.capacity * G * kVector,
                         projection_of(units.begin, first + i) + gate * kVector);
      };
      if (!each_input_gate) return multiply(operands, 0, G);
      for (int g = 0; g < G; ++g) multiply(operands + g * this->feature_blocks * block, g, 1);
    });
  }

  // c[unit block][row][G][V] = a @ weights in place, for gates first.. of some units.
  void product_in_place(const void* weights, int64_t k, Range units, int first, int count, const Real* a,
                        int64_t a_block, int m, int64_t c_vector, Real* c) const {
    InPlace o;
    o.a = a;
    o.a_block = a_block;
    o.b = static_cast<const Real*>(weights) + first * p.units + units.begin * kVector;
    o.width = G * p.units;
    o.b_gate = p.units;
    o.vectors = units.end - units.begin;
    o.last = this->unit_count(units.end - 1);
    o.gates = count;
    o.c = c;
    o.c_row = G * kVector;
    o.c_vector = c_vector;
    o.c_gate = kVector;
    o.k = k;
    multiply_in_place(m, o);
  }

  // The same for the states before step s, or for what reset leaves of them; then f(unit block, first row,
  // rows, product) for each block.
  template <class F>
  __attribute__((noinline)) void step_in_place(Range units, int64_t s, int first, int count,
                                               const F& f) const {
    if constexpr (kInPlace) {
      constexpr int64_t kOfBlock = kRowsInPlace * G * kVector;
      Real* product = this->at(buffers.product) + units.begin * kOfBlock;
      Tile<Reals>::template each<1>(group.live[s], [&](int64_t i, int m) {
        const Rows a = step_rows(first == 2, s, i);
        product_in_place(p.recurrent_kernel, p.units, units, first, count, a.at, a.block, m, kOfBlock,
                         product);
        for (int64_t u = units.begin; u < units.end; ++u) {
          f(u, i, m, product + (u - units.begin) * kOfBlock);
        }
      });
    }
  }

  // Operands of a step's product from row i on, and how far it is to their next block.
  struct Rows {
    const typename Step::Operand* at;
    int64_t block;
  };
  MR_INLINE Rows step_rows(bool reset, int64_t s, int64_t i) const {
    const int64_t row = i * kRowOf<Step>, block = buffers.rows * kRowOf<Step>;
    if (CellT::kResetBefore && reset) return {reset_h() + row, block};
    if (copies_h()) return {dropped(s, 0) + row, block};
    // Not reached where operands are no Reals.
    return {reinterpret_cast<const typename Step::Operand*>(h_base + state_offset(s) + i * kVector),
            state_block};
  }

  // From panel to panel of a step's product of m rows.
  static constexpr int64_t of_panel(int m) { return StepTile::rows_written(m) * G * kVector; }

  // c[panel][row][G][V] = h @ recurrent_kernel for gates first.. of `panels` unit blocks.
  template <int kCount>
  MR_INLINE void recurrent_product(Range units, int first, int64_t s, int64_t u, int panels,
                                   int64_t i, int m, Real* c) const {
    Operands<Step> o;
    o.block = Step::kBlock;
    o.a_block = buffers.rows * kRowOf<Step>;
    o.b_vector = size_of_vector<Step>(p.units);
    o.c_row = G * kVector;
    o.c_vector = kVector;
    o.c_panel = of_panel(m);
    o.k = p.units;
    o.accumulate = false;
    const typename Step::Operand* weights = recurrent_kernel() + first * unit_blocks * o.b_vector;
    const bool reset_operand = CellT::kResetBefore && first == 2;
    if (each_recurrent_gate && !reset_operand) {
      o.b_panel = o.b_vector;
      for (int g = 0; g < kCount; ++g) {
        o.a = dropped(s, first + g) + i * kRowOf<Step>;
        o.b = weights + (g * unit_blocks + u) * o.b_vector;
        o.c = c + g * kVector;
        StepTile::template run<1, kRowOf<Step>, 1, kVector>(m, panels, o);
      }
      return;
    }
    const Rows rows_of = step_rows(reset_operand, s, i);
    o.a = rows_of.at;
    o.a_block = rows_of.block;
    o.b_panel = kCount * o.b_vector;
    o.b = weights + u * o.b_panel;
    o.c = c;
    const int64_t bytes = (units.end - units.begin) * o.b_panel * int64_t{sizeof(*o.b)};
    if (StepTile::kFetchesNext && bytes > kNear) {
      constexpr int64_t kLine = 64 / int64_t{sizeof(*o.b)};
      const int64_t fetched = i / m * whole_depth<Step>(p.units) * kLine;  // by the tiles before
      const int64_t next = this->goes_back(s) ? u - 1 : u + 1;
      if (fetched < o.b_panel && next >= units.begin && next < units.end) {
        o.next = weights + next * o.b_panel + fetched;
      }
    }
    StepTile::template run<kCount, kRowOf<Step>, 1, kCount * kVector>(m, panels, o);
  }

  // One packed step for some units. Its rows start at `chunk_row` of the projection, or `alone` at
  // that of the inputs. For reset before its first half.
  void step(Range units, int64_t s, int64_t chunk_row, bool alone) const {
    const int64_t live = group.live[s];
    const bool back = this->goes_back(s);
    const auto pointwise = [&](int64_t u, int64_t i, int m, const Real* projection, Real* product) {
      if constexpr (CellT::kResetBefore) {
        gates_phase(s, u, i, m, chunk_row, product);
      } else {
        phase(s, u, i, m, projection, product);
      }
    };
    if (layout.in_place) {
      return step_in_place(units, s, 0, kTogether, [&](int64_t u, int64_t i, int m, Real* product) {
        pointwise(u, i, m, projection_of(u, chunk_row + i), product);
      });
    }
    const auto multiply = [&](int64_t u, int panels, int64_t i, int m) {
      alignas(64) Real product[kProduct], projection[kProduct];
      if constexpr (kOneKind) {
        if (alone) {
          input_product<Chunk>(inputs(), buffers.capacity, kernel(), u, panels, i, m, of_panel(m), projection);
        }
      }
      recurrent_product<kTogether>(units, 0, s, u, panels, i, m, product);
      for (int w = 0; w < panels; ++w) {
        pointwise(u + w, i, m, alone ? projection + w * of_panel(m) : projection_of(u + w, chunk_row + i),
                  product + w * of_panel(m));
      }
    };
    if (each_recurrent_gate) {
      for_panels<StepTile, 1>(units, live, back, multiply);
    } else {
      for_panels<StepTile, kTogether>(units, live, back, multiply);
    }
  }

  void candidate_step(Range units, int64_t s, int64_t chunk_row) const {
    const int64_t live = group.live[s];
    const bool back = this->goes_back(s);
    if (layout.in_place) {
      return step_in_place(units, s, 2, 1, [&](int64_t u, int64_t i, int m, Real* product) {
        candidate_phase(s, u, i, m, chunk_row, product);
      });
    }
    for_panels<StepTile, 1>(units, live, back, [&](int64_t u, int panels, int64_t i, int m) {
      alignas(64) Real product[kProduct];
      recurrent_product<1>(units, 2, s, u, panels, i, m, product);
      for (int w = 0; w < panels; ++w) {
        candidate_phase(s, u + w, i, m, chunk_row, product + w * of_panel(m));
      }
    });
  }

  // f(first unit block, blocks, first row, rows) over some units and n rows. A panel of weights
  // serves all rows before the next is touched.
  template <class T, int kCount, class F>
  MR_INLINE void for_panels(Range units, int64_t n, bool back, const F& f) const {
    const int wide = T::panels_at_once(static_cast<int>(least(n, T::most_rows(kCount))), kCount);
    for (int64_t left = units.end - units.begin; left > 0;) {
      const int panels = T::panels_of_tile(left, wide);
      const int64_t u = back ? units.begin + left - panels : units.end - left;
      T::template each<kCount>(n, [&](int64_t i, int m) { f(u, panels, i, m); });
      left -= panels;
    }
  }

  Real* projection_of(int64_t u, int64_t chunk_row) const {
    return this->at(buffers.projection) + (u * buffers.capacity + chunk_row) * G * kVector;
  }
  Real* saved_of(int64_t u, int64_t n) const {
    return saved_base + (u * group.real_steps() + n) * S * kVector;
  }

  // The pointwise phases take what they need of this object out of their loops: the compiler must
  // assume that a store changes it. They are part of the loops over tiles: to call them takes 1 to 3 %.
  // In two passes over the rows, as one row's functions wait for each other and a machine holds but
  // one or two rows in flight: 51 cycles a row of GRU's units instead of 65 on Zen 4. `product`
  // takes the gate values in between.
  MR_INLINE void phase(int64_t s, int64_t u, int64_t first, int m, const Real* projection,
                       Real* product) const {
    constexpr int kFirst = CellT::kFirst;
    V bias[G];
    MR_UNROLL
    for (int g = 0; g < G; ++g) bias[g] = load(this->at(layout.bias) + (u * G + g) * kVector);
    const V recurrent_bias = load(this->at(layout.recurrent_bias) + u * kVector);
    const Real* h = h_base + u * state_block + state_offset(s);
    const Real* c = CellT::kState ? c_base + u * state_block + state_offset(s) : h;
    Real* to = training ? saved_of(u, group.offset[s]) : nullptr;
    const Acts own_acts = acts;
    const Results put = results(s, u);
    for (int k = 0; kFirst > 0 && k < m; ++k) {
      put_soon(put, first + k);
      V x[kFirst + 1], r[kFirst + 1], gate[kFirst + 1], saved[S];
      MR_UNROLL
      for (int g = 0; g < kFirst; ++g) {
        x[g] = load(projection + (k * G + g) * kVector) + bias[g];
        r[g] = load(product + (k * G + g) * kVector);
      }
      CellT::first(own_acts, x, r, gate, saved);
      MR_UNROLL
      for (int g = 0; g < kFirst; ++g) {
        store(product + (k * G + g) * kVector, gate[g]);
        if (to != nullptr) store(to + ((first + k) * S + g) * kVector, saved[g]);
      }
    }
    constexpr int last = G - 1;
    for (int k = 0; k < m; ++k) {
      const int64_t i = first + k;
      V gate[kFirst + 1], saved[S], c_new = zeros();
      MR_UNROLL
      for (int g = 0; g < kFirst; ++g) gate[g] = load(product + (k * G + g) * kVector);
      const V x = load(projection + (k * G + last) * kVector) + bias[last];
      V r = load(product + (k * G + last) * kVector);
      if constexpr (CellT::kCell == Cell::kGru) r = r + recurrent_bias;
      const V h_new = CellT::rest(own_acts, gate, x, r, load(h + i * kVector),
                                  load(c + i * kVector), saved, c_new);
      MR_UNROLL
      for (int g = kFirst; g < S; ++g) {
        if (to != nullptr) store(to + (i * S + g) * kVector, saved[g]);
      }
      put_results(put, s, u, i, h_new, c_new);
    }
  }

  // Reset before, first half: z is left in the projection, r * h (dropped) in reset_h.
  MR_INLINE void gates_phase(int64_t s, int64_t u, int64_t first, int m, int64_t chunk_row,
                             const Real* product) const {
    if constexpr (CellT::kResetBefore) {
      Real* projection = projection_of(u, chunk_row + first);
      const Real* bias = this->at(layout.bias) + u * G * kVector;
      const Real* h = h_base + u * state_block + state_offset(s);
      for (int k = 0; k < m; ++k, projection += G * kVector, product += G * kVector) {
        const int64_t i = first + k;
        V x[2], r[2], saved[2];
        for (int g = 0; g < 2; ++g) {
          x[g] = load(projection + g * kVector) + load(bias + g * kVector);
          r[g] = load(product + g * kVector);
        }
        V reset = CellT::forward_gates(acts, x, r, load(h + i * kVector), saved);
        if (p.recurrent_dropout_gates > 0) {
          reset = reset * this->dropout(p.recurrent_dropout, p.recurrent_dropout_gates - 1,
                                        group.row[i], u, p.units);
        }
        store(projection, saved[0]);
        Step::store_block(reset_h() + block_offset<Step>(u, i, buffers.rows),
                          keep_first(reset, Step::kPair > 1 ? this->unit_count(u) : kVector));
        if (training) {
          Real* to = saved_of(u, group.offset[s] + i);
          store(to, saved[0]);
          store(to + kVector, saved[1]);
        }
      }
    }
  }

  void candidate_phase(int64_t s, int64_t u, int64_t first, int m, int64_t chunk_row,
                       const Real* product) const {
    if constexpr (CellT::kResetBefore) {
      const Real* projection = projection_of(u, chunk_row + first);
      const V bias = load(this->at(layout.bias) + (u * G + 2) * kVector);
      const Real* h = h_base + u * state_block + state_offset(s);
      const Results put = results(s, u);
      for (int k = 0; k < m; ++k, projection += G * kVector, product += G * kVector) {
        const int64_t i = first + k;
        V saved;
        const V h_new = CellT::forward_candidate(
            acts, load(projection + 2 * kVector) + bias, load(product), load(projection),
            load(h + i * kVector), saved);
        if (training) store(saved_of(u, group.offset[s] + i) + 2 * kVector, saved);
        put_results(put, s, u, i, h_new, zeros());
      }
    }
  }

  // Where a step's results of a unit block go.
  struct Results {
    int count;                  // units
    int64_t units;              // of a row
    Storage* outputs;           // null = not returned
    const int64_t* output_row;  // of row i
    int64_t live_after;         // rows whose state goes to the next step
    Real *next_h, *next_c;
    bool copies_h;
  };

  Results results(int64_t s, int64_t u) const {
    Results r;
    r.count = this->unit_count(u);
    r.units = p.units;
    r.outputs = p.return_sequences ? this->out(job.results.outputs) + u * kVector : nullptr;
    r.output_row = group.output.data() + group.offset[s];
    r.live_after = group.live_after(s);
    const int64_t next = u * state_block + state_offset(s + 1);
    r.next_h = h_base + next;
    r.next_c = CellT::kState ? c_base + next : nullptr;
    r.copies_h = copies_h();
    return r;
  }

  // Outputs of a step lie far from each other: have their lines come while the gates are computed.
  MR_INLINE void put_soon(const Results& to, int64_t i) const {
    if (to.outputs != nullptr) __builtin_prefetch(to.outputs + to.output_row[i] * to.units, 1);
  }

  // The output of this step, and the state: to the next step, or to the caller after a row's last.
  MR_INLINE void put_results(const Results& to, int64_t s, int64_t u, int64_t i, V h, V c) const {
    if (to.outputs != nullptr) {
      store_first(to.outputs + to.output_row[i] * to.units, h, to.count);
    }
    if (i < to.live_after) {
      store(to.next_h + i * kVector, h);
      if (CellT::kState) store(to.next_c + i * kVector, c);
      if (to.copies_h) put_dropped(s + 1, u, i, h);
    } else {
      const int64_t state = group.row[i] * to.units + u * kVector;
      store_first(this->out(job.results.state_h) + state, h, to.count);
      if (CellT::kState) store_first(this->out(job.results.state_c) + state, c, to.count);
    }
  }

  // Rows without a real step keep their state.
  void finish_empty_rows(int share) const {
    const Range mine = share_of(p.batch, share, job.threads());
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      if (job.schedule->count[b] > 0) continue;
      keep_initial(p.initial_h, job.results.state_h, b);
      if (CellT::kState) keep_initial(p.initial_c, job.results.state_c, b);
      finish_row(b);
    }
  }

  void keep_initial(const void* initial, void* state, int64_t b) const {
    const size_t bytes = p.units * sizeof(Storage);
    Storage* to = this->out(state) + b * p.units;
    if (initial == nullptr) {
      memset(to, 0, bytes);
    } else {
      memcpy(to, this->in(initial) + b * p.units, bytes);
    }
  }

  // Masked outputs, or the last output.
  void finish_row(int64_t b) const {
    if (p.return_sequences) return this->fill_masked_outputs(b);
    const size_t bytes = p.units * sizeof(Storage);
    Storage* to = this->out(job.results.outputs) + b * p.units;
    if (this->last_output_is_state(b)) {
      memcpy(to, this->out(job.results.state_h) + b * p.units, bytes);
    } else {
      memset(to, 0, bytes);
    }
  }
};

}  // namespace
}  // namespace masked_rnn
