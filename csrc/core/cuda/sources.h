// The kernels' source text, put into the library when it was built (embed.cmake).
#pragma once

#include <string>
#include <vector>

#include "../params.h"

namespace masked_rnn::cuda {

struct Source {
  std::string name;  // as it stands in #include "name"
  std::string text;
};

// kernels.cu first, then every header that it may include.
MASKED_RNN_API const std::vector<Source>& embedded_sources();

}  // namespace masked_rnn::cuda
