// Element types as the tests see them: from and to double, one value at a time.
#pragma once

#include <cstddef>
#include <vector>

#include "params.h"

namespace masked_rnn::test {

// The value at `element`, which may be misaligned.
double decode(DType dtype, const void* element);
// Rounds to nearest, ties to even, through float for the 16-bit types, as the kernels do.
void encode(DType dtype, double value, void* element);

std::vector<double> decode_all(DType dtype, const void* elements, size_t count);

}  // namespace masked_rnn::test
