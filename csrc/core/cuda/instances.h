// C++ names of kernel instances, as a Device is asked for them.
#pragma once

#include <string>

#include "kernels/tiles.h"

namespace masked_rnn::cuda {

const char* storage_name(DType dtype);
const char* real_name(DType dtype);

// "name<Cell, Activations, Storage>", and "name<Cell, Activations, Storage, units, blocks>".
std::string instance_name(const Problem& problem, const char* name);
std::string instance_name(const Problem& problem, const char* name, const ClusterShape& shape);

}  // namespace masked_rnn::cuda
