"""The fused op, its gradients, and the functions `gru` and `lstm` on it.

`rnn` is the one place that calls the kernel; the layers and the functions both go through it. Under XLA,
which the kernel does not know, it runs `differentiable`.
"""

from typing import Any, Optional, Tuple

import tensorflow as tf

from masked_rnn import (
    activations, checks, differentiable, fallback, forked, gpu, library, ragged, xla,
)  # fmt: skip
from masked_rnn.flags import flag

try:  # Not public, but what TensorFlow's own custom gradients use.
    from tensorflow.python.eager import forwardprop_util, record
except ImportError:  # pragma: no cover
    record = None

_lib = library.load()
gpu.use_tensorflows_stream()
_DTYPES = (tf.float32, tf.float64, tf.float16, tf.bfloat16)
_absent_tensors = {}


def rnn(
    cell,
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    initial_h=None,
    initial_c=None,
    input_dropout=None,
    recurrent_dropout=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
):
    """One call of the kernel. The kernel checks every shape (InvalidArgumentError).

    Args:
        cell: "gru" (reset_after=True), "gru_reset_before", "lstm" or "simple_rnn".
        inputs: [B,T,I]; all tensors but the mask have its dtype: float32, float64, float16 or
            bfloat16.
        kernel: [I,G*H], gates z, r, h (G = 3) or i, f, c, o (G = 4), "simple_rnn" has one.
        recurrent_kernel: [H,G*H].
        bias: [2,3*H] for "gru", else [G*H]; or None.
        mask: bool [B,T], True is a real step, or None.
        initial_h, initial_c: [B,H] or None for zeros.
        input_dropout: [D,B,I], factors on the inputs, D = 1 or one per gate; or None.
        recurrent_dropout: [D,B,H], factors on the recurrent state; or None.
        activation, recurrent_activation: names of `activations.NAMES`.
        go_backwards: inputs and mask are reversed in time, outputs stay in that order.
        zero_output_for_mask: masked steps output zeros, else they repeat the output before.
        return_sequences: outputs of all steps, else of the last.

    Returns:
        outputs [B,T,H] or [B,H], state_h [B,H], state_c [B,H] ([0] if not "lstm").

    Raises:
        RuntimeError: the process was forked from one that had used TensorFlow.
    """
    forked.check()
    if xla.compiles():
        fallback.report_function(cell, xla.REASON)
        return differentiable.in_place_of_op(
            differentiable.Tensors(
                inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c, input_dropout,
                recurrent_dropout,
            ),
            differentiable.Options(
                cell, activation, recurrent_activation, go_backwards, zero_output_for_mask,
                return_sequences,
            ),
        )  # fmt: skip
    absent, no_mask = _absent(inputs.dtype)
    tensors = [
        inputs,
        kernel,
        recurrent_kernel,
        absent if bias is None else bias,
        no_mask if mask is None else mask,
        absent if initial_h is None else initial_h,
        absent if initial_c is None else initial_c,
        absent if input_dropout is None else input_dropout,
        absent if recurrent_dropout is None else recurrent_dropout,
    ]
    op = _lib.masked_rnn if return_sequences else _lib.masked_rnn_last
    outputs, state_h, state_c, _ = op(
        *tensors,
        cell=cell,
        activation=activation,
        recurrent_activation=recurrent_activation,
        go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask,
        keep_reserve=_gradient_follows(tensors),
        tf32=gpu.tf32(),
        deterministic=gpu.deterministic(),
    )
    if cell == "lstm" and not tf.executing_eagerly():
        state_c.set_shape(state_h.shape)  # the op's shape function does not see `cell`
    return outputs, state_h, state_c


