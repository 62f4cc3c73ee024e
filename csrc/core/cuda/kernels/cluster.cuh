// All steps of a chunk in one launch, on compute capability 9.0 and up. A cluster of blocks has
// eight sorted rows; each block keeps the recurrent weights of its units in registers (what they
// cannot take, in shared memory), and what the others need travels by asynchronous stores that a
// barrier counts. So no block waits for more than it reads: the time loop of forward has no
// barrier, that of backward one of its own block.
//
// Products are those of the tensor cores. The state (backward: the gates' gradients) is rounded to
// the storage type for them, float32 to TF32; it is kept, and sums are made, in float32.
#pragma once

#include "fragments.cuh"
#include "step.cuh"

#if defined(MR_CLUSTERS)

namespace masked_rnn::cuda {

// --- operands of matrix products -----------------------------------------------------------------

// In shared memory lie [pieces][kClusterRows] of the right operand's pieces, the rows of a piece in
// an order that lets the lanes of a warp read without bank conflicts.
MR_INLINE int place_in_operand(int piece, int row) {
  return piece * kClusterRows + (row ^ (piece & 3) * 2);
}

template <class Storage>
MR_INLINE void store_async(Piece<Storage>* to, unsigned block, const Piece<Storage>& piece,
                           uint64_t* barrier) {
  if constexpr (Operand<Storage>::kPacked == 1) {
    store_async(to, block, piece.word, barrier);
  } else {
    store_async(to, block, piece.word[0] | static_cast<uint64_t>(piece.word[1]) << 32, barrier);
  }
}

// The four elements of a piece are those of lanes that differ in bits 2 and 3: each gets all.
template <class Storage>
MR_INLINE Piece<Storage> piece_of_lanes(float own) {
  const bool odd = threadIdx.x & 4, upper = threadIdx.x & 8;
  const float other = __shfl_xor_sync(kAllLanes, own, 4);
  const float near[2] = {odd ? other : own, odd ? own : other};
  Piece<Storage> piece;
  if constexpr (Operand<Storage>::kPacked == 1) {
    MR_UNROLL for (int j = 0; j < 2; ++j) {
      const float one[1] = {near[j]};
      const uint32_t word = Operand<Storage>::word(one), far = __shfl_xor_sync(kAllLanes, word, 8);
      piece.word[j] = upper ? far : word;
      piece.word[2 + j] = upper ? word : far;
    }
  } else {
    const uint32_t word = Operand<Storage>::word(near), far = __shfl_xor_sync(kAllLanes, word, 8);
    piece.word[0] = upper ? far : word;
    piece.word[1] = upper ? word : far;
  }
  return piece;
}

// A lane's part of a tile [16][kDepth] of the left operand: of the first kKept products in
// registers, of the rest in shared memory.
template <class Storage, int kDepth, int kKept>
struct LeftTile {
  static constexpr int kPacked = Operand<Storage>::kPacked;
  static constexpr int kProducts = kDepth / (8 * kPacked);
  static constexpr int kOfPiece = kProductsOfPiece<Storage>;
  static constexpr int kLoadsAtOnce = 4 / kPacked;
  LeftPart kept[kKept > 0 ? kKept : 1];
  LeftPart* rest;  // [kProducts - kKept][lanes]

  MR_INLINE LeftPart part(int t) const {
    return t < kKept ? kept[t < kKept ? t : 0] : rest[(t - kKept) * kWarp + threadIdx.x % kWarp];
  }

