// One packed step, forward and backward: the recurrent product of a tile of rows and units, then
// the cell's formulas on it. Right for any size and cell; weights are read again at every step.
#pragma once

#include "rows.cuh"

#include "cells.h"  // after the functions that it asks for

namespace masked_rnn::cuda {

// sum[r][g] = sum over k of row(g, i, k) * weight(g, u, k) for this thread's rows i and unit u.
// One operand of rows serves all gates where `copies` is one. The order of k is fixed, so a row's
// sums do not depend on what else is in the tile. Four k at once: with eight, compilers move
// registers to memory.
template <int kCount, bool kDeepWeights, class R, class Row, class Weight>
MR_INLINE void step_product(R* shared, int64_t depth, int copies, const Row& row,
                            const Weight& weight, R (&sum)[kStepRowsPerThread][kCount]) {
  constexpr int kRowStride = kStepRows + 1, kUnitStride = kStepUnits + 1;
  R* rows = shared;                                       // [copies][kStepDepth][kRowStride]
  R* weights = rows + kCount * kStepDepth * kRowStride;   // [kCount][kStepDepth][kUnitStride]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  MR_UNROLL for (int r = 0; r < kStepRowsPerThread; ++r) {
    MR_UNROLL for (int g = 0; g < kCount; ++g) sum[r][g] = 0;
  }
  for (int64_t k0 = 0; k0 < depth; k0 += kStepDepth) {
    const int count = depth - k0 < kStepDepth ? static_cast<int>(depth - k0) : kStepDepth;
    for (int e = thread; e < copies * kStepRows * kStepDepth; e += kStepThreads) {
      const int k = e % kStepDepth, i = e / kStepDepth % kStepRows;
      const int g = e / (kStepDepth * kStepRows);
      rows[(g * kStepDepth + k) * kRowStride + i] = k < count ? row(g, i, k0 + k) : R(0);
    }
    for (int e = thread; e < kCount * kStepUnits * kStepDepth; e += kStepThreads) {
      const int g = e / (kStepUnits * kStepDepth), inner = e % (kStepUnits * kStepDepth);
      const int k = kDeepWeights ? inner % kStepDepth : inner / kStepUnits;
      const int u = kDeepWeights ? inner / kStepDepth : inner % kStepUnits;
      weights[(g * kStepDepth + k) * kUnitStride + u] = k < count ? weight(g, u, k0 + k) : R(0);
    }
    __syncthreads();
    MR_UNROLL_BY_4 for (int k = 0; k < kStepDepth; ++k) {  // past `count` are zeros
      MR_UNROLL for (int g = 0; g < kCount; ++g) {
        const R w = weights[(g * kStepDepth + k) * kUnitStride + lane];
        const R* operand = rows + ((copies > 1 ? g : 0) * kStepDepth + k) * kRowStride;
        MR_UNROLL for (int r = 0; r < kStepRowsPerThread; ++r) {
          sum[r][g] = fma_of(operand[warp * kStepRowsPerThread + r], w, sum[r][g]);
        }
      }
    }
    __syncthreads();
  }
}

// Row r of a thread's sums. They are registers, which no index picks at run time; and formulas are
// too long to be compiled once for each row.
template <class R, int kCount>
struct SumsOfRow {
  MR_INLINE SumsOfRow(const R (&sum)[kStepRowsPerThread][kCount], int r) {
    MR_UNROLL for (int g = 0; g < kCount; ++g) {
      value[g] = sum[0][g];
      MR_UNROLL for (int q = 1; q < kStepRowsPerThread; ++q) {
        if (q == r) value[g] = sum[q][g];
      }
    }
  }
  R value[kCount];
};

MR_INLINE int32_t live_rows(const Steps& steps, int64_t step) {
  return static_cast<int32_t>(live(steps, step));
}