@tf.autograph.experimental.do_not_convert
def gru(
    inputs: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    mask: Any = None,
    sequence_length: Any = None,
    initial_state: Any = None,
    activation: Any = "tanh",
    recurrent_activation: Any = "sigmoid",
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
    reset_after: bool = True,
) -> Tuple[tf.Tensor, tf.Tensor]:
    """A GRU (Cho et al. 2014) over the real steps of every row, differentiable.

    With gates z (update), r (reset), h (candidate) in this order in the weights:

        z = recurrent_activation(x @ W_z + b_z + h @ U_z + c_z)
        r = recurrent_activation(x @ W_r + b_r + h @ U_r + c_r)
        n = activation(x @ W_h + b_h + r * (h @ U_h + c_h))    reset_after=True
        n = activation(x @ W_h + b_h + (r * h) @ U_h)          reset_after=False, which has no c
        h = z * h + (1 - z) * n

    A masked step is not read: NaN there reaches no output and no gradient. The state is carried
    over it, and the output before it repeated (zeros before the first real step).

    Args:
        inputs: [batch, time, features]; float32, float64, float16 or bfloat16. The other arrays
            must have the same dtype. Tensors, NumPy arrays or nested lists. Or a
            `tf.RaggedTensor` with time ragged, which takes no mask and no lengths: it is padded
            once, and what is padded is not computed.
        kernel: W, [features, 3 * units].
        recurrent_kernel: U, [units, 3 * units].
        bias: [2, 3 * units], rows b and c, with reset_after; else b, [3 * units]; None for none.
        mask: [batch, time] or [batch, time, 1], any dtype, non-zero is a real step.
        sequence_length: integers [batch] in 0..time, in place of a mask: the first so many steps
            of a row are real.
        initial_state: [batch, units]; None for zeros.
        activation: name or function of `keras.activations` that works element by element at its
            default arguments, None for linear.
        recurrent_activation: the same, for the gates.
        go_backwards: reverse inputs and mask in time; outputs stay in the order of processing.
        zero_output_for_mask: masked steps output zeros.
        reset_after: where the reset gate acts, see above.

    Returns:
        outputs [batch, time, units] (ragged if the inputs are), state [batch, units] after the
        last real step.

    Raises:
        ValueError: an argument of wrong rank, shape, dtype or name, mask and sequence_length
            together, or a length outside 0..time. Where only the run can know it, that is an
            `tf.errors.InvalidArgumentError`.
        RuntimeError: the process was forked from one that had used TensorFlow.
    """
    state = initial_state
    if isinstance(state, (list, tuple)) and len(state) == 1 and _rank(state[0]) == 2:
        state = state[0]  # Keras's way to give one state
    outputs, state_h, _ = _call(
        "gru" if flag("reset_after", reset_after) else "gru_reset_before",
        inputs,
        kernel,
        recurrent_kernel,
        bias,
        mask,
        sequence_length,
        {"initial_state": state},
        activation,
        recurrent_activation,
        go_backwards,
        zero_output_for_mask,
    )
    return outputs, state_h


@tf.autograph.experimental.do_not_convert
def lstm(
    inputs: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    mask: Any = None,
    sequence_length: Any = None,
    initial_state: Any = None,
    activation: Any = "tanh",
    recurrent_activation: Any = "sigmoid",
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
) -> Tuple[tf.Tensor, Tuple[tf.Tensor, tf.Tensor]]:
    """An LSTM (Hochreiter and Schmidhuber 1997) over the real steps, differentiable.

    With gates i (input), f (forget), c (candidate), o (output) in this order in the weights:

        i, f, o = recurrent_activation(x @ W + h @ U + b)      each with its part of W, U, b
        g = activation(x @ W_c + h @ U_c + b_c)
        c = f * c + i * g
        h = o * activation(c)

    Args:
        kernel: W, [features, 4 * units].
        recurrent_kernel: U, [units, 4 * units].
        bias: b, [4 * units]; None for none.
        initial_state: (h, c), each [batch, units]; None for zeros.

    What a masked step means, the other arguments and the errors: see `gru`.

    Returns:
        outputs [batch, time, units], (h, c), each [batch, units], after the last real step.
    """
    state = {"initial_state[0]": None, "initial_state[1]": None}
    if initial_state is not None:
        size = len(initial_state) if isinstance(initial_state, (list, tuple)) else None
        if size != 2:
            given = type(initial_state).__name__ if size is None else f"{size} tensors"
            raise ValueError(f"initial_state is {given}, needed is (h, c), each [batch, units].")
        state = dict(zip(state, initial_state))
        for argument, part in state.items():
            if part is None:
                raise ValueError(f"{argument} is None, needed is (h, c), each [batch, units].")
    outputs, state_h, state_c = _call(
        "lstm",
        inputs,
        kernel,
        recurrent_kernel,
        bias,
        mask,
        sequence_length,
        state,
        activation,
        recurrent_activation,
        go_backwards,
        zero_output_for_mask,
    )
    return outputs, (state_h, state_c)


