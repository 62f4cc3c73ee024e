"""The ops called directly with inputs that do not fit: an error of TensorFlow's, and no crash.

What reaches the kernels here has passed none of the checks in Python: ranks and shapes that
contradict each other, reserves that are cut off, altered, or of another call.
"""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from masked_rnn import library

from . import cases
from .cases import GATES, Case
from .examples import examples

CELLS = cases.CELLS
REFUSALS = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
IN_PYTHON = (*REFUSALS, TypeError, ValueError)  # before the op runs: dtypes and attributes
TENSORS = ("inputs", "kernel", "recurrent_kernel", "bias", "mask", "initial_h", "initial_c",
           "input_dropout", "recurrent_dropout")  # fmt: skip
INCOMING = ("d_outputs", "d_state_h", "d_state_c")
HEADER = 64  # bytes of a reserve before its numbers
every_cell = pytest.mark.parametrize("cell", CELLS)


def ops():
    return library.load()


def tensors_of(cell, dtype="float32", sizes=(3, 4, 2, 5), **options):
    """Every tensor of an op's call by name, an empty vector where there is none; and the gradients
    of its results."""
    case = Case(*sizes, **options)
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    given = {n: arguments[n] for n in TENSORS} | gradients
    return {
        name: tf.zeros([0], tf.bool if name == "mask" else dtype) if value is None
        else tf.constant(value)
        for name, value in given.items()
    }  # fmt: skip


def forward(cell, tensors, keep_reserve=True, **attributes):
    call = {n: tensors[n] for n in TENSORS}
    return ops().masked_rnn(**call, cell=cell, keep_reserve=keep_reserve, **attributes)


def backward(cell, tensors, reserve, **attributes):
    call = {n: tensors[n] for n in (*TENSORS, *INCOMING)}
    return ops().masked_rnn_grad(**call, reserve=reserve, cell=cell, **attributes)


def in_a_function(run, tensors):
    """Runs `run(tensors)` in a graph that knows no shape of them."""
    names = list(tensors)
    signature = [tf.TensorSpec(None, tensors[n].dtype) for n in names]
    function = tf.function(lambda *values: run(dict(zip(names, values))), input_signature=signature)
    return function(*tensors.values())


# --- shapes, dtypes, attributes ------------------------------------------------------------

CHANGES = (
    lambda x: x[:0],
    lambda x: x[:1],
    lambda x: x[1:],
    lambda x: tf.concat([x, x], 0),
    lambda x: tf.concat([x, x], -1),
    lambda x: x[None],
    lambda x: x[..., None],
    lambda x: x[..., :1],
    lambda x: x[..., :0],
    lambda x: x[0],
    lambda x: tf.reshape(x, [-1]),
    lambda x: tf.zeros([], x.dtype),
    lambda x: tf.zeros([0], x.dtype),
    lambda x: tf.zeros([0, 0], x.dtype),
    lambda x: tf.zeros([0] * 3, x.dtype),
    lambda x: tf.zeros([1] * 8, x.dtype),
    lambda x: tf.zeros([2**40, 0, 3], x.dtype),
    lambda x: tf.zeros([0, 2**40, 3], x.dtype),
    lambda x: tf.zeros([2**31, 0], x.dtype),
    lambda x: tf.zeros([0, 2**62], x.dtype),
    lambda x: tf.zeros([2**62, 0, 0], x.dtype),
    lambda x: tf.transpose(x),
    lambda x: tf.cast(x, tf.float16),
    lambda x: tf.cast(x, tf.float64),
    lambda x: tf.cast(x, tf.int32),
    lambda x: tf.cast(x, tf.bool),
    lambda x: tf.cast(x, tf.complex64),
    lambda x: tf.strings.as_string(x),
)


def changed(tensors, name, change):
    try:
        return {**tensors, name: change(tensors[name])}
    except (*REFUSALS, ValueError):  # the change needs another rank
        return {**tensors, name: tensors[name][None]}


