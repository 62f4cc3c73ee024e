// One packed step, forward and backward: the recurrent product of a tile of rows and units, then
// the cell's formulas on it. Right for any size and cell; weights are read again at every step.
#pragma once

#include "rows.cuh"

#include "cells.h"  // after the functions that it asks for

namespace masked_rnn::cuda {

// sum[r][g] = sum over k of row(g, i, k) * weight(g, u, k) for this thread's rows i and unit u.
// One operand of rows serves all gates where `copies` is one. The order of k is fixed, so a row's
// sums do not depend on what else is in the tile.
template <int kCount, bool kDeepWeights, class R, class Row, class Weight>
MR_INLINE void step_product(R* shared, int64_t depth, int copies, const Row& row,
                            const Weight& weight, R (&sum)[kStepRowsPerThread][kCount]) {
  constexpr int kRowStride = kStepRows + 1, kUnitStride = kStepUnits + 1;
  R* rows = shared;                                       // [copies][kStepDepth][kRowStride]
  R* weights = rows + kCount * kStepDepth * kRowStride;   // [kCount][kStepDepth][kUnitStride]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    for (int g = 0; g < kCount; ++g) sum[r][g] = 0;
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
    for (int k = 0; k < count; ++k) {
      for (int g = 0; g < kCount; ++g) {
        const R w = weights[(g * kStepDepth + k) * kUnitStride + lane];
        const R* operand = rows + ((copies > 1 ? g : 0) * kStepDepth + k) * kRowStride;
        for (int r = 0; r < kStepRowsPerThread; ++r) {
          sum[r][g] = fma_of(operand[warp * kStepRowsPerThread + r], w, sum[r][g]);
        }
      }
    }
    __syncthreads();
  }
}

// Where a thread stands: its block's first row and unit, its own unit and first row.
struct StepTile {
  int64_t row0, unit0, unit, row;
};
MR_INLINE StepTile step_tile() {
  StepTile t;
  t.row0 = static_cast<int64_t>(blockIdx.x) * kStepRows;
  t.unit0 = static_cast<int64_t>(blockIdx.y) * kStepUnits;
  t.unit = t.unit0 + threadIdx.x % kWarp;
  t.row = t.row0 + threadIdx.x / kWarp * kStepRowsPerThread;
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
template <class CellT, class Storage>
MR_INLINE void load_saved(const BackwardStep& a, int64_t n, int64_t u, Real<Storage>* saved) {
  constexpr int S = CellT::kSlots;
  const int64_t H = a.call.problem.units;
  for (int j = 0; j < S; ++j) {
    saved[j] = static_cast<const Real<Storage>*>(a.saved)[(n * S + j) * H + u];
  }
}

// The dropout of reset before's r * h, unit u of sorted row i.
template <class Storage>
MR_INLINE Real<Storage> reset_dropout(const Call& call, int64_t i, int64_t u) {
  const Problem& p = call.problem;
  return dropout_at<Storage>(p.recurrent_dropout, p, p.recurrent_dropout_gates - 1,
                             call.steps.row[i], p.units, u);
}

// The new state goes to the next step, or to the caller after a row's last; the output too.
template <class Storage>
MR_INLINE void put_results(const ForwardStep& a, int64_t i, int64_t rows_after, int64_t u,
                           Real<Storage> h, Real<Storage> c) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t b = steps.row[i];
  if (p.return_sequences) {
    const int64_t position = steps.position[b * p.time + a.step];
    put(static_cast<Storage*>(a.results.outputs)[(b * p.time + position) * p.units + u], h);
  }
  if (i < rows_after) {
    const int64_t to = state_row(a.call, a.states, a.step + 1, i) * p.units + u;
    static_cast<R*>(a.states.h)[to] = h;
    if (a.states.c != nullptr) static_cast<R*>(a.states.c)[to] = c;
  } else {
    put(static_cast<Storage*>(a.results.state_h)[b * p.units + u], h);
    if (a.states.c != nullptr) put(static_cast<Storage*>(a.results.state_c)[b * p.units + u], c);
  }
}

MR_INLINE int64_t rows_after(const Call& call, int64_t step) {
  return step + 1 < call.problem.time ? live(call.steps, step + 1) : 0;
}

