// All steps of a chunk in one launch, forward and backward: a block keeps the weights of its units
// in shared memory, and what its units need of the others at a step passes through L2. The blocks
// that share rows meet once a step (reset before: twice); a block that has all units meets nobody.
// Formulas, arguments and what is left in memory are those of step.cuh. Products here are exact,
// multiply-adds of float or double; resident_matrix.cuh has those that round their operands.
#pragma once

#include "step.cuh"

namespace masked_rnn::cuda {

template <class R>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(R);
  R v[kSize];
};

// The rows of this block's group: every gridDim.y-th of the sorted ones.
MR_INLINE int64_t row_of_group(int row) {
  return blockIdx.y + static_cast<int64_t>(row) * gridDim.y;
}
MR_INLINE int rows_of_group(int64_t live) {
  const int64_t first = blockIdx.y;
  return live > first ? static_cast<int>((live - first - 1) / gridDim.y) + 1 : 0;
}

// The meetings of a group's blocks.
class Group {
 public:
  MR_INLINE explicit Group(unsigned* arrived) : arrived_(arrived + blockIdx.y * kBarrierWords) {}
  MR_INLINE void arrive() {
    if (gridDim.x > 1) cuda::arrive(arrived_);
    expected_ += gridDim.x;
  }
  MR_INLINE void wait() const {
    if (gridDim.x > 1) {
      wait_for(arrived_, expected_);
    } else {
      __syncthreads();
    }
  }

 private:
  unsigned* const arrived_;
  unsigned expected_ = 0;
};

// put(row, k, load(row, k)) for `rows` rows of `depth` vectors, by all threads.
template <class R, class Load, class Put>
MR_INLINE void stage(int rows, int depth, const Load& load, const Put& put) {
  constexpr int kBatch = 4;  // loads that are under way at once
  int row = static_cast<int>(threadIdx.x) / depth, k = static_cast<int>(threadIdx.x) % depth;
  const int row_step = kResidentThreads / depth, k_step = kResidentThreads % depth;
  while (row < rows) {
    Vector<R> values[kBatch];
    int to_row[kBatch], to_k[kBatch];
    MR_UNROLL for (int b = 0; b < kBatch; ++b) {
      to_row[b] = row;
      to_k[b] = k;
      if (row < rows) values[b] = load(row, k);
      row += row_step;
      k += k_step;
      if (k >= depth) {
        k -= depth;
        ++row;
      }
    }
    MR_UNROLL for (int b = 0; b < kBatch; ++b) {
      if (to_row[b] < rows) put(to_row[b], to_k[b], values[b]);
    }
  }
}

// Vector k of a row of `size` elements that other blocks wrote; zeros past its end.
template <class R>
MR_INLINE Vector<R> vector_of(const R* row, int k, int size) {
  constexpr int n = Vector<R>::kSize;
  if (size % n == 0) return load_shared_by_blocks(reinterpret_cast<const Vector<R>*>(row) + k);
  Vector<R> value;
  MR_UNROLL for (int j = 0; j < n; ++j) {
    value.v[j] = k * n + j < size ? __ldcg(row + k * n + j) : R(0);
  }
  return value;
}

// --- forward -------------------------------------------------------------------------------------

// A lane's place in a product: `lanes` lanes lie along units, each with every `lanes`-th unit of a
// span of kUnits * lanes; the others along rows, each with every `row_lanes`-th row.
template <class CellT>
struct ForwardLanes {
  static constexpr int kUnits = resident_units(CellT::kCell);

  MR_INLINE explicit ForwardLanes(int units)
      : lanes(units / kUnits < kWarp ? units / kUnits : kWarp),
        row_lanes(kWarp / lanes),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        unit(lane % lanes),
        row(lane / lanes) {}
  MR_INLINE int span() const { return kUnits * lanes; }

  const int lanes, row_lanes, warp, lane, unit, row;
};

