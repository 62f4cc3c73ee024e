// Where each buffer of a call lies, in elements of the compute type (float or double), for a
// given vector length. One description for the code that allocates and the code that runs.
//
// Blocked layout: [blocks][rows][vector], a block is one vector of units (or features). An
// operand's row stride is then a compile-time constant, and a row's tail is padded with zeros.
#pragma once

#include <vector>

#include "schedule.h"

namespace masked_rnn {

// Rows of work between two passes of the large products, so that they lie in the cache. For operands in
// planes, which come from further away: 2 to 8 % of a forward call from 256 units on.
constexpr int64_t forward_chunk(int planes) { return planes > 1 ? 256 : 128; }
// Weight gradients are summed over a chunk in registers, then added to memory: over n rows the
// rounding error grows with chunk + n / chunk, least at sqrt(n); a short chunk costs some 2 % of
// a training step.
int64_t backward_chunk(const Group& group);

struct Buffer {
  int64_t offset = 0;  // elements from the start of the workspace
};

struct Blocks {
  Blocks(const Problem& p, int vector_length);
  int64_t units, features;  // number of blocks
  int vector;               // elements of one
};

// Steps are added to a chunk until the next would pass the limit; a single step may pass it.
// First step past the forward chunk that starts at `step`; first step of the backward chunk that
// ends at `end`; rows that the largest chunk holds.
int64_t chunk_end(const Group& group, int64_t step, int64_t limit);
int64_t chunk_begin(const Group& group, int64_t end);
int64_t chunk_capacity(const Group& group, int64_t limit);

// Operands of products with bfloat16 are so many values of it, its planes, and fill pairs of blocks;
// 0: they are of the compute type. Products of a step read h, backward the gradients of the gates;
// those of a whole chunk are all others.
struct OperandPlanes {
  int step = 0, chunk = 0;
};

constexpr int64_t kMostRowsInPlace = 8;  // of a product with weights in place

// [u] unit block, [i] feature block, V vector; R = chunk_capacity.
struct ForwardLayout {
  ForwardLayout(const Problem& p, const Schedule& schedule, int vector_length, OperandPlanes planes,
                bool training);

  struct PerGroup {
    int64_t capacity;         // R; of planes a multiple of 16, and so are rows
    int64_t rows;             // of h's operands
    Buffer inputs;            // [D or 1][i][R][V] gathered input rows
    Buffer single_inputs;     // [D or 1][i][singles][V] where those of others are planes of floats
    Buffer projection;        // [u][R][G][V] inputs @ kernel
    Buffer h, c;              // [u][2*rows][V] states of two steps; in training they are reserve
    Buffer reset_h;           // [u][rows][V] r * h, reset before only
    Buffer dropped_h;         // [2][D][u][rows][V] h * recurrent_dropout, or a copy
    Buffer product;           // [u][kMostRowsInPlace][G][V] of a step, in place only
  };

  Buffer kernel;            // [u][I][G][V], or [G][u][I][V] where each gate has its dropout mask
  Buffer recurrent_kernel;  // [u][H][G][V], likewise; reset before: [u][H][2][V], [u][H][V]
  Buffer bias;              // [u][G][V], for GRU the sum of both biases of z and r
  Buffer recurrent_bias;    // [u][V], GRU only
  // In calls of few steps weights are multiplied where they are, as Keras keeps them: none is packed, but
  // the kernel for planes.
  bool in_place;
  // A copy of the kernel as the compute type, for many rows of one real step where others' inputs are
  // planes of floats: [u][I][G][V]. Fewer multiply it in place.
  bool packs_for_singles = false;
  Buffer kernel_for_singles;
  std::vector<PerGroup> groups;
  int64_t elements;
};

struct BackwardLayout {
  BackwardLayout(const Problem& p, const Schedule& schedule, const Split& split,
                 int vector_length, OperandPlanes planes);

  struct PerGroup {
    int64_t capacity;            // R; of planes whole strips of 32, and one more
    int64_t rows;                // of d_reset_h
    Buffer d_gates;              // [u][R][S][V] gradients of the gates' pre-activations
    Buffer d_h, d_c;             // [u][rows][V]
    Buffer d_reset_h;            // [u][rows][V], reset before only
    Buffer inputs;               // [D or 1][i][R][V]
    Buffer dropped_h;            // [D][u][R][V], or a copy of h
    Buffer reset_h;              // [u][R][V], reset before only
    Buffer gate_operands;        // [block][R][V] a copy of d_gates
    Buffer gate_pairs;           // [part][R][S][V] the same of one unit block, as pairs of rows, or
                                 // [part][2][R][V] of one slot of two blocks
    Buffer d_kernel;             // [u][kernel_rows][G][V]
    Buffer d_recurrent_kernel;   // [u][recurrent_rows][G][V], gates in the order of the slots
    Buffer d_bias;               // [u][S][V]
  };

  int64_t unit_panel, feature_panel;  // blocks in a panel of a transposed weight matrix
  int64_t kernel_rows, recurrent_rows;  // I and H; of planes multiples of 16
  Buffer kernel_t;            // [panel][u][G][V][panel*V], or the same for each gate in turn
  Buffer recurrent_kernel_t;  // likewise; gates in the order of the slots
  std::vector<PerGroup> groups;
  int64_t elements;
};

// What forward keeps: a header, then for each group
//   saved [u][N][slots][V], h_prev [u][N][V], LSTM c_prev [u][N][V]   (N = its real steps).
struct ReserveHeader {
  uint64_t magic;
  int32_t cell, dtype, activations, groups;
  int64_t vector, units, real_steps, bytes;
  uint64_t steps;  // a hash of the direction, the sizes and which steps are real
};
constexpr int64_t kReserveHeaderBytes = 64;
static_assert(sizeof(ReserveHeader) <= kReserveHeaderBytes);

struct ReserveLayout {
  ReserveLayout(const Problem& p, const Schedule& schedule, int vector_length);

  struct PerGroup {
    Buffer saved, h, c;
  };
  std::vector<PerGroup> groups;
  int64_t elements;  // without the header
};

}  // namespace masked_rnn
