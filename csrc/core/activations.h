// Activation functions and their slopes on any vector type V (a CPU vector, or float on a GPU).
//
// The including backend defines, before this file: MR_BACKEND (the namespace of what is compiled
// for it), MR_DEVICE, MR_INLINE, fill<V>, and on V fma_of, exp_of,
// expm1_of, tanh_of, sigmoid_of, log1p_of, erf_of, sqrt_of, abs_of. Comparisons select by ?:,
// written such that a NaN stays one.
// Definitions and slopes follow Keras's TensorFlow backend, at kinks too (relu'(0) = 0).
//
// A policy decides what forward keeps of a gate: TanhSigmoid its value (the slope follows from
// it), AnyActivations its pre-activation.
#pragma once

#include "params.h"

namespace masked_rnn {
MR_BACKEND {

template <class V>
MR_INLINE V softplus_of(V x) {
  const V zero = fill<V>(0);
  return (x > zero ? x : zero) + log1p_of(exp_of(-abs_of(x)));
}

template <class V>
MR_INLINE V relu6_of(V x) {
  const V zero = fill<V>(0), six = fill<V>(6);
  return x < zero ? zero : (x > six ? six : x);
}
template <class V>
MR_INLINE V relu6_slope(V x) {
  const V zero = fill<V>(0), one = fill<V>(1);
  return x > zero ? (x < fill<V>(6) ? one : zero) : zero;
}
template <class V>
MR_INLINE V hard_sigmoid_of(V x) {
  return relu6_of(x + fill<V>(3)) / fill<V>(6);
}
template <class V>
MR_INLINE V hard_sigmoid_slope(V x) {
  return relu6_slope(x + fill<V>(3)) / fill<V>(6);
}

template <class V>
MR_DEVICE V activate(Activation activation, V x) {
  const V zero = fill<V>(0), one = fill<V>(1), half = fill<V>(0.5);
  switch (activation) {
    case Activation::kTanh: return tanh_of(x);
    case Activation::kSigmoid: return sigmoid_of(x);
    case Activation::kLinear: return x;
    case Activation::kRelu: return x < zero ? zero : x;
    case Activation::kRelu6: return relu6_of(x);
    case Activation::kLeakyRelu: return x > zero ? x : fill<V>(0.2) * x;
    case Activation::kElu:
    case Activation::kCelu: return x < zero ? expm1_of(x) : x;
    case Activation::kSelu:
      return fill<V>(1.0507009873554805) *
             (x < zero ? fill<V>(1.6732632423543772) * expm1_of(x) : x);
    case Activation::kGelu: return half * x * (one + erf_of(x * fill<V>(0.7071067811865476)));
    case Activation::kSoftplus: return softplus_of(x);
    case Activation::kSoftsign: return x / (one + abs_of(x));
    case Activation::kSilu: return x * sigmoid_of(x);
    case Activation::kHardSigmoid: return hard_sigmoid_of(x);
    case Activation::kHardSilu: return x * hard_sigmoid_of(x);
    case Activation::kHardTanh: return x < -one ? -one : (x > one ? one : x);
    case Activation::kExponential: return exp_of(x);
    case Activation::kMish: return x * tanh_of(softplus_of(x));
    case Activation::kLogSigmoid: return -softplus_of(-x);
    case Activation::kSparsePlus: {
      const V square = fill<V>(0.25) * (x + one) * (x + one);
      return x <= -one ? zero : (x < one ? square : x);
    }
    case Activation::kSparseSigmoid:
      return x <= -one ? zero : (x >= one ? one : half * (x + one));
    case Activation::kSquareplus: return half * (x + sqrt_of(x * x + fill<V>(4)));
    case Activation::kTanhShrink: return x - tanh_of(x);
    case Activation::kSoftShrink: return x > half ? x - half : (x < -half ? x + half : x - x);
    case Activation::kHardShrink: return abs_of(x) <= half ? zero : x;
  }
  return x;
}

// d activate / dx.
template <class V>
MR_DEVICE V slope(Activation activation, V x) {
  const V zero = fill<V>(0), one = fill<V>(1), half = fill<V>(0.5);
  switch (activation) {
    case Activation::kTanh: {
      const V y = tanh_of(x);
      return one - y * y;
    }
    case Activation::kSigmoid: {
      const V y = sigmoid_of(x);
      return y * (one - y);
    }
    case Activation::kLinear: return one;
    case Activation::kRelu: return x > zero ? one : zero;
    case Activation::kRelu6: return relu6_slope(x);
    case Activation::kLeakyRelu: return x > zero ? one : fill<V>(0.2);
    case Activation::kElu: return x < zero ? exp_of(x) : one;
    case Activation::kCelu:  // max(x, 0) + expm1(min(x, 0)): at 0 Keras has both slopes
      return x < zero ? exp_of(x) : (x > zero ? one : fill<V>(2));
    case Activation::kSelu:
      return fill<V>(1.0507009873554805) *
             (x < zero ? fill<V>(1.6732632423543772) * exp_of(x) : one);
    case Activation::kGelu: {
      const V cdf = half * (one + erf_of(x * fill<V>(0.7071067811865476)));
      return cdf + x * fill<V>(0.3989422804014327) * exp_of(-half * x * x);
    }
    case Activation::kSoftplus: return sigmoid_of(x);
    case Activation::kSoftsign: {
      const V d = one + abs_of(x);
      return one / (d * d);
    }
    case Activation::kSilu: {
      const V s = sigmoid_of(x);
      return s * (one + x * (one - s));
    }
    case Activation::kHardSigmoid: return hard_sigmoid_slope(x);
    case Activation::kHardSilu: return hard_sigmoid_of(x) + x * hard_sigmoid_slope(x);
    case Activation::kHardTanh: return abs_of(x) <= one ? one : zero;
    case Activation::kExponential: return exp_of(x);
    case Activation::kMish: {
      const V t = tanh_of(softplus_of(x));
      return t + x * (one - t * t) * sigmoid_of(x);
    }
    case Activation::kLogSigmoid: return sigmoid_of(-x);
    case Activation::kSparsePlus: return x <= -one ? zero : (x < one ? half * (x + one) : one);
    case Activation::kSparseSigmoid: return x <= -one ? zero : (x >= one ? zero : half);
    case Activation::kSquareplus: return half * (one + x / sqrt_of(x * x + fill<V>(4)));
    case Activation::kTanhShrink: {
      const V y = tanh_of(x);
      return y * y;
    }
    case Activation::kSoftShrink:
    case Activation::kHardShrink: return abs_of(x) <= half ? zero : one;
  }
  return one;
}

// The pair that nearly every model uses, compiled in.
struct TanhSigmoid {
  MR_DEVICE explicit TanhSigmoid(const Problem&) {}

  template <class V> MR_INLINE V gate(V x, V& saved) const { return saved = sigmoid_of(x); }
  template <class V> MR_INLINE V gate_value(V saved) const { return saved; }
  template <class V> MR_INLINE V gate_slope(V saved) const {
    return saved * (fill<V>(1) - saved);
  }
  template <class V> MR_INLINE V candidate(V x, V& saved) const { return saved = tanh_of(x); }
  template <class V> MR_INLINE V candidate_value(V saved) const { return saved; }
  template <class V> MR_INLINE V candidate_slope(V saved) const {
    return fill<V>(1) - saved * saved;
  }
};

// Any other pair, chosen at run time.
struct AnyActivations {
  MR_DEVICE explicit AnyActivations(const Problem& p)
      : activation(p.activation), recurrent_activation(p.recurrent_activation) {}
  Activation activation, recurrent_activation;

  template <class V> MR_INLINE V gate(V x, V& saved) const {
    saved = x;
    return activate(recurrent_activation, x);
  }
  template <class V> MR_INLINE V gate_value(V saved) const {
    return activate(recurrent_activation, saved);
  }
  template <class V> MR_INLINE V gate_slope(V saved) const {
    return slope(recurrent_activation, saved);
  }
  template <class V> MR_INLINE V candidate(V x, V& saved) const {
    saved = x;
    return activate(activation, x);
  }
  template <class V> MR_INLINE V candidate_value(V saved) const {
    return activate(activation, saved);
  }
  template <class V> MR_INLINE V candidate_slope(V saved) const {
    return slope(activation, saved);
  }
};

}  // namespace
}  // namespace masked_rnn
