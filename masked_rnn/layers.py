"""`GRU` and `LSTM`: Keras's layers, with the loop over time done by the fused op.

They are subclasses, so arguments, weights, files and configuration are Keras's. What differs is
`call`, which checks its arguments, and `inner_loop`, which runs the op, or Keras's own loop with
a `FallbackWarning` where the op cannot be used.
"""

import functools
import operator
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from masked_rnn import activations, checks, fallback, ops

try:
    from keras.src.backend import get_keras_mask
except ImportError:  # Keras before 3.6

    def get_keras_mask(x):
        return getattr(x, "_keras_mask", None)


try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:  # pragma: no cover

    def GraphOrParentsInXlaContext(graph):
        return False


_COMPUTE_DTYPES = ("float32", "float64", "float16", "bfloat16")
_BOTH = (
    "mask and sequence_length are both given, needed is one of them at most. (A mask that the "
    "input carries, from Masking or Embedding, goes together with sequence_length.)"
)


@keras.saving.register_keras_serializable(package="masked_rnn")
class SequenceMask(keras.Operation):
    """Lengths [B] to a mask [B,T], as an operation that a functional model holds and saves."""

    def call(self, sequence_length, sequences, mask=None):
        return checks.effective_mask(sequence_length, mask, tf.convert_to_tensor(sequences))

    def compute_output_spec(self, sequence_length, sequences, mask=None):
        batch, time = sequences.shape[:2]
        checks.require_shape("sequence_length", np.shape(sequence_length), [batch], "[batch]")
        return keras.KerasTensor((batch, time), dtype="bool")


