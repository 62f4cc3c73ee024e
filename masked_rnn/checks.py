"""Checks of the arguments that the layers and the functions share.

What is known while Python runs is a ValueError here. What only the run knows (a batch size that
a graph was traced without) is left to the op, or asserted in the graph: InvalidArgumentError.
Every message names the argument, what was given and what is needed.
"""

import numpy as np
import tensorflow as tf


def require_shape(argument, given, needed, meaning):
    """Raises ValueError unless the static shape `given` can be `needed`.

    Args:
        argument: name of the argument.
        given: its static shape.
        needed: list of sizes, None where unknown.
        meaning: what the sizes are, e.g. "[batch, units]".
    """
    given = tf.TensorShape(given)
    if not given.is_compatible_with(needed):
        raise ValueError(
            f"{argument} has shape {shown(given)}, needed is {shown(needed)} = {meaning}."
        )


def ranked(argument, value, rank, meaning):
    """`value`, asserted at run time to be of a rank and no empty vector, where a graph does not
    know it: to the op an empty vector is an absent argument.

    Args:
        argument: name of the argument.
        value: tensor.
        rank: the one needed.
        meaning: what its sizes are, e.g. "[batch, units]".
    """
    if value.shape.rank is None:
        message = f"{argument} has another rank than needed, which is that of {meaning}."
        with tf.control_dependencies([tf.debugging.assert_rank(value, rank, message)]):
            value = tf.identity(value)
        value.set_shape([None] * rank)
    if value.shape.as_list() == [None]:
        message = f"{argument} is empty, needed is {meaning}."
        with tf.control_dependencies([tf.debugging.assert_positive(tf.size(value), message)]):
            value = tf.identity(value)
    return value


def shown(shape):
    """A shape as NumPy prints it, e.g. (None, 6)."""
    shape = tf.TensorShape(shape)
    return "(unknown rank)" if shape.rank is None else str(tuple(shape.as_list()))


def mask_shape(given, inputs_shape):
    """Raises ValueError unless a mask's static shape fits inputs [B,T,I]."""
    given, inputs_shape = tf.TensorShape(given), tf.TensorShape(inputs_shape)
    if given.rank is None:
        return
    batch_and_time = inputs_shape[:2]
    fits = given.rank == 2 or (given.rank == 3 and given[2] in (1, None))
    if not fits or not given[:2].is_compatible_with(batch_and_time):
        raise ValueError(
            f"mask has shape {shown(given)}, needed is {shown(batch_and_time)} = [batch, time] of "
            f"inputs with shape {shown(inputs_shape)}, or the same with a last dimension of 1."
        )


def step_mask(mask, inputs, at_run_time=False):
    """Any mask as bool [B,T]: non-zero is a real step.

    Args:
        mask: [B,T] or [B,T,1], any dtype, a tensor or what becomes one.
        inputs: [B,T,I] tensor.
        at_run_time: assert in the graph what is not known statically; without it that is left
            to the op, which checks as well.

    Raises:
        ValueError: wrong rank, shape or dtype, as far as known.
    """
    mask = tensor("mask", mask)
    if mask.dtype != tf.bool:
        if not (mask.dtype.is_floating or mask.dtype.is_integer):
            raise ValueError(f"mask has dtype {mask.dtype.name}, needed is bool or a number.")
        if mask.dtype.name in ("int4", "uint4"):
            mask = tf.cast(mask, tf.int8)  # TensorFlow has no way to bool from these
        mask = tf.cast(mask, tf.bool)
    mask_shape(mask.shape, inputs.shape)
    known = mask.shape[:2].is_fully_defined() and inputs.shape[:2].is_fully_defined()
    if mask.shape.rank == 3 and mask.shape[2] == 1:
        mask = tf.squeeze(mask, 2)
    if mask.shape.rank != 2:
        # Only the run can tell [B,T] from [B,T,1] here, and either from [B,T,I].
        mask = tf.reshape(_asserted(mask, inputs), tf.shape(inputs)[:2])
    elif at_run_time and not known:
        mask = _asserted(mask, inputs)
    return mask