def _call(
    cell,
    inputs,
    kernel,
    recurrent_kernel,
    bias,
    mask,
    sequence_length,
    state,
    activation,
    recurrent_activation,
    go_backwards,
    zero_output_for_mask,
):
    """Checks every argument of `gru` and `lstm`, and calls the kernel."""
    forked.check()
    if mask is not None and sequence_length is not None:
        raise ValueError("mask and sequence_length are both given, needed is one of them at most.")
    given = inputs
    if ragged.is_ragged(inputs):
        if mask is not None or sequence_length is not None:
            raise ValueError(
                "mask or sequence_length is given with ragged inputs, which say themselves what "
                "is real."
            )
        inputs, mask = ragged.to_padded("inputs", inputs)
    inputs = checks.tensor("inputs", inputs)
    if inputs.dtype not in _DTYPES:
        raise ValueError(
            f"inputs have dtype {inputs.dtype.name}, needed is one of "
            f"{', '.join(t.name for t in _DTYPES)}."
        )
    checks.require_shape("inputs", inputs.shape, [None] * 3, "[batch, time, features]")

    def weights(argument, value, needed, meaning):
        value = checks.tensor(argument, value, inputs.dtype)
        checks.same_dtype(argument, value.dtype, inputs.dtype)
        checks.require_shape(argument, value.shape, needed, meaning)
        return checks.ranked(argument, value, len(needed), meaning)

    gates = differentiable.GATES[cell]
    recurrent_kernel = weights(
        "recurrent_kernel", recurrent_kernel, [None, None], f"[units, {gates} * units]"
    )
    units = recurrent_kernel.shape[0]
    width = None if units is None else gates * units
    checks.require_shape(
        "recurrent_kernel", recurrent_kernel.shape, [units, width], f"[units, {gates} * units]"
    )
    kernel = weights(
        "kernel", kernel, [inputs.shape[2], width], f"[features, {gates} * units]"
    )
    if bias is not None:
        needed, meaning = [width], f"[{gates} * units]"
        if cell == "gru":
            needed, meaning = [2, width], "[2, 3 * units] with reset_after"
        bias = weights("bias", bias, needed, meaning)
    state = [
        None if s is None else weights(n, s, [inputs.shape[0], units], "[batch, units]")
        for n, s in state.items()
    ]
    if sequence_length is not None:
        mask = checks.lengths_mask(sequence_length, inputs)
    elif mask is not None:
        mask = checks.step_mask(mask, inputs)
    outputs, *states = rnn(
        cell,
        inputs,
        kernel,
        recurrent_kernel,
        bias,
        mask,
        *state,
        activation=_fused("activation", activation),
        recurrent_activation=_fused("recurrent_activation", recurrent_activation),
        go_backwards=flag("go_backwards", go_backwards),
        zero_output_for_mask=flag("zero_output_for_mask", zero_output_for_mask),
    )
    if ragged.is_ragged(given):
        real = tf.reverse(mask, [1]) if go_backwards else mask
        outputs = ragged.from_padded(outputs, real, given)
    return (outputs, *states)


def _fused(argument, activation):
    name = activations.fused_name(activation)
    if name is None:
        raise ValueError(
            f"{argument} is {activation!r}, needed is None, one of {', '.join(activations.NAMES)}, "
            "or that function of keras.activations; a custom one works in the layers only."
        )
    return name


def _rank(value):
    shape = getattr(value, "shape", None)
    return None if shape is None else tf.TensorShape(shape).rank


def _absent(dtype):
    """What stands for an absent argument, and for an absent mask: an empty vector."""
    if not tf.executing_eagerly():
        return _new_absent(dtype)
    if dtype not in _absent_tensors:
        _absent_tensors[dtype] = _new_absent(dtype)
    return _absent_tensors[dtype]


def _new_absent(dtype):
    return tf.zeros([0], dtype), tf.zeros([0], tf.bool)