// Where a thread stands: its block's first row and unit, its own unit and first row. In 32 bits, as
// in 64 they took up to 24 more registers of a thread.
struct StepTile {
  int32_t row0, unit0, unit, row;
};
MR_INLINE StepTile step_tile() {
  StepTile t;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  t.row0 = static_cast<int32_t>(blockIdx.x) * kStepRows;
  t.unit0 = static_cast<int32_t>(blockIdx.y) * kStepUnits;
  t.unit = t.unit0 + thread % kWarp;
  t.row = t.row0 + thread / kWarp * kStepRowsPerThread;
  return t;
}

// Bias of a gate's input. GRU's two biases of z and r only appear as a sum.
template <class CellT, class Storage>
MR_INLINE Real<Storage> bias_of(const Problem& p, int gate, int64_t u) {
  Real<Storage> bias = value_at<Storage>(p.bias, gate * p.units + u);
  if (CellT::kCell == Cell::kGru && gate < 2) {
    bias += value_at<Storage>(p.bias, (CellT::kGates + gate) * p.units + u);
  }
  return bias;
}

// Forward's x of a gate.
template <class CellT, class Storage>
MR_INLINE Real<Storage> input_of(const Problem& p, const Real<Storage>* projection, int gate,
                                 int64_t u) {
  return projection[gate * p.units + u] + bias_of<CellT, Storage>(p, gate, u);
}

// Where row i of a step has its projection (all gates), and what forward keeps of its unit u.
template <class CellT, class Storage>
MR_INLINE const Real<Storage>* projection_of(const ForwardStep& a, int64_t i) {
  const Steps& steps = a.call.steps;
  return static_cast<const Real<Storage>*>(a.projection) +
         (steps.offset[a.step] - steps.offset[a.call.first] + i) * CellT::kGates *
             a.call.problem.units;
}
template <class CellT, class Storage>
MR_INLINE Real<Storage>* saved_of(const ForwardStep& a, int64_t i, int64_t u) {
  const int64_t row = a.states.packed ? a.call.steps.offset[a.step] + i : i;
  return static_cast<Real<Storage>*>(a.saved) + row * CellT::kSlots * a.call.problem.units + u;
}

// The dropout of reset before's r * h, unit u of sorted row i.
template <class Storage>
MR_INLINE Real<Storage> reset_dropout(const Call& call, int64_t i, int64_t u) {
  const Problem& p = call.problem;
  return dropout_at<Storage>(p.recurrent_dropout, p, p.recurrent_dropout_gates - 1,
                             call.steps.row[i], p.units, u);
}

// Where the results of sorted row i go: row b of the batch, row `output` of [B*T].
struct Destination {
  int64_t b, output;
  bool last;  // of the row's steps
};
MR_INLINE Destination destination(const ForwardStep& a, int64_t i) {
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  Destination d;
  d.b = steps.row[i];
  d.output = d.b * p.time + steps.position[d.b * p.time + a.step];
  d.last = a.step + 1 >= p.time || i >= live(steps, a.step + 1);
  return d;
}

// The new state goes to the next step, or to the caller after a row's last; the output too.
template <class Storage>
MR_INLINE void put_results(const ForwardStep& a, int64_t i, int64_t u, const Destination& to_row,
                           Real<Storage> h, Real<Storage> c) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const int64_t b = to_row.b;
  if (p.return_sequences) {
    put(static_cast<Storage*>(a.results.outputs)[to_row.output * p.units + u], h);
  }
  if (!to_row.last) {
    const int64_t to = state_row(a.call, a.states, a.step + 1, i) * p.units + u;
    static_cast<R*>(a.states.h)[to] = h;
    if (a.states.c != nullptr) static_cast<R*>(a.states.c)[to] = c;
  } else {
    put(static_cast<Storage*>(a.results.state_h)[b * p.units + u], h);
    if (a.states.c != nullptr) put(static_cast<Storage*>(a.results.state_c)[b * p.units + u], c);
  }
}

