"""Weights of older recurrent layers, as arrays, to what `GRU`, `LSTM` and `SimpleRNN` take.

From TensorFlow 1: what `tf.train.load_checkpoint` reads of `rnn_cell.LSTMCell`, `BasicLSTMCell`,
`GRUCell` and `BasicRNNCell`. From Keras 2: what an .h5 file holds of `CuDNNGRU` and `CuDNNLSTM`
(such files also load by themselves, see docs/migration.md).

Every function returns a list for `layer.set_weights`: kernel, recurrent_kernel, bias. None needs
TensorFlow. A layer with dropout has seed state among its weights too; set `layer.cell.kernel` and
so on there.
"""

from typing import Any, List

import numpy as np

__all__ = [
    "basic_rnn_cell",
    "cudnn_gru",
    "cudnn_lstm",
    "gru_cell",
    "lstm_cell",
]


def lstm_cell(kernel: Any, bias: Any, forget_bias: float = 1.0) -> List[np.ndarray]:
    """TensorFlow 1's `LSTMCell` or `BasicLSTMCell`, for `LSTM(units)`.

    Its gates are i, j, f, o, where j is the candidate, and it adds `forget_bias` to f at run time;
    Keras's are i, f, c, o. Peepholes and a projection have no counterpart.

    Args:
        kernel: ".../lstm_cell/kernel" (or basic_lstm_cell), [features + units, 4 * units].
        bias: ".../lstm_cell/bias", [4 * units].
        forget_bias: what the cell was made with; 1.0 was the default.

    Returns:
        [kernel [features, 4 * units], recurrent_kernel [units, 4 * units], bias [4 * units]].

    Raises:
        ValueError: shapes that do not fit.

    Example:

        >>> import numpy as np
        >>> kernel, bias = np.ones((3 + 2, 4 * 2), "float32"), np.zeros(4 * 2, "float32")
        >>> [w.shape for w in lstm_cell(kernel, bias)]
        [(3, 8), (2, 8), (8,)]
        >>> lstm_cell(kernel, bias)[2]
        array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """
    kernel, bias = _arrays(kernel=kernel, bias=bias)
    units = _units("bias", bias, 4)
    _features("kernel", kernel, units, 4)

    def reordered(x):
        i, j, f, o = np.split(x, 4, axis=-1)
        return [i, f, j, o]

    bias = reordered(bias)
    bias[1] = bias[1] + np.asarray(forget_bias, bias[1].dtype)
    return [*_split(np.concatenate(reordered(kernel), axis=-1), units), np.concatenate(bias)]


def gru_cell(
    gates_kernel: Any, gates_bias: Any, candidate_kernel: Any, candidate_bias: Any
) -> List[np.ndarray]:
    """TensorFlow 1's `GRUCell`, for `GRU(units, reset_after=False)`.

    Its gates are r, u; Keras's z (the same as u), r, h.

    Args:
        gates_kernel: ".../gru_cell/gates/kernel", [features + units, 2 * units].
        gates_bias: ".../gru_cell/gates/bias", [2 * units].
        candidate_kernel: ".../gru_cell/candidate/kernel", [features + units, units].
        candidate_bias: ".../gru_cell/candidate/bias", [units].

    Returns:
        [kernel [features, 3 * units], recurrent_kernel [units, 3 * units], bias [3 * units]].

    Raises:
        ValueError: shapes that do not fit.
    """
    gates_kernel, gates_bias, candidate_kernel, candidate_bias = _arrays(
        gates_kernel=gates_kernel,
        gates_bias=gates_bias,
        candidate_kernel=candidate_kernel,
        candidate_bias=candidate_bias,
    )
    units = _units("candidate_bias", candidate_bias, 1)
    features = _features("candidate_kernel", candidate_kernel, units, 1)
    _fits("gates_kernel", gates_kernel, (features + units, 2 * units))
    _fits("gates_bias", gates_bias, (2 * units,))

    def joined(gates, candidate):
        r, u = np.split(gates, 2, axis=-1)
        return np.concatenate([u, r, candidate], axis=-1)

    kernel = joined(gates_kernel, candidate_kernel)
    return [*_split(kernel, units), joined(gates_bias, candidate_bias)]