@examples(250)
@given(st.data())
def test_inputs_that_do_not_fit(data):
    cell = data.draw(st.sampled_from(CELLS), "cell")
    tensors = tensors_of(cell, input_dropout="per_gate", recurrent_dropout="shared")
    gradient = data.draw(st.booleans(), "gradient")
    reserve = forward(cell, tensors)[3]
    names = (*TENSORS, *INCOMING, "reserve") if gradient else TENSORS
    tensors["reserve"] = reserve
    for name in data.draw(
        st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True), "names"
    ):
        tensors = changed(tensors, name, data.draw(st.sampled_from(CHANGES), name))

    def run(given):
        if gradient:
            return backward(cell, given, given["reserve"])
        last = data.draw(st.booleans(), "last")
        op = ops().masked_rnn_last if last else ops().masked_rnn
        return op(**{n: given[n] for n in TENSORS}, cell=cell)[:2]

    try:
        if data.draw(st.booleans(), "function"):
            results = in_a_function(run, tensors)
        else:
            results = run(tensors)
    except IN_PYTHON as error:
        assert str(error)
        return
    if gradient:  # of the shape of what they are the gradients of
        for got, name in zip(results, ("inputs", "kernel", "recurrent_kernel", "bias")):
            assert got.shape == tensors[name].shape
    check_shapes(cell, tensors, gradient)


def check_shapes(cell, tensors, gradient):
    """The shapes of a call that has been accepted."""
    batch, time, features = tensors["inputs"].shape
    units = tensors["recurrent_kernel"].shape[0]
    gates, width = GATES[cell], GATES[cell] * units
    needed = {
        "kernel": [(features, width)],
        "recurrent_kernel": [(units, width)],
        "bias": [(2, width) if cell == "gru" else (width,)],
        "mask": [(batch, time)],
        "initial_h": [(batch, units)],
        "initial_c": [(batch, units)] if cell == "lstm" else [],
        "input_dropout": [(d, batch, features) for d in (1, gates)],
        "recurrent_dropout": [(d, batch, units) for d in (1, gates)],
    }
    if gradient:
        needed["d_outputs"] = [(batch, time, units)]
        needed["d_state_h"] = [(batch, units)]
        needed["d_state_c"] = [(batch, units)] if cell == "lstm" else []
    for name, shapes in needed.items():
        absent = [] if name.endswith("kernel") else [(0,)]
        assert tuple(tensors[name].shape) in [*shapes, *absent], name


@pytest.mark.parametrize("name", ("cell", "activation", "recurrent_activation"))
@pytest.mark.parametrize(
    "value", ("", "no such", "tanh\0", "lstm\0", "ü", b"\xff\xfe", "x" * 10**6, "TANH", 3, None, [], ["tanh"])
)  # fmt: skip
def test_attributes(name, value):
    tensors = tensors_of("lstm")
    attributes = {"cell": "lstm", name: value}
    if value is None and name != "cell":
        return  # the default
    with pytest.raises(IN_PYTHON) as caught:
        ops().masked_rnn(**{n: tensors[n] for n in TENSORS}, **attributes)
    assert str(caught.value)


# --- reserves ------------------------------------------------------------------------------


def refuses(cell, tensors, reserve):
    with pytest.raises(tf.errors.InvalidArgumentError, match="reserve"):
        backward(cell, tensors, tf.constant(reserve))


@every_cell
def test_every_byte_of_a_header_counts(cell):
    tensors = tensors_of(cell)
    reserve = forward(cell, tensors)[3].numpy()
    for byte in range(HEADER):
        for flip in (0x01, 0x80, 0xFF):
            altered = reserve.copy()
            altered[byte] ^= flip
            refuses(cell, tensors, altered)


