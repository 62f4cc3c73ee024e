// The pointwise part of each cell, forward and backward, on any vector type V.
//
// A cell is a struct with
//   kCell, kGates           which it is, and how many gates
//   kSlots                  vectors that forward saves for a real step (saved_slots)
//   kState                  whether it carries c beside h
//   kResetBefore            whether the candidate's product needs the reset gate first
//   kKernelSlot             slot of the first gate in d: the gradients of the gates' inputs lie
//                           in slots kKernelSlot.., in Keras's gate order
//   recurrent_gate(j)       gate whose recurrent product has its gradient in slot j
//   forward, backward       the formulas; x is inputs @ kernel + bias, u is h @ recurrent_kernel
//   first, rest             forward in two parts, for many elements after each other: `first` gives
//                           the kFirst gate values that `rest` starts from
// and a row for each dtype in cpu/kernels.cc. Formulas: semantics.md, from Keras's cells.
#pragma once

#include "activations.h"

namespace masked_rnn {
MR_BACKEND {

// forward of a cell that has it in two parts.
template <class CellT>
struct TwoParts {
  template <class Acts, class V>
  static MR_INLINE V forward(const Acts& acts, const V* x, const V* u, V h_prev, V c_prev,
                             V* saved, V& c) {
    constexpr int last = CellT::kGates - 1;
    V gate[CellT::kFirst + 1];
    CellT::first(acts, x, u, gate, saved);
    return CellT::rest(acts, gate, x[last], u[last], h_prev, c_prev, saved, c);
  }
};

// reset_after: the reset gate multiplies the candidate's recurrent product.
struct Gru : TwoParts<Gru> {
  static constexpr Cell kCell = Cell::kGru;
  static constexpr int kGates = 3, kSlots = 4, kKernelSlot = 1, kFirst = 2;
  static constexpr bool kState = false, kResetBefore = false;
  static constexpr MR_DEVICE int recurrent_gate(int slot) { return slot == 0 ? 2 : slot - 1; }

  // saved: z, r, u_h, hh
  template <class Acts, class V>
  static MR_INLINE void first(const Acts& acts, const V* x, const V* u, V* gate, V* saved) {
    gate[0] = acts.gate(x[0] + u[0], saved[0]);
    gate[1] = acts.gate(x[1] + u[1], saved[1]);
  }
  template <class Acts, class V>
  static MR_INLINE V rest(const Acts& acts, const V* gate, V x_h, V u_h, V h_prev, V, V* saved,
                          V&) {
    const V z = gate[0], r = gate[1];
    saved[2] = u_h;
    const V hh = acts.candidate(fma_of(r, u_h, x_h), saved[3]);
    return fma_of(z, h_prev, (fill<V>(1) - z) * hh);
  }

  // d: of u_h, then of x_z (and u_z), x_r (and u_r), x_h. Returns the part of d_h_prev that does
  // not pass through recurrent_kernel.
  template <class Acts, class V>
  static MR_INLINE V backward(const Acts& acts, const V* saved, V h_prev, V, V d_h, V&, V* d) {
    const V z = acts.gate_value(saved[0]), r = acts.gate_value(saved[1]);
    const V hh = acts.candidate_value(saved[3]);
    d[1] = d_h * (h_prev - hh) * acts.gate_slope(saved[0]);
    d[3] = d_h * (fill<V>(1) - z) * acts.candidate_slope(saved[3]);
    d[2] = d[3] * saved[2] * acts.gate_slope(saved[1]);
    d[0] = d[3] * r;
    return d_h * z;
  }
};

// reset_after=False: the reset gate multiplies the state before the candidate's product, which
// makes a step two products: gates, then candidate.
struct GruResetBefore {
  static constexpr Cell kCell = Cell::kGruResetBefore;
  static constexpr int kGates = 3, kSlots = 3, kKernelSlot = 0;
  static constexpr bool kState = false, kResetBefore = true;
  static constexpr MR_DEVICE int recurrent_gate(int slot) { return slot; }

  // saved: z, r. Returns r * h_prev.
  template <class Acts, class V>
  static MR_INLINE V forward_gates(const Acts& acts, const V* x, const V* u, V h_prev, V* saved) {
    acts.gate(x[0] + u[0], saved[0]);
    return acts.gate(x[1] + u[1], saved[1]) * h_prev;
  }

  // saved: hh. z_saved is what forward_gates saved of z.
  template <class Acts, class V>
  static MR_INLINE V forward_candidate(const Acts& acts, V x, V u, V z_saved, V h_prev, V& saved) {
    const V z = acts.gate_value(z_saved);
    const V hh = acts.candidate(x + u, saved);
    return fma_of(z, h_prev, (fill<V>(1) - z) * hh);
  }

  // d: of x_z and x_h; returns d_h_prev through z.
  template <class Acts, class V>
  static MR_INLINE V backward_candidate(const Acts& acts, const V* saved, V h_prev, V d_h, V* d) {
    const V z = acts.gate_value(saved[0]), hh = acts.candidate_value(saved[2]);
    d[0] = d_h * (h_prev - hh) * acts.gate_slope(saved[0]);
    d[2] = d_h * (fill<V>(1) - z) * acts.candidate_slope(saved[2]);
    return d_h * z;
  }

  // d: of x_r, from the gradient of r * h_prev; adds what reaches h_prev through the reset.
  template <class Acts, class V>
  static MR_INLINE V backward_reset(const Acts& acts, const V* saved, V h_prev, V d_reset_h,
                                    V d_h_prev, V* d) {
    d[1] = d_reset_h * h_prev * acts.gate_slope(saved[1]);
    return fma_of(d_reset_h, acts.gate_value(saved[1]), d_h_prev);
  }
};

struct SimpleRnn : TwoParts<SimpleRnn> {
  static constexpr Cell kCell = Cell::kSimpleRnn;
  static constexpr int kGates = 1, kSlots = 1, kKernelSlot = 0, kFirst = 0;
  static constexpr bool kState = false, kResetBefore = false;
  static constexpr MR_DEVICE int recurrent_gate(int slot) { return slot; }

  template <class Acts, class V>
  static MR_INLINE void first(const Acts&, const V*, const V*, V*, V*) {}
  template <class Acts, class V>
  static MR_INLINE V rest(const Acts& acts, const V*, V x, V u, V, V, V* saved, V&) {
    return acts.candidate(x + u, saved[0]);
  }

  template <class Acts, class V>
  static MR_INLINE V backward(const Acts& acts, const V* saved, V, V, V d_h, V&, V* d) {
    d[0] = d_h * acts.candidate_slope(saved[0]);
    return fill<V>(0);
  }
};

struct Lstm : TwoParts<Lstm> {
  static constexpr Cell kCell = Cell::kLstm;
  static constexpr int kGates = 4, kSlots = 4, kKernelSlot = 0, kFirst = 4;
  static constexpr bool kState = true, kResetBefore = false;
  static constexpr MR_DEVICE int recurrent_gate(int slot) { return slot; }

  // saved: i, f, g, o
  template <class Acts, class V>
  static MR_INLINE void first(const Acts& acts, const V* x, const V* u, V* gate, V* saved) {
    gate[0] = acts.gate(x[0] + u[0], saved[0]);
    gate[1] = acts.gate(x[1] + u[1], saved[1]);
    gate[2] = acts.candidate(x[2] + u[2], saved[2]);
    gate[3] = acts.gate(x[3] + u[3], saved[3]);
  }
  template <class Acts, class V>
  static MR_INLINE V rest(const Acts& acts, const V* gate, V, V, V, V c_prev, V*, V& c) {
    const V i = gate[0], f = gate[1], g = gate[2], o = gate[3];
    c = fma_of(f, c_prev, i * g);
    V unused;
    return o * acts.candidate(c, unused);
  }

  // d_c: of c on entry, of c_prev on return. c itself is computed again, as forward did.
  template <class Acts, class V>
  static MR_INLINE V backward(const Acts& acts, const V* saved, V, V c_prev, V d_h, V& d_c, V* d) {
    const V i = acts.gate_value(saved[0]), f = acts.gate_value(saved[1]);
    const V g = acts.candidate_value(saved[2]), o = acts.gate_value(saved[3]);
    V c_saved;
    const V c_value = acts.candidate(fma_of(f, c_prev, i * g), c_saved);
    const V d_cell = fma_of(d_h * o, acts.candidate_slope(c_saved), d_c);
    d[0] = d_cell * g * acts.gate_slope(saved[0]);
    d[1] = d_cell * c_prev * acts.gate_slope(saved[1]);
    d[2] = d_cell * i * acts.candidate_slope(saved[2]);
    d[3] = d_h * c_value * acts.gate_slope(saved[3]);
    d_c = d_cell * f;
    return fill<V>(0);
  }
};

}  // namespace
}  // namespace masked_rnn
