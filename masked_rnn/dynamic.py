"""`tf.compat.v1.nn.dynamic_rnn` and `bidirectional_dynamic_rnn`, for Keras's cells, fused.

The deprecated functions stop a row at its length: outputs past it are zero, and the state is the
one at the length. So here they are `masked_rnn.RNN` with the lengths as a mask.
"""

from typing import Any, Tuple

import keras
import numpy as np
import tensorflow as tf

from masked_rnn import cells, ragged
from masked_rnn.rnn import RNN


def dynamic_rnn(
    cell: Any,
    inputs: Any,
    sequence_length: Any = None,
    initial_state: Any = None,
    dtype: Any = None,
    parallel_iterations: Any = None,
    swap_memory: bool = False,
    time_major: bool = False,
    scope: Any = None,
) -> Tuple[Any, Any]:
    """Runs a cell over every row up to the row's length, as `tf.compat.v1.nn.dynamic_rnn` did.

    Args:
        cell: a Keras `GRUCell`, `LSTMCell` or `SimpleRNNCell`, or `StackedRNNCells` (or a list) of
            them, which run fused; any other Keras cell runs in Keras's loop with a
            `FallbackWarning`. It is built on the first call, and keeps its weights for the next.
            Dropout does not apply, as the function cannot know whether it trains.
        inputs: [batch, time, features], [time, batch, features] with `time_major`, or a
            `tf.RaggedTensor` [batch, (time), features], whose outputs are ragged too.
        sequence_length: integers [batch] in 0..time; None for whole rows.
        initial_state: in the structure of `cell.state_size`; None for zeros.
        dtype: the floating dtype of the results; None for the cell's.
        parallel_iterations, swap_memory: ignored, they were hints to the loop.
        time_major: whether time comes first in inputs and outputs.
        scope: ignored, a cell has its own name.

    Returns:
        (outputs, state). The outputs [batch, time, units] are zero past a row's length, or
        [time, batch, units] with `time_major`. The state is the one at the length, where that is
        0 the initial one, in the structure of `cell.state_size`: [batch, units] of a GRU or
        SimpleRNN cell, [h, c] of an LSTM cell, a list with one of these for every cell of a stack.

    Raises:
        ValueError: an argument of wrong rank, shape or dtype, or a length outside 0..time. Where
            only the run can know it, that is a `tf.errors.InvalidArgumentError`.

    Example:

        >>> import keras, masked_rnn
        >>> inputs = keras.ops.ones((2, 3, 4))
        >>> outputs, (h, c) = masked_rnn.dynamic_rnn(keras.layers.LSTMCell(5), inputs, [3, 1])
        >>> outputs.shape, h.shape, c.shape
        (TensorShape([2, 3, 5]), TensorShape([2, 5]), TensorShape([2, 5]))
        >>> float(abs(outputs[1, 1:]).numpy().max())
        0.0
    """
    del parallel_iterations, swap_memory, scope
    return _run(cell, inputs, sequence_length, initial_state, dtype, time_major, False)


def bidirectional_dynamic_rnn(
    cell_fw: Any,
    cell_bw: Any,
    inputs: Any,
    sequence_length: Any = None,
    initial_state_fw: Any = None,
    initial_state_bw: Any = None,
    dtype: Any = None,
    parallel_iterations: Any = None,
    swap_memory: bool = False,
    time_major: bool = False,
    scope: Any = None,
) -> Tuple[Tuple[Any, Any], Tuple[Any, Any]]:
    """Two cells, one over each direction, as `tf.compat.v1.nn.bidirectional_dynamic_rnn` did.

    Args:
        cell_fw: the cell that runs from the first step to the last.
        cell_bw: another, from the last step of every row to its first.
        initial_state_fw, initial_state_bw: their initial states.
        The other arguments are those of `dynamic_rnn`.

    Returns:
        ((outputs_fw, outputs_bw), (state_fw, state_bw)), each as `dynamic_rnn` returns it. Both
        outputs stand at the steps that they belong to.

    Raises:
        ValueError: as `dynamic_rnn`, or the same cell given twice.
    """
    del parallel_iterations, swap_memory, scope
    if cell_fw is cell_bw:
        raise ValueError("cell_fw and cell_bw are the same cell, needed are two.")
    forward = _run(cell_fw, inputs, sequence_length, initial_state_fw, dtype, time_major, False)
    backward = _run(cell_bw, inputs, sequence_length, initial_state_bw, dtype, time_major, True)
    return (forward[0], backward[0]), (forward[1], backward[1])


def _run(cell, inputs, lengths, state, dtype, time_major, backwards):
    if isinstance(cell, (list, tuple)) and cell:
        cell = keras.layers.StackedRNNCells(list(cell))
    if not isinstance(cell, keras.layers.Layer) or not hasattr(cell, "state_size"):
        given = type(cell).__name__
        raise ValueError(f"cell is {given}, needed is a Keras cell, or a list of them.")
    if dtype is not None:
        dtype = keras.backend.standardize_dtype(dtype)
        if not tf.as_dtype(dtype).is_floating:
            raise ValueError(f"dtype is {dtype}, needed is a floating dtype.")
    layer = RNN(
        cell,
        return_sequences=True,
        return_state=True,
        go_backwards=backwards,
        zero_output_for_mask=True,
        dtype=cell.dtype_policy,
    )
    if ragged.is_ragged(inputs):
        if time_major or lengths is not None:
            raise ValueError(
                "inputs are ragged, needed is neither time_major nor sequence_length: rows come "
                "first and have their own lengths."
            )
    elif not isinstance(inputs, keras.KerasTensor):
        inputs = tf.convert_to_tensor(inputs)
    if time_major:
        inputs = keras.ops.transpose(inputs, (1, 0, 2))
    call = {}
    if state is not None:
        call["initial_state"] = list(state) if isinstance(state, (list, tuple)) else [state]
    if lengths is not None:
        call["sequence_length"] = lengths if hasattr(lengths, "dtype") else np.asarray(lengths)
    outputs, *after = layer(inputs, **call)
    if backwards:
        # From the order of processing; a ragged row has no padding in front.
        outputs = tf.reverse(outputs, [1]) if ragged.is_ragged(outputs) else _flip(outputs)
    if time_major:
        outputs = keras.ops.transpose(outputs, (1, 0, 2))
    after = _as_state_size(cell, after)
    if dtype is not None:
        outputs = keras.ops.cast(outputs, dtype)
        after = keras.tree.map_structure(lambda s: keras.ops.cast(s, dtype), after)
    return outputs, after


def _flip(outputs):
    return keras.ops.flip(outputs, axis=1)


def _as_state_size(cell, states):
    """States as the layer returns them, in the structure of `cell.state_size`."""
    if not cells.all_known(cell):
        return states[0] if isinstance(cell.state_size, int) and len(states) == 1 else states
    flat = keras.tree.flatten(states)
    return keras.tree.pack_sequence_as(_plain(cell.state_size), flat)


def _plain(structure):
    """Lists in place of the list that Keras tracks."""
    return [_plain(s) for s in structure] if isinstance(structure, (list, tuple)) else structure
