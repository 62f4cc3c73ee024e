// How kernels share out their work: what host and device must agree on.
#pragma once

#include "arguments.h"

namespace masked_rnn::cuda {

constexpr int kThreads = 128;  // of a block, where nothing else is said
constexpr int kPackRows = 4;   // rows of a block with one warp a row

constexpr int kAddUpThreads = 256;

// The own product: a block has a square tile of c, a thread kProductShare^2 of its elements.
constexpr int kProductTile = 64;
constexpr int kProductDepth = 16;
constexpr int kProductThreads = 256;
constexpr int kProductShare = 4;
// Elements of shared memory: [kProductDepth][kProductTile + 1] of a and of b.
constexpr int kProductShared = 2 * kProductDepth * (kProductTile + 1);
// Sums of this many terms are added up apart, so that the rounding error of a long sum stays small.
constexpr int kProductBlock = 256;

// A step: a block has kStepUnits units, one a lane, of kStepRows rows.
constexpr int kStepUnits = 32;
constexpr int kStepWarps = 4;
constexpr int kStepRowsPerThread = 4;
constexpr int kStepRows = kStepWarps * kStepRowsPerThread;
constexpr int kStepThreads = kStepUnits * kStepWarps;
constexpr int kStepDepth = 16;
// Elements of shared memory for `gates` products: operands of rows, and weights.
constexpr int step_shared(int gates) {
  return gates * kStepDepth * (kStepRows + 1 + kStepUnits + 1);
}

}  // namespace masked_rnn::cuda
