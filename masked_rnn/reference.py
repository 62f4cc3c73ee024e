"""Slow, obvious float64 reference: the masked cells, forward and backward, in plain NumPy.

It goes row by row and step by step, so that each formula stands here once, in the open.  Tests
compare every kernel with it; nothing else uses it.

Arrays (B batch, T time steps, I input features, H units, G gates):

    inputs [B,T,I]    kernel [I,G*H]    recurrent_kernel [H,G*H]    mask [B,T], non-zero = real
    bias               "gru" [2,3*H] (input row, recurrent row), the other cells [G*H], or None
    initial_h, initial_c, state_h, state_c [B,H]     (the c of a GRU is None)
    input_dropout [D,B,I], recurrent_dropout [D,B,H]  factors on what the products read, D = 1
                       (one for all gates) or G (one per gate), the same at every step
    outputs [B,T,H], or [B,H] with return_sequences=False

The formulas are those of Keras 3's generic path (`keras.layers.GRU`, `keras.layers.LSTM`,
`keras.activations`), and the slopes at kinks are those of TensorFlow's gradients.  GRU: Cho et
al. 2014, https://arxiv.org/abs/1406.1078; LSTM: Hochreiter and Schmidhuber 1997.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def _softplus(x):
    return np.logaddexp(x, 0)


def _normal_density(x):
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _selu(x, scale=1.0507009873554805, scale_alpha=1.7580993408473766):
    return (
        np.where(x < 0, scale_alpha * np.expm1(np.minimum(x, 0)), scale * x),
        np.where(x < 0, scale_alpha * np.exp(np.minimum(x, 0)), scale),
    )


def _celu(x):
    # At 0 Keras adds the slopes of both branches, max(x, 0) and expm1(min(x, 0)): 2.
    return np.maximum(x, 0) + np.expm1(np.minimum(x, 0)), (x >= 0) + (x <= 0) * np.exp(
        np.minimum(x, 0)
    )


def _mish(x):
    tanh = np.tanh(_softplus(x))
    return x * tanh, tanh + x * (1 - tanh**2) * _sigmoid(x)


# name -> function of the pre-activation x that returns (value, slope)
ACTIVATIONS = {
    "tanh": lambda x: (np.tanh(x), 1 - np.tanh(x) ** 2),
    "sigmoid": lambda x: (_sigmoid(x), _sigmoid(x) * _sigmoid(-x)),
    "linear": lambda x: (x, np.ones_like(x)),
    "relu": lambda x: (np.maximum(x, 0), 1.0 * (x > 0)),
    "relu6": lambda x: (np.clip(x, 0, 6), 1.0 * ((x > 0) & (x < 6))),
    "leaky_relu": lambda x: (np.where(x > 0, x, 0.2 * x), np.where(x > 0, 1.0, 0.2)),
    "elu": lambda x: (np.where(x < 0, np.expm1(np.minimum(x, 0)), x), np.exp(np.minimum(x, 0))),
    "selu": _selu,
    "celu": _celu,
    "gelu": lambda x: (
        0.5 * x * (1 + _erf(x / math.sqrt(2))),
        0.5 * (1 + _erf(x / math.sqrt(2))) + x * _normal_density(x),
    ),
    "softplus": lambda x: (_softplus(x), _sigmoid(x)),
    "softsign": lambda x: (x / (1 + np.abs(x)), 1 / (1 + np.abs(x)) ** 2),
    "silu": lambda x: (x * _sigmoid(x), _sigmoid(x) * (1 + x * _sigmoid(-x))),
    "hard_sigmoid": lambda x: (np.clip(x + 3, 0, 6) / 6, ((x > -3) & (x < 3)) / 6),
    "hard_silu": lambda x: (
        x * np.clip(x + 3, 0, 6) / 6,
        np.clip(x + 3, 0, 6) / 6 + x * ((x > -3) & (x < 3)) / 6,
    ),
    "hard_tanh": lambda x: (np.clip(x, -1, 1), 1.0 * ((x >= -1) & (x <= 1))),
    "exponential": lambda x: (np.exp(x), np.exp(x)),
    "mish": _mish,
    "log_sigmoid": lambda x: (-_softplus(-x), _sigmoid(-x)),
    "sparse_plus": lambda x: (
        np.where(x <= -1, 0, np.where(x < 1, 0.25 * (x + 1) ** 2, x)),
        np.where(x <= -1, 0, np.where(x < 1, 0.5 * (x + 1), 1)),
    ),
    "sparse_sigmoid": lambda x: (np.clip(0.5 * (x + 1), 0, 1), 0.5 * ((x > -1) & (x < 1))),
    "squareplus": lambda x: (0.5 * (x + np.hypot(x, 2)), 0.5 * (1 + x / np.hypot(x, 2))),
    "tanh_shrink": lambda x: (x - np.tanh(x), np.tanh(x) ** 2),
    "soft_shrink": lambda x: (x - np.clip(x, -0.5, 0.5), 1.0 * (np.abs(x) > 0.5)),
    "hard_shrink": lambda x: (np.where(np.abs(x) > 0.5, x, 0), 1.0 * (np.abs(x) > 0.5)),
}


class _Affine:
    """y = v @ weights + bias, and the gradients of weights and bias summed over all calls."""

    def __init__(self, weights, bias):
        self.weights, self.bias = weights, bias
        self.d_weights, self.d_bias = np.zeros_like(weights), np.zeros_like(bias)

    def __call__(self, v):
        return v @ self.weights + self.bias

    def backward(self, v, d_y):
        self.d_weights += np.outer(v, d_y)
        self.d_bias += d_y
        return self.weights @ d_y


class _Cell:
    """One step of one row.

    step(x, m, state) -> (new state, what backward needs); x[g] is the input as gate g sees it,
    m[g] the factor on the recurrent operand of gate g, W[g] and U[g] the products with x and h.
    step_backward(kept, d_state) -> (d_x, d_state before the step); there, d_a is the gradient of
    the pre-activation of gate a.
    """

    def __init__(self, W, U, activation, recurrent_activation):
        self.W, self.U, self.act, self.gate = W, U, activation, recurrent_activation


class Gru(_Cell):
    """reset_after=True.  Gates z, r, h; the reset gate acts on the recurrent product.  Without
    the biases:

    z = s(x W_z + h U_z)    r = s(x W_r + h U_r)    n = act(x W_h + r * (h U_h))
    new h = z * h + (1 - z) * n
    """

    gates, bias_rows = 3, 2

    def step(self, x, m, state):
        (h,) = state
        z, z_slope = self.gate(self.W[0](x[0]) + self.U[0](m[0] * h))
        r, r_slope = self.gate(self.W[1](x[1]) + self.U[1](m[1] * h))
        u = self.U[2](m[2] * h)
        n, n_slope = self.act(self.W[2](x[2]) + r * u)
        return (z * h + (1 - z) * n,), (x, m, h, z, z_slope, r, r_slope, u, n, n_slope)

    def step_backward(self, kept, d_state):
        x, m, h, z, z_slope, r, r_slope, u, n, n_slope = kept
        (d_new,) = d_state
        d_z = d_new * (h - n) * z_slope
        d_n = d_new * (1 - z) * n_slope
        d_r = d_n * u * r_slope
        d_h = d_new * z
        d_h = d_h + m[0] * self.U[0].backward(m[0] * h, d_z)
        d_h = d_h + m[1] * self.U[1].backward(m[1] * h, d_r)
        d_h = d_h + m[2] * self.U[2].backward(m[2] * h, d_n * r)
        d_x = [W.backward(v, d) for W, v, d in zip(self.W, x, (d_z, d_r, d_n))]
        return d_x, (d_h,)


class GruResetBefore(_Cell):
    """reset_after=False.  As Gru, but the reset gate acts on the state before the product.

    n = act(x W_h + (r * h) U_h)
    """

    gates, bias_rows = 3, 1

    def step(self, x, m, state):
        (h,) = state
        z, z_slope = self.gate(self.W[0](x[0]) + self.U[0](m[0] * h))
        r, r_slope = self.gate(self.W[1](x[1]) + self.U[1](m[1] * h))
        n, n_slope = self.act(self.W[2](x[2]) + self.U[2](r * h * m[2]))
        return (z * h + (1 - z) * n,), (x, m, h, z, z_slope, r, r_slope, n, n_slope)

    def step_backward(self, kept, d_state):
        x, m, h, z, z_slope, r, r_slope, n, n_slope = kept
        (d_new,) = d_state
        d_z = d_new * (h - n) * z_slope
        d_n = d_new * (1 - z) * n_slope
        d_rh = m[2] * self.U[2].backward(r * h * m[2], d_n)
        d_r = d_rh * h * r_slope
        d_h = d_new * z + d_rh * r
        d_h = d_h + m[0] * self.U[0].backward(m[0] * h, d_z)
        d_h = d_h + m[1] * self.U[1].backward(m[1] * h, d_r)
        d_x = [W.backward(v, d) for W, v, d in zip(self.W, x, (d_z, d_r, d_n))]
        return d_x, (d_h,)


class Lstm(_Cell):
    """Gates i, f, g (Keras's "c"), o.

    i, f, o = s(x W + h U)    g = act(x W_c + h U_c)
    new c = f * c + i * g     new h = o * act(new c)
    """

    gates, bias_rows = 4, 1

    def step(self, x, m, state):
        h, c = state
        a = [W(v) + U(factor * h) for W, U, v, factor in zip(self.W, self.U, x, m)]
        (i, i_slope), (f, f_slope), (o, o_slope) = self.gate(a[0]), self.gate(a[1]), self.gate(a[3])
        g, g_slope = self.act(a[2])
        c_new = f * c + i * g
        y, y_slope = self.act(c_new)
        kept = x, m, h, c, i, i_slope, f, f_slope, g, g_slope, o, o_slope, y, y_slope
        return (o * y, c_new), kept

    def step_backward(self, kept, d_state):
        x, m, h, c, i, i_slope, f, f_slope, g, g_slope, o, o_slope, y, y_slope = kept
        d_h_new, d_c_new = d_state
        d_c_new = d_c_new + d_h_new * o * y_slope
        d_a = (
            d_c_new * g * i_slope,
            d_c_new * c * f_slope,
            d_c_new * i * g_slope,
            d_h_new * y * o_slope,
        )
        d_h = sum(v * U.backward(v * h, d) for U, v, d in zip(self.U, m, d_a))
        d_x = [W.backward(v, d) for W, v, d in zip(self.W, x, d_a)]
        return d_x, (d_h, d_c_new * f)


class SimpleRnn(_Cell):
    """One gate: new h = act(x W + h U)."""

    gates, bias_rows = 1, 1

    def step(self, x, m, state):
        (h,) = state
        n, n_slope = self.act(self.W[0](x[0]) + self.U[0](m[0] * h))
        return (n,), (x, m, h, n_slope)

    def step_backward(self, kept, d_state):
        x, m, h, n_slope = kept
        d_n = d_state[0] * n_slope
        return [self.W[0].backward(x[0], d_n)], (m[0] * self.U[0].backward(m[0] * h, d_n),)


CELLS = {
    "gru": Gru,
    "gru_reset_before": GruResetBefore,
    "lstm": Lstm,
    "simple_rnn": SimpleRnn,
}


class _Sequences:
    """The arguments as float64, split by gate; runs the cell over the real steps of a row."""

    def __init__(self, cell, inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c,
                 input_dropout, recurrent_dropout, activation, recurrent_activation,
                 go_backwards, zero_output_for_mask):
        kind = CELLS[cell]
        self.inputs = np.asarray(inputs, np.float64)
        self.batch, self.time, self.features = self.inputs.shape
        self.units = H = recurrent_kernel.shape[0]
        self.has_bias, self.zero_output_for_mask = bias is not None, zero_output_for_mask
        everything = np.ones((self.batch, self.time), bool)
        self.real = everything if mask is None else np.asarray(mask) != 0
        self.order = range(self.time)[::-1] if go_backwards else range(self.time)

        def by_gate(weights):  # [..., G*H] -> G arrays [..., H]
            return np.split(np.asarray(weights, np.float64), kind.gates, axis=-1)

        biases = np.zeros((2, kind.gates * H))  # what is added to x W and to h U
        if self.has_bias:
            biases[: kind.bias_rows] = np.asarray(bias, np.float64)
        self.bias_rows = kind.bias_rows
        self.W = [_Affine(w, b) for w, b in zip(by_gate(kernel), by_gate(biases[0]))]
        self.U = [_Affine(w, b) for w, b in zip(by_gate(recurrent_kernel), by_gate(biases[1]))]
        self.cell = kind(
            self.W, self.U, ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        )

        def factors(dropout, size):  # [D,B,size] or None -> [G,B,size]
            dropout = np.ones(1) if dropout is None else np.asarray(dropout, np.float64)
            return np.broadcast_to(dropout, (kind.gates, self.batch, size))

        self.input_factors = factors(input_dropout, self.features)
        self.recurrent_factors = factors(recurrent_dropout, H)
        given = (initial_h, initial_c) if cell == "lstm" else (initial_h,)
        zeros = np.zeros((self.batch, H))
        self.initial = [zeros if s is None else np.asarray(s, np.float64) for s in given]

    def run(self, row):
        """-> (outputs [T,H] in processing order, final state, what each real step kept)."""
        state = tuple(s[row] for s in self.initial)
        output = np.zeros(self.units)  # zeros, not the initial state, before the first real step
        outputs, tape = np.zeros((self.time, self.units)), []
        for step, t in enumerate(self.order):
            if self.real[row, t]:
                x = self.inputs[row, t] * self.input_factors[:, row]
                state, kept = self.cell.step(x, self.recurrent_factors[:, row], state)
                output = state[0]
                tape.append(kept)
            elif self.zero_output_for_mask:
                output = np.zeros(self.units)
            outputs[step] = output
        return outputs, state, tape

    def run_backward(self, row, tape, d_outputs, d_state):
        """-> (d_inputs [T,I], d_initial); the weights' gradients are summed in W and U."""
        d_inputs = np.zeros((self.time, self.features))
        d_output = np.zeros(self.units)  # of the output that later masked steps repeat
        for step, t in reversed(list(enumerate(self.order))):
            if self.real[row, t]:
                d_output = d_output + d_outputs[step]
                d_state = (d_state[0] + d_output, *d_state[1:])
                d_x, d_state = self.cell.step_backward(tape.pop(), d_state)
                d_inputs[t] = sum(d * m for d, m in zip(d_x, self.input_factors[:, row]))
                d_output = np.zeros(self.units)
            elif not self.zero_output_for_mask:
                d_output = d_output + d_outputs[step]
        return d_inputs, d_state


def forward(cell, inputs, kernel, recurrent_kernel, bias=None, mask=None, initial_h=None,
            initial_c=None, input_dropout=None, recurrent_dropout=None, activation="tanh",
            recurrent_activation="sigmoid", go_backwards=False, zero_output_for_mask=False,
            return_sequences=True):
    """Returns (outputs, state_h, state_c), all float64; outputs are in processing order."""
    run = _Sequences(cell, inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c,
                     input_dropout, recurrent_dropout, activation, recurrent_activation,
                     go_backwards, zero_output_for_mask)
    outputs = np.zeros((run.batch, run.time, run.units))
    states = [s.copy() for s in run.initial]
    for row in range(run.batch):
        outputs[row], final, _ = run.run(row)
        for state, value in zip(states, final):
            state[row] = value
    if not return_sequences:
        outputs = outputs[:, -1] if run.time else np.zeros((run.batch, run.units))
    return outputs, states[0], states[1] if cell == "lstm" else None


def backward(cell, inputs, kernel, recurrent_kernel, bias=None, mask=None, initial_h=None,
             initial_c=None, input_dropout=None, recurrent_dropout=None, activation="tanh",
             recurrent_activation="sigmoid", go_backwards=False, zero_output_for_mask=False,
             return_sequences=True, d_outputs=None, d_state_h=None, d_state_c=None):
    """Gradients of a scalar from its gradients of what forward returns (None = zero).

    Returns (d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c), all
    float64 in their argument's shape; d_inputs is in input order, d_bias is None without bias,
    d_initial_c is None for a GRU.  The dropout factors get no gradient.
    """
    run = _Sequences(cell, inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c,
                     input_dropout, recurrent_dropout, activation, recurrent_activation,
                     go_backwards, zero_output_for_mask)
    d_sequence = np.zeros((run.batch, run.time, run.units))
    if d_outputs is not None and return_sequences:
        d_sequence[...] = d_outputs
    elif d_outputs is not None and run.time:
        d_sequence[:, -1] = d_outputs
    zeros = np.zeros((run.batch, run.units))
    d_final = (d_state_h, d_state_c) if cell == "lstm" else (d_state_h,)
    d_states = [np.array(zeros if d is None else d, np.float64) for d in d_final]
    d_inputs = np.zeros_like(run.inputs)
    for row in range(run.batch):
        _, _, tape = run.run(row)
        d_state = tuple(d[row].copy() for d in d_states)
        d_inputs[row], d_initial = run.run_backward(row, tape, d_sequence[row], d_state)
        for d, value in zip(d_states, d_initial):
            d[row] = value
    d_kernel = np.concatenate([W.d_weights for W in run.W], axis=-1)
    d_recurrent_kernel = np.concatenate([U.d_weights for U in run.U], axis=-1)
    d_bias = None
    if run.has_bias:
        both = [np.concatenate([p.d_bias for p in side]) for side in (run.W, run.U)]
        d_bias = np.stack(both) if run.bias_rows == 2 else both[0]
    return (d_inputs, d_kernel, d_recurrent_kernel, d_bias,
            d_states[0], d_states[1] if cell == "lstm" else None)