// What the formulas of unit u of sorted row i take beside the recurrent product.
template <class CellT, class R>
struct ForwardOperands {
  R x[CellT::kGates], h, c;
  Destination destination;
};
template <class CellT, class Storage>
MR_INLINE ForwardOperands<CellT, Real<Storage>> forward_operands(const ForwardStep& a, int64_t i,
                                                                int64_t u) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const R* projection = projection_of<CellT, Storage>(a, i);
  const int64_t state = state_row(a.call, a.states, a.step, i) * p.units + u;
  ForwardOperands<CellT, R> operands;
  MR_UNROLL for (int g = 0; g < CellT::kGates; ++g) {
    operands.x[g] = input_of<CellT, Storage>(p, projection, g, u);
  }
  operands.h = static_cast<const R*>(a.states.h)[state];
  operands.c = CellT::kState ? static_cast<const R*>(a.states.c)[state] : R(0);
  operands.destination = destination(a, i);
  return operands;
}

// The formulas of a step; of reset before the first half, which leaves z (and r) in `saved` and
// r * h in reset_h.
template <class CellT, class Acts, class Storage>
MR_INLINE void forward_formulas(const ForwardStep& a, const Acts& acts, int64_t i, int64_t u,
                                const ForwardOperands<CellT, Real<Storage>>& operands,
                                Real<Storage>* sum) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots;
  const int64_t H = a.call.problem.units;
  R* keep = a.saved == nullptr ? nullptr : saved_of<CellT, Storage>(a, i, u);
  R saved[S] = {};
  if constexpr (CellT::kResetBefore) {
    const R reset_h = CellT::forward_gates(acts, operands.x, sum, operands.h, saved);
    static_cast<R*>(a.reset_h)[i * H + u] = reset_h * reset_dropout<Storage>(a.call, i, u);
    for (int j = 0; j < 2; ++j) keep[j * H] = saved[j];
  } else {
    if (CellT::kCell == Cell::kGru) {
      sum[2] += value_at<Storage>(a.call.problem.bias, (G + 2) * H + u);
    }
    R c = 0;
    const R h = CellT::forward(acts, operands.x, sum, operands.h, operands.c, saved, c);
    if (keep != nullptr) {
      for (int j = 0; j < S; ++j) keep[j * H] = saved[j];
    }
    put_results<Storage>(a, i, u, operands.destination, h, c);
  }
}

// Reset before, second half: from the candidate's product.
template <class CellT, class Acts, class Storage>
MR_INLINE void candidate_formulas(const ForwardStep& a, const Acts& acts, int64_t i, int64_t u,
                                  const ForwardOperands<CellT, Real<Storage>>& operands,
                                  Real<Storage> sum) {
  using R = Real<Storage>;
  R* saved = saved_of<CellT, Storage>(a, i, u);
  const R h = CellT::forward_candidate(acts, operands.x[2], sum, saved[0], operands.h,
                                       saved[2 * a.call.problem.units]);
  put_results<Storage>(a, i, u, operands.destination, h, R(0));
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) forward_step(ForwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, kTogether = CellT::kResetBefore ? 2 : G;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int32_t rows = live_rows(steps, a.step);
  const int64_t H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const R* h = static_cast<const R*>(a.states.h);
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][kTogether];
  step_product<kTogether, false>(
      reinterpret_cast<R*>(memory), H, p.recurrent_dropout_gates > 1 ? kTogether : 1,
      [&](int g, int i, int64_t k) {
        const int32_t row = t.row0 + i;
        if (row >= rows) return R(0);
        return h[state_row(a.call, a.states, a.step, row) * H + k] *
               dropout_at<Storage>(p.recurrent_dropout, p, g, steps.row[row], H, k);
      },
      [&](int g, int u, int64_t k) {
        const int32_t unit = t.unit0 + u;
        return unit < H ? weights[(k * G + g) * H + unit] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int32_t i = t.row + r;
    if (i >= rows) return;
    SumsOfRow<R, kTogether> own(sum, r);
    forward_formulas<CellT, Acts, Storage>(
        a, acts, i, t.unit, forward_operands<CellT, Storage>(a, i, t.unit), own.value);
  }
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) forward_candidate(ForwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const int32_t rows = live_rows(a.call.steps, a.step);
  const int64_t H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const R* reset_h = static_cast<const R*>(a.reset_h);
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][1];
  step_product<1, false>(
      reinterpret_cast<R*>(memory), H, 1,
      [&](int, int i, int64_t k) {
        return t.row0 + i < rows ? reset_h[int64_t{t.row0 + i} * H + k] : R(0);
      },
      [&](int, int u, int64_t k) {
        return t.unit0 + u < H ? weights[(k * G + 2) * H + t.unit0 + u] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int32_t i = t.row + r;
    if (i >= rows) return;
    candidate_formulas<CellT, Acts, Storage>(
        a, acts, i, t.unit, forward_operands<CellT, Storage>(a, i, t.unit),
        SumsOfRow<R, 1>(sum, r).value[0]);
  }
}