def basic_rnn_cell(kernel: Any, bias: Any) -> List[np.ndarray]:
    """TensorFlow 1's `BasicRNNCell`, for `SimpleRNN(units)`.

    Args:
        kernel: ".../basic_rnn_cell/kernel", [features + units, units].
        bias: ".../basic_rnn_cell/bias", [units].

    Returns:
        [kernel [features, units], recurrent_kernel [units, units], bias [units]].

    Raises:
        ValueError: shapes that do not fit.
    """
    kernel, bias = _arrays(kernel=kernel, bias=bias)
    units = _units("bias", bias, 1)
    _features("kernel", kernel, units, 1)
    return [*_split(kernel, units), bias]


def cudnn_gru(kernel: Any, recurrent_kernel: Any, bias: Any) -> List[np.ndarray]:
    """Keras 2's `CuDNNGRU`, for `GRU(units)`.

    cuDNN reads the numbers of every gate's matrix as those of its transpose; the two biases lie
    one behind the other.

    Args:
        kernel: [features, 3 * units].
        recurrent_kernel: [units, 3 * units].
        bias: [6 * units].

    Returns:
        [kernel, recurrent_kernel, bias [2, 3 * units]].

    Raises:
        ValueError: shapes that do not fit.
    """
    kernel, recurrent_kernel, bias = _cudnn(kernel, recurrent_kernel, bias, 3)
    return [kernel, recurrent_kernel, bias.reshape(2, -1)]


def cudnn_lstm(kernel: Any, recurrent_kernel: Any, bias: Any) -> List[np.ndarray]:
    """Keras 2's `CuDNNLSTM`, for `LSTM(units)`.

    As `cudnn_gru`; an `LSTM` has one bias, the sum of the two.

    Args:
        kernel: [features, 4 * units].
        recurrent_kernel: [units, 4 * units].
        bias: [8 * units].

    Returns:
        [kernel, recurrent_kernel, bias [4 * units]].

    Raises:
        ValueError: shapes that do not fit.
    """
    kernel, recurrent_kernel, bias = _cudnn(kernel, recurrent_kernel, bias, 4)
    return [kernel, recurrent_kernel, bias.reshape(2, -1).sum(axis=0)]


def _cudnn(kernel, recurrent_kernel, bias, gates):
    kernel, recurrent_kernel, bias = _arrays(
        kernel=kernel, recurrent_kernel=recurrent_kernel, bias=bias
    )
    units = _units("bias", bias, 2 * gates)
    _fits("recurrent_kernel", recurrent_kernel, (units, gates * units))
    _fits("kernel", kernel, (None, gates * units))

    def reread(matrix):  # [n,units], whose numbers are those of [units,n] in rows
        return matrix.reshape(units, -1).T

    def by_gate(x):
        return np.concatenate([reread(part) for part in np.split(x, gates, axis=1)], axis=1)

    return by_gate(kernel), by_gate(recurrent_kernel), bias


def _arrays(**given):
    arrays = []
    for argument, value in given.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
            raise ValueError(f"{argument} has dtype {array.dtype}, needed are numbers.")
        arrays.append(array)
    return arrays


def _split(kernel, units):
    """The part for the inputs, the part for the state."""
    return kernel[:-units], kernel[-units:]


def _units(argument, bias, parts):
    if bias.ndim != 1 or not bias.size or bias.size % parts:
        raise ValueError(f"{argument} has shape {bias.shape}, needed is [{parts} * units].")
    return bias.size // parts


def _features(argument, kernel, units, parts):
    _fits(argument, kernel, (None, parts * units))
    if kernel.shape[0] <= units:
        raise ValueError(
            f"{argument} has shape {kernel.shape}, needed is [features + units, {parts} * units] "
            f"with units = {units}."
        )
    return kernel.shape[0] - units


def _fits(argument, array, needed):
    fits = array.ndim == len(needed) and all(
        size in (None, given) for size, given in zip(needed, array.shape)
    )
    if not fits:
        shown = str(needed).replace("None", "any")
        raise ValueError(f"{argument} has shape {array.shape}, needed is {shown}.")
