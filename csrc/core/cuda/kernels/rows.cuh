// Between the caller's arrays and packed rows: one warp a row.
#pragma once

#include "compaction.cuh"

namespace masked_rnn::cuda {

// The (step, sorted row) pair that a warp works on, and its row in a local buffer. Pairs without
// a real step share out the rows of the tail, so that each row of the buffer has one warp.
struct PackedRow {
  bool inside;     // of the steps that are worked on
  bool real;
  int64_t local;   // row of a local buffer
  int64_t packed;  // n, where real
  int64_t b, position;
};

MR_INLINE PackedRow packed_row(const Call& call) {
  const Problem& p = call.problem;
  const Steps& steps = call.steps;
  PackedRow row{};
  const int64_t pair = row_of_warp();
  row.inside = pair < (call.end - call.first) * p.batch;
  if (!row.inside) return row;
  const int64_t step = call.first + pair / p.batch, i = pair % p.batch;
  const int64_t start = steps.offset[call.first], rows = live(steps, step);
  row.real = i < rows;
  if (row.real) {
    row.packed = steps.offset[step] + i;
    row.local = row.packed - start;
    row.b = steps.row[i];
    row.position = steps.position[row.b * p.time + step];
  } else {
    const int64_t earlier = (step - call.first) * p.batch - (steps.offset[step] - start);
    row.local = steps.offset[call.end] - start + earlier + i - rows;
  }
  return row;
}

MR_INLINE int64_t lane_of() { return threadIdx.x % kWarp; }
MR_INLINE int64_t local_rows(const Call& call) {
  return (call.end - call.first) * call.problem.batch;
}
MR_INLINE int64_t copies(int64_t dropout_gates) { return dropout_gates > 0 ? dropout_gates : 1; }

// Element j of row b of mask d of a [D,B,width] dropout array; one where absent.
template <class Storage>
MR_INLINE Real<Storage> dropout_at(const void* masks, const Problem& p, int64_t d, int64_t b,
                                   int64_t width, int64_t j) {
  return value_at<Storage>(masks, (d * p.batch + b) * width + j, 1);
}

// A row of a local buffer [D][local rows][width]: value(j) times each dropout mask, zero in the
// tail.
template <class Storage, class Value>
MR_INLINE void gather_row(const Call& call, const PackedRow& row, const void* masks,
                          int64_t dropout_gates, int64_t width, void* buffer, const Value& value) {
  using R = Real<Storage>;
  for (int64_t d = 0; d < copies(dropout_gates); ++d) {
    R* to = static_cast<R*>(buffer) + (d * local_rows(call) + row.local) * width;
    for (int64_t j = lane_of(); j < width; j += kWarp) {
      to[j] = row.real
                  ? value(j) * dropout_at<Storage>(masks, call.problem, d, row.b, width, j)
                  : R(0);
    }
  }
}

template <class Storage>
__global__ void gather_inputs(GatherInputs a) {
  const Problem& p = a.call.problem;
  const PackedRow row = packed_row(a.call);
  if (!row.inside) return;
  const int64_t from = (row.b * p.time + time_of(p, row.position)) * p.features;
  gather_row<Storage>(a.call, row, p.input_dropout, p.input_dropout_gates, p.features, a.to,
                      [&](int64_t f) { return value_at<Storage>(p.inputs, from + f); });
}

template <class Storage>
__global__ void gather_states(GatherStates a) {
  const Problem& p = a.call.problem;
  const PackedRow row = packed_row(a.call);
  if (!row.inside) return;
  const auto* from = static_cast<const Real<Storage>*>(a.h) + row.packed * p.units;
  gather_row<Storage>(a.call, row, p.recurrent_dropout, p.recurrent_dropout_gates, p.units, a.to,
                      [&](int64_t u) { return from[u]; });
}

// An output stands until the next real step, unless masked outputs are zero: the gradients of all
// the outputs that repeat it come together.
template <class Storage>
__global__ void sum_output_gradients(SumOutputGradients a) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const PackedRow row = packed_row(a.call);
  if (!row.real) return;
  const int64_t step = steps.ordinal[row.b * p.time + row.position];  // the one after
  int64_t last = row.position + 1;
  if (!p.zero_output_for_mask) {
    last = step < steps.count[row.b] ? steps.position[row.b * p.time + step] : p.time;
  }
  R* to = static_cast<R*>(a.to) + row.local * p.units;
  for (int64_t u = lane_of(); u < p.units; u += kWarp) {
    R sum = 0;
    for (int64_t q = row.position; q < last; ++q) {
      sum += value_at<Storage>(a.d_outputs, (row.b * p.time + q) * p.units + u);
    }
    to[u] = sum;
  }
}