// The step; of reset before its first half, which leaves z (and r) in `saved` and r * h in reset_h.
template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) forward_step(ForwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots, kTogether = CellT::kResetBefore ? 2 : G;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t rows = live(steps, a.step), H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const R* h = static_cast<const R*>(a.states.h);
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][kTogether];
  step_product<kTogether, false>(
      reinterpret_cast<R*>(memory), H, p.recurrent_dropout_gates > 1 ? kTogether : 1,
      [&](int g, int i, int64_t k) {
        const int64_t row = t.row0 + i;
        if (row >= rows) return R(0);
        return h[state_row(a.call, a.states, a.step, row) * H + k] *
               dropout_at<Storage>(p.recurrent_dropout, p, g, steps.row[row], H, k);
      },
      [&](int g, int u, int64_t k) {
        const int64_t unit = t.unit0 + u;
        return unit < H ? weights[(k * G + g) * H + unit] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  const int64_t u = t.unit;
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int64_t i = t.row + r;
    if (i >= rows) return;
    const R* projection = projection_of<CellT, Storage>(a, i);
    const int64_t state = state_row(a.call, a.states, a.step, i) * H + u;
    R* keep = a.saved == nullptr ? nullptr : saved_of<CellT, Storage>(a, i, u);
    R x[G], saved[S] = {};
    for (int g = 0; g < kTogether; ++g) x[g] = input_of<CellT, Storage>(p, projection, g, u);
    if constexpr (CellT::kResetBefore) {
      const R reset_h = CellT::forward_gates(acts, x, sum[r], h[state], saved);
      static_cast<R*>(a.reset_h)[i * H + u] = reset_h * reset_dropout<Storage>(a.call, i, u);
      for (int j = 0; j < 2; ++j) keep[j * H] = saved[j];
    } else {
      if (CellT::kCell == Cell::kGru) sum[r][2] += value_at<Storage>(p.bias, (G + 2) * H + u);
      const R c = CellT::kState ? static_cast<const R*>(a.states.c)[state] : R(0);
      R c_new = 0;
      const R h_new = CellT::forward(acts, x, sum[r], h[state], c, saved, c_new);
      if (keep != nullptr) {
        for (int j = 0; j < S; ++j) keep[j * H] = saved[j];
      }
      put_results<Storage>(a, i, rows_after(a.call, a.step), u, h_new, c_new);
    }
  }
}

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) forward_candidate(ForwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t rows = live(steps, a.step), H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const R* reset_h = static_cast<const R*>(a.reset_h);
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][1];
  step_product<1, false>(
      reinterpret_cast<R*>(memory), H, 1,
      [&](int, int i, int64_t k) {
        return t.row0 + i < rows ? reset_h[(t.row0 + i) * H + k] : R(0);
      },
      [&](int, int u, int64_t k) {
        return t.unit0 + u < H ? weights[(k * G + 2) * H + t.unit0 + u] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  const int64_t u = t.unit;
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int64_t i = t.row + r;
    if (i >= rows) return;
    R* saved = saved_of<CellT, Storage>(a, i, u);
    const R h = static_cast<const R*>(a.states.h)[state_row(a.call, a.states, a.step, i) * H + u];
    const R x = input_of<CellT, Storage>(p, projection_of<CellT, Storage>(a, i), 2, u);
    const R h_new = CellT::forward_candidate(acts, x, sum[r][0], saved[0], h, saved[2 * H]);
    put_results<Storage>(a, i, rows_after(a.call, a.step), u, h_new, R(0));
  }
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
  const int64_t H = p.units, next_rows = a.from_next ? live(steps, a.step + 1) : 0;
  const int64_t rows = a.pointwise ? live(steps, a.step) : next_rows;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const int64_t start = steps.offset[a.call.first];
  R* d_gates = static_cast<R*>(a.d_gates);
  R sum[kStepRowsPerThread][kTogether];
  if (t.row0 < next_rows) {
    const R* next = d_gates + (steps.offset[a.step + 1] - start) * S * H;
    const R* weights = static_cast<const R*>(a.recurrent_kernel);
    step_product<kTogether, true>(
        reinterpret_cast<R*>(memory), H, kTogether,
        [&](int j, int i, int64_t k) {
          return t.row0 + i < next_rows ? next[((t.row0 + i) * S + j) * H + k] : R(0);
        },
        [&](int j, int u, int64_t k) {
          return t.unit0 + u < H
                     ? weights[((t.unit0 + u) * G + CellT::recurrent_gate(j)) * H + k]
                     : R(0);
        },
        sum);
  }
  if (t.unit >= H) return;
  const Acts acts(p);
  const int64_t u = t.unit;
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int64_t i = t.row + r;
    if (i >= rows) return;
    const int64_t state = i * H + u;
    R d_h = static_cast<R*>(a.d_h)[state];
    if (i < next_rows) {
      for (int j = 0; j < kTogether; ++j) {
        const int d = p.recurrent_dropout_gates > 1 ? CellT::recurrent_gate(j) : 0;
        d_h += sum[r][j] * dropout_at<Storage>(p.recurrent_dropout, p, d, steps.row[i], H, u);
      }
    }
    if (a.pointwise) {
      const int64_t n = steps.offset[a.step] + i, local = n - start;
      if (a.d_outputs != nullptr) d_h += static_cast<const R*>(a.d_outputs)[local * H + u];
      const R h = static_cast<const R*>(a.h)[n * H + u];
      R saved[S], d[S];
      load_saved<CellT, Storage>(a, n, u, saved);
      R* to = d_gates + local * S * H + u;
      if constexpr (CellT::kResetBefore) {
        d_h = CellT::backward_candidate(acts, saved, h, d_h, d);
        to[0] = d[0];
        to[2 * H] = d[2];
        static_cast<R*>(a.reset_h)[local * H + u] =
            acts.gate_value(saved[1]) * h * reset_dropout<Storage>(a.call, i, u);
      } else {
        const R c = CellT::kState ? static_cast<const R*>(a.c)[n * H + u] : R(0);
        R d_c = CellT::kState ? static_cast<R*>(a.d_c)[state] : R(0);
        d_h = CellT::backward(acts, saved, h, c, d_h, d_c, d);
        for (int j = 0; j < S; ++j) to[j * H] = d[j];
        if (CellT::kState) static_cast<R*>(a.d_c)[state] = d_c;
      }
    }
    static_cast<R*>(a.d_h)[state] = d_h;
  }
}

