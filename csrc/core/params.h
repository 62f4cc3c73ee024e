// The words every layer of the library speaks: what a call computes, and on which arrays.
//
// B batch, T time steps, I input features, H units, G gates of the cell.
// No framework header may be included from csrc/core.
#pragma once

#if !defined(__CUDACC_RTC__)  // which has no standard headers; kernels.cu names the types there
#include <cstddef>
#include <cstdint>
#endif

#if defined(_WIN32)
#define MASKED_RNN_API
#else
#define MASKED_RNN_API __attribute__((visibility("default")))
#endif

namespace masked_rnn {

// Gate order is Keras's: GRU z, r, h; LSTM i, f, c, o; a simple RNN has one gate.
enum class Cell : int32_t { kGru, kGruResetBefore, kLstm, kSimpleRnn };

enum class DType : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// Every elementwise Keras activation, at its default arguments.
enum class Activation : int32_t {
  kTanh, kSigmoid, kLinear, kRelu, kRelu6, kLeakyRelu, kElu, kSelu, kCelu, kGelu, kSoftplus,
  kSoftsign, kSilu, kHardSigmoid, kHardSilu, kHardTanh, kExponential, kMish, kLogSigmoid,
  kSparsePlus, kSparseSigmoid, kSquareplus, kTanhShrink, kSoftShrink, kHardShrink,
};
constexpr int kActivations = 25;

// What forward and backward of one call have in common. Null pointers are absent arrays.
struct Problem {
  Cell cell = Cell::kGru;
  DType dtype = DType::kFloat32;
  Activation activation = Activation::kTanh;
  Activation recurrent_activation = Activation::kSigmoid;
  bool go_backwards = false;          // reverse inputs and mask in time
  bool zero_output_for_mask = false;  // masked outputs are zero, not the carried output
  bool return_sequences = true;       // outputs are [B,T,H], else the last output [B,H]

  int64_t batch = 0, time = 0, features = 0, units = 0;
  int64_t input_dropout_gates = 0;      // D of input_dropout: 0 (absent), 1 or G
  int64_t recurrent_dropout_gates = 0;  // D of recurrent_dropout

  const void* inputs = nullptr;             // [B,T,I]
  const void* kernel = nullptr;             // [I,G*H]
  const void* recurrent_kernel = nullptr;   // [H,G*H]
  const void* bias = nullptr;               // [2,G*H] for Cell::kGru, else [G*H]
  const uint8_t* mask = nullptr;            // [B,T], non-zero = real step
  const void* initial_h = nullptr;          // [B,H]
  const void* initial_c = nullptr;          // [B,H], LSTM only
  const void* input_dropout = nullptr;      // [D,B,I], multiplies the operand of each gate
  const void* recurrent_dropout = nullptr;  // [D,B,H]

  bool masks_each_gate() const { return input_dropout_gates > 1 || recurrent_dropout_gates > 1; }
};

struct ForwardResults {
  void* outputs = nullptr;  // [B,T,H] or [B,H]
  void* state_h = nullptr;  // [B,H]
  void* state_c = nullptr;  // [B,H], LSTM only
  void* reserve = nullptr;  // Plan::reserve_bytes(), or null where no gradient will be taken
};

struct BackwardArrays {
  const void* reserve = nullptr;    // what forward left
  const void* d_outputs = nullptr;  // [B,T,H] or [B,H]; null = zero
  const void* d_state_h = nullptr;  // [B,H]; null = zero
  const void* d_state_c = nullptr;  // [B,H]; null = zero

  void* d_inputs = nullptr;            // [B,T,I]
  void* d_kernel = nullptr;            // [I,G*H]
  void* d_recurrent_kernel = nullptr;  // [H,G*H]
  void* d_bias = nullptr;              // like bias; null where bias is absent
  void* d_initial_h = nullptr;         // [B,H]; null = not wanted
  void* d_initial_c = nullptr;         // [B,H]; null = not wanted
};

constexpr int gates(Cell cell) {
  return cell == Cell::kSimpleRnn ? 1 : cell == Cell::kLstm ? 4 : 3;
}

// Vectors of [H] that forward keeps for each real step, beside the previous state:
// GRU z, r, h@U_h+b_h, hh; GRU reset before z, r, hh; LSTM i, f, g, o; simple RNN h.
constexpr int saved_slots(Cell cell) { return cell == Cell::kGru ? 4 : gates(cell); }

constexpr size_t bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Of the type that an array of `dtype` is computed in: double, else float.
constexpr int64_t real_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

}  // namespace masked_rnn
