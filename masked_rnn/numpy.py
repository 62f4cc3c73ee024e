"""Masked GRU and LSTM on NumPy and DLPack arrays; TensorFlow and Keras are not imported.

    outputs, state = masked_rnn.numpy.gru(inputs, kernel, recurrent_kernel, bias, mask)
    gradients = masked_rnn.numpy.gru_vjp(inputs, kernel, recurrent_kernel, bias, mask,
                                         d_outputs=d_outputs)

Sizes: B batch, T time steps, I input features, H units.  The weights have Keras's layout, so
`layer.get_weights()` of a `keras.layers.GRU` or `LSTM` fits as it is.

Array arguments are NumPy arrays or anything with `__dlpack__` on the CPU (a PyTorch or JAX
array, say), of one dtype: float32, float64, float16 or bfloat16 (`ml_dtypes.bfloat16`).  Nested
lists of numbers take the dtype of the arrays beside them, float64 if there are none.  Arrays that
are not C-contiguous are copied; no argument is written to.  Results are NumPy arrays of the same
dtype.

A masked step carries the state: its output repeats the output before it (zeros before the first
real step), or is zero with zero_output_for_mask=True.  What stands at a masked step of `inputs`,
NaN and Inf included, is never read.

Arrays on an NVIDIA GPU (CuPy, PyTorch, anything with `__dlpack__`) are computed with there: all
arrays of a call are on one device and C-contiguous, the mask is bool or uint8; sequence_length
alone is in CPU memory.  The work is queued on `stream` and the call returns; results are arrays
with `__dlpack__`, for `torch.from_dlpack` or `cupy.from_dlpack`.  The driver, and libraries that
TensorFlow, PyTorch and CuPy bring, suffice.  `with masked_rnn.cuda.options(tf32=True):` around a
call lets float32 products run on tensor cores.
"""

from typing import Any, NamedTuple

import numpy as np

from . import _core, cuda
from .flags import flag

__all__ = ["Gradients", "gru", "gru_vjp", "lstm", "lstm_vjp"]

_ndarray = np.ndarray
_BOOL = np.dtype(bool)
_FLOATS = frozenset(np.dtype(d) for d in (np.float32, np.float64, np.float16))
_ACTIVATIONS = {name: name for name in _core.activations()}
_ACTIVATIONS.update({None: "linear", "swish": "silu", "hard_swish": "hard_silu"})


class Gradients(NamedTuple):
    """Gradients by the name of the argument, each in its argument's shape and dtype.

    bias and initial_state are None where the argument was None; initial_state is a pair (h, c)
    for LSTM.
    """

    inputs: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    initial_state: Any


def gru(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    sequence_length=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    reset_after=True,
    stream=None,
):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), with Keras's gates z, r, h.

    z = s(x W_z + h U_z + b_z)    r = s(x W_r + h U_r + b_r)
    n = act(x W_h + b_h + r * (h U_h + c_h))   with reset_after, else
    n = act(x W_h + b_h + (r * h) U_h)
    new h = z * h + (1 - z) * n

    Args:
        inputs: [B,T,I].
        kernel: [I,3*H], the products W with the input.
        recurrent_kernel: [H,3*H], the products U with the state.
        bias: [2,3*H] with reset_after (row 0 for the input products, row 1 for the recurrent
            ones), else [3*H]; None for no bias.
        mask: [B,T] or [B,T,1], any real dtype, non-zero = real step; None: all steps are real.
        sequence_length: [B] integers in 0..T: row b has real steps 0..sequence_length[b]-1.
            Not together with mask.
        initial_state: [B,H]; None is zeros.
        activation, recurrent_activation: name of an elementwise Keras activation; None is linear.
        go_backwards: go through inputs and mask from the last step to the first; outputs stay
            in the order of processing.
        zero_output_for_mask: outputs at masked steps are zero.
        reset_after: see the formula.
        stream: for arrays on a GPU, the CUDA stream to queue the work on: a stream of PyTorch or
            CuPy, or its number; None is the default stream.  Arguments must be kept until its
            work is done.

    Returns:
        (outputs [B,T,H], state [B,H]).

    Raises:
        ValueError: names the argument, what was given and what is needed.
        RuntimeError: a GPU, its driver or a library of NVIDIA's is missing or has failed.
        MemoryError: there is not enough memory.
    """
    cell = "gru" if flag("reset_after", reset_after) else "gru_reset_before"
    arguments = _arguments(
        cell, inputs, kernel, recurrent_kernel, bias, mask, sequence_length, initial_state, None,
        activation, recurrent_activation, go_backwards, zero_output_for_mask, stream,
    )
    outputs, state, _, _ = _forward(cell, arguments, False, stream)
    return outputs, state


def lstm(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    sequence_length=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    stream=None,
):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with Keras's gates i, f, c, o.

    i, f, o = s(x W + h U + b)    g = act(x W_c + h U_c + b_c)
    new c = f * c + i * g         new h = o * act(new c)

    Arguments and errors as in `gru`, except:
        kernel: [I,4*H].  recurrent_kernel: [H,4*H].  bias: [4*H].
        initial_state: (h [B,H], c [B,H]).

    Returns:
        (outputs [B,T,H], (h [B,H], c [B,H])).
    """
    initial_h, initial_c = _pair("initial_state", initial_state)
    arguments = _arguments(
        "lstm", inputs, kernel, recurrent_kernel, bias, mask, sequence_length, initial_h, initial_c,
        activation, recurrent_activation, go_backwards, zero_output_for_mask, stream,
    )
    outputs, state_h, state_c, _ = _forward("lstm", arguments, False, stream)
    return outputs, (state_h, state_c)