def lengths_mask(sequence_length, inputs):
    """Lengths [B] as a bool mask [B,T] of right-padded rows.

    Raises:
        ValueError: wrong rank, shape or dtype, or a length outside 0..T, as far as known; else
            the graph asserts it (InvalidArgumentError).
    """
    lengths = tensor("sequence_length", sequence_length)
    empty = lengths.dtype.is_floating and lengths.shape == [0]  # [] becomes float32
    if not lengths.dtype.is_integer and not empty:
        raise ValueError(
            f"sequence_length has dtype {lengths.dtype.name}, needed is an integer dtype."
        )
    require_shape("sequence_length", lengths.shape, inputs.shape[:1], "[batch]")
    lengths = tf.cast(lengths, tf.int64)
    steps = inputs.shape[1]
    values = tf.get_static_value(lengths)
    if values is not None and steps is not None:
        wrong = values[(values < 0) | (values > steps)]
        if wrong.size:
            raise ValueError(
                f"sequence_length holds {wrong[0]}, needed are lengths from 0 to {steps}, the "
                f"time steps of inputs with shape {shown(inputs.shape)}."
            )
    time = tf.shape(inputs, out_type=tf.int64)[1]
    if values is None or steps is None or not lengths.shape.is_fully_defined():
        needed = "needed are lengths from 0 to the time steps of inputs"
        checked = [
            tf.debugging.assert_non_negative(
                lengths, f"sequence_length holds a negative number, {needed}."
            ),
            tf.debugging.assert_less_equal(
                lengths, time, f"sequence_length holds too large a number, {needed}."
            ),
            tf.debugging.assert_equal(
                tf.shape(lengths)[:1],
                tf.shape(inputs)[:1],
                "sequence_length has another batch size than inputs, needed is [batch].",
            ),
        ]
        with tf.control_dependencies([c for c in checked if c is not None]):
            lengths = tf.identity(lengths)
    mask = tf.sequence_mask(lengths, time)
    return tf.ensure_shape(mask, inputs.shape[:2])


def effective_mask(sequence_length, mask, inputs):
    """A step is real if both the lengths and `mask` (or None) say so; bool [B,T]."""
    lengths = lengths_mask(sequence_length, inputs)
    if mask is None:
        return lengths
    # `and` would broadcast a mask of one row in silence.
    return tf.logical_and(lengths, step_mask(mask, inputs, at_run_time=True))


def numeric(argument, dtype):
    """Raises ValueError for a dtype that is no real number: TensorFlow would cut off the imaginary
    part, or fail somewhere else."""
    dtype = tf.as_dtype(dtype)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(f"{argument} has dtype {dtype.name}, needed is a real number.")


def same_dtype(argument, given, needed):
    """Raises ValueError where a tensor's dtype is not that of the inputs."""
    if given != needed:
        raise ValueError(
            f"{argument} has dtype {tf.as_dtype(given).name}, needed is "
            f"{tf.as_dtype(needed).name}, the dtype of inputs."
        )


def tensor(argument, value, dtype=None):
    """`value` as a tensor; what TensorFlow cannot convert is a ValueError naming the argument."""
    wanted = None
    if dtype is not None and not hasattr(value, "dtype"):
        wanted = dtype  # Python numbers take the dtype of the inputs
    try:
        return tf.convert_to_tensor(value, dtype=wanted)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - an object may raise anything when it is read
        kind = type(value).__name__ if not isinstance(value, np.ndarray) else str(value.dtype)
        raise ValueError(f"{argument} cannot be made a tensor from {kind} ({error}).") from error


def _asserted(mask, inputs):
    same = tf.debugging.assert_equal(
        tf.shape(mask)[:2],
        tf.shape(inputs)[:2],
        "mask has another shape than [batch, time] of inputs.",
    )
    one = tf.debugging.assert_equal(
        tf.size(mask),
        tf.reduce_prod(tf.shape(inputs)[:2]),
        "mask has more than one value a step, needed is [batch, time] or [batch, time, 1].",
    )
    with tf.control_dependencies([c for c in (same, one) if c is not None]):
        return tf.identity(mask)
