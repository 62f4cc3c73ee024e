// The resident kernels (kernels/resident.cuh, resident_matrix.cuh) on the host: what of shared
// memory they take, and their launch.
#pragma once

#include "queue.h"

namespace masked_rnn::cuda {

// Shared memory that a block takes.
int64_t resident_forward_bytes(const Problem& problem, const Resident& resident);
int64_t resident_backward_bytes(const Problem& problem, const Resident& resident);
// Without matrix products, forward: rows at a time are a power of two times these.
int64_t resident_row_lanes(Cell cell, int64_t units);

// Queue all steps of a chunk in one launch. False, and nothing is queued, where the device does not
// hold all its blocks at once (as where processes share it); ResourceExhausted where this kernel
// was asked for.
bool resident_forward(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                      const ForwardStep& step);
bool resident_backward(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                       const BackwardStep& step);

}  // namespace masked_rnn::cuda