  // Element k of the lane's row in each half of the tile is rows[half][place(k)]; zero where the
  // place is negative, or there is no row.
  //
  // No more loads at once than registers can take. Compilers would move them together, and pack all
  // of them at the end: a store to `spare`, a word of shared memory for each thread, needs what was
  // loaded so far, and they move no load across a fence.
  template <class Place>
  MR_INLINE void load(const float* const (&rows)[2], const Place& place, uint32_t* spare) {
    uint32_t loaded = 0;
    MR_UNROLL for (int t = 0; t < kProducts; ++t) {
      LeftPart part;
      MR_UNROLL for (int r = 0; r < 4; ++r) {
        part.word[r] = left_word<Storage>(t, r, [&](int half, int k) {
          const int at = place(k);
          return rows[half] != nullptr && at >= 0 ? rows[half][at] : 0.0f;
        });
        loaded ^= part.word[r];
      }
      if (t < kKept) {
        kept[t < kKept ? t : 0] = part;
      } else {
        rest[(t - kKept) * kWarp + threadIdx.x % kWarp] = part;
      }
      if (t % kLoadsAtOnce == kLoadsAtOnce - 1) {
        spare[threadIdx.x] = loaded;
        __threadfence_block();
      }
    }
  }
};

// sum = tile @ right for each of a warp's tiles; always in one order.
template <class Storage, int kTiles, int kDepth, int kKept>
MR_INLINE void multiply_tiles(const LeftTile<Storage, kDepth, kKept> (&tiles)[kTiles],
                              const Piece<Storage>* right, float (&sum)[kTiles][4]) {
  constexpr int kOfPiece = LeftTile<Storage, kDepth, kKept>::kOfPiece;
  const int quad = static_cast<int>(threadIdx.x & 3);
  const int row = static_cast<int>(threadIdx.x % kWarp >> 2);
  __syncwarp();  // a product is its whole warp's
  float odd[kTiles][4] = {};  // two sums, as a product waits for the one before it
  MR_UNROLL for (int i = 0; i < kTiles; ++i) {
    MR_UNROLL for (int j = 0; j < 4; ++j) sum[i][j] = 0;
  }
  MR_UNROLL for (int t = 0; t < LeftTile<Storage, kDepth, kKept>::kProducts; t += kOfPiece) {
    const Piece<Storage> piece = right[place_in_operand(t / kOfPiece * 4 + quad, row)];
    MR_UNROLL for (int s = 0; s < kOfPiece; ++s) {
      MR_UNROLL for (int i = 0; i < kTiles; ++i) {
        const LeftPart part = tiles[i].part(t + s);
        Operand<Storage>::multiply((t + s) % 2 ? odd[i] : sum[i], part.word, piece.word + 2 * s);
      }
    }
  }
  MR_UNROLL for (int i = 0; i < kTiles; ++i) {
    MR_UNROLL for (int j = 0; j < 4; ++j) sum[i][j] += odd[i][j];
  }
}

// --- the rows of a cluster -----------------------------------------------------------------------

struct ClusterRows {
  int32_t row0;   // the first one, in sorted order
  int32_t count;  // real steps of row `lane`; zero past the last
  int32_t end;    // of the chunk's steps that a row has

  MR_INLINE ClusterRows(const Call& call, int blocks) {
    const Steps& steps = call.steps;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % kWarp);
    row0 = static_cast<int32_t>(blockIdx.x / blocks) * kClusterRows;
    const bool inside = lane < kClusterRows && int64_t{row0} + lane < call.problem.batch;
    count = inside ? steps.count[steps.row[row0 + lane]] : 0;
    const int32_t most = count_of(0), last = static_cast<int32_t>(call.end);
    end = most < last ? most : last;
  }
  MR_INLINE int32_t count_of(int row) const { return __shfl_sync(kAllLanes, count, row); }
  // Rows that have the step: the first ones, as they are sorted.
  MR_INLINE int live(int32_t step) const { return __popc(__ballot_sync(kAllLanes, count > step)); }
};

// Barriers of the two buffers of what arrives: buffer b is full for the n-th time when phase n of
// barrier b ends.
MR_INLINE void make_barriers(uint64_t* barriers) {
  if (threadIdx.x == 0) {
    mbarrier_init(barriers, 1);
    mbarrier_init(barriers + 1, 1);
    mbarrier_publish();
  }
}

// --- forward -------------------------------------------------------------------------------------

// A thread's element: one unit of one row, its state and what does not change.
template <class CellT>
struct ForwardElement {
  int32_t i, unit, b;  // its row in sorted order, and in the batch
  int32_t count;       // real steps of the row; zero outside of the batch and the units
  float h, c, dropout;
  float bias[CellT::kGates], recurrent_bias;
  float x[CellT::kGates];  // projection of the next step
  int32_t position;        // of the next step
};

