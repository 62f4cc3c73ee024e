"""`GRU`, `LSTM`, `SimpleRNN`: Keras's layers, with the loop over time done by the fused op.

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
# There is no public way to any of these.
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from masked_rnn import cells, checks, fallback, forked, gpu, old_models, ragged, xla

# Kept here, as some replace keras.layers.RNN by ours.
KerasRNN = keras.layers.RNN
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
    """What our layers share; stands before Keras's class among their bases."""

    _takes_implementation = True

    def __init__(self, units, *args, **kwargs):
        try:
            units = operator.index(units)  # Keras takes no NumPy integer
        except (AttributeError, TypeError):  # the former from a tensor of floats
            raise ValueError(
                f"units is {units!r} ({type(units).__name__}), needed is a positive integer."
            ) from None
        if units >= 2**29:  # TensorFlow would wait ten seconds for the memory
            raise ValueError(
                f"units is {units}, needed is less than 2^29: recurrent_kernel, [units, gates * "
                "units], would have more bytes than 64 bits can count."
            )
        old_models.drop_time_major(kwargs)
        super().__init__(units, *args, **kwargs)
        if not tf.as_dtype(self.compute_dtype).is_floating:
            raise ValueError(f"dtype is {self.compute_dtype}, needed is a floating dtype.")
        self._become_fused()

    def _become_fused(self):
        """Sets what our layers have besides Keras's, on a layer that Keras has made."""
        # The op has no XLA kernel; Keras asks for this before it compiles a model with XLA.
        self._keras_supports_jit = self.supports_jit
        self.supports_jit = False
        self._warned_of_fallback = False
        self._warned_of_mask = False

    @classmethod
    def from_config(cls, config, **kwargs):
        config = old_models.up_to_date(config, implementation=cls._takes_implementation)
        shape = config.pop("input_shape", None)
        layer = super().from_config(config, **kwargs)
        if shape is not None:
            layer._input_shape_arg = tuple(shape)  # as Keras does, which warns besides
        return layer

    def build(self, sequences_shape, initial_state_shape=None):
        with _OrthogonalInFloat32(self.cell):
            super().build(sequences_shape, initial_state_shape)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args, **kwargs):
        forked.check()
        sequences = args[0] if args else kwargs.get("sequences")
        if ragged.is_ragged(sequences):
            padded, mask = padded_call(args, kwargs)
            results = super().__call__(padded, *args[1:], **kwargs, mask=mask)
            return self._ragged(results, mask, sequences)
        # Keras sets the outputs' mask from the arguments it is called with, so what is given in
        # another form must have become a mask before.
        lengths = kwargs.pop("sequence_length", None)
        if lengths is not None:
            kwargs["mask"] = mask_from_lengths(args, {**kwargs, "sequence_length": lengths})
        elif isinstance(kwargs.get("mask"), (list, tuple)):
            kwargs["mask"] = _unnested(kwargs["mask"])
        results = super().__call__(*args, **kwargs)
        if lengths is not None and self.return_sequences:
            # Before 3.11, Keras sets the mask that the input carries, not the one of the call.
            set_keras_mask(results[0] if self.return_state else results, kwargs["mask"])
        return results

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
            sequences: [batch, time, features], or a `tf.RaggedTensor` of that with time ragged,
                to `__call__`: it is padded once, and what is padded is not computed. No mask and
                no lengths go with it.
            initial_state: [batch, units]; for an LSTM two of them, h and c. None for zeros.
            mask: [batch, time] or [batch, time, 1], any dtype, non-zero is a real step.
            training: whether dropout applies.
            sequence_length: integers [batch] in 0..time, in place of `mask`: the first so many
                steps of a row are real. If the input carries a mask too, a step is real if both
                say so.

        Returns:
            The last output [batch, units], or all of them [batch, time, units] with
            `return_sequences` (ragged if the sequences are); with `return_state` a tuple of that
            and the states.

        Raises:
            ValueError: an argument of wrong rank, shape or dtype, mask and sequence_length
                together, or a length outside 0..time. Where only the run can know it, that is
                a `tf.errors.InvalidArgumentError`.
            RuntimeError: the process was forked from one that had used TensorFlow.
        """
        if not tf.executing_eagerly():
            _remember_model()
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(
                "unroll=True needs a known number of time steps, sequences have shape "
                f"{checks.shown(sequences.shape)}. Cannot unroll: give the time in keras.Input, "
                "or leave unroll away."
            )
        checks.numeric("sequences", sequences.dtype)
        mask = self._checked_mask(sequences, initial_state, mask, sequence_length)
        initial_state = self._checked_state(sequences, initial_state)
        last_output, outputs, states = self.inner_loop(
            sequences=sequences, initial_state=initial_state, mask=mask, training=training
        )
        output = outputs if self.return_sequences else last_output
        output = keras.ops.cast(output, self.compute_dtype)
        states = [keras.ops.cast(state, self.compute_dtype) for state in states]
        if self.stateful:
            for variable, state in zip(tf.nest.flatten(self.states), states):
                variable.assign(keras.ops.cast(state, variable.dtype))
        return (output, *states) if self.return_state else output

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The loop over time, on checked arguments: a bool mask [B,T] or None, a list of states
        [B,H] or None.

        Returns:
            (last output, outputs, states). Only the one of the first two that `call` returns is
            computed, and stands in both places.
        """
        reason = self._fallback_reason()
        if reason is None and xla.compiles():
            reason = xla.REASON
        if reason is not None:
            fallback.report(self, reason)
            cells.leave_dropout(self.cell, sequences, self.compute_dtype)
            try:
                return self._keras_loop(sequences, initial_state, mask, training)
            finally:
                cells.reset_dropout(self.cell)
        # The first sequences may be of another dtype than the cell.
        drawn = cells.draw_dropout(self.cell, sequences, self.compute_dtype)
        outputs, states = cells.run(
            self.cell,
            sequences,
            initial_state,
            mask,
            drawn,
            training,
            go_backwards=self.go_backwards,
            # Bidirectional writes this one after construction.
            zero_output=bool(self.zero_output_for_mask),
            return_sequences=self.return_sequences,
        )
        return outputs, outputs, states

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
            units = cells.state_units(self.cell)
            for state, size in zip(self._listed(initial_state), units):
                self._check_state(state, sequences.shape, size)
        spec = super().compute_output_spec(
            sequences, initial_state=initial_state, mask=mask, training=training
        )
        return ragged_spec(spec, sequences) if self.return_sequences else spec

    def _fallback_reason(self):
        """Why the op cannot run this layer, or None; `explain` asks this too."""
        cell, needed = self.cell, self._keras_cell
        if needed is not None and type(cell) is not needed:
            return f"its cell is a {type(cell).__name__}, not Keras's {needed.__name__}"
        return cells.reason_against(cell) or gpu.reason_against()

    def _keras_loop(self, sequences, initial_state, mask, training):
        """Keras's generic loop; never its cuDNN route, which takes few masks."""
        states = [
            self._loop_state(state, sequences, units)
            for state, units in zip(initial_state, cells.state_units(self.cell))
        ]
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
        last_output, outputs, states = KerasRNN.inner_loop(
            layer, sequences, self._packed(states), mask=mask, training=training and not rows
        )
        states = keras.tree.flatten(states)
        if steps:
            outputs = outputs[:, :0]
        if rows:
            last_output, outputs = last_output[:0], outputs[:0]
            states = [state[:0] for state in states]
        return last_output, outputs, states

    def _packed(self, states):
        """A flat list of states in the structure that Keras's loop hands to the cell."""
        return states

    def _loop_state(self, state, sequences, units):
        needed = [tf.shape(sequences)[0], units]
        if state is None:
            return tf.zeros(needed, self.cell.compute_dtype)
        if not (state.shape.is_fully_defined() and sequences.shape[:1].is_fully_defined()):
            message = "initial_state has another shape than [batch, units]."
            checked = tf.debugging.assert_equal(tf.shape(state), needed, message)
            with tf.control_dependencies([checked] if checked is not None else []):
                state = tf.identity(state)
        return state

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
            states = tf.nest.flatten(self.states)
        elif self._starts_with_zeros():
            return [None] * len(cells.state_units(self.cell))
        else:
            batch = keras.ops.shape(sequences)[0]
            states = keras.tree.flatten(self.get_initial_state(batch_size=batch))
        if self.stateful:
            self._check_stateful_batch(sequences.shape[0])
        checked = []
        for state, units in zip(states, cells.state_units(self.cell)):
            self._check_state(state, sequences.shape, units)
            checks.numeric("initial_state", state.dtype)
            state = keras.ops.convert_to_tensor(state, dtype=self.cell.compute_dtype)
            checked.append(checks.ranked("initial_state", state, 2, "[batch, units]"))
        return checked

    def _check_stateful_batch(self, batch):
        expected = tf.nest.flatten(self.states)[0].shape[0]  # a stack nests them
        if batch is not None and batch != expected:
            raise ValueError(
                "If an RNN is stateful, the batch size of the input sequences must be the same "
                "as the batch size of the initial state. \n"
                f"- Expected batch size: {expected}\n"
                f"- Received batch size: {batch}"
            )

    def _check_state(self, state, sequences_shape, units):
        if not hasattr(state, "shape"):
            raise ValueError(
                f"initial_state is {type(state).__name__}, needed is {self._state_needed()}."
            )
        needed = [sequences_shape[0], units]
        checks.require_shape("initial_state", state.shape, needed, "[batch, units of the cell]")

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
            except (NotImplementedError, TypeError, ValueError) as error:
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
            type(self).get_initial_state is KerasRNN.get_initial_state
            and cells.all_known(self.cell)
        )

    def _ragged(self, results, mask, sequences):
        """The results of padded sequences, with the outputs as ragged as the sequences."""
        if not self.return_sequences:
            return results
        if self.go_backwards:  # outputs are in the order of processing
            mask = tf.reverse(mask, [1])
        if not self.return_state:
            return ragged.from_padded(results, mask, sequences)
        return (ragged.from_padded(results[0], mask, sequences), *results[1:])