def gru_vjp(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    sequence_length=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    reset_after=True,
    d_outputs=None,
    d_state=None,
    stream=None,
):
    """Gradients of a scalar with respect to the arrays of `gru` (vector-Jacobian product).

    Args:
        d_outputs: [B,T,H], the scalar's gradient with respect to outputs; None is zero.
        d_state: [B,H], the one with respect to state; None is zero.  Not both None.
        The other arguments as in `gru`.

    Returns:
        `Gradients`: inputs, kernel, recurrent_kernel, bias, initial_state; bias and
        initial_state are None where the argument was None.  A masked step gives its input an
        exact zero.

    Raises:
        ValueError: names the argument, what was given and what is needed.
    """
    cell = "gru" if flag("reset_after", reset_after) else "gru_reset_before"
    arguments = _arguments(
        cell, inputs, kernel, recurrent_kernel, bias, mask, sequence_length, initial_state, None,
        activation, recurrent_activation, go_backwards, zero_output_for_mask, stream,
    )
    gradients, d_initial, _ = _backward(cell, arguments, d_outputs, d_state, None, stream)
    return Gradients(*gradients, None if initial_state is None else d_initial)


def lstm_vjp(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    sequence_length=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    d_outputs=None,
    d_state=None,
    stream=None,
):
    """Gradients of a scalar with respect to the arrays of `lstm` (vector-Jacobian product).

    As `gru_vjp`, except:
        d_state: (d_h [B,H], d_c [B,H]); either may be None, which is zero.
        initial_state in the result: (h [B,H], c [B,H]).
    """
    initial_h, initial_c = _pair("initial_state", initial_state)
    arguments = _arguments(
        "lstm", inputs, kernel, recurrent_kernel, bias, mask, sequence_length, initial_h, initial_c,
        activation, recurrent_activation, go_backwards, zero_output_for_mask, stream,
    )
    d_h, d_c = _pair("d_state", d_state, part_may_be_none=True)
    gradients, *d_initial = _backward("lstm", arguments, d_outputs, d_h, d_c, stream)
    return Gradients(*gradients, None if initial_state is None else tuple(d_initial))


# --- what all four share -------------------------------------------------------------------