template <class CellT, class Storage>
MR_INLINE void start_element(const ForwardStep& a, const ClusterRows& rows, int row, int unit,
                             ForwardElement<CellT>& e) {
  const Problem& p = a.call.problem;
  const int32_t count = rows.count_of(row);
  e = {};
  e.i = rows.row0 + row;
  e.unit = unit;
  e.count = unit < p.units ? count : 0;
  e.dropout = 1;
  if (e.count <= a.call.first) return;
  e.b = a.call.steps.row[e.i];
  const int64_t state = state_row(a.call, a.states, a.call.first, e.i) * p.units + unit;
  e.h = static_cast<const float*>(a.states.h)[state];
  if (CellT::kState) e.c = static_cast<const float*>(a.states.c)[state];
  e.dropout = dropout_at<Storage>(p.recurrent_dropout, p, 0, e.b, p.units, unit);
  MR_UNROLL for (int g = 0; g < CellT::kGates; ++g) {
    e.bias[g] = bias_of<CellT, Storage>(p, g, unit);
  }
  if (CellT::kCell == Cell::kGru) {
    e.recurrent_bias = value_at<Storage>(p.bias, (CellT::kGates + 2) * p.units + unit);
  }
}

// Asks for what a step needs from memory; `local` is the step's first row in the local buffer.
template <class CellT>
MR_INLINE void fetch(const ForwardStep& a, int32_t step, int64_t local, ForwardElement<CellT>& e) {
  const Problem& p = a.call.problem;
  if (e.count <= step) return;
  const float* from = static_cast<const float*>(a.projection) +
                      (local + e.i) * CellT::kGates * p.units + e.unit;
  MR_UNROLL for (int g = 0; g < CellT::kGates; ++g) e.x[g] = from[g * p.units];
  if (p.return_sequences) e.position = a.call.steps.position[e.b * p.time + step];
}

// The cell's formulas on an element, from the recurrent product and the projection.
template <class CellT, class Acts>
MR_INLINE void forward_element(const Acts& acts, float* product, const float* projection,
                               ForwardElement<CellT>& e, float (&saved)[CellT::kSlots]) {
  float x[CellT::kGates], c = 0;
  MR_UNROLL for (int g = 0; g < CellT::kGates; ++g) x[g] = projection[g] + e.bias[g];
  if (CellT::kCell == Cell::kGru) product[2] += e.recurrent_bias;
  e.h = CellT::forward(acts, x, product, e.h, e.c, saved, c);
  e.c = c;
}

// What becomes of an element's new state. `packed` is the first packed row of the step,
// `packed_next` of the one after.
template <class CellT, class Storage>
MR_INLINE void put_element(const ForwardStep& a, int32_t step, int64_t packed, int64_t packed_next,
                           int32_t position, const float (&saved)[CellT::kSlots],
                           const ForwardElement<CellT>& e) {
  constexpr int S = CellT::kSlots;
  const Problem& p = a.call.problem;
  if (a.saved != nullptr) {
    float* keep = static_cast<float*>(a.saved) + (packed + e.i) * S * p.units + e.unit;
    MR_UNROLL for (int j = 0; j < S; ++j) keep[j * p.units] = saved[j];
  }
  if (p.return_sequences) {
    put(static_cast<Storage*>(a.results.outputs)[(e.b * p.time + position) * p.units + e.unit],
        e.h);
  }
  if (step + 1 >= e.count) {
    put(static_cast<Storage*>(a.results.state_h)[e.b * p.units + e.unit], e.h);
    if (CellT::kState) {
      put(static_cast<Storage*>(a.results.state_c)[e.b * p.units + e.unit], e.c);
    }
  } else if (a.states.packed || step + 1 == a.call.end) {
    const int64_t row = a.states.packed ? packed_next + e.i
                                        : state_row(a.call, a.states, step + 1, e.i);
    static_cast<float*>(a.states.h)[row * p.units + e.unit] = e.h;
    if (CellT::kState) static_cast<float*>(a.states.c)[row * p.units + e.unit] = e.c;
  }
}