// The rows past the last real one of a local buffer: products by a library read them.
template <class R>
__global__ void zero_tail(ZeroTail a) {
  const PackedRow row = packed_row(a.call);
  if (!row.inside || row.real) return;
  R* to = static_cast<R*>(a.array) + row.local * a.width;
  for (int64_t j = lane_of(); j < a.width; j += kWarp) to[j] = 0;
}

template <class Storage>
__global__ void put_input_gradients(PutInputGradients a) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const PackedRow row = packed_row(a.call);
  if (!row.real) return;
  auto* to = static_cast<Storage*>(a.d_inputs) +
             (row.b * p.time + time_of(p, row.position)) * p.features;
  for (int64_t f = lane_of(); f < p.features; f += kWarp) {
    R sum = 0;
    for (int64_t d = 0; d < copies(p.input_dropout_gates); ++d) {
      sum += static_cast<const R*>(a.from)[(d * local_rows(a.call) + row.local) * p.features + f] *
             dropout_at<Storage>(p.input_dropout, p, d, row.b, p.features, f);
    }
    put(to[f], sum);
  }
}

template <class Storage>
__global__ void convert_weights(ConvertWeights a) {
  const int64_t i = element_of_thread();
  if (i < a.size) static_cast<Real<Storage>*>(a.to)[i] = value_at<Storage>(a.from, i);
}

template <class Storage>
__global__ void store_gradient(StoreGradient a) {
  const int64_t i = element_of_thread();
  if (i < a.size) {
    put(static_cast<Storage*>(a.to)[i], static_cast<const Real<Storage>*>(a.from)[i]);
  }
}

template <class Storage>
__global__ void store_bias_gradient(StoreBiasGradient a) {
  const int64_t i = element_of_thread();
  const int64_t width = a.gates * a.units;
  if (i >= a.rows * width) return;
  const int64_t gate = i % width / a.units, u = i % a.units;
  const int32_t slot = a.slot[i / width][gate];
  put(static_cast<Storage*>(a.to)[i],
      static_cast<const Real<Storage>*>(a.from)[slot * a.units + u]);
}

// --- states and outputs: one thread an element ---------------------------------------------------

MR_INLINE int64_t state_row(const Call& call, const States& states, int64_t step, int64_t i) {
  return states.packed ? call.steps.offset[step] + i : (step & 1) * call.problem.batch + i;
}

template <class Storage>
__global__ void start_states(StartStates a) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const int64_t e = element_of_thread();
  const int64_t i = e / p.units, u = e % p.units;
  if (i >= live(a.call.steps, 0)) return;
  const int64_t from = a.call.steps.row[i] * p.units + u;
  const int64_t to = state_row(a.call, a.states, 0, i) * p.units + u;
  static_cast<R*>(a.states.h)[to] = value_at<Storage>(p.initial_h, from);
  if (a.states.c != nullptr) static_cast<R*>(a.states.c)[to] = value_at<Storage>(p.initial_c, from);
}

// Whether the last output of row b is its last state, and not zero.
MR_INLINE bool last_output_is_state(const Call& call, int64_t b) {
  const Problem& p = call.problem;
  if (call.steps.count[b] == 0) return false;
  return !p.zero_output_for_mask || is_real(p, b, p.time - 1);
}

