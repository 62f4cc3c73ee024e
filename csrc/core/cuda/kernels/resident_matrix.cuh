// The resident kernels by the tensor cores' products, where these may round what they multiply: in
// bfloat16, float16, and float32 where TF32 is allowed. Weights lie in shared memory as the left
// operand's parts, 16-bit types in 16 bits. The state (backward: the gates' gradients) is rounded
// to the storage type for the products, float32 to TF32; it is kept, and sums are made, in float32.
#pragma once

#include "fragments.cuh"
#include "resident.cuh"

namespace masked_rnn::cuda {

// sum[n] = tile @ rows [8n, 8n + 8) of the right operand, over `chunks` times kMatrixDepth of the
// depth. Always in one order, whatever kRowTiles is: a row's sums do not depend on the other rows.
template <class Storage, int kRowTiles>
MR_INLINE void multiply_tile(const LeftPart* left, const Piece<Storage>* right, int stride,
                             int chunks, float (&sum)[kRowTiles][4]) {
  constexpr int kOfPiece = kProductsOfPiece<Storage>;
  constexpr int kAtOnce = 2 / kOfPiece;  // chunks of two products
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const Piece<Storage>* own = right + (lane >> 2) * stride + (lane & 3);
  float odd[kRowTiles][4] = {};  // two sums, as a product waits for the one before it
  MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
    MR_UNROLL for (int j = 0; j < 4; ++j) sum[n][j] = 0;
  }
  __syncwarp();  // a product is its whole warp's
  for (int c = 0; c < chunks; c += kAtOnce) {
    MR_UNROLL for (int j = 0; j < kAtOnce; ++j) {
      if (c + j >= chunks) break;
      LeftPart part[kOfPiece];
      MR_UNROLL for (int s = 0; s < kOfPiece; ++s) {
        part[s] = left[((c + j) * kOfPiece + s) * kWarp + lane];
      }
      MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
        const Piece<Storage> piece = own[n * kMatrixRows * stride + (c + j) * 4];
        MR_UNROLL for (int s = 0; s < kOfPiece; ++s) {
          Operand<Storage>::multiply((j + s) % 2 ? odd[n] : sum[n], part[s].word,
                                     piece.word + 2 * s);
        }
      }
    }
  }
  MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
    MR_UNROLL for (int j = 0; j < 4; ++j) sum[n][j] += odd[n][j];
  }
}

// work(RowTiles<n>) with tiles enough for `rows` rows, the next power of two.
template <int kRowTiles>
struct RowTiles {
  static constexpr int kCount = kRowTiles;
};
template <int kMost = kMatrixMostRows / kMatrixRows, class Work>
MR_INLINE void with_row_tiles(int rows, const Work& work) {
  if constexpr (kMost > 1) {
    if (rows <= kMost / 2 * kMatrixRows) {
      with_row_tiles<kMost / 2>(rows, work);
      return;
    }
  }
  work(RowTiles<kMost>{});
}

// What forward and backward blocks have in common: where things lie in shared memory.
template <class CellT, class Storage>
class MatrixBlock {
 public:
  static constexpr int G = CellT::kGates;

 protected:
  static constexpr int kOfPiece = kProductsOfPiece<Storage>;

  MR_INLINE MatrixBlock(unsigned char* memory, const Call& call, const Share& share, int depth)
      : share_(share),
        H_(static_cast<int>(call.problem.units)),
        gates_{G, share.units, CellT::kResetBefore, call.problem.recurrent_dropout_gates > 1},
        chunks_(whole_tiles(depth) / kMatrixDepth),
        weights_(reinterpret_cast<LeftPart*>(memory)),
        operand_(reinterpret_cast<Piece<Storage>*>(weights_ + share.operands)),
        unit0_(static_cast<int64_t>(blockIdx.x) * share.units) {}

