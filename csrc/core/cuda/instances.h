// C++ names of kernel instances, as a Device is asked for them.
#pragma once

#include <initializer_list>
#include <string>

#include "../params.h"

namespace masked_rnn::cuda {

const char* storage_name(DType dtype);
// "name<Cell, Activations, Storage, sizes...>"
std::string instance_name(const Problem& problem, const char* name,
                          std::initializer_list<int> sizes = {});

}  // namespace masked_rnn::cuda
