"""`Bidirectional`: Keras's wrapper, which takes lengths and ragged sequences besides."""

from typing import Any

import keras
import tensorflow as tf

from masked_rnn import layers, ragged


@keras.saving.register_keras_serializable(package="masked_rnn")
class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional`, called also with `sequence_length=` or a ragged tensor.

    Same arguments, numbers, weights and files as Keras's wrapper. It wraps our layers and Keras's.
    Besides: stateful layers with return_state work together with a mask, and our layers inside
    compute on every device, never in cuDNN.

    Call arguments:
        sequences: [batch, time, features], or a `tf.RaggedTensor` [batch, (time), features]; with
            return_sequences the outputs are then ragged too.
        initial_state: the states of the forward layer, then those of the backward layer.
        mask: [batch, time], non-zero is a real step.
        sequence_length: integers [batch] in 0..time, in place of `mask`.

    Raises:
        ValueError: mask and sequence_length together, a length outside 0..time, and what the
            wrapped layers raise.
    """

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args, **kwargs):
        sequences = args[0] if args else kwargs.get("sequences")
        if ragged.is_ragged(sequences):
            padded, mask = layers.padded_call(args, kwargs)
            results = super().__call__(padded, *args[1:], **kwargs, mask=mask)
            return self._ragged(results, mask, sequences)
        if kwargs.get("sequence_length") is not None:
            kwargs["mask"] = layers.mask_from_lengths(args, kwargs)
            del kwargs["sequence_length"]
        return super().__call__(*args, **kwargs)

    def compute_mask(self, sequences, mask):
        # As Keras's, which multiplies a generator where there are states.
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        mask = mask if self.return_sequences else None
        outputs = [mask, mask] if self.merge_mode is None else [mask]
        if self.return_state:
            states = len(self.forward_layer.state_size) + len(self.backward_layer.state_size)
            return [*outputs, *[None] * states]
        return tuple(outputs) if self.merge_mode is None else mask

    def _can_attempt_fused_lstm(self, *_: Any, **__: Any) -> bool:
        return False

    def _can_attempt_fused_gru(self, *_: Any, **__: Any) -> bool:
        return False

    def _ragged(self, results, mask, sequences):
        if not self.return_sequences:
            return results
        outputs = 2 if self.merge_mode is None else 1
        if outputs == 1 and not self.return_state:
            return ragged.from_padded(results, mask, sequences)
        made = [ragged.from_padded(y, mask, sequences) for y in results[:outputs]]
        return (*made, *results[outputs:])
