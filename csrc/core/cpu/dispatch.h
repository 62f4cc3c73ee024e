// Which kernels exist, and which this machine runs.
#pragma once

#include <string_view>

#include "../job.h"
#include "../schedule.h"

namespace masked_rnn {

// One table for each instruction set (defined by kernels.cc) and compute type. Which of them there
// are, CMakeLists.txt says with MASKED_RNN_HAS_<isa>.
extern const KernelTable kernels_generic_float, kernels_generic_double;
extern const KernelTable kernels_neon_float, kernels_neon_double;
extern const KernelTable kernels_avx2_float, kernels_avx2_double;
extern const KernelTable kernels_avx512_float, kernels_avx512_double;
extern const KernelTable kernels_avx512bf16_float, kernels_amx_float;

struct IsaTables {
  const char* isa;
  const KernelTable* float_table;
  const KernelTable* double_table;  // may be null
};

// The instruction sets this machine has, worst first.
int supported_isas(const IsaTables** tables);

// The one named, or for an empty name the best, which MASKED_RNN_ISA can lower.
// Throws InvalidArgument for a name that does not exist or that this machine lacks.
const IsaTables& choose_isa(std::string_view name);

// The kernels for a cell and dtype: of the instruction set chosen, or where that has none, of the
// best one below.
struct Choice {
  int vector_bytes;
  KernelRow kernels;
  SharingCost sharing;  // on this machine
};
Choice choose_kernel(const Problem& problem, std::string_view isa);

}  // namespace masked_rnn