// sum[c][r] = sum over k of rows[r * row_stride + k] * weights[k * width + c * column_stride], in
// the order of k, for the first kRows rows. Where each gate has its dropout, the columns of gate g,
// kUnits each, take the copy of the operand g * copy_stride further on.
template <int kRows, int kColumns, int kUnits, bool kCopies, class R>
MR_INLINE void lane_product(const Vector<R>* rows, int row_stride, int copy_stride,
                            const Vector<R>* weights, int width, int column_stride, int depth,
                            R (&sum)[kColumns][kResidentRows]) {
  for (int k = 0; k < depth; ++k) {
    Vector<R> w[kColumns];
    MR_UNROLL for (int c = 0; c < kColumns; ++c) w[c] = weights[k * width + c * column_stride];
    MR_UNROLL for (int r = 0; r < kRows; ++r) {
      Vector<R> x = rows[r * row_stride + k];
      MR_UNROLL for (int c = 0; c < kColumns; ++c) {
        if (kCopies && c > 0 && c % kUnits == 0) {
          x = rows[r * row_stride + k + c / kUnits * copy_stride];
        }
        MR_UNROLL for (int j = 0; j < Vector<R>::kSize; ++j) {
          sum[c][r] = fma_of(x.v[j], w[c].v[j], sum[c][r]);
        }
      }
    }
  }
}

// The same for `active` rows: no more of them are multiplied than the next power of two.
template <int kRows, int kColumns, int kUnits, bool kCopies, class R>
MR_INLINE void active_product(int active, const Vector<R>* rows, int row_stride, int copy_stride,
                              const Vector<R>* weights, int width, int column_stride, int depth,
                              R (&sum)[kColumns][kResidentRows]) {
  if constexpr (kRows > 1) {
    if (active <= kRows / 2) {
      active_product<kRows / 2, kColumns, kUnits, kCopies>(
          active, rows, row_stride, copy_stride, weights, width, column_stride, depth, sum);
      return;
    }
  }
  lane_product<kRows, kColumns, kUnits, kCopies>(rows, row_stride, copy_stride, weights, width,
                                                 column_stride, depth, sum);
}

// A forward block's shared memory, and the products that it takes from there.
template <class CellT, class Storage>
class ForwardBlock {
 public:
  using R = Real<Storage>;
  static constexpr int G = CellT::kGates;
  using Lanes = ForwardLanes<CellT>;
  static constexpr int kUnits = Lanes::kUnits;

  MR_INLINE ForwardBlock(unsigned char* memory, const ResidentForward& a)
      : lanes_(a.share.units),
        share_(a.share),
        H_(static_cast<int>(a.step.call.problem.units)),
        depth_((H_ + Vector<R>::kSize - 1) / Vector<R>::kSize),
        weights_(reinterpret_cast<Vector<R>*>(memory)),
        operand_(weights_ + share_.operands),
        sums_(reinterpret_cast<R*>(weights_ + share_.sums)) {}

  // Columns by span, gate and unit; zero past the last unit and the last state.
  MR_INLINE void load_weights(const R* recurrent_kernel) const {
    constexpr int n = Vector<R>::kSize;
    const int width = G * share_.units, span = lanes_.span();
    const int64_t first = static_cast<int64_t>(blockIdx.x) * share_.units;
    for (int e = static_cast<int>(threadIdx.x); e < depth_ * width; e += kResidentThreads) {
      const int k = e / width, column = e % width, gate = column / span % G;
      const int64_t unit = first + column / (G * span) * span + column % span;
      Vector<R> value;
      MR_UNROLL for (int j = 0; j < n; ++j) {
        const int row = k * n + j;
        value.v[j] = row < H_ && unit < H_
                         ? recurrent_kernel[(static_cast<int64_t>(row) * G + gate) * H_ + unit]
                         : R(0);
      }
      weights_[e] = value;
    }
  }

  // work(sorted row, unit) for this thread's share of the group's first `active` rows.
  template <class Work>
  MR_INLINE void each(int active, const Work& work) const {
    for (int row = own_row(); row < active; row += share_.rows) {
      for (int64_t u = unit0(); u < unit0() + share_.units && u < H_; u += lanes_.lanes) {
        work(row_of_group(row), u);
      }
    }
  }

