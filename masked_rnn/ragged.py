"""Ragged sequences: to padded ones and a mask for the op, and the outputs back.

The op takes padded sequences. A ragged batch is padded once on the way in, and not computed on:
padding costs its memory traffic, and no multiply-add, as for any mask.
"""

from typing import Any, Tuple

import tensorflow as tf


def is_ragged(value: Any) -> bool:
    """Whether `value` is a `tf.RaggedTensor` (not a symbolic one)."""
    return isinstance(value, tf.RaggedTensor)


def to_padded(argument: str, sequences: tf.RaggedTensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Sequences [B,T,I] padded on the right, and their mask, bool [B,T].

    Args:
        argument: the sequences' name.
        sequences: ragged [batch, (time), features].

    Raises:
        ValueError: not of rank 3.
    """
    if sequences.shape.rank != 3:
        raise ValueError(
            f"{argument} is a RaggedTensor of shape {sequences.shape}, needed is "
            "[batch, (time), features]."
        )
    padded = sequences.to_tensor()
    mask = tf.sequence_mask(sequences.row_lengths(), tf.shape(padded, tf.int64)[1])
    return padded, tf.ensure_shape(mask, padded.shape[:2])


def from_padded(outputs: tf.Tensor, mask: tf.Tensor, sequences: tf.RaggedTensor) -> tf.RaggedTensor:
    """Outputs [B,T,H] at the real steps, as rows as long as those of `sequences`.

    Args:
        outputs: of all steps, padded ones too.
        mask: bool [B,T], True where an output is of a real step.
        sequences: what the outputs are of.
    """
    return tf.RaggedTensor.from_row_splits(
        tf.boolean_mask(outputs, mask), sequences.row_splits, validate=False
    )