def _gradient_follows(tensors):
    """Whether a tape or a forward accumulator records this call. A tape in a graph does not count:
    there the gradient, where one is taken, sets the attribute on the op afterwards."""
    if record is None:
        return tf.executing_eagerly()
    if not record.could_possibly_record():
        return False
    if tf.executing_eagerly() and record.should_record_backprop(tensors):
        return True
    return bool(forwardprop_util.pack_tangents(tensors).tangents)


def _present(tensor):
    """None where a tensor stands for an absent argument."""
    return None if tensor.shape == [0] else tensor


def _given(inputs):
    """The op's first nine inputs as `Tensors`; the first three are always there."""
    return differentiable.Tensors(*inputs[:3], *[_present(x) for x in inputs[3:9]])


def _options(op):
    def text(name):
        return tf.compat.as_str(op.get_attr(name))

    if op.type == "MaskedRnnGrad":
        return_sequences = bool(op.get_attr("return_sequences"))
    else:
        return_sequences = op.type == "MaskedRnn"

    return differentiable.Options(
        cell=text("cell"),
        activation=text("activation"),
        recurrent_activation=text("recurrent_activation"),
        go_backwards=bool(op.get_attr("go_backwards")),
        zero_output_for_mask=bool(op.get_attr("zero_output_for_mask")),
        return_sequences=return_sequences,
    )


def _gpu_settings(op):
    """TensorFlow's settings when the op was made; they change no number on a CPU."""
    return {name: bool(op.get_attr(name)) for name in ("tf32", "deterministic")}


def _reserve(op, options):
    """What the forward op kept for its gradient; makes it keep that, where it does not yet."""
    reserve = op.outputs[3]
    if op.get_attr("keep_reserve"):
        return reserve
    if not isinstance(reserve, tf.__internal__.EagerTensor):
        forward = reserve.op  # a tape in a graph hands over a stand-in in place of the op
        if forward.type in _FORWARD_OPS:
            # The graph is not finished: TensorFlow makes the function that runs when a gradient
            # is taken after this one has been called, also if it made another before. So a
            # reserve is kept where a gradient is taken, and nowhere else.
            forward._set_attr("keep_reserve", tf.compat.v1.AttrValue(b=True))
            return reserve
    return _run_again(op, options)


def _run_again(op, options):
    """The reserve of a forward pass that nobody foresaw a gradient of, computed anew."""
    attributes = options._asdict()
    forward = _lib.masked_rnn if attributes.pop("return_sequences") else _lib.masked_rnn_last
    return forward(*op.inputs, **attributes, **_gpu_settings(op), keep_reserve=True)[3]


_FORWARD_OPS = ("MaskedRnn", "MaskedRnnLast")


@tf.RegisterGradient("MaskedRnn")
@tf.RegisterGradient("MaskedRnnLast")
def _masked_rnn_gradient(op, d_outputs, d_state_h, d_state_c, _):
    options = _options(op)
    absent, _ = _absent(op.inputs[0].dtype)
    d_results = [
        # A zero is kept: forward mode differentiates with respect to gradients that are zeros.
        absent if d is None else tf.convert_to_tensor(d)
        for d in (d_outputs, d_state_h, d_state_c)
    ]
    gradients = _lib.masked_rnn_grad(
        *op.inputs, _reserve(op, options), *d_results, **options._asdict(), **_gpu_settings(op)
    )
    # In the order of the op's inputs; None for the mask, the dropouts, and what is absent.
    by_name = dict(zip(differentiable.WITH_GRADIENT, gradients))
    return [
        None if tensor is None else by_name.get(name)
        for name, tensor in _given(op.inputs)._asdict().items()
    ]


@tf.RegisterGradient("MaskedRnnGrad")
def _masked_rnn_grad_gradient(op, *upstream):
    """The second order. The reserve is a function of the other inputs, and so has no part."""
    tensors = _given(op.inputs)
    d_results = [_present(x) for x in op.inputs[10:]]
    upstream = [None if u is None else tf.convert_to_tensor(u) for u in upstream]
    d_tensors, d_d_results = differentiable.gradient_of_gradient(
        tensors, _options(op), d_results, upstream
    )
    return [*d_tensors, None, *d_d_results]