class _FusedLayer:
    """What GRU and LSTM share; stands before Keras's class among their bases."""

    def __init__(self, units, *args, **kwargs):
        try:
            units = operator.index(units)  # Keras takes no NumPy integer
        except TypeError:
            raise ValueError(
                f"units is {units!r} ({type(units).__name__}), needed is a positive integer."
            ) from None
        super().__init__(units, *args, **kwargs)
        # The op has no XLA kernel; Keras asks for this before it compiles a model with XLA.
        self.supports_jit = False
        self._warned_of_fallback = False
        self._warned_of_mask = False

    def build(self, sequences_shape, initial_state_shape=None):
        with _OrthogonalInFloat32(self.cell):
            super().build(sequences_shape, initial_state_shape)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args, **kwargs):
        # Keras sets the outputs' mask from the arguments it is called with, so what is given in
        # another form must have become a mask before.
        if kwargs.get("sequence_length") is not None:
            kwargs["mask"] = self._mask_from_lengths(args, kwargs)
            del kwargs["sequence_length"]
        elif isinstance(kwargs.get("mask"), (list, tuple)):
            kwargs["mask"] = _unnested(kwargs["mask"])
        return super().__call__(*args, **kwargs)

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: Any = False,
        *,
        sequence_length: Any = None,
    ) -> Any:
        """Runs the layer.

        Args:
            sequences: [batch, time, features].
            initial_state: [batch, units]; for an LSTM two of them, h and c. None for zeros.
            mask: [batch, time] or [batch, time, 1], any dtype, non-zero is a real step.
            training: whether dropout applies.
            sequence_length: integers [batch] in 0..time, in place of `mask`: the first so many
                steps of a row are real. If the input carries a mask too, a step is real if both
                say so.

        Returns:
            The last output [batch, units], or all of them [batch, time, units] with
            `return_sequences`; with `return_state` a tuple of that and the states.

        Raises:
            ValueError: an argument of wrong rank, shape or dtype, mask and sequence_length
                together, or a length outside 0..time. Where only the run can know it, that is
                a `tf.errors.InvalidArgumentError`.
        """
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(
                "unroll=True needs a known number of time steps, sequences have shape "
                f"{checks.shown(sequences.shape)}. Cannot unroll: give the time in keras.Input, "
                "or leave unroll away."
            )
        mask = self._checked_mask(sequences, initial_state, mask, sequence_length)
        initial_state = self._checked_state(sequences, initial_state)
        try:
            last_output, outputs, states = self.inner_loop(
                sequences=sequences, initial_state=initial_state, mask=mask, training=training
            )
        finally:
            self.cell.reset_dropout_mask()
            self.cell.reset_recurrent_dropout_mask()
        output = outputs if self.return_sequences else last_output
        output = keras.ops.cast(output, self.compute_dtype)
        states = [keras.ops.cast(state, self.compute_dtype) for state in states]
        if self.stateful:
            for variable, state in zip(self.states, states):
                variable.assign(keras.ops.cast(state, variable.dtype))
        return (output, *states) if self.return_state else output

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The loop over time, on checked arguments: a bool mask [B,T] or None, a list of states
        [B,H] or None.

        Returns:
            (last output, outputs, states). Only the one of the first two that `call` returns is
            computed, and stands in both places.
        """
        dropout, recurrent_dropout = self._draw_dropout(sequences)
        reason = self._fallback_reason()
        if reason is None and _under_xla():
            reason = "it is being compiled by XLA (jit_compile=True), which has no kernel for it"
        if reason is not None:
            fallback.report(self, reason)
            return self._keras_loop(sequences, initial_state, mask, training)

        cell = self.cell

        def operand(x):
            return None if x is None else tf.cast(tf.convert_to_tensor(x), cell.compute_dtype)

        def factors(drawn, rate):
            # Keras draws them at inference too, but applies them in training only.
            return operand(drawn) if training and 0.0 < rate < 1.0 else None

        outputs, state_h, state_c = ops.rnn(
            self._op_cell(),
            operand(sequences),
            operand(cell.kernel.value),
            operand(cell.recurrent_kernel.value),
            None if cell.bias is None else operand(cell.bias.value),
            mask,
            *[operand(state) for state in initial_state],
            input_dropout=factors(dropout, cell.dropout),
            recurrent_dropout=factors(recurrent_dropout, cell.recurrent_dropout),
            activation=activations.fused_name(cell.activation),
            recurrent_activation=activations.fused_name(cell.recurrent_activation),
            go_backwards=self.go_backwards,
            # Bidirectional writes this one after construction.
            zero_output_for_mask=bool(self.zero_output_for_mask),
            return_sequences=self.return_sequences,
        )
        return outputs, outputs, [state_h, state_c][: len(self.state_size)]

    def compute_mask(self, sequences, mask):
        mask = keras.tree.flatten(mask)[0]
        if _last_size(mask) == 1:
            mask = keras.ops.squeeze(mask, -1)
        return super().compute_mask(sequences, mask)

    def compute_output_spec(
        self, sequences, initial_state=None, mask=None, training=False, *, sequence_length=None
    ):
        # What a functional model can know to be wrong is said when it is made.
        if mask is None:
            self._warn_of_dropped_mask(sequences, initial_state)
        elif hasattr(mask, "shape"):
            checks.mask_shape(mask.shape, sequences.shape)
        if initial_state is not None:
            for state in self._listed(initial_state):
                self._check_state_shape(state.shape, sequences.shape)
        return super().compute_output_spec(
            sequences, initial_state=initial_state, mask=mask, training=training
        )

    def _fallback_reason(self):
        """Why the op cannot run this layer, or None; `explain` asks this too."""
        cell = self.cell
        if type(cell) is not self._keras_cell:
            return f"its cell is a {type(cell).__name__}, not Keras's {self._keras_cell.__name__}"
        for argument in ("activation", "recurrent_activation"):
            function = getattr(cell, argument)
            if activations.fused_name(function) is None:
                shown = getattr(function, "__name__", None) or type(function).__name__
                return (
                    f"{argument}={shown} is custom (fused are the elementwise functions of "
                    "keras.activations at their default arguments)"
                )
        if cell.compute_dtype not in _COMPUTE_DTYPES:
            return f"the op does not compute in {cell.compute_dtype}"
        return None

    def _keras_loop(self, sequences, initial_state, mask, training):
        """Keras's generic loop; never its cuDNN route, which takes few masks."""
        states = [self._loop_state(state, sequences) for state in initial_state]
        if mask is not None:
            # The loop broadcasts a wrong mask in silence, and computes masked steps: 0 * NaN is
            # NaN in every gradient.
            mask = checks.step_mask(mask, sequences, at_run_time=True)
            sequences = tf.where(mask[:, :, tf.newaxis], sequences, tf.zeros_like(sequences))

        # The loop fails on 0 steps and on 0 rows: add one, masked, and take it away afterwards.
        rows, steps = (int(size == 0) for size in sequences.shape[:2])
        if rows or steps:
            mask = tf.ones(tf.shape(sequences)[:2], tf.bool) if mask is None else mask
            sequences = tf.pad(sequences, [[0, rows], [0, steps], [0, 0]])
            mask = tf.pad(mask, [[0, rows], [0, steps]])
            states = [tf.pad(state, [[0, rows], [0, 0]]) for state in states]
        layer = self
        if self.unroll and self.go_backwards:
            # Unrolled backwards, the loop zeroes outputs by a mask that it has not reversed.
            sequences = tf.reverse(sequences, [1])
            mask = None if mask is None else tf.reverse(mask, [1])
            layer = _Forwards(self)
        last_output, outputs, states = keras.layers.RNN.inner_loop(
            layer, sequences, states, mask=mask, training=training and not rows
        )
        if steps:
            outputs = outputs[:, :0]
        if rows:
            last_output, outputs = last_output[:0], outputs[:0]
            states = [state[:0] for state in states]
        return last_output, outputs, states

    def _loop_state(self, state, sequences):
        needed = [tf.shape(sequences)[0], self.cell.units]
        if state is None:
            return tf.zeros(needed, self.cell.compute_dtype)
        if not (state.shape.is_fully_defined() and sequences.shape[:1].is_fully_defined()):
            message = "initial_state has another shape than [batch, units]."
            checked = tf.debugging.assert_equal(tf.shape(state), needed, message)
            with tf.control_dependencies([checked] if checked is not None else []):
                state = tf.identity(state)
        return state

    def _draw_dropout(self, sequences):
        """Keras's dropout masks, drawn once a call in Keras's order: [D,B,I] and [D,B,H] or None.

        They are cached in the cell, where Keras's loop finds them, until `call` resets them.
        """
        cell = self.cell
        if not (cell.dropout or cell.recurrent_dropout):
            return None, None
        batch = keras.ops.shape(sequences)[0]
        # Keras takes the first time step, which need not exist; only the shape matters.
        step = keras.ops.zeros((batch, sequences.shape[2]), dtype=self.compute_dtype)
        state = keras.ops.zeros((batch, cell.units), dtype=cell.compute_dtype)
        drawn = cell.get_dropout_mask(step), cell.get_recurrent_dropout_mask(state)
        # One mask, or a list of one per gate.
        return [m if m is None else tf.stack(keras.tree.flatten(m)) for m in drawn]

    def _checked_mask(self, sequences, initial_state, mask, sequence_length):
        if isinstance(mask, (list, tuple)):
            mask = _unnested(mask)
        if sequence_length is not None:
            if mask is not None:
                raise ValueError(_BOTH)
            return checks.effective_mask(sequence_length, get_keras_mask(sequences), sequences)
        if mask is None:
            self._warn_of_dropped_mask(sequences, initial_state)
            return None
        return checks.step_mask(mask, sequences)

    def _warn_of_dropped_mask(self, sequences, initial_state):
        if initial_state is None or self._warned_of_mask or get_keras_mask(sequences) is None:
            return
        self._warned_of_mask = True
        warnings.warn(
            f"masked_rnn.{type(self).__name__} '{self.name}': the input carries a mask, which "
            "Keras does not hand on when initial_state is given as a tensor, and so it is not "
            "used here either. To have it used, pass it as mask=.",
            stacklevel=2,
        )

    def _checked_state(self, sequences, initial_state):
        """The initial states as a list of [B,H] in the cell's dtype, or of None for zeros."""
        if initial_state is not None:
            states = self._listed(initial_state)
        elif self.stateful:
            states = list(self.states)
        elif self._starts_with_zeros():
            return [None] * len(self.state_size)
        else:
            states = list(self.get_initial_state(batch_size=keras.ops.shape(sequences)[0]))
        if self.stateful:
            self._check_stateful_batch(sequences.shape[0])
        checked = []
        for state in states:
            self._check_state_shape(state.shape, sequences.shape)
            checked.append(keras.ops.convert_to_tensor(state, dtype=self.cell.compute_dtype))
        return checked

    def _check_stateful_batch(self, batch):
        expected = self._expected_batch_size
        if expected is not None and batch is not None and batch != expected:
            raise ValueError(
                "If an RNN is stateful, the batch size of the input sequences must be the same "
                "as the batch size of the initial state. \n"
                f"- Expected batch size: {expected}\n"
                f"- Received batch size: {batch}"
            )

    def _check_state_shape(self, shape, sequences_shape):
        needed = [sequences_shape[0], self.cell.units]
        checks.require_shape("initial_state", shape, needed, "[batch, units]")

    def _listed(self, initial_state):
        """initial_state as a list of as many arrays or tensors as the cell has states."""
        states = initial_state
        if not isinstance(states, (list, tuple)):
            states = [states]
        elif not all(hasattr(state, "shape") for state in states):
            # Python numbers, all or in part: one state [B,H], or a list of states.
            try:
                arrays = np.asarray(
                    [keras.ops.convert_to_numpy(s) if hasattr(s, "shape") else s for s in states],
                    dtype="float64",
                )
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"initial_state cannot be made arrays ({error}), needed is "
                    f"{self._state_needed()}."
                ) from error
            states = [arrays] if arrays.ndim == 2 else list(arrays)
        if len(states) != len(self.state_size):
            raise ValueError(
                f"initial_state holds {len(states)} tensors, needed is {self._state_needed()}."
            )
        return list(states)

    def _state_needed(self):
        one = f"[batch, units] with units = {self.cell.units}"
        return one if len(self.state_size) == 1 else f"a list of {len(self.state_size)}, each {one}"

    def _starts_with_zeros(self):
        """Whether nobody has replaced Keras's initial state of zeros."""
        return (
            type(self).get_initial_state is keras.layers.RNN.get_initial_state
            and type(self.cell) is self._keras_cell
        )

    def _mask_from_lengths(self, args, kwargs):
        """The mask that `sequence_length` and the mask the input carries make together."""
        if kwargs.get("mask") is not None or (len(args) > 2 and args[2] is not None):
            raise ValueError(_BOTH)
        lengths = kwargs["sequence_length"]
        sequences = args[0] if args else kwargs["sequences"]
        carried = get_keras_mask(sequences)
        symbolic = [isinstance(x, keras.KerasTensor) for x in (lengths, sequences, carried)]
        if any(symbolic):
            if isinstance(lengths, (list, tuple)):
                lengths = np.asarray(lengths)
            carried = [] if carried is None else [carried]
            return SequenceMask()(lengths, sequences, *carried)
        sequences = checks.tensor("sequences", sequences)
        if sequences.shape.rank != 3:
            return None  # Keras says so
        return checks.effective_mask(lengths, carried, sequences)


