"""The fused op's mathematics in plain TensorFlow ops: for gradients of gradients, and for XLA.

`MaskedRnnGrad` is a kernel, so TensorFlow cannot differentiate it.  Its own gradient is taken
here instead: the forward computation is written out as a `tf.while_loop` and differentiated
twice.  All of it is made of TensorFlow ops, so a third order and more follow by themselves.  Slow,
and rarely asked for (gradient penalties, Hessians).  Nor can XLA compile the kernel: functions that
it compiles run the same loop.

Formulas: Keras's generic path (`keras.layers.GRUCell`, `LSTMCell`, `SimpleRNNCell`).
"""

import math
from typing import NamedTuple

import tensorflow as tf

GATES = {"gru": 3, "gru_reset_before": 3, "lstm": 4, "simple_rnn": 1}


class Options(NamedTuple):
    """The op's attributes; what they mean is said at `masked_rnn.ops.rnn`."""

    cell: str
    activation: str
    recurrent_activation: str
    go_backwards: bool
    zero_output_for_mask: bool
    return_sequences: bool


class Tensors(NamedTuple):
    """The op's tensor arguments, absent ones None."""

    inputs: tf.Tensor  # [B,T,I]
    kernel: tf.Tensor  # [I,G*H]
    recurrent_kernel: tf.Tensor  # [H,G*H]
    bias: tf.Tensor  # [2,3*H] gru, else [G*H]
    mask: tf.Tensor  # [B,T] bool
    initial_h: tf.Tensor  # [B,H]
    initial_c: tf.Tensor  # [B,H], lstm
    input_dropout: tf.Tensor  # [D,B,I], D = 1 or G
    recurrent_dropout: tf.Tensor  # [D,B,H]


# What MaskedRnnGrad returns the gradients of, in its order.
WITH_GRADIENT = ("inputs", "kernel", "recurrent_kernel", "bias", "initial_h", "initial_c")


def _softsign(x):
    return x / (1 + tf.abs(x))  # TensorFlow's SoftsignGrad has no gradient


def _silu(x):
    return x * tf.sigmoid(x)


def _hard_sigmoid(x):
    return tf.nn.relu6(x + 3) / 6


def _sparse_plus(x):
    bent = tf.where(x < 1, tf.square(x + 1) / 4, x)
    return tf.where(x <= -1, tf.zeros_like(x), bent)


def _sparse_sigmoid(x):
    bent = tf.where(x >= 1, tf.ones_like(x), (x + 1) / 2)
    return tf.where(x <= -1, tf.zeros_like(x), bent)


def _soft_shrink(x):
    negative = tf.where(x < -0.5, x + 0.5, tf.zeros_like(x))
    return tf.where(x > 0.5, x - 0.5, negative)


# As keras.activations writes them, so that the slopes at the kinks are Keras's too.
ACTIVATIONS = {
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.2),
    "elu": tf.nn.elu,
    "selu": tf.nn.selu,
    "celu": lambda x: tf.maximum(x, 0.0) + tf.math.expm1(tf.minimum(x, 0.0)),
    "gelu": lambda x: x * (1 + tf.math.erf(x / math.sqrt(2))) / 2,
    "softplus": tf.math.softplus,
    "softsign": _softsign,
    "silu": _silu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "hard_tanh": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "exponential": tf.exp,
    "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "log_sigmoid": lambda x: -tf.math.softplus(-x),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _sparse_sigmoid,
    "squareplus": lambda x: (x + tf.sqrt(tf.square(x) + 4)) / 2,
    "tanh_shrink": lambda x: x - tf.tanh(x),
    "soft_shrink": _soft_shrink,
    "hard_shrink": lambda x: tf.where(tf.abs(x) > 0.5, x, tf.zeros_like(x)),
}


