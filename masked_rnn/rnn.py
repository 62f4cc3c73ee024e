"""`RNN`: Keras's layer round a cell, fused where the op knows the cell or the stack of cells."""

from typing import Any

import keras
import tensorflow as tf

from masked_rnn import cells, fallback, old_models
from masked_rnn.layers import KerasRNN, _FusedLayer


@keras.saving.register_keras_serializable(package="masked_rnn")
class RNN(_FusedLayer, KerasRNN):
    """`keras.layers.RNN`, at the cost of the real steps where the op knows the cell.

    It knows Keras's `GRUCell`, `LSTMCell` and `SimpleRNNCell`, of exactly these classes, and
    `StackedRNNCells` (or a list) of them; a stack runs layer by layer. Any other cell runs in
    Keras's loop, with a `FallbackWarning`.

    Arguments, numbers, weights, files and the structure of the states are Keras's. The call takes
    `sequence_length=` besides.

    Args:
        cell: a cell, or a list of cells.
        The other arguments are those of `keras.layers.RNN`.
    """

    _keras_cell = None  # any, `cells` decides
    _takes_implementation = False

    def __init__(self, cell, *args, **kwargs):
        old_models.drop_time_major(kwargs)
        if isinstance(cell, (list, tuple)) and not cell:
            raise ValueError("cell is an empty list, needed is a cell or a list of cells.")
        KerasRNN.__init__(self, cell, *args, **kwargs)
        self._become_fused()

    def _become_fused(self):
        super()._become_fused()
        if cells.all_known(self.cell):
            self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, sequences_shape, initial_state_shape=None):
        KerasRNN.build(self, sequences_shape, initial_state_shape)

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
            sequences: [batch, time, features]; a custom cell may take more dimensions.
            initial_state: in the cell's structure, each tensor [batch, units]. None for zeros.
            mask: [batch, time] or [batch, time, 1], any dtype, non-zero is a real step.
            training: whether dropout applies.
            sequence_length: integers [batch] in 0..time, in place of `mask`.

        Returns:
            The last output [batch, units], or all of them [batch, time, units] with
            `return_sequences`; with `return_state` a tuple of that and the states, which for a
            stack are lists, one for each cell.

        Raises:
            ValueError: as in `GRU.call`.
        """
        if not cells.all_known(self.cell):
            return self._call_custom_cell(sequences, initial_state, mask, training, sequence_length)
        results = super().call(
            sequences, initial_state, mask, training, sequence_length=sequence_length
        )
        if not self.return_state:
            return results
        output, *states = results
        return (output, *self._packed(states, initial_state))

    def compute_output_spec(
        self, sequences, initial_state=None, mask=None, training=False, *, sequence_length=None
    ):
        if cells.all_known(self.cell):
            return super().compute_output_spec(sequences, initial_state, mask, training)
        return KerasRNN.compute_output_spec(
            self, sequences, initial_state=initial_state, mask=mask, training=training
        )

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if cells.all_known(self.cell):
            return super().inner_loop(sequences, initial_state, mask, training)
        return KerasRNN.inner_loop(self, sequences, initial_state, mask, training)

    def reset_state(self):
        for variable in tf.nest.flatten(self.states or []):  # Keras forgets that they nest
            variable.assign(keras.ops.zeros_like(variable.value))

    def _call_custom_cell(self, sequences, initial_state, mask, training, sequence_length):
        fallback.report(self, cells.reason_against(self.cell))
        mask = self._checked_mask(sequences, initial_state, mask, sequence_length)
        if mask is not None and sequences.dtype.is_floating:
            # 0 * NaN is NaN in every gradient: what stands at masked steps is not for the cell.
            features = [1] * (len(sequences.shape) - 2)
            real = tf.reshape(mask, tf.concat([tf.shape(mask), features], 0))
            sequences = tf.where(real, sequences, tf.zeros_like(sequences))
        return KerasRNN.call(
            self, sequences, initial_state=initial_state, mask=mask, training=training
        )

    def _packed(self, states, like=None):
        """A flat list of states in the structure of `like`, which defaults to the cell's own."""
        if like is None or not _all_arrays(keras.tree.flatten(like)):
            like, stack = [], type(self.cell) is keras.layers.StackedRNNCells
            for cell in cells.singles(self.cell):
                own = [0] * len(cells.state_units(cell))
                like += [own] if stack else own
        elif not isinstance(like, (list, tuple)):
            like = [like]
        return keras.tree.pack_sequence_as(list(like), list(states))

    def _listed(self, initial_state):
        flat = keras.tree.flatten(initial_state)
        needed = cells.state_units(self.cell)
        if type(self.cell) is not keras.layers.StackedRNNCells and not _all_arrays(flat):
            return super()._listed(initial_state)
        if len(flat) != len(needed):
            raise ValueError(
                f"initial_state holds {len(flat)} tensors, needed are {len(needed)} "
                f"{self._state_needed()}."
            )
        return flat

    def _state_needed(self):
        sizes = ", ".join(map(str, cells.state_units(self.cell)))
        return f"tensors [batch, units of the cell] with {sizes} units"


def _all_arrays(values):
    return all(hasattr(value, "shape") for value in values)
