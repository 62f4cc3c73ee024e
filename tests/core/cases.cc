#include "cases.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "names.h"
#include "numbers.h"
#include "schedule.h"

namespace masked_rnn::test {
namespace {

constexpr const char* kMaskNames[] = {"none",        "full",  "empty",         "right_padded",
                                      "left_padded", "holes", "one_row_empty", "sparse"};
constexpr const char* kDropoutNames[] = {"none", "shared", "per_gate"};
constexpr Mask kMasks[] = {Mask::kNone,       Mask::kFull,  Mask::kEmpty,       Mask::kRightPadded,
                           Mask::kLeftPadded, Mask::kHoles, Mask::kOneRowEmpty, Mask::kSparse};

class Generator {
 public:
  explicit Generator(const std::string& seed) {
    std::seed_seq sequence(seed.begin(), seed.end());
    engine_.seed(sequence);
  }

  double uniform(double low, double high) {  // std's distributions differ between libraries
    return low + (high - low) * std::ldexp(static_cast<double>(engine_() >> 11), -53);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }

  std::vector<double> array(int64_t count, double scale) {
    std::vector<double> values(count);
    for (double& v : values) v = uniform(-scale, scale);
    return values;
  }
  std::vector<double> dropout(int64_t count) {  // keeps three of four
    std::vector<double> values(count);
    for (double& v : values) v = below(4) == 0 ? 0 : 4.0 / 3;
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

void fill_mask(Mask kind, int64_t batch, int64_t time, Generator& random,
               std::vector<uint8_t>& mask) {
  mask.assign(batch * time, 0);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = b == 0 ? time : 1 + random.below(std::max<int64_t>(time, 1));
    for (int64_t t = 0; t < time; ++t) {
      bool real = true;
      switch (kind) {
        case Mask::kNone:
        case Mask::kFull: break;
        case Mask::kEmpty: real = false; break;
        case Mask::kRightPadded: real = t < length; break;
        case Mask::kLeftPadded: real = t >= time - length; break;
        case Mask::kHoles: real = random.below(2) == 0; break;
        case Mask::kOneRowEmpty: real = b != batch / 2; break;
        case Mask::kSparse: real = random.below(8) == 0; break;
      }
      mask[b * time + t] = real ? 1 + random.below(255) : 0;  // any non-zero byte is a real step
    }
  }
}

// An activation without bounds in both places would leave float16's range unless the weights are
// small.
double gain_of(Activation activation) {
  switch (activation) {
    case Activation::kTanh:
    case Activation::kSigmoid:
    case Activation::kSoftsign:
    case Activation::kHardSigmoid:
    case Activation::kHardTanh:
    case Activation::kSparseSigmoid: return 1;
    case Activation::kExponential: return 0.1;
    default: return 0.5;
  }
}

int64_t masks_of(Dropout dropout, Cell cell) {
  return dropout == Dropout::kNone ? 0 : dropout == Dropout::kShared ? 1 : gates(cell);
}

void round_to(DType dtype, Array& array) {
  if (!array) return;
  for (double& value : *array) {
    char element[8];
    encode(dtype, value, element);
    value = decode(dtype, element);
  }
}

}  // namespace

std::string name_of(const Case& c) {
  std::string name;
  for (auto [letter, size] : {std::pair{'B', c.batch}, {'T', c.time}, {'I', c.features},
                              {'H', c.units}}) {
    name += letter + std::to_string(size);
  }
  const auto add = [&name](bool differs, const std::string& word) {
    if (differs) (name += '-') += word;
  };
  add(true, kMaskNames[static_cast<int>(c.mask)]);
  add(c.go_backwards, "go_backwards");
  add(c.zero_output_for_mask, "zero_output_for_mask");
  add(!c.return_sequences, "last_output");
  add(!c.bias, "no_bias");
  add(!c.initial_state, "no_initial_state");
  add(!c.d_outputs, "no_d_outputs");
  add(!c.d_states, "no_d_states");
  add(c.input_dropout != Dropout::kNone,
      std::string("input_dropout=") + kDropoutNames[static_cast<int>(c.input_dropout)]);
  add(c.recurrent_dropout != Dropout::kNone,
      std::string("recurrent_dropout=") + kDropoutNames[static_cast<int>(c.recurrent_dropout)]);
  add(c.activation != Activation::kTanh, name_of(c.activation));
  add(c.recurrent_activation != Activation::kSigmoid,
      std::string("recurrent_") + name_of(c.recurrent_activation));
  return name;
}

std::vector<Case> table() {
  std::vector<Case> cases;
  // Sizes on either side of a vector, a tile and a panel; empty ones.
  for (int64_t batch : {1, 3, 17}) {
    for (int64_t units : {1, 3, 17, 33}) cases.push_back({batch, 3, 3, units});
  }
  for (auto [batch, time, features, units] : std::initializer_list<std::array<int64_t, 4>>{
           {33, 3, 1, 3}, {151, 1, 3, 3}, {1, 151, 3, 3}, {3, 33, 17, 1}, {3, 3, 33, 17},
           {1, 3, 151, 3}, {2, 3, 3, 151}, {17, 2, 65, 129}, {4, 8, 16, 32}, {1, 1, 1, 1},
           {0, 7, 3, 17}, {5, 0, 3, 17}, {5, 7, 0, 17}, {0, 0, 0, 1}}) {
    cases.push_back({batch, time, features, units});
  }
  for (Mask mask : kMasks) {
    for (int options = 0; options < 8; ++options) {
      Case c{5, 7, 3, 5, mask};
      c.go_backwards = options & 1;
      c.zero_output_for_mask = options & 2;
      c.return_sequences = options & 4;
      cases.push_back(c);
    }
  }
  for (int absent = 1; absent < 16; ++absent) {
    Case c{3, 4, 3, 5, Mask::kRightPadded};
    c.bias = !(absent & 1);
    c.initial_state = !(absent & 2);
    c.d_outputs = !(absent & 4);
    c.d_states = !(absent & 8);
    c.return_sequences = absent % 3 != 0;
    cases.push_back(c);
  }
  constexpr Dropout kDropouts[] = {Dropout::kNone, Dropout::kShared, Dropout::kPerGate};
  for (Dropout of_inputs : kDropouts) {
    for (Dropout of_state : kDropouts) {
      for (int64_t units : {3, 17, 65}) {
        Case c{5, 5, 18, units};
        c.input_dropout = of_inputs;
        c.recurrent_dropout = of_state;
        cases.push_back(c);
      }
      Case many{40, 3, 35, 50};
      many.input_dropout = of_inputs;
      many.recurrent_dropout = of_state;
      cases.push_back(many);
    }
  }
  for (int i = 0; i < kActivations; ++i) {
    Case c{2, 4, 3, 5};
    c.activation = static_cast<Activation>(i);
    cases.push_back(c);
    c.activation = Activation::kTanh;
    c.recurrent_activation = static_cast<Activation>(i);
    cases.push_back(c);
  }
  // A million multiply-adds and more: many rows go to threads in groups, few in parts of their units
  // that meet after each step, few rows of few units in groups again (schedule.cc).
  for (auto [batch, time, features, units] : std::initializer_list<std::array<int64_t, 4>>{
           {2, 70, 33, 65}, {5, 28, 33, 65}, {35, 4, 33, 65}, {5, 40, 151, 17}}) {
    for (Dropout dropout : {Dropout::kNone, Dropout::kPerGate}) {
      Case c{batch, time, features, units, batch == 2 ? Mask::kRightPadded : Mask::kHoles};
      c.input_dropout = c.recurrent_dropout = dropout;
      c.go_backwards = dropout == Dropout::kNone;
      c.split = true;
      cases.push_back(c);
    }
  }
  return cases;
}

Values draw(const Case& c, Cell cell, DType dtype) {
  Generator random(std::string(name_of(cell)) + "-" + name_of(c));
  Values v;
  Problem& p = v.problem;
  p.cell = cell;
  p.dtype = dtype;
  p.activation = c.activation;
  p.recurrent_activation = c.recurrent_activation;
  p.go_backwards = c.go_backwards;
  p.zero_output_for_mask = c.zero_output_for_mask;
  p.return_sequences = c.return_sequences;
  p.batch = c.batch;
  p.time = c.time;
  p.features = c.features;
  p.units = c.units;
  p.input_dropout_gates = masks_of(c.input_dropout, cell);
  p.recurrent_dropout_gates = masks_of(c.recurrent_dropout, cell);

  const int64_t width = gates(cell) * c.units, state = c.batch * c.units;
  const bool lstm = cell == Cell::kLstm;
  const double gain = std::min(gain_of(c.activation), gain_of(c.recurrent_activation));
  v.has_mask = c.mask != Mask::kNone;
  if (v.has_mask) fill_mask(c.mask, c.batch, c.time, random, v.mask);
  v.inputs = random.array(c.batch * c.time * c.features, 1.7);
  v.kernel = random.array(c.features * width,
                          1.7 * gain / std::sqrt(std::max<double>(1, c.features)));
  v.recurrent_kernel = random.array(c.units * width, 1.7 * gain / std::sqrt(c.units));
  if (c.bias) v.bias = random.array(cell == Cell::kGru ? 2 * width : width, 0.8 * gain);
  if (c.initial_state) v.initial_h = random.array(state, 1);
  if (c.initial_state && lstm) v.initial_c = random.array(state, 1);
  if (p.input_dropout_gates) {
    v.input_dropout = random.dropout(p.input_dropout_gates * c.batch * c.features);
  }
  if (p.recurrent_dropout_gates) {
    v.recurrent_dropout = random.dropout(p.recurrent_dropout_gates * state);
  }
  if (c.d_outputs) v.d_outputs = random.array(c.return_sequences ? c.time * state : state, 1);
  if (c.d_states) v.d_state_h = random.array(state, 1);
  if (c.d_states && lstm) v.d_state_c = random.array(state, 1);

  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t q = 0; q < c.time; ++q) {
      const int64_t t = time_of(p, q);
      if (v.is_real(b, t)) continue;
      std::fill_n(v.inputs->begin() + (b * c.time + t) * c.features, c.features, NAN);
      if (v.d_outputs && c.return_sequences && c.zero_output_for_mask) {
        std::fill_n(v.d_outputs->begin() + (b * c.time + q) * c.units, c.units, NAN);
      }
    }
  }
  for (Array* array : {&v.inputs, &v.kernel, &v.recurrent_kernel, &v.bias, &v.initial_h,
                       &v.initial_c, &v.input_dropout, &v.recurrent_dropout, &v.d_outputs,
                       &v.d_state_h, &v.d_state_c}) {
    round_to(dtype, *array);
  }
  return v;
}

}  // namespace masked_rnn::test