  // The products of gates [kFirst, kFirst + kGates) for the `rows` rows of the group from row0 on,
  // and then formulas(sorted row, unit, its operands, its sums) for what of them is this thread's.
  // Vector k of copy d of a sorted row's operand is load(d, row, k).
  template <int kFirst, int kGates, class Load, class Formulas>
  MR_INLINE void work_on(const ForwardStep& step, int copies, int row0, int rows, const Load& load,
                         const Formulas& formulas) const {
    for (int d = 0; d < copies; ++d) {
      Vector<R>* to = operand_ + d * share_.rows * share_.stride;
      stage<R>(rows, depth_,
               [&](int row, int k) { return load(d, row_of_group(row0 + row), k); },
               [&](int row, int k, const Vector<R>& x) { to[row * share_.stride + k] = x; });
    }
    __syncthreads();
    const int64_t i = row_of_group(row0 + own_row());
    const bool has_row = own_row() < rows;
    for (int span = 0; span * lanes_.span() < share_.units; ++span) {
      const int64_t u0 = unit0() + span * lanes_.span();
      ForwardOperands<CellT, R> operands[kUnits];  // on their way while the product is made
      MR_UNROLL for (int c = 0; c < kUnits; ++c) {
        if (has_row && u0 + c * lanes_.lanes < H_) {
          operands[c] = forward_operands<CellT, Storage>(step, i, u0 + c * lanes_.lanes);
        }
      }
      R total[kGates * kUnits];
      multiply<kGates>(rows, copies, span, kFirst, total);
      MR_UNROLL for (int c = 0; c < kUnits; ++c) {
        if (!has_row || u0 + c * lanes_.lanes >= H_) continue;
        R sum[kGates];
        MR_UNROLL for (int g = 0; g < kGates; ++g) sum[g] = total[g * kUnits + c];
        formulas(i, u0 + c * lanes_.lanes, operands[c], sum);
      }
      __syncthreads();
    }
  }

 private:
  // The products of gates [first_gate, first_gate + kGates) for the units of a span; `total` is
  // that of this thread: row warp * row_lanes + row, units unit + c % kUnits * lanes of gate
  // c / kUnits.
  template <int kGates>
  MR_INLINE void multiply(int rows, int copies, int span, int first_gate,
                          R (&total)[kGates * kUnits]) const {
    constexpr int kColumns = kGates * kUnits;
    const int width = G * share_.units, active = (rows + lanes_.row_lanes - 1) / lanes_.row_lanes;
    const int begin = lanes_.warp * share_.part < depth_ ? lanes_.warp * share_.part : depth_;
    const int count = depth_ - begin < share_.part ? depth_ - begin : share_.part;
    const int column = (span * G + first_gate) * lanes_.span() + lanes_.unit;
    const Vector<R>* operand = operand_ + lanes_.row * share_.stride + begin;
    const Vector<R>* weights = weights_ + begin * width + column;
    const int row_stride = lanes_.row_lanes * share_.stride;
    R sum[kColumns][kResidentRows] = {};
    if (copies > 1) {
      active_product<kResidentRows, kColumns, kUnits, true>(
          active, operand, row_stride, share_.rows * share_.stride, weights, width, lanes_.lanes,
          count, sum);
    } else {
      active_product<kResidentRows, kColumns, kUnits, false>(
          active, operand, row_stride, 0, weights, width, lanes_.lanes, count, sum);
    }
    MR_UNROLL for (int c = 0; c < kColumns; ++c) {
      MR_UNROLL for (int r = 0; r < kResidentRows; ++r) {
        *sum_at<kColumns>(lanes_.warp, c, r) = sum[c][r];
      }
    }
    __syncthreads();
    MR_UNROLL for (int c = 0; c < kColumns; ++c) {
      total[c] = 0;
      MR_UNROLL for (int w = 0; w < kResidentWarps; ++w) {
        total[c] += *sum_at<kColumns>(w, c, lanes_.warp);
      }
    }
  }