def _arguments(
    cell, inputs, kernel, recurrent_kernel, bias, mask, sequence_length, initial_h, initial_c,
    activation, recurrent_activation, go_backwards, zero_output_for_mask, stream,
):
    """The arguments of `_core.forward` after `cell`, up to return_sequences.

    This is the part that a call on small arrays pays for, so arrays that the core can take as
    they are pass through with a look at each.  The core checks the shapes.
    """
    arrays = (inputs, kernel, recurrent_kernel, bias, initial_h, initial_c)
    if inputs is None or kernel is None or recurrent_kernel is None:
        missing = next(n for n, array in zip(_NAMES[cell], arrays) if array is None)
        raise ValueError(f"{missing} is None, needed: an array")
    if type(inputs) is not _ndarray and cuda.is_on_gpu(inputs):
        *arrays, mask = cuda.arrays((*_NAMES[cell], "mask"), (*arrays, mask), stream)
        if sequence_length is not None:
            batch, time = _one_mask(arrays[0], mask, sequence_length)
            lengths = _lengths(sequence_length, batch, time)
            mask = cuda.mask_of_lengths(lengths, time, arrays[0], stream)
    else:
        if stream is not None:
            raise ValueError("stream is given with arrays in CPU memory, needed: None")
        if not _are_ready(arrays):
            arrays = _ready(_NAMES[cell], arrays)
        if mask is not None or sequence_length is not None:
            mask = _real_steps(arrays[0], mask, sequence_length)
    inputs, kernel, recurrent_kernel, bias, initial_h, initial_c = arrays
    return (
        inputs, kernel, recurrent_kernel, bias, mask, initial_h, initial_c, None, None,
        _activation("activation", activation),
        _activation("recurrent_activation", recurrent_activation),
        flag("go_backwards", go_backwards), flag("zero_output_for_mask", zero_output_for_mask), True,
    )  # fmt: skip


def _forward(cell, arguments, keep_reserve, stream):
    if type(arguments[0]) is _ndarray:
        return _core.forward(cell, *arguments, keep_reserve)
    return cuda.forward(cell, arguments, keep_reserve, stream)


_NAMES = {
    cell: ("inputs", "kernel", "recurrent_kernel", "bias", state, "initial_state (c)")
    for cell, state in (
        ("gru", "initial_state"),
        ("gru_reset_before", "initial_state"),
        ("lstm", "initial_state (h)"),
    )
}


def _backward(cell, arguments, d_outputs, d_state_h, d_state_c, stream):
    """-> ((d_inputs, d_kernel, d_recurrent_kernel, d_bias), d_initial_h, d_initial_c)"""
    incoming = (d_outputs, d_state_h, d_state_c)
    if all(d is None for d in incoming):
        raise ValueError("d_outputs and d_state are both None, needed: at least one of them")
    states = ("d_state (h)", "d_state (c)") if cell == "lstm" else ("d_state", "")
    names = ("d_outputs", *states)
    on_cpu = type(arguments[0]) is _ndarray
    if on_cpu:
        # The same dtype as the inputs, which stand in the row for that.
        _, *incoming = _ready(("inputs", *names), (arguments[0], *incoming))
    else:
        incoming = cuda.arrays(names, incoming, stream)
    reserve = _forward(cell, arguments, True, stream)[3]
    if on_cpu:
        gradients = _core.backward(cell, *arguments, reserve, *incoming)
    else:
        gradients = cuda.backward(cell, arguments, reserve, incoming, stream)
    d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c = gradients
    return (d_inputs, d_kernel, d_recurrent_kernel, d_bias), d_initial_h, d_initial_c


def _are_ready(arrays):
    """Whether the core can take them as they are; a quick look that may say no to bfloat16."""
    dtype = arrays[0].dtype if type(arrays[0]) is _ndarray else None
    if dtype not in _FLOATS:
        return False
    for array in arrays:
        if array is not None:
            if type(array) is not _ndarray or array.dtype != dtype:
                return False
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return False
    return True


def _ready(names, values):
    """C-contiguous arrays of one dtype; None stays None.  Raises ValueError."""
    arrays = [None if v is None else _as_array(n, v) for n, v in zip(names, values)]
    # Numbers in lists have no dtype of their own: they take that of the arrays.
    typed = [
        (name, array.dtype.newbyteorder("="))
        for name, array, value in zip(names, arrays, values)
        if array is not None and not _is_plain(value)
    ]
    for name, dtype in typed:
        if dtype not in _FLOATS and dtype.name != "bfloat16":
            raise ValueError(
                f"{name} has dtype {dtype.name}, needed: float32, float64, float16 or bfloat16"
            )
        if dtype != typed[0][1]:
            raise ValueError(
                f"{name} has dtype {dtype.name}, needed: {typed[0][1].name}, the dtype of "
                f"{typed[0][0]} (all arrays of a call have one dtype)"
            )
    dtype = typed[0][1] if typed else np.dtype(np.float64)
    return [None if a is None else np.require(a, dtype, ["C", "A"]) for a in arrays]


