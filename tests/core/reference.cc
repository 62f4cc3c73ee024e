#include "reference.h"

#include <algorithm>
#include <cmath>

#include "schedule.h"

namespace masked_rnn::test {
namespace {

using Vector = std::vector<double>;

struct Curve {
  double value, slope;
};

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double log1p_exp(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
Curve clipped(double x, double low, double high) {
  return {std::clamp(x, low, high), x > low && x < high ? 1.0 : 0.0};
}

// keras.activations on the TensorFlow backend; the slope at a kink is TensorFlow's gradient there.
Curve curve(Activation activation, double x) {
  constexpr double kSeluScale = 1.0507009873554805, kSeluAlpha = 1.6732632423543772;
  const double s = logistic(x), t = std::tanh(x), a = std::fabs(x);
  switch (activation) {
    case Activation::kTanh: return {t, 1 - t * t};
    case Activation::kSigmoid: return {s, s * logistic(-x)};
    case Activation::kLinear: return {x, 1};
    case Activation::kRelu: return clipped(x, 0, INFINITY);
    case Activation::kRelu6: return clipped(x, 0, 6);
    case Activation::kLeakyRelu: return x > 0 ? Curve{x, 1} : Curve{0.2 * x, 0.2};
    case Activation::kElu: return x < 0 ? Curve{std::expm1(x), std::exp(x)} : Curve{x, 1};
    case Activation::kCelu:
      return x < 0 ? Curve{std::expm1(x), std::exp(x)} : Curve{x, x > 0 ? 1.0 : 2.0};
    case Activation::kSelu: {
      const Curve elu = curve(Activation::kElu, x);
      const double scale = x < 0 ? kSeluScale * kSeluAlpha : kSeluScale;
      return {scale * elu.value, scale * elu.slope};
    }
    case Activation::kGelu: {
      const double below = std::erfc(-x * M_SQRT1_2) / 2;
      return {x * below, below + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI)};
    }
    case Activation::kSoftplus: return {log1p_exp(x), s};
    case Activation::kSoftsign: return {x / (1 + a), 1 / ((1 + a) * (1 + a))};
    case Activation::kSilu: return {x * s, s + x * s * (1 - s)};
    case Activation::kHardSigmoid: {
      const Curve ramp = clipped(x, -3, 3);
      return {(ramp.value + 3) / 6, ramp.slope / 6};
    }
    case Activation::kHardSilu: {
      const Curve hard = curve(Activation::kHardSigmoid, x);
      return {x * hard.value, hard.value + x * hard.slope};
    }
    case Activation::kHardTanh: return {std::clamp(x, -1.0, 1.0), a <= 1 ? 1.0 : 0.0};
    case Activation::kExponential: return {std::exp(x), std::exp(x)};
    case Activation::kMish: {
      const double inner = std::tanh(log1p_exp(x));
      return {x * inner, inner + x * (1 - inner * inner) * s};
    }
    case Activation::kLogSigmoid: return {-log1p_exp(-x), logistic(-x)};
    case Activation::kSparsePlus:
      return x <= -1 ? Curve{0, 0} : x < 1 ? Curve{(x + 1) * (x + 1) / 4, (x + 1) / 2} : Curve{x, 1};
    case Activation::kSparseSigmoid: {
      const Curve ramp = clipped(x, -1, 1);
      return {(ramp.value + 1) / 2, ramp.slope / 2};
    }
    case Activation::kSquareplus: {
      const double root = std::hypot(x, 2);
      return {(x + root) / 2, (1 + x / root) / 2};
    }
    case Activation::kTanhShrink: return {x - t, t * t};
    case Activation::kSoftShrink: return {x - std::clamp(x, -0.5, 0.5), a > 0.5 ? 1.0 : 0.0};
    case Activation::kHardShrink: return a > 0.5 ? Curve{x, 1} : Curve{0, 0};
  }
  return {NAN, NAN};
}

// What a real step keeps: [G] gates of [H] each.
struct Step {
  int64_t time, position;
  Vector h, c;                      // before the step
  std::vector<Vector> operand;      // what recurrent_kernel's gate read: h, dropped, perhaps reset
  std::vector<Vector> recurrent;    // operand @ recurrent_kernel + bias
  std::vector<std::vector<Curve>> gate;
  std::vector<Curve> cell_output;   // LSTM: activation of the new c
};

class Row {
 public:
  Row(const Values& v, int64_t row, Results& results)
      : v_(v), p_(v.problem), row_(row), G_(gates(v.problem.cell)), H_(v.problem.units), r_(results) {}

