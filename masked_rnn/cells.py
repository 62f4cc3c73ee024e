"""Keras's cells, run over whole sequences by the op: one cell, or a stack of them.

A stack runs layer by layer. That gives what Keras's loop over time gives: at a masked step every
state of the stack is carried, and the op does not read its input there, so an upper cell sees the
outputs of the cell below at real steps only.
"""

from typing import Any, List, Optional

import keras
import tensorflow as tf

from masked_rnn import activations, ops

COMPUTE_DTYPES = ("float32", "float64", "float16", "bfloat16")

_Stack = keras.layers.StackedRNNCells
_FUSED = (keras.layers.GRUCell, keras.layers.LSTMCell, keras.layers.SimpleRNNCell)


def singles(cell: Any) -> List[Any]:
    """The cells of a stack, lowest first; of anything else, itself."""
    return list(cell.cells) if type(cell) is _Stack else [cell]


def all_known(cell: Any) -> bool:
    """Whether `cell` is of Keras's own classes that the op stands for, or a stack of these."""
    each = singles(cell)
    return bool(each) and all(type(c) in _FUSED for c in each)


def reason_against(cell: Any) -> Optional[str]:
    """Why the op cannot run `cell`, or None."""
    for single in singles(cell):
        if type(single) not in _FUSED:
            return (
                f"its cell is a {type(single).__name__}, not Keras's GRUCell, LSTMCell or "
                "SimpleRNNCell"
            )
        for argument in ("activation", "recurrent_activation"):
            function = getattr(single, argument, None)
            if activations.fused_name(function) is None:
                shown = getattr(function, "__name__", None) or type(function).__name__
                return (
                    f"{argument}={shown} is custom (fused are the elementwise functions of "
                    "keras.activations at their default arguments)"
                )
        if single.activity_regularizer is not None:
            return "its cell has an activity_regularizer, which asks for every step's output"
        if single.compute_dtype not in COMPUTE_DTYPES:
            return f"the op does not compute in {single.compute_dtype}"
    return None


def op_name(cell: Any) -> str:
    """The op's name of one of Keras's cells."""
    if isinstance(cell, keras.layers.GRUCell):
        return "gru" if cell.reset_after else "gru_reset_before"
    return "lstm" if isinstance(cell, keras.layers.LSTMCell) else "simple_rnn"


def state_units(cell: Any) -> List[int]:
    """The size of every state tensor of `cell`, flat; two of them for an LSTM cell."""
    return [c.units for c in singles(cell) for _ in range(_states(c))]


def draw_dropout(cell: Any, sequences: Any, dtype: str) -> List[Any]:
    """Keras's dropout masks, drawn once a call in Keras's order.

    Not by `get_dropout_mask`, which keeps them in the cell: another thread that calls the same
    layer would take them for its own.

    Args:
        cell: a cell or a stack.
        sequences: [B,T,I].
        dtype: of the sequences in the layer.

    Returns:
        For every single cell ([D,B,I] or None, [D,B,H] or None), D = 1 or one per gate.
    """

    def draw(single, like, rate):
        if not rate > 0:
            return None
        # One mask, or a list of one per gate.
        return tf.stack(keras.tree.flatten(single._create_dropout_mask(like, rate)))

    return [
        (draw(single, step, single.dropout), draw(single, state, single.recurrent_dropout))
        for single, step, state in _like_dropout(cell, sequences, dtype)
    ]


def leave_dropout(cell: Any, sequences: Any, dtype: str) -> None:
    """Leaves the masks in the cells, where Keras's loop finds them, until `reset_dropout`; the
    arguments are those of `draw_dropout`."""
    for single, step, state in _like_dropout(cell, sequences, dtype):
        if step is not None:
            single.get_dropout_mask(step)
            single.get_recurrent_dropout_mask(state)


def _like_dropout(cell, sequences, dtype):
    """Of every single cell: the cell, and what its two dropout masks are like, where it has any."""
    features = sequences.shape[2]
    for single in singles(cell):
        step = state = None
        if single.dropout or single.recurrent_dropout:
            batch = keras.ops.shape(sequences)[0]
            # Keras takes the first time step, which need not exist; only the shape matters.
            step = keras.ops.zeros((batch, features), dtype=dtype)
            state = keras.ops.zeros((batch, single.units), dtype=single.compute_dtype)
        yield single, step, state
        features, dtype = single.units, single.compute_dtype


def reset_dropout(cell: Any) -> None:
    """Forgets the masks that `leave_dropout` left in the cells."""
    for single in singles(cell):
        if hasattr(single, "reset_dropout_mask"):
            single.reset_dropout_mask()
            single.reset_recurrent_dropout_mask()


def run(
    cell, sequences, states, mask, drawn, training, go_backwards, zero_output, return_sequences
):
    """Runs a cell or a stack over all steps.

    Args:
        cell: what `reason_against` has nothing against.
        sequences: [B,T,I].
        states: flat list of [B,H], or of None for zeros.
        mask: bool [B,T] or None.
        drawn: what `draw_dropout` returned.
        training: whether dropout applies.
        go_backwards, zero_output, return_sequences: as in `ops.rnn`.

    Returns:
        outputs of the last cell, the states as a flat list.
    """
    outputs, after, states = sequences, [], list(states)
    last = len(drawn) - 1
    if last:
        # A stack has a dtype of its own, which Keras casts its input to.
        outputs = tf.cast(outputs, cell.compute_dtype)
    for i, (single, (dropout, recurrent_dropout)) in enumerate(zip(singles(cell), drawn)):
        count = _states(single)
        outputs, *new = _run_one(
            single,
            outputs,
            states[:count],
            mask,
            dropout,
            recurrent_dropout,
            training,
            go_backwards=go_backwards,
            zero_output_for_mask=zero_output and i == last,
            return_sequences=return_sequences or i < last,
        )
        after += new[:count]
        states = states[count:]
        if go_backwards and i < last:  # the outputs are in the order of processing
            go_backwards = False
            mask = None if mask is None else tf.reverse(mask, [1])
    return outputs, after


def _run_one(cell, sequences, states, mask, dropout, recurrent_dropout, training, **options):
    def operand(x):
        return None if x is None else tf.cast(tf.convert_to_tensor(x), cell.compute_dtype)

    def factors(drawn, rate):
        # Keras draws them at inference too, but applies them in training only.
        return operand(drawn) if training and 0.0 < rate < 1.0 else None

    if hasattr(cell, "recurrent_activation"):
        options["recurrent_activation"] = activations.fused_name(cell.recurrent_activation)
    return ops.rnn(
        op_name(cell),
        operand(sequences),
        operand(cell.kernel.value),
        operand(cell.recurrent_kernel.value),
        None if cell.bias is None else operand(cell.bias.value),
        mask,
        *[operand(state) for state in states],
        input_dropout=factors(dropout, cell.dropout),
        recurrent_dropout=factors(recurrent_dropout, cell.recurrent_dropout),
        activation=activations.fused_name(cell.activation),
        **options,
    )


def _states(cell):
    return 2 if isinstance(cell, keras.layers.LSTMCell) else 1