// What the formulas of unit u of sorted row i, packed row n, take beside d_h.
template <class CellT, class R>
struct BackwardOperands {
  int64_t n;
  R saved[CellT::kSlots], h, c, d_output, d_c;
};
template <class CellT, class Storage>
MR_INLINE BackwardOperands<CellT, Real<Storage>> backward_operands(const BackwardStep& a, int64_t i,
                                                                  int64_t u) {
  using R = Real<Storage>;
  constexpr int S = CellT::kSlots;
  const Steps& steps = a.call.steps;
  const int64_t H = a.call.problem.units;
  BackwardOperands<CellT, R> operands;
  const int64_t n = operands.n = steps.offset[a.step] + i;
  MR_UNROLL for (int j = 0; j < S; ++j) {
    operands.saved[j] = static_cast<const R*>(a.saved)[(n * S + j) * H + u];
  }
  operands.h = static_cast<const R*>(a.h)[n * H + u];
  operands.c = CellT::kState ? static_cast<const R*>(a.c)[n * H + u] : R(0);
  operands.d_c = CellT::kState ? static_cast<const R*>(a.d_c)[i * H + u] : R(0);
  operands.d_output = a.d_outputs == nullptr ? R(0) : static_cast<const R*>(
      a.d_outputs)[(n - steps.offset[a.call.first]) * H + u];
  return operands;
}

// The formulas of a step, of reset before those of its candidate: from d_h, the gradient of unit u
// of sorted row i's new state, to those of the gates' inputs (in d and d_gates). Returns what
// reaches the state before past the product.
template <class CellT, class Acts, class Storage>
MR_INLINE Real<Storage> backward_formulas(const BackwardStep& a, const Acts& acts, int64_t i,
                                          int64_t u,
                                          const BackwardOperands<CellT, Real<Storage>>& operands,
                                          Real<Storage> d_h, Real<Storage>* d) {
  using R = Real<Storage>;
  constexpr int S = CellT::kSlots;
  const int64_t H = a.call.problem.units;
  const int64_t local = operands.n - a.call.steps.offset[a.call.first];
  R* to = static_cast<R*>(a.d_gates) + local * S * H + u;
  d_h += operands.d_output;
  if constexpr (CellT::kResetBefore) {
    d_h = CellT::backward_candidate(acts, operands.saved, operands.h, d_h, d);
    to[0] = d[0];
    to[2 * H] = d[2];
    static_cast<R*>(a.reset_h)[local * H + u] = acts.gate_value(operands.saved[1]) * operands.h *
                                                reset_dropout<Storage>(a.call, i, u);
  } else {
    R d_c = operands.d_c;
    d_h = CellT::backward(acts, operands.saved, operands.h, operands.c, d_h, d_c, d);
    for (int j = 0; j < S; ++j) to[j * H] = d[j];
    if (CellT::kState) static_cast<R*>(a.d_c)[i * H + u] = d_c;
  }
  return d_h;
}