  // The first unit of this thread in a span, and its row in a tile of rows.
  MR_INLINE int64_t unit0() const {
    return static_cast<int64_t>(blockIdx.x) * share_.units + lanes_.unit;
  }
  MR_INLINE int own_row() const { return lanes_.warp * lanes_.row_lanes + lanes_.row; }
  template <int kColumns>
  MR_INLINE R* sum_at(int warp, int column, int row) const {
    return sums_ + ((warp * kColumns + column) * kResidentRows + row) * kWarp + lanes_.lane;
  }

  const Lanes lanes_;
  const Share& share_;
  const int H_, depth_;
  Vector<R>* const weights_;
  Vector<R>* const operand_;
  R* const sums_;
};

// All steps, by blocks of type Block.
template <class CellT, class Acts, class Storage, class Block>
MR_INLINE void forward_steps(const ResidentForward& a) {
  using R = Real<Storage>;
  constexpr int kTogether = CellT::kResetBefore ? 2 : CellT::kGates, n = Vector<R>::kSize;
  MR_SHARED(memory);
  ForwardStep step = a.step;
  const Problem& p = step.call.problem;
  const Steps& steps = step.call.steps;
  const int H = static_cast<int>(p.units);
  const Block block(memory, a);
  const Acts acts(p);
  Group group(a.share.arrived);
  block.load_weights(static_cast<const R*>(step.recurrent_kernel));

  const int copies = p.recurrent_dropout_gates > 1 ? kTogether : 1;
  for (step.step = step.call.first; step.step < step.call.end; ++step.step) {
    const int active = rows_of_group(live(steps, step.step));
    if (active == 0) break;
    if (step.step > step.call.first) {
      // This thread's share of the projection comes into L2 while the others are waited for.
      block.each(active, [&](int64_t i, int64_t u) {
        const R* x = projection_of<CellT, Storage>(step, i) + u;
        MR_UNROLL for (int g = 0; g < CellT::kGates; ++g) prefetch_to_l2(x + g * H);
      });
      group.wait();
    }
    for (int row0 = 0; row0 < active; row0 += a.share.rows) {
      const int rows = active - row0 < a.share.rows ? active - row0 : a.share.rows;
      const R* h = static_cast<const R*>(step.states.h);
      block.template work_on<0, kTogether>(
          step, copies, row0, rows,
          [&](int d, int64_t i, int k) {
            Vector<R> x = vector_of(h + state_row(step.call, step.states, step.step, i) * H, k, H);
            if (p.recurrent_dropout != nullptr) {
              MR_UNROLL for (int j = 0; j < n; ++j) {
                if (k * n + j < H) {
                  x.v[j] *= dropout_at<Storage>(p.recurrent_dropout, p, d, steps.row[i], H,
                                                k * n + j);
                }
              }
            }
            return x;
          },
          [&](int64_t i, int64_t u, const ForwardOperands<CellT, R>& operands, R* sum) {
            forward_formulas<CellT, Acts, Storage>(step, acts, i, u, operands, sum);
          });
    }
    if constexpr (CellT::kResetBefore) {
      group.arrive();
      group.wait();
      for (int row0 = 0; row0 < active; row0 += a.share.rows) {
        const int rows = active - row0 < a.share.rows ? active - row0 : a.share.rows;
        const R* reset_h = static_cast<const R*>(step.reset_h);
        block.template work_on<2, 1>(
            step, 1, row0, rows,
            [&](int, int64_t i, int k) { return vector_of(reset_h + i * H, k, H); },
            [&](int64_t i, int64_t u, const ForwardOperands<CellT, R>& operands, R* sum) {
              candidate_formulas<CellT, Acts, Storage>(step, acts, i, u, operands, sum[0]);
            });
      }
    }
    group.arrive();
  }
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kResidentThreads, 1) resident_forward(ResidentForward a) {
  forward_steps<CellT, Acts, Storage, ForwardBlock<CellT, Storage>>(a);
}

// --- backward ------------------------------------------------------------------------------------

