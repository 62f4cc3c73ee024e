#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace masked_rnn::test {
namespace {

// The layout of a 16-bit type: sign, exponent, mantissa.
struct Format {
  int mantissa_bits, bias;
  int exponent_mask() const { return (1 << (15 - mantissa_bits)) - 1; }
  int smallest_exponent() const { return 1 - bias; }
};
constexpr Format kHalf{10, 15}, kBrain{7, 127};

double from_bits(const Format& f, uint16_t bits) {
  const int exponent = bits >> f.mantissa_bits & f.exponent_mask();
  const int mantissa = bits & ((1 << f.mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == f.exponent_mask()) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, f.smallest_exponent() - f.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - f.bias - f.mantissa_bits);
}

uint16_t to_bits(const Format& f, float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinite = f.exponent_mask() << f.mantissa_bits;
  if (std::isnan(value)) return sign | infinite | 1 << (f.mantissa_bits - 1);
  const double magnitude = std::fabs(double{value});
  if (std::isinf(magnitude)) return sign | infinite;
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), f.smallest_exponent());
  // In units of the last place. A carry out of the mantissa goes into the exponent as it should.
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude,
                                                               f.mantissa_bits - exponent)));
  const int64_t bits = (int64_t{exponent - f.smallest_exponent()} << f.mantissa_bits) + units;
  return sign | static_cast<uint16_t>(std::min<int64_t>(bits, infinite));
}

template <class T>
T read(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
void write(void* to, T value) {
  std::memcpy(to, &value, sizeof(value));
}

}  // namespace

double decode(DType dtype, const void* element) {
  switch (dtype) {
    case DType::kFloat64: return read<double>(element);
    case DType::kFloat32: return read<float>(element);
    case DType::kBFloat16: return from_bits(kBrain, read<uint16_t>(element));
    case DType::kFloat16: return from_bits(kHalf, read<uint16_t>(element));
  }
  return NAN;
}

void encode(DType dtype, double value, void* element) {
  switch (dtype) {
    case DType::kFloat64: return write(element, value);
    case DType::kFloat32: return write(element, static_cast<float>(value));
    case DType::kBFloat16: return write(element, to_bits(kBrain, static_cast<float>(value)));
    case DType::kFloat16: return write(element, to_bits(kHalf, static_cast<float>(value)));
  }
}

std::vector<double> decode_all(DType dtype, const void* elements, size_t count) {
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = decode(dtype, static_cast<const char*>(elements) + i * bytes_of(dtype));
  }
  return values;
}

}  // namespace masked_rnn::test