  void forward() {
    Vector h = initial(v_.initial_h), c = initial(v_.initial_c), output(H_, 0);
    for (int64_t q = 0; q < p_.time; ++q) {
      const int64_t t = time_of(p_, q);
      if (v_.is_real(row_, t)) {
        steps_.push_back(step(t, q, h, c));
        output = h;
      } else if (p_.zero_output_for_mask) {
        output.assign(H_, 0);
      }
      if (p_.return_sequences) {
        std::copy(output.begin(), output.end(), &r_.outputs[(row_ * p_.time + q) * H_]);
      }
    }
    if (!p_.return_sequences) std::copy(output.begin(), output.end(), &r_.outputs[row_ * H_]);
    std::copy(h.begin(), h.end(), &r_.state_h[row_ * H_]);
    if (lstm()) std::copy(c.begin(), c.end(), &r_.state_c[row_ * H_]);
  }

  void backward() {
    Vector d_h = initial(v_.d_state_h), d_c = initial(v_.d_state_c);
    Vector d_repeated(H_, 0);  // of the outputs that repeat the step before them
    for (int64_t q = p_.time - 1; q >= 0; --q) {
      const bool real = v_.is_real(row_, time_of(p_, q));
      if (real || !p_.zero_output_for_mask) {
        for (int64_t j = 0; j < H_; ++j) d_repeated[j] += d_output(q, j);
      }
      if (!real) continue;
      for (int64_t j = 0; j < H_; ++j) d_h[j] += d_repeated[j];
      d_repeated.assign(H_, 0);
      step_back(steps_.back(), d_h, d_c);
      steps_.pop_back();
    }
    std::copy(d_h.begin(), d_h.end(), &r_.d_initial_h[row_ * H_]);
    if (lstm()) std::copy(d_c.begin(), d_c.end(), &r_.d_initial_c[row_ * H_]);
  }

 private:
  bool lstm() const { return p_.cell == Cell::kLstm; }

  Vector initial(const Array& array) const {
    if (!array) return Vector(H_, 0);
    return {array->begin() + row_ * H_, array->begin() + (row_ + 1) * H_};
  }
  double d_output(int64_t position, int64_t j) const {
    if (!v_.d_outputs) return 0;
    if (p_.return_sequences) return (*v_.d_outputs)[(row_ * p_.time + position) * H_ + j];
    return position == p_.time - 1 ? (*v_.d_outputs)[row_ * H_ + j] : 0;
  }
  double dropout(const Array& array, int64_t masks, int64_t gate, int64_t i, int64_t width) const {
    if (!array) return 1;
    return (*array)[((masks == 1 ? 0 : gate) * p_.batch + row_) * width + i];
  }
  double input_dropout(int64_t g, int64_t i) const {
    return dropout(v_.input_dropout, p_.input_dropout_gates, g, i, p_.features);
  }
  double recurrent_dropout(int64_t g, int64_t k) const {
    return dropout(v_.recurrent_dropout, p_.recurrent_dropout_gates, g, k, H_);
  }
  double input(int64_t t, int64_t i) const {
    return (*v_.inputs)[(row_ * p_.time + t) * p_.features + i];
  }
  int64_t weight(int64_t k, int64_t g, int64_t j) const { return (k * G_ + g) * H_ + j; }

