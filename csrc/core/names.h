// Names of cells, dtypes and activations, as Python spells them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "params.h"

namespace masked_rnn {

MASKED_RNN_API Cell cell_from_name(std::string_view name);              // throws InvalidArgument
MASKED_RNN_API DType dtype_from_name(std::string_view name);
MASKED_RNN_API Activation activation_from_name(std::string_view argument, std::string_view name);
MASKED_RNN_API const char* name_of(Cell cell);
MASKED_RNN_API const char* name_of(DType dtype);
MASKED_RNN_API const char* name_of(Activation activation);
MASKED_RNN_API std::vector<std::string> activation_names();

}  // namespace masked_rnn
