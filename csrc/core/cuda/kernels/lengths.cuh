// The mask of sequence lengths.
#pragma once

#include "compaction.cuh"

namespace masked_rnn::cuda {

__global__ void mask_of_lengths(MaskOfLengths a) {
  const int64_t i = element_of_thread();
  if (i < a.rows * a.time) a.mask[i] = i % a.time < a.length[i / a.time];
}

}  // namespace masked_rnn::cuda
