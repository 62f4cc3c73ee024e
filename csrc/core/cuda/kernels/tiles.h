// How kernels share out their work: what host and device must agree on.
#pragma once

#include "arguments.h"

namespace masked_rnn::cuda {

constexpr int kWarpLanes = 32;
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

// The resident kernel: a block keeps the weights of its units in shared memory for all steps of a
// chunk. Forward, each warp has a part of the product's depth, and each lane a few units of up to
// kResidentRows rows; the parts meet in shared memory, where warp r adds up row r of each lane.
constexpr int kResidentThreads = 256;
constexpr int kResidentWarps = kResidentThreads / kWarpLanes;
constexpr int kResidentRows = kResidentWarps;
// A lane's columns of a product, about four: shared memory then gives operands as fast as they are
// multiplied. Forward they are gates of kResidentUnits units, backward states that d_h is for.
constexpr int resident_units(Cell cell) {
  return cell == Cell::kSimpleRnn ? 4 : cell == Cell::kGruResetBefore ? 2 : 1;
}
constexpr int kResidentColumns = 4;
constexpr int kResidentUnitStep = 4;  // a block's units are a multiple: 16 bytes of float32
constexpr int kBarrierWords = 32;     // from one group's barrier to the next: a cache line

}  // namespace masked_rnn::cuda
