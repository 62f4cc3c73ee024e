// Every kernel over the table of cases, forward and backward: against the float64 reference, and bit
// for bit between guards on either side, numbers of threads, and calls that keep a reserve or not.

#include <map>
#include <set>
#include <vector>

#include "call.h"
#include "checks.h"
#include "names.h"
#include "reference.h"
#include "report.h"

namespace masked_rnn::test {
namespace {

// Of the largest magnitude in an array, as in tests/cases.py: a few roundings a step, or for 16 bits
// the one of what is stored. Products of bfloat16 round the state in each step.
double tolerance_of(DType dtype, const std::string& isa) {
  if (multiplies_bfloat16(dtype, isa)) return 3e-2;
  switch (dtype) {
    case DType::kFloat64: return 1e-14;
    case DType::kFloat32: return 4e-6;
    case DType::kBFloat16: return 4e-3;
    case DType::kFloat16: return 5e-4;
  }
  return 0;
}

struct Outcome {
  Call::Forward forward;
  Call::Backward backward;
};

void check_numbers(const Outcome& got, const Results& want, DType dtype, double tolerance) {
  const auto check = [&](const char* name, const Guarded& array, const std::vector<double>& values) {
    if (array.data() != nullptr) check_close(name, dtype, array, values, tolerance);
  };
  check("outputs", got.forward.outputs, want.outputs);
  check("state_h", got.forward.state_h, want.state_h);
  check("state_c", got.forward.state_c, want.state_c);
  check("d_inputs", got.backward.d_inputs, want.d_inputs);
  check("d_kernel", got.backward.d_kernel, want.d_kernel);
  check("d_recurrent_kernel", got.backward.d_recurrent_kernel, want.d_recurrent_kernel);
  check("d_bias", got.backward.d_bias, want.d_bias);
  check("d_initial_h", got.backward.d_initial_h, want.d_initial_h);
  check("d_initial_c", got.backward.d_initial_c, want.d_initial_c);
}

void check_same_results(const Call::Forward& got, const Call::Forward& want) {
  check_same_bits("outputs", got.outputs, want.outputs);
  check_same_bits("state_h", got.state_h, want.state_h);
  check_same_bits("state_c", got.state_c, want.state_c);
}

// What belongs to a row has the same bits in every call; sums over rows may depend on the threads.
void check_same_rows(const Outcome& got, const Outcome& want) {
  check_same_results(got.forward, want.forward);
  check_same_bits("d_inputs", got.backward.d_inputs, want.backward.d_inputs);
  check_same_bits("d_initial_h", got.backward.d_initial_h, want.backward.d_initial_h);
  check_same_bits("d_initial_c", got.backward.d_initial_c, want.backward.d_initial_c);
}

void check_case(const Case& c, Cell cell, DType dtype, const std::vector<std::string>& isas) {
  const Values values = draw(c, cell, dtype);
  const Results want = reference(values);
  const Call calls[] = {Call(values, Guard::kBehind), Call(values, Guard::kBefore)};
  for (const std::string& isa : isas) {
    std::vector<Outcome> outcomes;
    for (int threads = 1; threads <= (c.split ? 3 : 1); ++threads) {
      for (const Call& call : calls) {
        now_running(std::string(name_of(cell)) + "-" + name_of(dtype) + "-" + isa + "-" +
                    name_of(c) + " on " + std::to_string(threads) + " threads");
        const Options options{threads, isa};
        Outcome got{call.forward(options, true), {}};
        got.backward = call.backward(options, got.forward.reserve);
        check_numbers(got, want, dtype, tolerance_of(dtype, isa));
        check_same_results(call.forward(options, false), got.forward);
        if (!outcomes.empty()) check_same_rows(got, outcomes.front());
        outcomes.push_back(std::move(got));
      }
    }
  }
}

}  // namespace

void check_table() {
  std::map<std::pair<Cell, DType>, std::vector<std::string>> isas;
  std::set<std::string> known;
  for (const KernelName& k : kernels()) {
    isas[{cell_from_name(k.cell), dtype_from_name(k.dtype)}].push_back(k.isa);
    known.insert(k.isa);
  }
  if (isas.size() != 16) fail("kernels() lacks a cell or an element type");
#if defined(__aarch64__)
  if (known != std::set<std::string>{"neon"}) fail("the kernels of this processor are not 'neon'");
#endif
  for (const Case& c : table()) {
    for (const auto& [kernel, names] : isas) check_case(c, kernel.first, kernel.second, names);
  }
}

}  // namespace masked_rnn::test
