// A call, queued on a stream, chunk by chunk of steps. The recurrence over a chunk is one launch of the
// resident kernel or of clusters where that was chosen. Else the general kernels do it, for any size,
// cell, dtype and option: a step is one launch (two for reset before), and steps that no row has left
// end at once.
#pragma once

#include "queue.h"

namespace masked_rnn::cuda {

void forward_general(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                     const ForwardResults& results);
void backward_general(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                      const BackwardArrays& arrays);

}  // namespace masked_rnn::cuda