  // Gate g of a step from its operand: x @ kernel + bias, and operand @ recurrent_kernel + bias.
  Vector from_inputs(int64_t t, int64_t g) const {
    Vector sum(H_);
    for (int64_t j = 0; j < H_; ++j) {
      sum[j] = v_.bias ? (*v_.bias)[g * H_ + j] : 0;
      for (int64_t i = 0; i < p_.features; ++i) {
        sum[j] += input(t, i) * input_dropout(g, i) * (*v_.kernel)[weight(i, g, j)];
      }
    }
    return sum;
  }
  Vector from_state(const Vector& operand, int64_t g) const {
    Vector sum(H_);
    for (int64_t j = 0; j < H_; ++j) {
      sum[j] = v_.bias && p_.cell == Cell::kGru ? (*v_.bias)[(G_ + g) * H_ + j] : 0;
      for (int64_t k = 0; k < H_; ++k) {
        sum[j] += operand[k] * (*v_.recurrent_kernel)[weight(k, g, j)];
      }
    }
    return sum;
  }

  // h and c go from before the step to after it.
  Step step(int64_t t, int64_t q, Vector& h, Vector& c) const {
    Step s{t, q, h, c, {}, {}, {}, {}};
    const int64_t candidate = lstm() ? 2 : G_ - 1;
    for (int64_t g = 0; g < G_; ++g) {
      Vector operand = h;
      for (int64_t k = 0; k < H_; ++k) {
        operand[k] *= recurrent_dropout(g, k);
        if (p_.cell == Cell::kGruResetBefore && g == 2) operand[k] *= s.gate[1][k].value;
      }
      const Vector x = from_inputs(t, g), u = from_state(operand, g);
      std::vector<Curve> values(H_);
      for (int64_t j = 0; j < H_; ++j) {
        const double reset = p_.cell == Cell::kGru && g == 2 ? s.gate[1][j].value : 1;
        values[j] = curve(g == candidate ? p_.activation : p_.recurrent_activation,
                          x[j] + reset * u[j]);
      }
      s.operand.push_back(operand);
      s.recurrent.push_back(u);
      s.gate.push_back(values);
    }
    for (int64_t j = 0; j < H_; ++j) {
      if (lstm()) {
        c[j] = s.gate[1][j].value * c[j] + s.gate[0][j].value * s.gate[2][j].value;
        s.cell_output.push_back(curve(p_.activation, c[j]));
        h[j] = s.gate[3][j].value * s.cell_output[j].value;
      } else if (p_.cell == Cell::kSimpleRnn) {
        h[j] = s.gate[0][j].value;
      } else {
        const double z = s.gate[0][j].value;
        h[j] = z * h[j] + (1 - z) * s.gate[2][j].value;
      }
    }
    return s;
  }