// What all slices sent for unit u of sorted row i, added up in their order.
template <class R>
MR_INLINE R received(const ResidentBackward& a, int half, int64_t i, int64_t u) {
  constexpr int kBatch = 32;  // loads that are under way at once
  const int64_t H = a.step.call.problem.units, slice = a.step.call.problem.batch * H;
  const R* from = static_cast<const R*>(a.d_states) + half * gridDim.x * slice + i * H + u;
  R sum = 0;
  for (unsigned x = 0; x < gridDim.x; x += kBatch) {
    R parts[kBatch];
    MR_UNROLL for (int j = 0; j < kBatch; ++j) {
      parts[j] = x + j < gridDim.x ? __ldcg(from + (x + j) * slice) : R(0);
    }
    MR_UNROLL for (int j = 0; j < kBatch; ++j) sum += parts[j];
  }
  return sum;
}

// A backward block's shared memory, and what it sends to all states. Slots are those of d_gates
// that have a recurrent product: as many as gates.
template <class CellT, class Storage>
class BackwardBlock {
 public:
  using R = Real<Storage>;
  static constexpr int G = CellT::kGates;

  MR_INLINE BackwardBlock(unsigned char* memory, const ResidentBackward& a)
      : a_(a),
        H_(static_cast<int>(a.step.call.problem.units)),
        depth_(a.share.units / Vector<R>::kSize),
        weights_(reinterpret_cast<Vector<R>*>(memory)),
        operand_(weights_ + a.share.operands) {}

  // By slot, unit and state; zero past the last unit.
  MR_INLINE void load_weights(const R* recurrent_kernel) const {
    constexpr int n = Vector<R>::kSize;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * a_.share.units;
    for (int e = static_cast<int>(threadIdx.x); e < G * depth_ * H_; e += kResidentThreads) {
      const int k = e % depth_, state = e / depth_ % H_, slot = e / (depth_ * H_);
      const R* row = recurrent_kernel +
                     (static_cast<int64_t>(state) * G + CellT::recurrent_gate(slot)) * H_;
      Vector<R> value;
      MR_UNROLL for (int j = 0; j < n; ++j) {
        value.v[j] = first + k * n + j < H_ ? row[first + k * n + j] : R(0);
      }
      weights_[(slot * depth_ + k) * H_ + state] = value;
    }
  }

  // The gradient of a slot for a row of the tile, a unit of the block.
  MR_INLINE void put(int row, int slot, int unit, R d) const {
    constexpr int n = Vector<R>::kSize;
    operand_[row * a_.share.stride + slot * depth_ + unit / n].v[unit % n] = d;
  }

  // Multiplies slots [kFirst, kFirst + kCount) of the tile's rows with the weights, for all states.
  // With kDropout each slot's product gets its dropout mask.
  // What is sent goes to one half of d_states while others may still read the other.
  template <int kFirst, int kCount, bool kDropout>
  MR_INLINE void send(int half, int row0, int rows) const {
    constexpr int kColumns = kResidentColumns * static_cast<int>(sizeof(float)) / sizeof(R);
    // Few states: each lane takes one, so that all warps have work.
    const int blocks_of_rows = (rows + kResidentRows - 1) / kResidentRows;
    if ((H_ + kColumns * kWarp - 1) / (kColumns * kWarp) * blocks_of_rows >= kResidentWarps) {
      send_columns<kFirst, kCount, kDropout, kColumns>(half, row0, rows);
    } else {
      send_columns<kFirst, kCount, kDropout, 1>(half, row0, rows);
    }
  }

 private:
  template <int kFirst, int kCount, bool kDropout, int kColumns>
  MR_INLINE void send_columns(int half, int row0, int rows) const {
    const int blocks = (H_ + kColumns * kWarp - 1) / (kColumns * kWarp);
    const int pieces = blocks * ((rows + kResidentRows - 1) / kResidentRows);
    for (int piece = static_cast<int>(threadIdx.x) / kWarp; piece < pieces;
         piece += kResidentWarps) {
      const int first = piece / blocks * kResidentRows;
      send_active<kResidentRows, kFirst, kCount, kDropout, kColumns>(
          half, rows - first, row0, first, piece % blocks * kColumns * kWarp);
    }
  }