def forward(tensors: Tensors, options: Options):
    """Outputs [B,T,H] (or [B,H] without return_sequences), state_h [B,H], state_c [B,H] or None.

    The tensors must be float32 or float64.
    """
    t = tensors
    x, mask = t.inputs, t.mask
    if mask is not None:
        # Before anything is multiplied: 0 * NaN would be NaN in every gradient.
        x = tf.where(mask[:, :, tf.newaxis], x, tf.zeros_like(x))
    if options.go_backwards:
        x = tf.reverse(x, [1])
        mask = None if mask is None else tf.reverse(mask, [1])

    step = _STEPS[options.cell]
    steps = tf.shape(x)[1]
    state_shape = [x.shape[0], t.recurrent_kernel.shape[0]]  # what the graph knows of [B,H]
    zeros = tf.zeros([tf.shape(x)[0], tf.shape(t.recurrent_kernel)[0]], x.dtype)
    zeros = tf.ensure_shape(zeros, state_shape)
    h = zeros if t.initial_h is None else tf.ensure_shape(t.initial_h, state_shape)
    c = zeros if t.initial_c is None else tf.ensure_shape(t.initial_c, state_shape)

    projected = tf.transpose(_project(t, options, x), [1, 0, 2])  # [T,B,G*H]
    inputs = tf.TensorArray(x.dtype, steps, clear_after_read=False).unstack(projected)
    outputs = tf.TensorArray(x.dtype, steps, element_shape=state_shape)
    real = None
    if mask is not None:
        real = tf.TensorArray(tf.bool, steps, clear_after_read=False)
        real = real.unstack(tf.transpose(mask)[:, :, tf.newaxis])

    def body(time, outputs, y, h, c):
        new_h, new_c = step(t, options, inputs.read(time), h, c)
        new_h = tf.ensure_shape(new_h, state_shape)
        new_c = tf.ensure_shape(new_c, state_shape)
        new_y = new_h
        if real is not None:
            now = real.read(time)
            new_y = tf.where(now, new_h, zeros if options.zero_output_for_mask else y)
            new_h, new_c = tf.where(now, new_h, h), tf.where(now, new_c, c)
        return time + 1, outputs.write(time, new_y), new_y, new_h, new_c

    _, outputs, y, h, c = tf.while_loop(
        lambda time, *_: time < steps, body, (0, outputs, zeros, h, c),
        maximum_iterations=steps,  # XLA needs it for gradients
    )  # fmt: skip
    if options.return_sequences:
        y = tf.transpose(outputs.stack(), [1, 0, 2])
    return y, h, c if options.cell == "lstm" else None


def in_place_of_op(tensors: Tensors, options: Options):
    """What `masked_rnn.ops.rnn` returns, computed by `forward`; any floating dtype."""
    dtype = tensors.inputs.dtype
    results = forward(Tensors(*[_widen(x, dtype) for x in tensors]), options)
    outputs, state_h, state_c = [None if y is None else tf.cast(y, dtype) for y in results]
    return outputs, state_h, tf.zeros([0], dtype) if state_c is None else state_c


def _widen(x, dtype):
    """As the kernels do, 16-bit types are computed in float32. Masks and None stay."""
    if x is None or x.dtype == tf.bool:
        return x
    # The copy is a tensor of this graph, also where x is another graph's.
    return tf.cast(tf.identity(x), dtype if dtype == tf.float64 else tf.float32)


def gradient_of_gradient(tensors, options, d_results, upstream):
    """The gradients of `MaskedRnnGrad`: of its outputs, weighted by `upstream`.

    Args:
        tensors: `Tensors`, any floating dtype.
        options: `Options`.
        d_results: gradients of outputs, state_h, state_c, as MaskedRnnGrad got them; None = zero.
        upstream: gradients of d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h and
            d_initial_c, which MaskedRnnGrad returned; None = zero.

    Returns:
        (gradients of `Tensors`' fields, gradients of `d_results`), None where there is none.
    """
    given = [n for n in WITH_GRADIENT if getattr(tensors, n) is not None]
    weights = {n: u for n, u in zip(WITH_GRADIENT, upstream) if n in given and u is not None}
    if not weights or all(d is None for d in d_results):
        return Tensors(*[None] * len(tensors)), [None] * len(d_results)
    dtype = tensors.inputs.dtype
    tensors = Tensors(*[_widen(x, dtype) for x in tensors])
    d_results = [_widen(x, dtype) for x in d_results]
    weights = {n: _widen(u, dtype) for n, u in weights.items()}
    sources = [getattr(tensors, n) for n in given]
    wanted = sources + [d for d in d_results if d is not None]

    def results():
        pairs = zip(forward(tensors, options), d_results)
        return [(y, d) for y, d in pairs if y is not None and d is not None]

    def weighted(first):
        return [(f, weights[n]) for n, f in zip(given, first) if n in weights]

    if tf.executing_eagerly():
        with tf.GradientTape() as outer:
            outer.watch(wanted)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                pairs = results()
            first = _gradients(inner.gradient, pairs, sources)
        second = _gradients(outer.gradient, weighted(first), wanted)
    else:
        # A tape does not see everything while a forward accumulator is at work on this graph.
        first = _gradients(tf.gradients, results(), sources)
        second = _gradients(tf.gradients, weighted(first), wanted)
    second = [tf.cast(s, dtype) for s in second]
    by_name = dict(zip(given, second))
    rest = iter(second[len(given) :])
    return (
        Tensors(*[by_name.get(n) for n in Tensors._fields]),
        [None if d is None else next(rest) for d in d_results],
    )