@keras.saving.register_keras_serializable(package="masked_rnn")
class GRU(_FusedLayer, keras.layers.GRU):
    """`keras.layers.GRU` at the cost of the real steps, whatever the mask.

    Same arguments, numbers, weights and files as Keras's layer (Cho et al. 2014), and the same
    answer on every device. `use_cudnn` is stored and ignored, `unroll` changes nothing. The call
    takes `sequence_length=` besides; see `call` for shapes and errors.

    What stands at masked steps, NaN included, reaches no output and no gradient.
    """

    _keras_cell = keras.layers.GRUCell

    def _op_cell(self):
        return "gru" if self.cell.reset_after else "gru_reset_before"


@keras.saving.register_keras_serializable(package="masked_rnn")
class LSTM(_FusedLayer, keras.layers.LSTM):
    """`keras.layers.LSTM` at the cost of the real steps, whatever the mask.

    Same arguments, numbers, weights and files as Keras's layer (Hochreiter and Schmidhuber
    1997), and the same answer on every device. `use_cudnn` is stored and ignored, `unroll`
    changes nothing. The call takes `sequence_length=` besides; see `call` for shapes and errors.

    What stands at masked steps, NaN included, reaches no output and no gradient.
    """

    _keras_cell = keras.layers.LSTMCell

    def _op_cell(self):
        return "lstm"