  // d_h and d_c go from after the step to before it.
  void step_back(const Step& s, Vector& d_h, Vector& d_c) {
    std::vector<Vector> d_x(G_, Vector(H_)), d_u;  // of the two sums of each gate
    Vector d_h_prev(H_, 0);
    for (int64_t j = 0; j < H_; ++j) {
      if (lstm()) {
        const Curve i = s.gate[0][j], f = s.gate[1][j], g = s.gate[2][j], o = s.gate[3][j];
        const double d = d_c[j] + d_h[j] * o.value * s.cell_output[j].slope;
        d_x[0][j] = d * g.value * i.slope;
        d_x[1][j] = d * s.c[j] * f.slope;
        d_x[2][j] = d * i.value * g.slope;
        d_x[3][j] = d_h[j] * s.cell_output[j].value * o.slope;
        d_c[j] = d * f.value;
      } else if (p_.cell == Cell::kSimpleRnn) {
        d_x[0][j] = d_h[j] * s.gate[0][j].slope;
      } else {
        const Curve z = s.gate[0][j], n = s.gate[2][j];
        d_x[0][j] = d_h[j] * (s.h[j] - n.value) * z.slope;
        d_x[2][j] = d_h[j] * (1 - z.value) * n.slope;
        d_h_prev[j] = d_h[j] * z.value;
      }
    }
    d_u = d_x;
    if (p_.cell == Cell::kGru) {
      for (int64_t j = 0; j < H_; ++j) {
        const Curve r = s.gate[1][j];
        d_x[1][j] = d_u[1][j] = d_x[2][j] * s.recurrent[2][j] * r.slope;
        d_u[2][j] = d_x[2][j] * r.value;
      }
    } else if (p_.cell == Cell::kGruResetBefore) {
      const Vector d_operand = times_weights(d_u[2], 2);
      for (int64_t k = 0; k < H_; ++k) {
        const double d_reset_h = d_operand[k] * recurrent_dropout(2, k);
        d_x[1][k] = d_u[1][k] = d_reset_h * s.h[k] * s.gate[1][k].slope;
        d_h_prev[k] += d_reset_h * s.gate[1][k].value;
      }
    }
    for (int64_t g = 0; g < G_; ++g) {
      add_weight_gradients(s, g, d_x[g], d_u[g]);
      if (p_.cell == Cell::kGruResetBefore && g == 2) continue;  // done above
      const Vector d_operand = times_weights(d_u[g], g);
      for (int64_t k = 0; k < H_; ++k) d_h_prev[k] += d_operand[k] * recurrent_dropout(g, k);
    }
    d_h = d_h_prev;
  }

  Vector times_weights(const Vector& d, int64_t g) const {
    Vector d_operand(H_, 0);
    for (int64_t k = 0; k < H_; ++k) {
      for (int64_t j = 0; j < H_; ++j) d_operand[k] += d[j] * (*v_.recurrent_kernel)[weight(k, g, j)];
    }
    return d_operand;
  }

  void add_weight_gradients(const Step& s, int64_t g, const Vector& d_x, const Vector& d_u) {
    for (int64_t j = 0; j < H_; ++j) {
      for (int64_t i = 0; i < p_.features; ++i) {
        const double factor = input_dropout(g, i);
        r_.d_kernel[weight(i, g, j)] += input(s.time, i) * factor * d_x[j];
        r_.d_inputs[(row_ * p_.time + s.time) * p_.features + i] +=
            factor * (*v_.kernel)[weight(i, g, j)] * d_x[j];
      }
      for (int64_t k = 0; k < H_; ++k) {
        r_.d_recurrent_kernel[weight(k, g, j)] += s.operand[g][k] * d_u[j];
      }
      if (!v_.bias) continue;
      r_.d_bias[g * H_ + j] += d_x[j];
      if (p_.cell == Cell::kGru) r_.d_bias[(G_ + g) * H_ + j] += d_u[j];
    }
  }

  const Values& v_;
  const Problem& p_;
  const int64_t row_, G_, H_;
  Results& r_;
  std::vector<Step> steps_;
};

}  // namespace

Results reference(const Values& v) {
  const Problem& p = v.problem;
  const int64_t state = p.batch * p.units;
  Results r;
  r.outputs.resize(p.return_sequences ? p.time * state : state);
  r.state_h.resize(state);
  r.d_inputs.resize(v.inputs->size());
  r.d_kernel.resize(v.kernel->size());
  r.d_recurrent_kernel.resize(v.recurrent_kernel->size());
  r.d_initial_h.resize(state);
  if (v.bias) r.d_bias.resize(v.bias->size());
  if (p.cell == Cell::kLstm) {
    r.state_c.resize(state);
    r.d_initial_c.resize(state);
  }
  for (int64_t b = 0; b < p.batch; ++b) {
    Row row(v, b, r);
    row.forward();
    row.backward();
  }
  return r;
}

}  // namespace masked_rnn::test