  // The gate (or slot) and unit at `place` of gates_; a negative gate: none.
  struct Place {
    int gate;
    int64_t unit;
  };
  MR_INLINE Place place_of(int place) const {
    int gate = place / gates_.stride();
    if (gate >= gates_.together()) gate = gates_.reset_before && place >= gates_.begin(2) ? 2 : G;
    const int unit = place - gates_.begin(gate);
    const bool inside = gate < G && unit < share_.units && unit0_ + unit < H_;
    return {inside ? gate : -1, unit0_ + unit};
  }
  // Element k in depth of row `row` of `tiles` tiles is element(row, k). What is in the operand
  // where no row has anything is zero: it meets weights that are zero, and must not be NaN.
  template <class Element>
  MR_INLINE void load(int tiles, int operand_rows, const Element& element) const {
    const int products = chunks_ * kOfPiece, group = static_cast<int>(threadIdx.x % kWarp >> 2);
    for (int e = static_cast<int>(threadIdx.x); e < tiles * products * kWarp;
         e += kResidentThreads) {
      const int t = e / kWarp % products, row = e / kWarp / products * kMatrixTile + group;
      LeftPart part;
      MR_UNROLL for (int r = 0; r < 4; ++r) {
        part.word[r] = left_word<Storage>(
            t, r, [&](int half, int k) { return element(row + 8 * half, k); });
      }
      weights_[e] = part;
    }
    for (int e = static_cast<int>(threadIdx.x); e < operand_rows * share_.stride;
         e += kResidentThreads) {
      operand_[e] = {};
    }
    __syncthreads();
  }
  MR_INLINE const LeftPart* tile_at(int tile, int chunk) const {
    return weights_ + (tile * chunks_ + chunk) * kOfPiece * kWarp;
  }

  const Share& share_;
  const int H_;
  const MatrixGates gates_;
  const int chunks_;
  LeftPart* const weights_;
  Piece<Storage>* const operand_;
  const int64_t unit0_;
};

// --- forward -------------------------------------------------------------------------------------

template <class CellT, class Storage>
class MatrixForwardBlock : MatrixBlock<CellT, Storage> {
 public:
  using Base = MatrixBlock<CellT, Storage>;
  using Base::G;

  MR_INLINE MatrixForwardBlock(unsigned char* memory, const ResidentForward& a)
      : Base(memory, a.step.call, a.share, static_cast<int>(a.step.call.problem.units)),
        sums_(reinterpret_cast<float*>(weights_ + share_.sums)) {}

  // Rows of the tiles are gates of units.
  MR_INLINE void load_weights(const float* recurrent_kernel) const {
    const int copies = gates_.masked_apart ? gates_.together() : 1;
    Base::load(gates_.end() / kMatrixTile, copies * share_.rows, [&](int row, int k) {
      const auto place = Base::place_of(row);
      return place.gate >= 0 && k < H_
                 ? recurrent_kernel[(static_cast<int64_t>(k) * G + place.gate) * H_ + place.unit]
                 : 0.0f;
    });
  }

  // As those of ForwardBlock.
  template <class Work>
  MR_INLINE void each(int active, const Work& work) const {
    for (int e = static_cast<int>(threadIdx.x); e < active * share_.units; e += kResidentThreads) {
      const int64_t u = unit0_ + e % share_.units;
      if (u < H_) work(row_of_group(e / share_.units), u);
    }
  }
  template <int kFirst, int kGates, class Load, class Formulas>
  MR_INLINE void work_on(const ForwardStep& step, int copies, int row0, int rows, const Load& load,
                         const Formulas& formulas) const {
    for (int d = 0; d < copies; ++d) {
      Piece<Storage>* to = operand_ + d * share_.rows * share_.stride;
      stage<float>(rows, (H_ + kPiece - 1) / kPiece,
                   [&](int row, int k) { return load(d, row_of_group(row0 + row), k); },
                   [&](int row, int k, const Vector<float>& x) {
                     to[row * share_.stride + k] = piece_of<Storage>(x.v);
                   });
    }
    __syncthreads();
    using Operands = ForwardOperands<CellT, float>;
    const auto operands_of = [&](int e) {
      const int64_t u = unit0_ + e % share_.units;
      return e < rows * share_.units && u < H_
                 ? forward_operands<CellT, Storage>(step, row_of_group(row0 + e / share_.units), u)
                 : Operands{};
    };
    int e = static_cast<int>(threadIdx.x);
    Operands operands = operands_of(e);  // on their way while the product is made
    multiply<kFirst, kGates>(rows, copies);
    __syncthreads();
    for (; e < rows * share_.units; e += kResidentThreads) {
      const Operands next = operands_of(e + kResidentThreads);
      const int row = e / share_.units, unit = e % share_.units;
      if (unit0_ + unit < H_) {
        float sum[kGates];
        MR_UNROLL for (int g = 0; g < kGates; ++g) sum[g] = sum_of<kFirst, kGates>(row, g, unit);
        formulas(row_of_group(row0 + row), unit0_ + unit, operands, sum);
      }
      operands = next;
    }
  }