// The steps [call.first, call.end); kUnits is a multiple of 16 * kBlocks, the cluster's size.
// Cells of one gate ask for one block on a multiprocessor: for more, compilers spill.
template <class CellT, class Acts, class Storage, int kUnits, int kBlocks>
__global__ void __launch_bounds__(
    ClusterShape{CellT::kGates, 4 / Operand<Storage>::kPacked, kUnits, kBlocks}.forward_threads(),
    CellT::kGates == 1 ? 1 : 0)
    forward_cluster(ForwardStep a) {
  constexpr ClusterShape kShape{CellT::kGates, 4 / Operand<Storage>::kPacked, kUnits, kBlocks};
  constexpr int G = CellT::kGates, kTiles = kShape.forward_tiles_of_warp();
  constexpr bool kGateRows = kShape.gate_rows() > 1;
  constexpr int kOfTile = kGateRows ? 1 : 4;  // elements that a lane has of a tile
  constexpr int kPieces = kUnits / kPiece;
  MR_SHARED(memory);
  auto* barriers = reinterpret_cast<uint64_t*>(memory);  // [2]
  auto* states =                                         // [2][kPieces][kClusterRows]
      reinterpret_cast<Piece<Storage>*>(memory + kClusterBarrierBytes);
  auto* rest = reinterpret_cast<LeftPart*>(states + 2 * kPieces * kClusterRows);
  const Problem& p = a.call.problem;
  const int32_t first = static_cast<int32_t>(a.call.first);
  const int H = static_cast<int>(p.units);
  const float* recurrent_kernel = static_cast<const float*>(a.recurrent_kernel);
  const ClusterRows rows(a.call, kBlocks);
  if (rows.end <= first) return;  // the whole cluster does
  const int rank = static_cast<int>(cluster_rank()), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp, quad = lane & 3, group = lane >> 2;
  const int tile0 = rank * kShape.forward_tiles() + warp * kTiles;  // of the cluster's tiles
  make_barriers(barriers);

  // A tile's row: gates of four units, a lane's two rows being neighbouring gates; or 16 units.
  LeftTile<Storage, kUnits, kShape.forward_kept()> weights[kTiles];
  MR_UNROLL for (int t = 0; t < kTiles; ++t) {
    constexpr int kRest = (kShape.forward_products() - kShape.forward_kept()) * kWarp;
    weights[t].rest = rest + (warp * kTiles + t) * kRest;
    const float* of_rows[2];
    MR_UNROLL for (int half = 0; half < 2; ++half) {
      const int tile = tile0 + t, gate = kGateRows ? (group >> 2) * 2 + half : 0;
      const int unit = kGateRows ? tile * 4 + (group & 3) : tile * 16 + group + 8 * half;
      of_rows[half] = unit < H && gate < G ? recurrent_kernel + gate * H + unit : nullptr;
    }
    weights[t].load(of_rows, [&](int k) { return k < H ? k * G * H : -1; }, states->word);
  }
  __syncthreads();
  // A lane's elements: of the piece they are in they have unit `group & 3`.
  const auto row_of = [&](int e) { return quad * 2 + (kGateRows ? group >> 2 : e & 1); };
  const auto piece_at = [&](int t, int e) {
    return kGateRows ? tile0 + t : (tile0 + t) * 4 + (e >> 1) * 2 + (group >> 2);
  };
  ForwardElement<CellT> elements[kTiles][kOfTile];
  MR_UNROLL for (int t = 0; t < kTiles; ++t) {
    MR_UNROLL for (int e = 0; e < kOfTile; ++e) {
      start_element<CellT, Storage>(a, rows, row_of(e),
                                    piece_at(t, e) * kPiece + (group & 3), elements[t][e]);
    }
  }
  // The first state comes from memory, to all blocks.
  const int live_first = rows.live(first);
  for (int at = thread; at < kPieces * kClusterRows; at += static_cast<int>(blockDim.x)) {
    const int piece = at / kClusterRows, row = at % kClusterRows;
    const int64_t i = rows.row0 + row;
    float h[kPiece] = {};
    for (int j = 0; j < kPiece; ++j) {
      const int unit = piece * kPiece + j;
      if (row >= live_first || unit >= H) continue;
      const int64_t state = state_row(a.call, a.states, first, i) * H + unit;
      h[j] = static_cast<const float*>(a.states.h)[state] *
             dropout_at<Storage>(p.recurrent_dropout, p, 0, a.call.steps.row[i], H, unit);
    }
    states[place_in_operand(piece, row)] = piece_of<Storage>(h);
  }
  cluster_barrier();

  const Acts acts(p);
  const int64_t start = a.call.steps.offset[first];
  int64_t packed = start, packed_next = a.call.steps.offset[first + 1];
  MR_UNROLL for (int t = 0; t < kTiles; ++t) {
    MR_UNROLL for (int e = 0; e < kOfTile; ++e) fetch(a, first, 0, elements[t][e]);
  }
  unsigned turn = 0;
  for (int32_t step = first; step < rows.end; ++step, ++turn) {
    const unsigned now = turn & 1, then = now ^ 1;
    const bool more = step + 1 < rows.end;
    // Rows that end here need no next state; nobody sends theirs.
    const int live_next = more ? rows.live(step + 1) : 0;
    if (more && thread == 0) {
      mbarrier_arrive_expect(barriers + then,
                             static_cast<unsigned>(live_next * kUnits * kShape.operand_bytes));
    }
    const int64_t packed_after = more ? a.call.steps.offset[step + 2] : 0;
    float x[kTiles][kOfTile][G];
    int32_t position[kTiles][kOfTile];
    MR_UNROLL for (int t = 0; t < kTiles; ++t) {
      MR_UNROLL for (int e = 0; e < kOfTile; ++e) {
        MR_UNROLL for (int g = 0; g < G; ++g) x[t][e][g] = elements[t][e].x[g];
        position[t][e] = elements[t][e].position;
        if (more) fetch(a, step + 1, packed_next - start, elements[t][e]);
      }
    }
    if (turn > 0) mbarrier_wait(barriers + now, (turn - 1) >> 1 & 1);
    float sum[kTiles][4];
    multiply_tiles(weights, states + now * kPieces * kClusterRows, sum);
    MR_UNROLL for (int t = 0; t < kTiles; ++t) {
      float u[kOfTile][4];
      if constexpr (kGateRows) {
        // The lower half of the warp has gates 0 and 1 of two rows, the upper half 2 and 3: each
        // gives one of its rows for the rest of the other.
        const bool upper = group >> 2;
        const float got0 = __shfl_xor_sync(kAllLanes, upper ? sum[t][0] : sum[t][1], 16);
        const float got1 = __shfl_xor_sync(kAllLanes, upper ? sum[t][2] : sum[t][3], 16);
        u[0][0] = upper ? got0 : sum[t][0];
        u[0][1] = upper ? got1 : sum[t][2];
        u[0][2] = upper ? sum[t][1] : got0;
        u[0][3] = upper ? sum[t][3] : got1;
      } else {
        MR_UNROLL for (int e = 0; e < kOfTile; ++e) u[e][0] = sum[t][e];
      }
      float saved[kOfTile][CellT::kSlots] = {};
      MR_UNROLL for (int e = 0; e < kOfTile; ++e) {
        ForwardElement<CellT>& own = elements[t][e];
        if (step < own.count) forward_element(acts, u[e], x[t][e], own, saved[e]);
        if (!more) continue;
        // A piece goes to every block: its lanes share them out. They may write at once: a block
        // that has this buffer's next state to send has heard from all that they read the last.
        const Piece<Storage> piece = piece_of_lanes<Storage>(own.h * own.dropout);
        if (row_of(e) >= live_next) continue;
        Piece<Storage>* to = states + then * kPieces * kClusterRows +
                             place_in_operand(piece_at(t, e), row_of(e));
        MR_UNROLL for (int block = 0; block < kBlocks; block += 4) {
          const int receiver = block + (group & 3);
          if (receiver < kBlocks) store_async(to, receiver, piece, barriers + then);
        }
      }
      MR_UNROLL for (int e = 0; e < kOfTile; ++e) {  // for which nobody waits
        const ForwardElement<CellT>& own = elements[t][e];
        if (step >= own.count) continue;
        put_element<CellT, Storage>(a, step, packed, packed_next, position[t][e], saved[e], own);
      }
    }
    packed = packed_next;
    packed_next = packed_after;
  }
  cluster_barrier();  // none leaves while another may still send to it
}