def _gradients(function, pairs, sources):
    """The gradients of pairs (y, weight of y); `function` is a tape's or `tf.gradients`."""
    ys, weights = zip(*pairs)
    zero = tf.UnconnectedGradients.ZERO
    return function(list(ys), sources, list(weights), unconnected_gradients=zero)


def _project(t, options, x):
    """x @ kernel plus the bias that is added outside the recurrence, [B,T,G*H]."""
    gates = GATES[options.cell]
    if t.input_dropout is None:
        projected = tf.matmul(x, t.kernel)
    else:
        kept = _per_gate(t.input_dropout, gates)
        kernels = tf.split(t.kernel, gates, axis=1)
        products = [
            tf.matmul(x * kept[g][:, tf.newaxis, :], kernels[g]) for g in range(gates)
        ]
        projected = tf.concat(products, axis=2)
    if t.bias is None:
        return projected
    return projected + (t.bias[0] if options.cell == "gru" else t.bias)


def _recurrent_products(t, gates, h):
    """The recurrent operand as each gate sees it, and its products with their kernels."""
    kernels = tf.split(t.recurrent_kernel, gates, axis=1)
    operands = [h] * gates
    if t.recurrent_dropout is not None:
        kept = _per_gate(t.recurrent_dropout, gates)
        operands = [h * kept[g] for g in range(gates)]
    return operands, kernels


def _per_gate(dropout, gates):
    """[D,B,...] with D = 1 or G, as [G,B,...]."""
    return tf.broadcast_to(dropout, tf.concat([[gates], tf.shape(dropout)[1:]], axis=0))


def _gru_step(t, options, x, h, c):
    act = ACTIVATIONS[options.activation]
    gate = ACTIVATIONS[options.recurrent_activation]
    (for_z, for_r, for_n), (kernel_z, kernel_r, kernel_n) = _recurrent_products(t, 3, h)
    x_z, x_r, x_n = tf.split(x, 3, axis=1)
    u_z, u_r = tf.matmul(for_z, kernel_z), tf.matmul(for_r, kernel_r)
    bias_n = None
    if options.cell == "gru" and t.bias is not None:
        bias_z, bias_r, bias_n = tf.split(t.bias[1], 3)
        u_z, u_r = u_z + bias_z, u_r + bias_r
    z, r = gate(x_z + u_z), gate(x_r + u_r)
    if options.cell == "gru":
        u_n = tf.matmul(for_n, kernel_n)
        if bias_n is not None:
            u_n = u_n + bias_n
        n = act(x_n + r * u_n)
    else:
        n = act(x_n + tf.matmul(r * for_n, kernel_n))
    return z * h + (1 - z) * n, c


def _lstm_step(t, options, x, h, c):
    act = ACTIVATIONS[options.activation]
    gate = ACTIVATIONS[options.recurrent_activation]
    operands, kernels = _recurrent_products(t, 4, h)
    i, f, n, o = [
        part + tf.matmul(operand, kernel)
        for part, operand, kernel in zip(tf.split(x, 4, axis=1), operands, kernels)
    ]
    c = gate(f) * c + gate(i) * act(n)
    return gate(o) * act(c), c


def _simple_step(t, options, x, h, c):
    (operand,), (kernel,) = _recurrent_products(t, 1, h)
    return ACTIVATIONS[options.activation](x + tf.matmul(operand, kernel)), c


_STEPS = {
    "gru": _gru_step,
    "gru_reset_before": _gru_step,
    "lstm": _lstm_step,
    "simple_rnn": _simple_step,
}