 private:
  using Base::chunks_, Base::gates_, Base::H_, Base::operand_, Base::share_, Base::unit0_,
      Base::weights_;

  // The gates' products: the parts of their depth to sums_ [parts][rows][width].
  template <int kFirst, int kGates>
  MR_INLINE void multiply(int rows, int copies) const {
    const int tiles = gates_.tiles(kFirst, kGates), parts = matrix_parts(tiles);
    const int tile0 = gates_.begin(kFirst) / kMatrixTile, part = (chunks_ + parts - 1) / parts;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    for (int piece = warp; piece < tiles * parts; piece += kResidentWarps) {
      const int tile = piece / parts, number = piece % parts;
      const int begin = number * part < chunks_ ? number * part : chunks_;
      const int count = chunks_ - begin < part ? chunks_ - begin : part;
      const int copy = copies > 1 ? tile * kMatrixTile / gates_.stride() : 0;
      const Piece<Storage>* right =
          operand_ + copy * share_.rows * share_.stride + begin * (kMatrixDepth / kPiece);
      with_row_tiles(rows, [&](auto row_tiles) {
        constexpr int kRowTiles = decltype(row_tiles)::kCount;
        float sum[kRowTiles][4];
        multiply_tile<Storage>(Base::tile_at(tile0 + tile, begin), right, share_.stride, count,
                               sum);
        const int quad = static_cast<int>(threadIdx.x & 3);
        const int group = static_cast<int>(threadIdx.x % kWarp >> 2);
        MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
          MR_UNROLL for (int j = 0; j < 4; ++j) {
            const int row = n * kMatrixRows + quad * 2 + (j & 1);
            const int column = tile * kMatrixTile + group + 8 * (j >> 1);
            sums_[(number * share_.rows + row) * matrix_width(tiles) + column] = sum[n][j];
          }
        }
      });
    }
  }
  template <int kFirst, int kGates>
  MR_INLINE float sum_of(int row, int gate, int unit) const {
    const int tiles = gates_.tiles(kFirst, kGates), width = matrix_width(tiles);
    const float* from = sums_ + row * width + gates_.begin(kFirst + gate) - gates_.begin(kFirst);
    float sum = 0;
    for (int part = 0; part < matrix_parts(tiles); ++part) {
      sum += from[part * share_.rows * width + unit];
    }
    return sum;
  }

  float* const sums_;
};

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kResidentThreads, 1) resident_forward_matrix(ResidentForward a) {
  forward_steps<CellT, Acts, Storage, MatrixForwardBlock<CellT, Storage>>(a);
}

// --- backward ------------------------------------------------------------------------------------

template <class CellT, class Storage>
class MatrixBackwardBlock : MatrixBlock<CellT, Storage> {
 public:
  using Base = MatrixBlock<CellT, Storage>;
  using Base::G;

  MR_INLINE MatrixBackwardBlock(unsigned char* memory, const ResidentBackward& a)
      : Base(memory, a.step.call, a.share,
             MatrixGates{G, a.share.units, CellT::kResetBefore,
                         a.step.call.problem.recurrent_dropout_gates > 1}.end()),
        a_(a) {}

  // Rows of the tiles are states, their depth slots of units.
  MR_INLINE void load_weights(const float* recurrent_kernel) const {
    Base::load(tiles(), share_.rows, [&](int row, int k) {
      const auto place = Base::place_of(k);
      if (place.gate < 0 || row >= H_) return 0.0f;
      const int gate = CellT::recurrent_gate(place.gate);
      return recurrent_kernel[(static_cast<int64_t>(row) * G + gate) * H_ + place.unit];
    });
  }