// --- backward ------------------------------------------------------------------------------------

// What a step needs from memory of one unit of one row.
template <class CellT>
struct BackwardValues {
  float saved[CellT::kSlots], h, c, d_output;
};

template <class CellT>
MR_INLINE BackwardValues<CellT> fetch(const BackwardStep& a, int64_t start, int64_t n,
                                      int64_t unit) {
  const int64_t H = a.call.problem.units;
  BackwardValues<CellT> values;
  for (int j = 0; j < CellT::kSlots; ++j) {
    values.saved[j] = static_cast<const float*>(a.saved)[(n * CellT::kSlots + j) * H + unit];
  }
  values.h = static_cast<const float*>(a.h)[n * H + unit];
  values.c = CellT::kState ? static_cast<const float*>(a.c)[n * H + unit] : 0;
  values.d_output = a.d_outputs != nullptr
                        ? static_cast<const float*>(a.d_outputs)[(n - start) * H + unit]
                        : 0;
  return values;
}

// The steps [call.first, call.end), backwards, and what their first step passes on. A block makes
// the gradients of its own units' gates; their product is its part of every unit's d_h, and each
// block adds up the parts of its units, in the order of the blocks.
template <class CellT, class Acts, class Storage, int kUnits, int kBlocks>
__global__ void __launch_bounds__(
    ClusterShape{CellT::kGates, 4 / Operand<Storage>::kPacked, kUnits, kBlocks}.backward_threads())
    backward_cluster(BackwardStep a) {
  constexpr ClusterShape kShape{CellT::kGates, 4 / Operand<Storage>::kPacked, kUnits, kBlocks};
  constexpr int G = CellT::kGates, S = CellT::kSlots, kPacked = Operand<Storage>::kPacked;
  constexpr int kOwn = kShape.block_units(), kDepth = kShape.backward_depth();
  constexpr int kTiles = kShape.backward_tiles_of_warp();
  constexpr int kThreadsOfBlock = kShape.backward_threads();
  constexpr int kElements = kOwn * kClusterRows / kThreadsOfBlock;
  constexpr int kPieces = kDepth / kPiece, kPart = kOwn * kClusterRows;
  MR_SHARED(memory);
  auto* barriers = reinterpret_cast<uint64_t*>(memory);  // [2]
  auto* parts =                                          // [2][kBlocks][kPart]
      reinterpret_cast<float*>(memory + kClusterBarrierBytes);
  auto* operand =                                        // [2][kPieces][kClusterRows]
      reinterpret_cast<Piece<Storage>*>(parts + 2 * kBlocks * kPart);
  auto* rest = reinterpret_cast<LeftPart*>(operand + 2 * kPieces * kClusterRows);
  const Problem& p = a.call.problem;
  const int32_t first = static_cast<int32_t>(a.call.first);
  const int H = static_cast<int>(p.units);
  const float* recurrent_kernel = static_cast<const float*>(a.recurrent_kernel);
  const int64_t* offset = a.call.steps.offset;
  const ClusterRows rows(a.call, kBlocks);
  if (rows.end <= first) return;
  const int rank = static_cast<int>(cluster_rank()), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp, quad = lane & 3, group = lane >> 2;
  make_barriers(barriers);

  // Rows are the units that a gradient goes to.
  LeftTile<Storage, kDepth, kShape.backward_kept()> weights[kTiles];
  MR_UNROLL for (int t = 0; t < kTiles; ++t) {
    constexpr int kRest = (kShape.backward_products() - kShape.backward_kept()) * kWarp;
    weights[t].rest = rest + (warp * kTiles + t) * kRest;
    const float* of_rows[2];
    MR_UNROLL for (int half = 0; half < 2; ++half) {
      const int to = (warp * kTiles + t) * 16 + group * 2 + half;
      of_rows[half] = to < H ? recurrent_kernel + to * G * H : nullptr;
    }
    weights[t].load(of_rows, [&](int k) {
      const int own = rank * kOwn + k % kOwn;
      return own < H ? CellT::recurrent_gate(k / kOwn) * H + own : -1;
    }, operand->word);
  }
  // A part lies as the products' results do: [kOwn / 16 tiles][lanes][4]. Element e of a thread is
  // number e * threads + thread there.
  struct Element {
    int32_t i, unit, count;
    float d_h, d_c, dropout;
    BackwardValues<CellT> values;
  };
  Element elements[kElements];
  const int64_t start = offset[first];
  int64_t packed = offset[rows.end - 1];
  MR_UNROLL for (int e = 0; e < kElements; ++e) {
    const int number = e * kThreadsOfBlock + thread;
    const int row = (number >> 2 & 3) * 2 + (number & 1);
    const int32_t count = rows.count_of(row);
    Element& own = elements[e];
    own = {};
    own.i = rows.row0 + row;
    own.unit = rank * kOwn + number / 16 * 2 + (number >> 1 & 1);
    own.count = own.unit < H ? count : 0;
    own.dropout = 1;
    if (own.count <= first) continue;
    own.d_h = static_cast<const float*>(a.d_h)[own.i * p.units + own.unit];
    if (CellT::kState) own.d_c = static_cast<const float*>(a.d_c)[own.i * p.units + own.unit];
    own.dropout = dropout_at<Storage>(p.recurrent_dropout, p, 0, a.call.steps.row[own.i], H,
                                      own.unit);
    if (own.count >= rows.end) {
      own.values = fetch<CellT>(a, start, packed + own.i, own.unit);
    }
  }
  cluster_barrier();

  // What the last turn's products of all blocks say of an element.
  const auto arrived = [&](unsigned turn, int e) {
    const float* from = parts + (turn & 1) * kBlocks * kPart + e * kThreadsOfBlock + thread;
    float sum = 0;
    MR_UNROLL for (int block = 0; block < kBlocks; ++block) sum += from[block * kPart];
    return sum * elements[e].dropout;
  };
  const Acts acts(p);
  unsigned turn = 0;
  for (int32_t step = rows.end - 1; step >= first; --step, ++turn) {
    const unsigned now = turn & 1;
    // Rows without the step have zeros, and pairs of such rows are not sent.
    const int pairs = (rows.live(step) + 1) / 2;
    if (thread == 0) {
      mbarrier_arrive_expect(barriers + now, static_cast<unsigned>(pairs * kUnits * 8));
    }
    const int64_t packed_before = step > first ? offset[step - 1] : 0;
    BackwardValues<CellT> values[kElements];
    MR_UNROLL for (int e = 0; e < kElements; ++e) {
      Element& own = elements[e];
      values[e] = own.values;
      if (step > first && own.count >= step) {
        own.values = fetch<CellT>(a, start, packed_before + own.i, own.unit);
      }
    }
    if (turn > 0) mbarrier_wait(barriers + (now ^ 1), (turn - 1) >> 1 & 1);
    MR_UNROLL for (int e = 0; e < kElements; ++e) {
      Element& own = elements[e];
      float d[S] = {};
      if (turn > 0 && own.count > step + 1) own.d_h += arrived(turn - 1, e);
      if (own.count > step) {
        const BackwardValues<CellT>& v = values[e];
        own.d_h = CellT::backward(acts, v.saved, v.h, v.c, own.d_h + v.d_output, own.d_c, d);
        float* to = static_cast<float*>(a.d_gates) + (packed - start + own.i) * S * H + own.unit;
        MR_UNROLL for (int j = 0; j < S; ++j) to[j * H] = d[j];
      }
      // Two units that share a word are neighbours in bit 1 of the lane.
      const int number = e * kThreadsOfBlock + thread, row = (number >> 2 & 3) * 2 + (number & 1);
      const int unit = number / 16 * 2 + (number >> 1 & 1);
      MR_UNROLL for (int j = 0; j < G; ++j) {
        const int piece = (j * kOwn + unit) / kPiece;
        Piece<Storage>& to = operand[now * kPieces * kClusterRows + place_in_operand(piece, row)];
        if constexpr (kPacked == 1) {
          const float x[1] = {d[j]};
          to.word[unit & 3] = Operand<Storage>::word(x);
        } else {
          const float x[2] = {d[j], __shfl_xor_sync(kAllLanes, d[j], 2)};
          if (unit % 2 == 0) to.word[unit >> 1 & 1] = Operand<Storage>::word(x);
        }
      }
    }
    __syncthreads();  // all of the block's gates are there, and all parts of the last turn read
    float sum[kTiles][4];
    multiply_tiles(weights, operand + now * kPieces * kClusterRows, sum);
    MR_UNROLL for (int t = 0; t < kTiles; ++t) {
      const int tile = warp * kTiles + t, receiver = tile / (kOwn / 16);
      // A block may be written to: it has read these parts' last values before it sent those that
      // this block has waited for.
      uint32_t words[4];
      memcpy(words, sum[t], sizeof(words));
      float* to = parts + (now * kBlocks + rank) * kPart + tile % (kOwn / 16) * 128 + lane * 4;
      if (quad < pairs) store_async(to, receiver, words, barriers + now);
    }
    packed = packed_before;
  }
  mbarrier_wait(barriers + ((turn - 1) & 1), (turn - 1) >> 1 & 1);
  MR_UNROLL for (int e = 0; e < kElements; ++e) {
    const Element& own = elements[e];
    if (own.count <= first) continue;
    static_cast<float*>(a.d_h)[own.i * p.units + own.unit] = own.d_h + arrived(turn - 1, e);
    if (CellT::kState) static_cast<float*>(a.d_c)[own.i * p.units + own.unit] = own.d_c;
  }
  cluster_barrier();
}

}  // namespace masked_rnn::cuda

#endif
