#include "dispatch.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>

#include "../error.h"
#include "../names.h"

namespace masked_rnn {
namespace {

// Worst first: a machine that has one of them has those before it.
constexpr IsaTables kAll[] = {
#if defined(MASKED_RNN_HAS_generic)
    {"generic", &kernels_generic_float, &kernels_generic_double},
#endif
#if defined(MASKED_RNN_HAS_neon)
    {"neon", &kernels_neon_float, &kernels_neon_double},
#endif
#if defined(MASKED_RNN_HAS_avx2)
    {"avx2", &kernels_avx2_float, &kernels_avx2_double},
#endif
#if defined(MASKED_RNN_HAS_avx512)
    {"avx512", &kernels_avx512_float, &kernels_avx512_double},
#endif
#if defined(MASKED_RNN_HAS_avx512bf16)
    {"avx512bf16", &kernels_avx512bf16_float, nullptr},
#endif
#if defined(MASKED_RNN_HAS_amx)
    {"amx", &kernels_amx_float, nullptr},
#endif
};

#if defined(__x86_64__)
// Linux hands out the matrix registers' state (8 KB of a thread that uses them) on request, for all
// threads of the process.
bool has_matrix_registers() {
#if defined(__linux__)
  constexpr unsigned kBFloat16Bit = 1u << 22, kTileBit = 1u << 24;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl; headers may lack them
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kBFloat16Bit) && (d & kTileBit) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

bool has([[maybe_unused]] std::string_view isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == "avx2") {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  }
  if (isa == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has("avx2");
  }
  // Intel's cores multiply pairs of bfloat16 at half their speed of float32: there only as a step
  // towards AMX.
  if (isa == "avx512bf16") {
    return __builtin_cpu_supports("avx512bf16") && has("avx512") &&
           (!__builtin_cpu_is("intel") || has_matrix_registers());
  }
  if (isa == "amx") return has("avx512bf16") && has_matrix_registers();
#endif
  return true;
}

int count_supported() {
  int count = 0;
  while (count < static_cast<int>(std::size(kAll)) && has(kAll[count].isa)) ++count;
  return count;
}

const IsaTables& find(std::string_view name, const char* where) {
  const IsaTables* tables;
  const int count = supported_isas(&tables);
  std::string known;
  for (int i = 0; i < count; ++i) {
    if (name == tables[i].isa) return tables[i];
    known += std::string(known.empty() ? "" : ", ") + tables[i].isa;
  }
  throw InvalidArgument(std::string(where) + " is '" + std::string(name) +
                        "', needed: one of " + known + " (what this machine has)");
}

// What MASKED_RNN_ISA says, "" where it is not set.
std::string_view forced_isa() {
  static const char* const forced = std::getenv("MASKED_RNN_ISA");
  return forced == nullptr ? "" : forced;
}

}  // namespace

int supported_isas(const IsaTables** tables) {
  static const int count = count_supported();
  *tables = kAll;
  return count;
}

const IsaTables& choose_isa(std::string_view name) {
  if (!name.empty()) return find(name, "isa");
  if (!forced_isa().empty()) return find(forced_isa(), "MASKED_RNN_ISA");
  const IsaTables* tables;
  const int count = supported_isas(&tables);
  return tables[count - 1];
}

namespace {

bool has_mesh() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") && has("avx512");
#else
  return false;
#endif
}

// The mesh of Intel's servers (Granite Rapids): a meeting 0.45 us, and 1.5 ns for each element; weights
// past 1 MB of a core's 2 MB of L2 come with 28 GB/s. Zen 4: a meeting 0.2 us in all.
SharingCost sharing_cost(DType dtype, OperandPlanes planes) {
  static const bool mesh = has_mesh();  // asked for by every call
  if (!mesh) return {4000, 0};
  const int64_t bytes = planes.step > 0 ? 2 : real_bytes(dtype);
  return {8000, 40, double((1 << 20) / bytes), planes.step > 0 ? 48 : 16};
}

// Whether float32 products of whole chunks in planes of bfloat16 pay: where inputs or units are few,
// splitting and packing cost what the products gain. Not a question of the batch, as a row's bits depend on
// the answer.
bool splits_float32(const Problem& p) {
  return p.features >= 96 && p.units >= 32 && p.features * p.units >= 8192;
}

}  // namespace

Choice choose_kernel(const Problem& problem, std::string_view isa) {
  const bool named = !isa.empty() || !forced_isa().empty();
  for (const IsaTables* tables = &choose_isa(isa); tables >= kAll; --tables) {
    const KernelTable* table =
        problem.dtype == DType::kFloat64 ? tables->double_table : tables->float_table;
    for (int i = 0; table != nullptr && i < table->count; ++i) {
      const KernelRow& row = table->rows[i];
      if (row.cell != problem.cell || row.dtype != problem.dtype) continue;
      const bool splits = row.planes.chunk > 1;
      if (splits && !named && !splits_float32(problem)) continue;
      return {table->vector_bytes, row, sharing_cost(problem.dtype, row.planes)};
    }
  }
  throw InvalidArgument(std::string("no kernel for cell '") + name_of(problem.cell) +
                        "' in " + name_of(problem.dtype));
}

}  // namespace masked_rnn