// Reset before, second half: through the candidate's product to r and h.
template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kStepThreads) backward_reset(BackwardStep a) {
  using R = Real<Storage>;
  constexpr int G = CellT::kGates, S = CellT::kSlots;
  MR_SHARED(memory);
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t rows = live(steps, a.step), H = p.units;
  const StepTile t = step_tile();
  if (t.row0 >= rows) return;
  const int64_t start = steps.offset[a.call.first], local = steps.offset[a.step] - start;
  R* d_gates = static_cast<R*>(a.d_gates) + local * S * H;
  const R* weights = static_cast<const R*>(a.recurrent_kernel);
  R sum[kStepRowsPerThread][1];
  step_product<1, true>(
      reinterpret_cast<R*>(memory), H, 1,
      [&](int, int i, int64_t k) {
        return t.row0 + i < rows ? d_gates[((t.row0 + i) * S + 2) * H + k] : R(0);
      },
      [&](int, int u, int64_t k) {
        return t.unit0 + u < H ? weights[((t.unit0 + u) * G + 2) * H + k] : R(0);
      },
      sum);
  if (t.unit >= H) return;
  const Acts acts(p);
  const int64_t u = t.unit;
  for (int r = 0; r < kStepRowsPerThread; ++r) {
    const int64_t i = t.row + r;
    if (i >= rows) return;
    const int64_t n = steps.offset[a.step] + i;
    R saved[S], d[S];
    load_saved<CellT, Storage>(a, n, u, saved);
    const R d_reset = sum[r][0] * reset_dropout<Storage>(a.call, i, u);
    R& d_h = static_cast<R*>(a.d_h)[i * H + u];
    d_h = CellT::backward_reset(acts, saved, static_cast<const R*>(a.h)[n * H + u], d_reset, d_h,
                                d);
    d_gates[(i * S + 1) * H + u] = d[1];
  }
}

}  // namespace masked_rnn::cuda