class _OrthogonalInFloat32:
    """While a bfloat16 cell is built: orthogonal matrices are made in float32, then rounded.

    TensorFlow has no QR decomposition in bfloat16. Other dtypes and initializers are left alone.
    """

    def __init__(self, cell):
        self._cell = cell
        self._replaced = {}

    def __enter__(self):
        if self._cell.variable_dtype != "bfloat16":
            return
        for attribute in ("kernel_initializer", "recurrent_initializer"):
            initializer = getattr(self._cell, attribute)
            if isinstance(initializer, keras.initializers.Orthogonal):
                self._replaced[attribute] = initializer
                setattr(self._cell, attribute, functools.partial(self._make, initializer))

    def __exit__(self, *_):
        for attribute, initializer in self._replaced.items():
            setattr(self._cell, attribute, initializer)

    @staticmethod
    def _make(initializer, shape, dtype=None):
        return keras.ops.cast(initializer(shape, dtype="float32"), dtype)


class _Forwards:
    """A layer as Keras's loop sees it, once its inputs have been reversed."""

    go_backwards = False

    def __init__(self, layer):
        self._layer = layer

    def __getattr__(self, name):
        return getattr(self._layer, name)


def _last_size(mask):
    """The size of a mask's third dimension, None where there is none or it is not known."""
    shape = tf.TensorShape(None if mask is None else mask.shape)
    return shape[2] if shape.rank == 3 else None


def _under_xla():
    if tf.executing_eagerly():
        return False
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _unnested(mask):
    """A mask given as a list: Keras's list of one mask, or nested numbers."""
    if any(m is None or hasattr(m, "shape") for m in mask):
        return mask[0]
    try:
        return np.asarray(mask)
    except ValueError as error:
        raise ValueError(f"mask cannot be made an array ({error}).") from error
