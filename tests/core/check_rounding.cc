// How kernels round: every value of a 16-bit type in and out, and one rounding of a * b + c.

#include <cmath>
#include <cstring>
#include <vector>

#include "cases.h"
#include "checks.h"
#include "names.h"
#include "numbers.h"
#include "report.h"
#include "rnn.h"

namespace masked_rnn::test {
namespace {

// h = x @ kernel of a simple RNN without activation: [rows,features] @ [features,columns].
std::vector<char> product(DType dtype, const std::string& isa, const std::vector<char>& x,
                          const std::vector<char>& kernel, int64_t rows, int64_t features,
                          int64_t columns) {
  const std::vector<char> recurrent_kernel(columns * columns * bytes_of(dtype));
  Problem p;
  p.cell = Cell::kSimpleRnn;
  p.dtype = dtype;
  p.activation = Activation::kLinear;
  p.batch = rows;
  p.time = 1;
  p.features = features;
  p.units = columns;
  p.inputs = x.data();
  p.kernel = kernel.data();
  p.recurrent_kernel = recurrent_kernel.data();
  std::vector<char> outputs(rows * columns * bytes_of(dtype)), state(outputs.size());
  Plan(p, {1, isa}).forward({outputs.data(), state.data(), nullptr, nullptr});
  return outputs;
}

std::vector<char> encoded(DType dtype, const std::vector<double>& values) {
  std::vector<char> elements(values.size() * bytes_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) encode(dtype, values[i], &elements[i * bytes_of(dtype)]);
  return elements;
}

// Loads all 65,536 values, and stores their products with weights that make results normal,
// subnormal, too small, too large and in need of rounding.
void check_storage(DType dtype, const std::string& isa) {
  constexpr int64_t kValues = 65536;
  std::vector<char> x(kValues * 2);
  for (int64_t i = 0; i < kValues; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    std::memcpy(&x[2 * i], &bits, 2);
  }
  const std::vector<char> weights = encoded(dtype, {1, 1.0078125, 0.333, 0x1p-8, -100});
  const int64_t columns = static_cast<int64_t>(weights.size()) / 2;
  const std::vector<char> got = product(dtype, isa, x, weights, kValues, 1, columns);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kValues * columns; ++i) {
    const float a = static_cast<float>(decode(dtype, &x[i / columns * 2]));
    const float b = static_cast<float>(decode(dtype, &weights[i % columns * 2]));
    char element[2];
    encode(dtype, a * b, element);
    const double want = decode(dtype, element), have = decode(dtype, &got[i * 2]);
    // Instructions that multiply bfloat16 take subnormal numbers for zero.
    const bool subnormal = std::fabs(a) < 0x1p-126f || std::fabs(a * b) < 0x1p-126f;
    if (subnormal && multiplies_bfloat16(dtype, isa)) continue;
    if (!(have == want || (std::isnan(have) && std::isnan(want))) && ++wrong <= 3) {
      fail(std::to_string(a) + " * " + std::to_string(b) + " is stored as " + std::to_string(have));
    }
  }
  if (wrong > 0) fail(std::to_string(wrong) + " of all products are wrong");
}

// -1 + (1 + e)(1 + e): what a product rounded by itself loses is the last bit, e^2.
void check_fused(DType dtype, const std::string& isa) {
  const double e = dtype == DType::kFloat64 ? 0x1p-30 : 0x1p-13;
  const std::vector<char> got = product(dtype, isa, encoded(dtype, {-1, 1 + e}),
                                        encoded(dtype, {1, 1 + e}), 1, 2, 1);
  const double want = isa == "generic" ? 2 * e : 2 * e + e * e;
  if (decode(dtype, got.data()) != want) fail("a multiply-add has not the rounding of its row");
}

}  // namespace

void check_rounding() {
  for (const KernelName& k : kernels()) {
    if (k.cell != "simple_rnn") continue;
    now_running("rounding of " + k.dtype + " on " + k.isa);
    const DType dtype = dtype_from_name(k.dtype);
    if (bytes_of(dtype) == 2) {
      check_storage(dtype, k.isa);
    } else {
      check_fused(dtype, k.isa);
    }
  }
}

}  // namespace masked_rnn::test