@keras.saving.register_keras_serializable(package="masked_rnn")
class GRU(_FusedLayer, keras.layers.GRU):
    """`keras.layers.GRU` at the cost of the real steps, whatever the mask.

    Same arguments, numbers, weights and files as Keras's layer (Cho et al. 2014), and the same
    answer on every device. `use_cudnn` is stored and ignored, `unroll` changes nothing. The call
    takes `sequence_length=` besides; see `call` for shapes and errors.

    What stands at masked steps, NaN included, reaches no output and no gradient.
    """

    _keras_cell = keras.layers.GRUCell


@keras.saving.register_keras_serializable(package="masked_rnn")
class LSTM(_FusedLayer, keras.layers.LSTM):
    """`keras.layers.LSTM` at the cost of the real steps, whatever the mask.

    Same arguments, numbers, weights and files as Keras's layer (Hochreiter and Schmidhuber
    1997), and the same answer on every device. `use_cudnn` is stored and ignored, `unroll`
    changes nothing. The call takes `sequence_length=` besides; see `call` for shapes and errors.

    What stands at masked steps, NaN included, reaches no output and no gradient.
    """

    _keras_cell = keras.layers.LSTMCell


@keras.saving.register_keras_serializable(package="masked_rnn")
class SimpleRNN(_FusedLayer, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` at the cost of the real steps, whatever the mask.

    Same arguments, numbers, weights and files as Keras's layer: new h = activation(x @ W + h @ U
    + b). `unroll` changes nothing. The call takes `sequence_length=` besides; see `call` for
    shapes and errors.

    What stands at masked steps, NaN included, reaches no output and no gradient.
    """

    _keras_cell = keras.layers.SimpleRNNCell
    _takes_implementation = False


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


def mask_from_lengths(args, kwargs):
    """The mask that `sequence_length` and the mask that the sequences carry make together, from
    the arguments of a layer's `__call__`."""
    if kwargs.get("mask") is not None or (len(args) > 2 and args[2] is not None):
        raise ValueError(_BOTH)
    lengths = kwargs["sequence_length"]
    sequences = args[0] if args else kwargs["sequences"]
    carried = get_keras_mask(sequences)
    symbolic = [isinstance(x, keras.KerasTensor) for x in (lengths, sequences, carried)]
    if any(symbolic):
        if len(getattr(sequences, "shape", ())) != 3:
            return None  # Keras says so
        if isinstance(lengths, (list, tuple)):
            lengths = np.asarray(lengths)
        carried = [] if carried is None else [carried]
        return SequenceMask()(lengths, sequences, *carried)
    sequences = checks.tensor("sequences", sequences)
    if sequences.shape.rank != 3:
        return None  # Keras says so
    return checks.effective_mask(lengths, carried, sequences)


def padded_call(args, kwargs):
    """Ragged sequences as padded ones and a mask, from the arguments of a layer's `__call__`;
    takes out of `kwargs` what these replace."""
    sequences = args[0] if args else kwargs.pop("sequences")
    mask, lengths = kwargs.pop("mask", None), kwargs.pop("sequence_length", None)
    if mask is not None or lengths is not None or (len(args) > 2 and args[2] is not None):
        raise ValueError(
            "mask or sequence_length is given with ragged sequences, which say themselves what is "
            "real."
        )
    return ragged.to_padded("sequences", sequences)


def ragged_spec(spec, sequences):
    """Marks the first of a layer's symbolic outputs as ragged where the sequences are."""
    if not getattr(sequences, "ragged", False):
        return spec
    first, *rest = spec if isinstance(spec, (list, tuple)) else [spec]
    first = keras.KerasTensor(first.shape, dtype=first.dtype, ragged=True)
    return (first, *rest) if isinstance(spec, (list, tuple)) else first


def _last_size(mask):
    """The size of a mask's third dimension, None where there is none or it is not known."""
    shape = tf.TensorShape(None if mask is None else mask.shape)
    return shape[2] if shape.rank == 3 else None


def _remember_model():
    """The outermost layer of the call that Keras is in: a model, if one is being traced."""
    context = get_global_attribute("current_call_ctx")
    if context is not None:
        forked.remember(context.entry_layer)


def _unnested(mask):
    """A mask given as a list: Keras's list of one mask, or nested numbers."""
    if any(m is None or hasattr(m, "shape") for m in mask):
        return mask[0]
    try:
        return np.asarray(mask)
    except ValueError as error:
        raise ValueError(f"mask cannot be made an array ({error}).") from error


old_models.watch_h5_weights()