// States of rows without a real step, and last outputs.
template <class Storage>
__global__ void finish_states(FinishForward a) {
  const Problem& p = a.call.problem;
  const int64_t e = element_of_thread();
  const int64_t b = e / p.units;
  if (b >= p.batch) return;
  auto* h = static_cast<Storage*>(a.results.state_h);
  if (a.call.steps.count[b] == 0) {
    put(h[e], value_at<Storage>(p.initial_h, e));
    if (p.cell == Cell::kLstm) {
      put(static_cast<Storage*>(a.results.state_c)[e], value_at<Storage>(p.initial_c, e));
    }
  }
  if (p.return_sequences) return;
  auto& output = static_cast<Storage*>(a.results.outputs)[e];
  if (last_output_is_state(a.call, b)) {
    output = h[e];
  } else {
    put(output, Real<Storage>(0));
  }
}

// Masked outputs: what they repeat, or zero. Before the first real step that is zero, whatever the
// initial state.
template <class Storage>
__global__ void fill_outputs(FinishForward a) {
  const Problem& p = a.call.problem;
  const Steps& steps = a.call.steps;
  const int64_t pair = row_of_warp();
  if (pair >= p.batch * p.time) return;
  const int64_t b = pair / p.time;
  if (is_real(p, b, pair % p.time)) return;
  auto* outputs = static_cast<Storage*>(a.results.outputs);
  const int32_t before = steps.ordinal[pair];
  const bool zero = p.zero_output_for_mask || before == 0;
  const int64_t from = zero ? 0 : b * p.time + steps.position[b * p.time + before - 1];
  for (int64_t u = lane_of(); u < p.units; u += kWarp) {
    if (zero) {
      put(outputs[pair * p.units + u], Real<Storage>(0));
    } else {
      outputs[pair * p.units + u] = outputs[from * p.units + u];
    }
  }
}

template <class Storage>
__global__ void start_gradients(StartGradients a) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const int64_t e = element_of_thread();
  const int64_t i = e / p.units;
  if (i >= p.batch) return;
  const int64_t b = a.call.steps.row[i], from = b * p.units + e % p.units;
  R d = value_at<Storage>(a.arrays.d_state_h, from);
  if (!p.return_sequences && a.arrays.d_outputs != nullptr && last_output_is_state(a.call, b)) {
    d += value_at<Storage>(a.arrays.d_outputs, from);
  }
  static_cast<R*>(a.d_h)[e] = d;
  if (p.cell == Cell::kLstm) {
    static_cast<R*>(a.d_c)[e] = value_at<Storage>(a.arrays.d_state_c, from);
  }
}

template <class Storage>
__global__ void finish_gradients(FinishBackward a) {
  using R = Real<Storage>;
  const Problem& p = a.call.problem;
  const int64_t e = element_of_thread();
  const int64_t i = e / p.units;
  if (i >= p.batch) return;
  const int64_t to = a.call.steps.row[i] * p.units + e % p.units;
  if (a.arrays.d_initial_h != nullptr) {
    put(static_cast<Storage*>(a.arrays.d_initial_h)[to], static_cast<const R*>(a.d_h)[e]);
  }
  if (a.arrays.d_initial_c != nullptr) {
    put(static_cast<Storage*>(a.arrays.d_initial_c)[to], static_cast<const R*>(a.d_c)[e]);
  }
}

template <class Storage>
__global__ void zero_masked_inputs(FinishBackward a) {
  const Problem& p = a.call.problem;
  const int64_t pair = row_of_warp();
  if (pair >= p.batch * p.time || p.mask == nullptr || p.mask[pair] != 0) return;
  auto* to = static_cast<Storage*>(a.arrays.d_inputs) + pair * p.features;
  for (int64_t f = lane_of(); f < p.features; f += kWarp) put(to[f], Real<Storage>(0));
}

}  // namespace masked_rnn::cuda
