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

// Matrix products of a warp: 16 rows of the left operand, the weights; 8 columns of the right one,
// which are rows of the batch. These lie in fours of what is multiplied, a piece; four pieces are
// what products take at once of the depth.
constexpr int kMatrixTile = 16;
constexpr int kMatrixRows = 8;
constexpr int kPiece = 4;
constexpr int kMatrixDepth = 4 * kPiece;
constexpr int whole_tiles(int elements) {
  return (elements + kMatrixTile - 1) / kMatrixTile * kMatrixTile;
}

// The resident kernel by matrix products: where the gates of a block's units lie among the rows of
// the left operand (forward), or in its depth (backward). They share tiles, so that few units fill
// them too; what is multiplied apart begins a tile: the candidate of reset before, and where each
// gate has its dropout mask, each gate.
struct MatrixGates {
  int gates, units;
  bool reset_before, masked_apart;

  constexpr int together() const { return reset_before ? 2 : gates; }
  constexpr int stride() const { return masked_apart ? whole_tiles(units) : units; }
  constexpr int begin(int gate) const {
    return gate < together() ? gate * stride() : whole_tiles(together() * stride());
  }
  constexpr int end() const { return whole_tiles(begin(gates - 1) + units); }
  // Tiles of gates [first, first + count), which begin one.
  constexpr int tiles(int first, int count) const {
    return whole_tiles(begin(first + count - 1) + units - begin(first)) / kMatrixTile;
  }
};
// Up to this many rows of a group are worked on at a time: a warp takes its weights once for them.
constexpr int kMatrixMostRows = 4 * kMatrixRows;
// Forward, few tiles: warps share out the depth of each.
constexpr int matrix_parts(int tiles) {
  return tiles < kResidentWarps ? kResidentWarps / tiles : 1;
}
// Sums of a row from one part to the next; four more, so that lanes write to different banks.
constexpr int matrix_width(int tiles) { return tiles * kMatrixTile + 4; }
constexpr int matrix_sums(int tiles) { return matrix_parts(tiles) * matrix_width(tiles); }

// The kernels of clusters: a cluster of `blocks` has kClusterRows sorted rows, each of its blocks
// an equal share of the units, which are padded to `units`. Weights are the left operands of
// matrix products, in tiles of 16 rows; a row of the batch is a column of the right operand. A tile
// stays in registers as far as there are any, the rest of it in shared memory, which is read in
// every step.
constexpr int kClusterRows = kMatrixRows;
constexpr int kClusterBarrierBytes = 128;  // in front of what else is in shared memory
constexpr int kClusterTileBytes = 512;     // of what one product takes of a tile

struct ClusterShape {
  int gates, operand_bytes, units, blocks;

  constexpr int block_units() const { return units / blocks; }  // a multiple of 16

  // Forward: rows of a tile are the gates of its units, padded to four, so that the gates of a
  // unit come together in a pair of lanes.
  constexpr int gate_rows() const { return gates == 1 ? 1 : 4; }
  constexpr int forward_tiles() const { return block_units() * gate_rows() / 16; }
  // Two tiles of a warp share what it reads of the state, where that leaves four warps at work.
  constexpr int forward_tiles_of_warp() const {
    return forward_tiles() >= 8 && forward_tiles() % 2 == 0 && units * operand_bytes <= 512 ? 2 : 1;
  }
  constexpr int forward_threads() const {
    return forward_tiles() / forward_tiles_of_warp() * 32;
  }
  constexpr int forward_products() const { return products(units); }
  constexpr int forward_kept() const {
    // A lane has four elements of a tile where it has no gates to bring together.
    return kept(forward_products(), forward_threads(), forward_tiles_of_warp(),
                gate_rows() == 1 ? 92 : 72);
  }
  constexpr int forward_shared_bytes() const {  // two states
    return kClusterBarrierBytes + 2 * units * kClusterRows * operand_bytes +
           forward_tiles() * (forward_products() - forward_kept()) * kClusterTileBytes;
  }

  // Backward: rows of a tile are units that a gradient goes to; its depth is a block's own gates.
  constexpr int backward_tiles() const { return units / 16; }
  constexpr int backward_depth() const { return gates * block_units(); }
  constexpr int backward_tiles_of_warp() const {  // eight warps, or as many as that allows
    const int least = blocks > 4 ? blocks / 4 : 1;
    const bool twice = backward_tiles() / least > 8 && backward_tiles() % (2 * least) == 0 &&
                       least * backward_depth() * operand_bytes <= 512;
    return twice ? 2 * least : least;
  }
  constexpr int backward_threads() const {
    return backward_tiles() / backward_tiles_of_warp() * 32;
  }
  constexpr int backward_products() const { return products(backward_depth()); }
  constexpr int backward_kept() const {
    // A piece of the right operand takes twice as many registers in TF32.
    return kept(backward_products(), backward_threads(), backward_tiles_of_warp(),
                operand_bytes == 4 ? 96 : 72);
  }
  constexpr int backward_shared_bytes() const {  // twice: gradients of gates, and parts of d_h
    return kClusterBarrierBytes +
           2 * kClusterRows * (backward_depth() * operand_bytes + units * 4) +
           backward_tiles() * (backward_products() - backward_kept()) * kClusterTileBytes;
  }

  // Products that a tile takes for its depth.
  constexpr int products(int depth) const { return depth * operand_bytes / 32; }
  // How many of them find their part in registers, four for each: a thread can name 255, is given a
  // share of its multiprocessor's in eights, and needs `others` beside (as nvcc reports, at the
  // least that spills none). An even number, as one read of the right operand may serve two.
  constexpr int kept(int products, int threads, int tiles_of_warp, int others) const {
    const int share = 65536 / threads / 8 * 8;
    const int registers = (share < 255 ? share : 255) - others;
    const int most = registers > 0 ? registers / (4 * tiles_of_warp) / 2 * 2 : 0;
    return products < most ? products : most;
  }
};

}  // namespace masked_rnn::cuda