  // As those of BackwardBlock.
  MR_INLINE void put(int row, int slot, int unit, float d) const {
    using Element = typename Operand<Storage>::Element;
    float x[Operand<Storage>::kPacked] = {d};
    reinterpret_cast<Element*>(operand_)[row * share_.stride * kPiece + gates_.begin(slot) + unit] =
        static_cast<Element>(Operand<Storage>::word(x));
  }
  template <int kFirst, int kCount, bool kDropout>
  MR_INLINE void send(int half, int row0, int rows) const {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (tiles() >= kResidentWarps) {
      for (int tile = warp; tile < tiles(); tile += kResidentWarps) {
        with_row_tiles(rows, [&](auto row_tiles) {
          send_tile<kFirst, kCount, kDropout, decltype(row_tiles)::kCount>(half, row0, rows, 0,
                                                                           tile);
        });
      }
    } else {  // few states: warps share out the rows
      const int row_tiles = (rows + kMatrixRows - 1) / kMatrixRows;
      for (int piece = warp; piece < tiles() * row_tiles; piece += kResidentWarps) {
        send_tile<kFirst, kCount, kDropout, 1>(half, row0, rows, piece / tiles() * kMatrixRows,
                                               piece % tiles());
      }
    }
  }

 private:
  using Base::gates_, Base::H_, Base::operand_, Base::share_, Base::unit0_;

  MR_INLINE int tiles() const { return whole_tiles(H_) / kMatrixTile; }

  // The states of a tile for the rows from `first` on: a product for each mask.
  template <int kFirst, int kCount, bool kDropout, int kRowTiles>
  MR_INLINE void send_tile(int half, int row0, int rows, int first, int tile) const {
    const Problem& p = a_.step.call.problem;
    const bool apart = kDropout && gates_.masked_apart;
    const int quad = static_cast<int>(threadIdx.x & 3);
    const int group = static_cast<int>(threadIdx.x % kWarp >> 2);
    float total[kRowTiles][4] = {};
    for (int slot = kFirst; slot < kFirst + (apart ? kCount : 1); ++slot) {
      const int chunk = gates_.begin(slot) / kMatrixDepth;
      const int chunks = apart ? gates_.tiles(slot, 1) : gates_.tiles(kFirst, kCount);
      float sum[kRowTiles][4];
      multiply_tile<Storage>(Base::tile_at(tile, chunk),
                             operand_ + first * share_.stride + chunk * (kMatrixDepth / kPiece),
                             share_.stride, chunks, sum);
      MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
        MR_UNROLL for (int j = 0; j < 4; ++j) {
          const int row = first + n * kMatrixRows + quad * 2 + (j & 1);
          const int state = tile * kMatrixTile + group + 8 * (j >> 1);
          float mask = 1;
          if (kDropout && p.recurrent_dropout != nullptr && row < rows && state < H_) {
            mask = dropout_at<Storage>(p.recurrent_dropout, p,
                                       apart ? CellT::recurrent_gate(slot) : 0,
                                       a_.step.call.steps.row[row_of_group(row0 + row)], H_, state);
          }
          total[n][j] += sum[n][j] * mask;
        }
      }
    }
    const int64_t slice = p.batch * H_;
    float* to = static_cast<float*>(a_.d_states) + (half * gridDim.x + blockIdx.x) * slice;
    MR_UNROLL for (int n = 0; n < kRowTiles; ++n) {
      MR_UNROLL for (int j = 0; j < 4; ++j) {
        const int row = first + n * kMatrixRows + quad * 2 + (j & 1);
        const int state = tile * kMatrixTile + group + 8 * (j >> 1);
        if (row < rows && state < H_) to[row_of_group(row0 + row) * H_ + state] = total[n][j];
      }
    }
  }

  const ResidentBackward& a_;
};

template <class CellT, class Acts, class Storage>
__global__ void __launch_bounds__(kResidentThreads, 1)
    resident_backward_matrix(ResidentBackward a) {
  backward_steps<CellT, Acts, Storage, MatrixBackwardBlock<CellT, Storage>>(a);
}

}  // namespace masked_rnn::cuda
