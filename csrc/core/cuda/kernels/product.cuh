// The library's own matrix product, for where no other is to be had or a row's bits may not depend
// on the batch: each element is summed over k by one thread in one order, whatever m is.
#pragma once

#include "compaction.cuh"

namespace masked_rnn::cuda {

template <class R>
__global__ void __launch_bounds__(kProductThreads) multiply(Multiply p) {
  MR_SHARED(memory);
  constexpr int kRow = kProductTile + 1;
  R* a_tile = reinterpret_cast<R*>(memory);
  R* b_tile = a_tile + kProductDepth * kRow;
  const int64_t extent = p.limit == Multiply::Limit::kNone ? 0 : *p.end - *p.first;
  const int64_t m = p.limit == Multiply::Limit::kRows ? extent : p.m;
  const int64_t depth = p.limit == Multiply::Limit::kDepth ? extent : p.k;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kProductTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.y) * kProductTile;
  if (row0 >= m) return;
  const int64_t part = (depth + gridDim.z - 1) / gridDim.z;
  const int64_t begin = blockIdx.z * part;
  const int64_t end = begin + part < depth ? begin + part : depth;
  const int thread = static_cast<int>(threadIdx.x);
  const int my_row = thread / (kProductTile / kProductShare);
  const int my_column = thread % (kProductTile / kProductShare);
  const R* a = static_cast<const R*>(p.a);
  const R* b = static_cast<const R*>(p.b);
  R total[kProductShare][kProductShare] = {}, sum[kProductShare][kProductShare] = {};
  int64_t summed = 0;
  for (int64_t k0 = begin; k0 < end; k0 += kProductDepth) {
    for (int e = thread; e < kProductDepth * kProductTile; e += kProductThreads) {
      // Neighbours read neighbours, whichever way an operand lies.
      const bool a_deep = p.a_column == 1, b_deep = p.b_row == 1 && p.b_column != 1;
      const int ak = a_deep ? e % kProductDepth : e / kProductTile;
      const int ai = a_deep ? e / kProductDepth : e % kProductTile;
      const bool a_inside = k0 + ak < end && row0 + ai < m;
      a_tile[ak * kRow + ai] = !a_inside ? R(0)
                               : a == nullptr
                                   ? R(1)
                                   : a[(row0 + ai) * p.a_row + (k0 + ak) * p.a_column];
      const int bk = b_deep ? e % kProductDepth : e / kProductTile;
      const int bj = b_deep ? e / kProductDepth : e % kProductTile;
      const bool b_inside = k0 + bk < end && column0 + bj < p.n;
      b_tile[bk * kRow + bj] =
          b_inside ? b[(k0 + bk) * p.b_row + (column0 + bj) * p.b_column] : R(0);
    }
    __syncthreads();
    const int64_t left = end - k0;
    const int count = left < kProductDepth ? static_cast<int>(left) : kProductDepth;
    for (int k = 0; k < count; ++k) {
      R x[kProductShare], y[kProductShare];
      for (int i = 0; i < kProductShare; ++i) {
        x[i] = a_tile[k * kRow + my_row * kProductShare + i];
        y[i] = b_tile[k * kRow + i * (kProductTile / kProductShare) + my_column];
      }
      for (int i = 0; i < kProductShare; ++i) {
        for (int j = 0; j < kProductShare; ++j) sum[i][j] = fma_of(x[i], y[j], sum[i][j]);
      }
    }
    __syncthreads();
    summed += kProductDepth;
    if (summed % kProductBlock == 0 || k0 + kProductDepth >= end) {
      for (int i = 0; i < kProductShare; ++i) {
        for (int j = 0; j < kProductShare; ++j) {
          total[i][j] += sum[i][j];
          sum[i][j] = 0;
        }
      }
    }
  }
  R* c = static_cast<R*>(p.c);
  int64_t c_row = p.c_row;
  bool accumulate = p.accumulate;
  if (gridDim.z > 1) {
    c = static_cast<R*>(p.parts) + blockIdx.z * p.m * p.n;
    c_row = p.n;
    accumulate = false;
  }
  for (int i = 0; i < kProductShare; ++i) {
    const int64_t row = row0 + my_row * kProductShare + i;
    if (row >= m) break;
    for (int j = 0; j < kProductShare; ++j) {
      const int64_t column = column0 + j * (kProductTile / kProductShare) + my_column;
      if (column >= p.n) break;
      R& to = c[row * c_row + column];
      to = accumulate ? to + total[i][j] : total[i][j];
    }
  }
}

template <class R>
__global__ void add_parts(AddParts p) {
  const int64_t e = element_of_thread();
  if (e >= p.m * p.n) return;
  R sum = 0;
  for (int z = 0; z < p.count; ++z) sum += static_cast<const R*>(p.parts)[z * p.m * p.n + e];
  R& to = static_cast<R*>(p.c)[e / p.n * p.c_row + e % p.n];
  to = p.accumulate ? to + sum : sum;
}

}  // namespace masked_rnn::cuda
