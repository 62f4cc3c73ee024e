// What each kernel is called with: plain structs that host and device share. Pointers are device
// pointers; void is the storage type where the comment says so, else the compute type (float, or
// double for float64).
#pragma once

#include "params.h"

namespace masked_rnn::cuda {

// Compaction. Row i of the sorted order is row[i] of the batch; at packed step s the first
// offset[s + 1] - offset[s] sorted rows still have a real step, and the i-th of them is packed
// row n = offset[s] + i. Positions count in processing order (reversed under go_backwards).
struct Steps {
  int32_t* count;     // [B] real steps of each row
  int32_t* rank;      // [B] place in the sorted order: count descending, stable
  int32_t* row;       // [B] the inverse
  int32_t* ordinal;   // [B,T] real steps at or before a position
  int32_t* position;  // [B,T] position of a row's k-th real step
  int64_t* offset;    // [T+1]
};

// Every kernel's first part: the call, and the steps [first, end) that are worked on together.
// Buffers called local hold the packed rows of those steps, and have room for (end - first) * B.
struct Call {
  Problem problem;
  Steps steps;
  int64_t first, end;
};

struct CountSteps { Call call; };
struct SortRows { Call call; };
struct AddUpSteps { Call call; };

// A mask from the rows' lengths, which travel in the arguments: they are then read before the
// launch returns, without a copy to be waited for.
constexpr int kLengthsOfLaunch = 256;
struct MaskOfLengths {
  uint8_t* mask;  // [rows,T]
  int64_t time;
  int32_t rows;
  int32_t length[kLengthsOfLaunch];
};

// Rounds in which every thread takes its neighbour block's words of the round before and adds one,
// and nothing else: what it costs at least to pass a step's state on.
struct ExchangeRounds {
  float* words;       // [2][blocks * threads], zero: where blocks of a grid leave theirs
  unsigned* arrived;  // zero
  float* result;      // [blocks * threads]
  int32_t rounds;
};

struct ConvertWeights {  // to[i] = from[i]
  const void* from;      // storage
  void* to;
  int64_t size;
};

struct GatherInputs {
  Call call;
  void* to;  // local [D or 1][.][I], each copy multiplied with its dropout mask
};

struct GatherStates {
  Call call;
  const void* h;  // the reserve's
  void* to;       // local [D or 1][.][H], each copy multiplied with its dropout mask
};

struct SumOutputGradients {
  Call call;
  const void* d_outputs;  // storage [B,T,H]
  void* to;               // local [.][H]
};

struct ZeroTail {
  Call call;
  void* array;  // local [.][width]
  int64_t width;
};

// c [m,n] (+)= a @ b, by strides in elements. Where `rows` is not null, rows[1] - rows[0] takes
// the place of m (kRows) or k (kDepth), and is no larger. grid.z parts of k are summed apart into
// `parts` [z][m,n] where there is more than one; add_parts adds them up.
struct Multiply {
  enum class Limit : int32_t { kNone, kRows, kDepth };
  int64_t m, n, k;
  const void* a;  // null: ones
  const void* b;
  void* c;
  int64_t a_row, a_column, b_row, b_column, c_row;
  const int64_t* first;  // of a device-side extent *end - *first
  const int64_t* end;
  Limit limit;
  bool accumulate;
  void* parts;
};
struct AddParts {
  const void* parts;
  void* c;
  int64_t m, n, c_row;
  int32_t count;
  bool accumulate;
};

// Where a step's state lies: packed (training: the reserve), or alternating between two halves.
struct States {
  void *h, *c;      // [N][H], or [2][B][H]
  bool packed;
};

struct StartStates {
  Call call;
  States states;
};

struct ForwardStep {
  Call call;
  int64_t step;
  const void* recurrent_kernel;  // [H,G*H], compute type
  const void* projection;        // local [.][G*H]
  States states;
  void* saved;                   // [N][S][H], or [B][S][H]: of this step; null = not kept
  void* reset_h;                 // [B][H], reset before
  ForwardResults results;
};

struct FinishForward {
  Call call;
  ForwardResults results;
};

struct StartGradients {
  Call call;
  BackwardArrays arrays;
  void *d_h, *d_c;  // [B][H], sorted rows
};

struct BackwardStep {
  Call call;
  int64_t step;
  bool from_next;  // d_h still lacks what passes through step + 1's product
  bool pointwise;  // false: that only
  const void* recurrent_kernel;
  const void *h, *c, *saved;  // the reserve
  const void* d_outputs;      // local [.][H], summed; null = zero
  void* d_gates;              // local [.][S][H]
  void* reset_h;              // local [.][H], reset before: operand of the candidate's product
  void *d_h, *d_c;
};

// How the resident kernel shares out a recurrence: block (x, y) has the `units` units from
// x * units on, of the sorted rows y, y + gridDim.y, ... (so that groups shrink alike), and works
// on `rows` of these at a time. The blocks of a group, all x, wait for each other. Shared memory, in
// vectors of 16 bytes: the weights, then an operand, then (forward) sums.
struct Share {
  int32_t units, rows;
  int32_t part;            // forward by multiply-adds: a warp's part of the product's depth
  int32_t stride;          // from one row of the operand to the next, in vectors or pieces
  int32_t operands, sums;  // where they begin
  unsigned* arrived;       // [groups][kBarrierWords] zero
};

// All steps of a chunk, with what `step` has for each of them.
struct ResidentForward {
  ForwardStep step;
  Share share;
};
struct ResidentBackward {
  BackwardStep step;
  Share share;
  void* d_states;  // [2][slices][B][H]: what the gates of each slice send to the state before
};

struct PutInputGradients {
  Call call;
  const void* from;  // local [D or 1][.][I]
  void* d_inputs;    // storage
};

struct FinishBackward {
  Call call;
  BackwardArrays arrays;
  const void *d_h, *d_c;
};

struct StoreGradient {  // to[i] = from[i]
  const void* from;
  void* to;  // storage
  int64_t size;
};

struct StoreBiasGradient {
  const void* from;  // [S][H] sums of d_gates
  void* to;          // storage, rows of [G*H]
  int64_t units;
  int32_t gates, rows;
  int32_t slot[2][4];  // of each gate, in each row
};

}  // namespace masked_rnn::cuda
