// The kernels of a call, queued on a stream. The recurrence is the general one, for any size, cell,
// dtype and option: a step is one launch (two for reset before), and steps that no row has left end
// at once; or the one that `choice` names.
#pragma once

#include "queue.h"

namespace masked_rnn::cuda {

void forward_general(const Queue& queue, const Choice& choice, const ForwardMemory& memory,
                     const ForwardResults& results);
void backward_general(const Queue& queue, const Choice& choice, const BackwardMemory& memory,
                      const BackwardArrays& arrays);

}  // namespace masked_rnn::cuda