  template <int kRows, int kFirst, int kCount, bool kDropout, int kColumns>
  MR_INLINE void send_active(int half, int active, int row0, int first, int column0) const {
    if constexpr (kRows > 1) {
      if (active <= kRows / 2) {
        send_active<kRows / 2, kFirst, kCount, kDropout, kColumns>(half, active, row0, first,
                                                                   column0);
        return;
      }
    }
    const Problem& p = a_.step.call.problem;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    R total[kRows][kColumns] = {}, sum[kRows][kColumns] = {};
    for (int slot = kFirst; slot < kFirst + kCount; ++slot) {
      for (int k = 0; k < depth_; ++k) {
        const Vector<R>* weights = weights_ + (slot * depth_ + k) * H_;
        Vector<R> w[kColumns];
        MR_UNROLL for (int c = 0; c < kColumns; ++c) {
          const int column = column0 + c * kWarp + lane;
          w[c] = weights[column < H_ ? column : H_ - 1];
        }
        MR_UNROLL for (int r = 0; r < kRows; ++r) {
          const Vector<R> x = operand_[(first + r) * a_.share.stride + slot * depth_ + k];
          MR_UNROLL for (int c = 0; c < kColumns; ++c) {
            MR_UNROLL for (int j = 0; j < Vector<R>::kSize; ++j) {
              sum[r][c] = fma_of(x.v[j], w[c].v[j], sum[r][c]);
            }
          }
        }
      }
      if (kDropout && p.recurrent_dropout_gates > 1) {
        add_dropped<kRows, kColumns>(active, row0 + first, column0 + lane,
                                     CellT::recurrent_gate(slot), sum, total);
      }
    }
    if (!kDropout || p.recurrent_dropout_gates <= 1) {
      add_dropped<kRows, kColumns>(active, row0 + first, column0 + lane, kDropout ? 0 : -1, sum,
                                   total);
    }
    const int64_t slice = p.batch * H_;
    R* to = static_cast<R*>(a_.d_states) + (half * gridDim.x + blockIdx.x) * slice;
    MR_UNROLL for (int r = 0; r < kRows; ++r) {
      MR_UNROLL for (int c = 0; c < kColumns; ++c) {
        const int column = column0 + c * kWarp + lane;
        if (r < active && column < H_) {
          to[row_of_group(row0 + first + r) * H_ + column] = total[r][c];
        }
      }
    }
  }

  // total += sum times mask d (none where d < 0), and sum begins again.
  template <int kRows, int kColumns>
  MR_INLINE void add_dropped(int active, int row, int column, int d, R (&sum)[kRows][kColumns],
                             R (&total)[kRows][kColumns]) const {
    const Problem& p = a_.step.call.problem;
    MR_UNROLL for (int r = 0; r < kRows; ++r) {
      MR_UNROLL for (int c = 0; c < kColumns; ++c) {
        R mask = 1;
        if (d >= 0 && p.recurrent_dropout != nullptr && r < active && column + c * kWarp < H_) {
          mask = dropout_at<Storage>(p.recurrent_dropout, p, d,
                                     a_.step.call.steps.row[row_of_group(row + r)], H_,
                                     column + c * kWarp);
        }
        total[r][c] += sum[r][c] * mask;
        sum[r][c] = 0;
      }
    }
  }

  const ResidentBackward& a_;
  const int H_, depth_;
  Vector<R>* const weights_;
  Vector<R>* const operand_;
};