@every_cell
def test_lengths_of_reserves(cell):
    tensors = tensors_of(cell)
    reserve = forward(cell, tensors)[3].numpy()
    for length in (0, 1, 8, 63, 64, 65, 128, len(reserve) // 2, len(reserve) - 1):
        refuses(cell, tensors, reserve[:length])
    # What comes behind a reserve is not read, wherever it lies in memory.
    want = backward(cell, tensors, tf.constant(reserve))
    for before in (1, 3, 64):
        longer = tf.constant(np.concatenate([np.zeros(before, np.uint8), reserve, reserve]))
        got = backward(cell, tensors, longer[before:])
        for a, b in zip(got, want):
            np.testing.assert_array_equal(a, b)


@every_cell
@pytest.mark.parametrize("groups", (-(2**31), -1, 0, 2, 3, 4, 1000, 1024, 1025, 2**31 - 1))
def test_groups_that_no_call_had(cell, groups):
    tensors = tensors_of(cell, sizes=(3, 4, 2, 5), mask="none")
    reserve = forward(cell, tensors)[3].numpy()
    reserve[20:24] = np.frombuffer(np.int32(groups).tobytes(), np.uint8)
    # A number of groups that gives a reserve of the same size may pass: other numbers, no crash.
    try:
        backward(cell, tensors, tf.constant(reserve))
    except tf.errors.InvalidArgumentError as error:
        assert "reserve" in str(error)
    else:
        assert 1 <= groups <= 3


@every_cell
def test_a_reserve_of_another_call(cell):
    tensors = tensors_of(cell)
    tensors["mask"] = tf.sequence_mask([1, 2, 4], 4)
    others = [
        (other, tensors_of(other)) for other in CELLS if other != cell
    ] + [
        (cell, tensors_of(cell, dtype="float64")),
        (cell, tensors_of(cell, sizes=(3, 4, 2, 6))),
        (cell, tensors_of(cell, sizes=(4, 4, 2, 5))),
        (cell, tensors_of(cell, mask="none")),
        (cell, {**tensors, "mask": tf.reverse(tensors["mask"], [0])}),
        (cell, {**tensors, "mask": tf.reverse(tensors["mask"], [1])}),  # of the same lengths
        (cell, {**tensors, "inputs": tf.pad(tensors["inputs"], [[0, 0], [0, 0], [0, 1]]),
                "kernel": tf.pad(tensors["kernel"], [[0, 1], [0, 0]])}),
    ]  # fmt: skip
    for other, theirs in others:
        refuses(cell, tensors, forward(other, theirs)[3].numpy())
    for attributes in ({"activation": "relu"}, {"go_backwards": True}):
        refuses(cell, tensors, forward(cell, tensors, **attributes)[3].numpy())
    refuses(cell, tensors, forward(cell, tensors, keep_reserve=False)[3].numpy())


@examples(150)
@given(st.data())
def test_any_bytes_as_reserve(data):
    """A right header before anything, anything before a right body, in eager mode and in a graph."""
    cell = data.draw(st.sampled_from(CELLS), "cell")
    tensors = tensors_of(cell)
    reserve = forward(cell, tensors)[3].numpy()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    how = data.draw(st.sampled_from(("body", "header", "field", "cut", "all")), "how")
    if how == "body":
        reserve[HEADER:] = rng.integers(0, 256, len(reserve) - HEADER)
    elif how == "header":
        reserve[:HEADER] = rng.integers(0, 256, HEADER)
    elif how == "field":
        at = 4 * int(rng.integers(0, HEADER // 4))
        field = rng.choice([0, 1, -1, 2, 2**31 - 1, -(2**31), 16, 1023])
        reserve[at : at + 4] = np.frombuffer(np.int32(field).tobytes(), np.uint8)
    elif how == "cut":
        reserve = reserve[: rng.integers(0, len(reserve))]
    else:
        reserve = rng.integers(0, 256, rng.integers(0, 2000)).astype(np.uint8)
    tensors["reserve"] = tf.constant(reserve)

    def run(given):
        return backward(cell, given, given["reserve"])

    try:
        results = (
            in_a_function(run, tensors) if data.draw(st.booleans(), "function") else run(tensors)
        )
    except tf.errors.InvalidArgumentError as error:
        assert "reserve" in str(error)
    else:
        assert results[0].shape == tensors["inputs"].shape