def _is_plain(value):
    return isinstance(value, (list, tuple, int, float))


def _as_array(name, value):
    """A NumPy array of the value's own dtype, sharing its memory where it can."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a numpy.ma.MaskedArray, needed: its data, and its steps in mask= "
            "(where non-zero means real, the opposite of numpy.ma)"
        )
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        if _is_plain(value):
            array = np.asarray(value)
            if array.size and array.dtype.kind not in "biuf":
                raise ValueError(f"its elements are {array.dtype}, not numbers")
            return array
        if hasattr(value, "__dlpack__"):
            try:
                return np.from_dlpack(value)
            except (BufferError, RuntimeError, TypeError):
                if not hasattr(value, "__array__"):
                    raise
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - an object may raise anything when it is read
        raise ValueError(
            f"{name} is a {_type_name(value)} that NumPy cannot read ({error}), needed: an array "
            "in CPU memory"
        ) from error
    raise ValueError(
        f"{name} is a {_type_name(value)}, needed: a NumPy array, an array with __dlpack__, or "
        "nested lists of numbers"
    )


def _type_name(value):
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else (
        f"{kind.__module__}.{kind.__qualname__}"
    )


def _pair(name, state, part_may_be_none=False):
    """The (h, c) of an LSTM; (None, None) for None."""
    if state is None:
        return None, None
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        is_row = isinstance(state, (tuple, list))
        given = f"of {len(state)} parts" if is_row else f"a {_type_name(state)}"
        raise ValueError(f"{name} is {given}, needed: a pair (h, c)")
    if not part_may_be_none and any(part is None for part in state):
        raise ValueError(f"{name} has a part that is None, needed: a pair of arrays (h, c)")
    return state


def _activation(argument, name):
    try:
        return _ACTIVATIONS[name]
    except (KeyError, TypeError):
        names = ", ".join(sorted(_core.activations()))
        raise ValueError(
            f"{argument} is {name!r}, needed: None or one of the names {names}"
        ) from None


def _real_steps(inputs, mask, sequence_length):
    """bool [B,T], True = real step."""
    batch, time = _one_mask(inputs, mask, sequence_length)
    if mask is None:
        return np.arange(time) < _lengths(sequence_length, batch, time)[:, None]
    if type(mask) is not _ndarray:
        mask = _as_array("mask", mask)
    if mask.shape != (batch, time) and mask.shape != (batch, time, 1):
        raise ValueError(
            f"mask has shape {_shape(mask)}, needed: [batch,time] = [{batch},{time}] "
            "(or with a last axis of 1)"
        )
    if mask.dtype != _BOOL:
        if mask.dtype.kind not in "iuf" and mask.dtype.name != "bfloat16":
            raise ValueError(f"mask has dtype {mask.dtype}, needed: bool, integers or floats")
        if mask.dtype.kind not in "iu" and np.isnan(mask).any():
            raise ValueError("mask holds NaN, needed: zero (masked) or a number (real step)")
        mask = mask != 0
    return np.ascontiguousarray(mask.reshape(batch, time))


def _one_mask(inputs, mask, sequence_length):
    """(B, T), the shape of the mask."""
    if mask is not None and sequence_length is not None:
        raise ValueError("mask and sequence_length are both given, needed: at most one of them")
    if len(inputs.shape) != 3:
        raise ValueError(f"inputs has shape {_shape(inputs)}, needed: [batch,time,features]")
    return inputs.shape[:2]


def _lengths(sequence_length, batch, time):
    """int [B]"""
    lengths = _as_array("sequence_length", sequence_length)
    if lengths.shape != (batch,):
        raise ValueError(
            f"sequence_length has shape {_shape(lengths)}, needed: [batch] = [{batch}]"
        )
    if lengths.size and lengths.dtype.kind not in "iu":
        raise ValueError(f"sequence_length has dtype {lengths.dtype}, needed: integers")
    wrong = np.flatnonzero((lengths < 0) | (lengths > time))
    if wrong.size:
        raise ValueError(
            f"sequence_length[{wrong[0]}] is {lengths[wrong[0]]}, needed: 0 to {time}, "
            "the number of time steps"
        )
    return lengths


def _shape(array):
    return "[" + ",".join(map(str, array.shape)) + "]"