template <class CellT, class Acts, class Storage, class Block>
MR_INLINE void backward_steps(const ResidentBackward& a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots;
  MR_SHARED(memory);
  BackwardStep step = a.step;
  const Steps& steps = step.call.steps;
  const int H = static_cast<int>(step.call.problem.units), units = a.share.units;
  const Block block(memory, a);
  const Acts acts(step.call.problem);
  Group group(a.share.arrived);
  block.load_weights(static_cast<const R*>(step.recurrent_kernel));
  __syncthreads();
  const int64_t unit0 = static_cast<int64_t>(blockIdx.x) * units;
  R* const d_h = static_cast<R*>(step.d_h);

  // work(row of the tile, sorted row, unit of the block, unit) by this thread, for its share of a
  // tile; each has the same share at every step.
  const auto each = [&](int row0, int rows, const auto& work) {
    for (int e = static_cast<int>(threadIdx.x); e < rows * units; e += kResidentThreads) {
      work(e / units, row_of_group(row0 + e / units), e % units, unit0 + e % units);
    }
  };
  const auto tile = [&](int active, int row0) {
    return active - row0 < a.share.rows ? active - row0 : a.share.rows;
  };

  // What the formulas will read comes into L2 while the others are waited for.
  const auto prefetch = [&](int active) {
    each(0, active, [&](int, int64_t i, int, int64_t u) {
      if (u >= H) return;
      const int64_t n = steps.offset[step.step] + i;
      MR_UNROLL for (int j = 0; j < S; ++j) {
        prefetch_to_l2(static_cast<const R*>(step.saved) + (n * S + j) * H + u);
      }
      prefetch_to_l2(static_cast<const R*>(step.h) + n * H + u);
      if (CellT::kState) prefetch_to_l2(static_cast<const R*>(step.c) + n * H + u);
    });
  };

  int sent = 0;  // rows for which the step after this one has sent something
  int half = 0;  // where that is
  for (step.step = step.call.end - 1; step.step >= step.call.first; --step.step) {
    const int active = rows_of_group(live(steps, step.step));
    if (active == 0) continue;
    if (sent > 0) {
      prefetch(active);
      group.wait();
    }
    for (int row0 = 0; row0 < active; row0 += a.share.rows) {
      const int rows = tile(active, row0);
      each(row0, rows, [&](int row, int64_t i, int unit, int64_t u) {
        R d[S] = {};
        if (u < H) {
          const auto operands = backward_operands<CellT, Storage>(step, i, u);
          R d_state = d_h[i * H + u];
          if (row0 + row < sent) d_state += received<R>(a, half, i, u);
          d_h[i * H + u] =
              backward_formulas<CellT, Acts, Storage>(step, acts, i, u, operands, d_state, d);
        }
        MR_UNROLL for (int slot = 0; slot < G; ++slot) {
          if (!CellT::kResetBefore || slot == 2) block.put(row, slot, unit, d[slot]);
        }
      });
      __syncthreads();
      if constexpr (CellT::kResetBefore) {
        block.template send<2, 1, false>(half ^ 1, row0, rows);
      } else {
        block.template send<0, G, true>(half ^ 1, row0, rows);
      }
      __syncthreads();
    }
    half ^= 1;
    if constexpr (CellT::kResetBefore) {
      group.arrive();
      group.wait();
      for (int row0 = 0; row0 < active; row0 += a.share.rows) {
        const int rows = tile(active, row0);
        each(row0, rows, [&](int row, int64_t i, int unit, int64_t u) {
          R d[S] = {};
          if (u < H) {
            const auto operands = backward_operands<CellT, Storage>(step, i, u);
            const int64_t local = operands.n - steps.offset[step.call.first];
            d[0] = static_cast<const R*>(step.d_gates)[local * S * H + u];
            reset_formulas<CellT, Acts, Storage>(step, acts, i, u, operands,
                                                 received<R>(a, half, i, u), d);
          }
          block.put(row, 0, unit, d[0]);
          block.put(row, 1, unit, d[1]);
        });
        __syncthreads();
        block.template send<0, 2, true>(half ^ 1, row0, rows);
        __syncthreads();
      }
      half ^= 1;
    }
    sent = active;
    group.arrive();
  }
  if (sent == 0) return;
  group.wait();
  each(0, sent, [&](int, int64_t i, int, int64_t u) {
    if (u < H) d_h[i * H + u] += received<R>(a, half, i, u);
  });
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kResidentThreads, 1) resident_backward(ResidentBackward a) {
  backward_steps<CellT, Acts, Storage, BackwardBlock<CellT, Storage>>(a);
}

}  // namespace masked_rnn::cuda