// Reset before, second half: d_reset, what came through the candidate's product, to r and h.
template <class CellT, class Acts, class Storage>
MR_INLINE void reset_formulas(const BackwardStep& a, const Acts& acts, int64_t i, int64_t u,
                              const BackwardOperands<CellT, Real<Storage>>& operands,
                              Real<Storage> d_reset, Real<Storage>* d) {
  using R = Real<Storage>;
  const int64_t H = a.call.problem.units;
  const int64_t local = operands.n - a.call.steps.offset[a.call.first];
  R& d_h = static_cast<R*>(a.d_h)[i * H + u];
  d_h = CellT::backward_reset(acts, operands.saved, operands.h,
                              d_reset * reset_dropout<Storage>(a.call, i, u), d_h, d);
  static_cast<R*>(a.d_gates)[(local * CellT::kSlots + 1) * H + u] = d[1];
}

// What reaches the state before step + 1 through that step's product, then the formulas of `step`;
// of reset before those of its candidate.
template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) backward_step(BackwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots, kTogether = CellT::kResetBefore ? 2 : G;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t H = p.units;
  const int32_t next_rows = a.from_next ? live_rows(steps, a.step + 1) : 0;
  const int32_t rows = a.pointwise ? live_rows(steps, a.step) : next_rows;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  R sum[kStepRowsPerThread][kTogether];
  if (t.row0 < next_rows) {
    const R* next = static_cast<const R*>(a.d_gates) +
                    (steps.offset[a.step + 1] - steps.offset[a.call.first]) * S * H;
    const R* weights = static_cast<const R*>(a.recurrent_kernel);
    step_product<kTogether, true>(
        reinterpret_cast<R*>(memory), H, kTogether,
        [&](int j, int i, int64_t k) {
          return t.row0 + i < next_rows ? next[(int64_t{t.row0 + i} * S + j) * H + k] : R(0);
        },
        [&](int j, int u, int64_t k) {
          return t.unit0 + u < H
                     ? weights[(int64_t{t.unit0 + u} * G + CellT::recurrent_gate(j)) * H + k]
                     : R(0);
        },
        sum);
  }
  if (t.unit >= H) return;
  const Acts acts(p);
  const int64_t u = t.unit;
  // One row after the other: unrolled, it spills where the compiler wants 32 registers.
  MR_NO_UNROLL for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int32_t i = t.row + r;
    if (i >= rows) return;
    R& to = static_cast<R*>(a.d_h)[i * H + u];
    R d_h = to, d[S];
    if (i < next_rows) {
      const SumsOfRow<R, kTogether> own(sum, r);
      MR_UNROLL for (int j = 0; j < kTogether; ++j) {
        const int copy = p.recurrent_dropout_gates > 1 ? CellT::recurrent_gate(j) : 0;
        d_h += own.value[j] * dropout_at<Storage>(p.recurrent_dropout, p, copy, steps.row[i], H, u);
      }
    }
    if (a.pointwise) {
      d_h = backward_formulas<CellT, Acts, Storage>(
          a, acts, i, u, backward_operands<CellT, Storage>(a, i, u), d_h, d);
    }
    to = d_h;
  }
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) backward_reset(BackwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int32_t rows = live_rows(steps, a.step);
  const int64_t H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const int64_t local = steps.offset[a.step] - steps.offset[a.call.first];
  const R* d_gates = static_cast<const R*>(a.d_gates) + local * S * H;
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][1];
  step_product<1, true>(
      reinterpret_cast<R*>(memory), H, 1,
      [&](int, int i, int64_t k) {
        return t.row0 + i < rows ? d_gates[(int64_t{t.row0 + i} * S + 2) * H + k] : R(0);
      },
      [&](int, int u, int64_t k) {
        return t.unit0 + u < H ? weights[(int64_t{t.unit0 + u} * G + 2) * H + k] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int32_t i = t.row + r;
    if (i >= rows) return;
    R d[S];
    reset_formulas<CellT, Acts, Storage>(
        a, acts, i, t.unit, backward_operands<CellT, Storage>(a, i, t.unit),
        SumsOfRow<R, 1>(sum, r).value[0], d);
  }
}

}  // namespace masked_rnn::cuda
