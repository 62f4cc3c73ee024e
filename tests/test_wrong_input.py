"""Wrong input to every public function: a right result or a Python error that says what is wrong.

A right call has one or two arguments replaced by what should not stand there (`tests/wrong.py`).
What is accepted all the same must have the documented shapes and dtypes, checked here anew, and
give the reference's numbers: nothing is broadcast, cut off or read as something else in silence.
"""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import masked_rnn
from masked_rnn import convert, reference
from masked_rnn import numpy as mnp

from . import cases, wrong
from .cases import GATES
from .examples import examples

SIZES = ((2, 4, 3, 5), (2, 4, 3, 5), (3, 3, 3, 3), (1, 1, 1, 1), (0, 4, 3, 5), (2, 0, 3, 5),
         (2, 4, 0, 5))  # fmt: skip
CELLS = ("gru", "gru_reset_before", "lstm")
REFUSALS = (ValueError, TypeError, MemoryError)
IN_TENSORFLOW = (*REFUSALS, tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
ARGUMENTS = ("inputs", "kernel", "recurrent_kernel", "bias", "mask", "sequence_length",
             "initial_state", "activation", "recurrent_activation", "go_backwards",
             "zero_output_for_mask", "reset_after", "d_outputs", "d_state")  # fmt: skip
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:.*masked element.*:UserWarning",
    "ignore:the matrix subclass:PendingDeprecationWarning",
)


def right_call(cell, sizes, dtype, lengths, rng):
    """Arguments of `gru` or `lstm`, all given but one of mask and sequence_length."""
    batch, time, features, units = sizes
    width = GATES[cell] * units

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    state = [normal(batch, units) for _ in range(2 if cell == "lstm" else 1)]
    call = {
        "inputs": normal(batch, time, features),
        "kernel": normal(features, width),
        "recurrent_kernel": normal(units, width),
        "bias": normal(2, width) if cell == "gru" else normal(width),
        "mask": None if lengths else rng.random((batch, time)) < 0.6,
        "sequence_length": rng.integers(0, time + 1, batch) if lengths else None,
        "initial_state": state if cell == "lstm" else state[0],
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "go_backwards": False,
        "zero_output_for_mask": False,
    }
    if cell != "lstm":
        call["reset_after"] = cell == "gru"
    return call


def spoil(data, call, name):
    """Replaces one argument; of an initial state it may be one part, or their number."""
    right = call[name]
    if name in ("activation", "recurrent_activation"):
        call[name] = data.draw(wrong.NAMES, name)
    elif name in ("go_backwards", "zero_output_for_mask"):
        call[name] = data.draw(wrong.FLAGS, name)
    elif isinstance(right, list):
        how = data.draw(st.sampled_from(("part", "fewer", "more", "joined", "whole")), name)
        part = data.draw(wrong.spoiled(right[0]), name)
        call[name] = {
            "part": [right[0], part],
            "fewer": right[:1],
            "more": [*right, right[0]],
            "joined": np.stack(right),
            "whole": part,
        }[how]
    elif right is not None:
        call[name] = data.draw(wrong.spoiled(right), name)


def numbers(value):
    """What stands in an accepted argument, read in another way than the library does."""
    if isinstance(value, (tf.Variable, keras.Variable)):
        value = tf.convert_to_tensor(value)
    return np.asarray(value.numpy() if isinstance(value, tf.Tensor) else value)


def reading(cell, call):
    """An accepted call's arguments as the reference takes them; fails where one is not legal."""
    call = {k: v for k, v in call.items() if k != "reset_after"}
    state = call.pop("initial_state")
    parts = [None] * 2 if state is None else state if cell == "lstm" else [state, None]
    if cell != "lstm" and isinstance(state, (list, tuple)) and len(state) == 1:
        parts = [state[0] if np.ndim(state[0]) == 2 else state, None]
    assert len(parts) == 2
    arrays = {n: call[n] for n in ("inputs", "kernel", "recurrent_kernel", "bias")}
    arrays["initial_h"], arrays["initial_c"] = parts
    for name, value in arrays.items():
        if value is not None:
            arrays[name] = numbers(value)
            assert arrays[name].dtype.kind in "biufV", name  # V is bfloat16
    batch, time, features = arrays["inputs"].shape
    units = arrays["recurrent_kernel"].shape[0]
    width = GATES[cell] * units
    needed = {
        "kernel": (features, width),
        "recurrent_kernel": (units, width),
        "bias": (2, width) if cell == "gru" else (width,),
        "initial_h": (batch, units),
        "initial_c": (batch, units),
    }
    assert units > 0
    for name, shape in needed.items():
        assert arrays[name] is None or arrays[name].shape == shape, name
    mask, lengths = call["mask"], call["sequence_length"]
    if mask is not None:
        assert lengths is None
        mask = numbers(mask)
        assert mask.shape in ((batch, time), (batch, time, 1)) and mask.dtype.kind in "biufV"
        mask = np.asarray(mask.reshape(batch, time)) != 0
    elif lengths is not None:
        lengths = numbers(lengths)
        assert lengths.shape == (batch,) and (
            lengths.dtype.kind in "iu" or lengths.dtype.name == "int4" or batch == 0
        )
        assert ((lengths >= 0) & (lengths <= time)).all()
        mask = np.arange(time) < lengths[:, None]
    names = {}
    for name in ("activation", "recurrent_activation"):
        given_name = call[name]
        assert given_name is None or str(given_name) in reference.ACTIVATIONS, name
        names[name] = "linear" if given_name is None else str(given_name)
    flags = {}
    for name in ("go_backwards", "zero_output_for_mask"):
        assert isinstance(call[name], (bool, np.bool_, int)), name
        assert call[name] in (0, 1), name
        flags[name] = bool(call[name])
    return {**arrays, "mask": mask, **names, **flags}


def check_numbers(got, want, dtype):
    got = np.asarray(got)
    assert got.shape == want.shape
    assert got.dtype == dtype
    if np.isfinite(want).all() and np.abs(want).max(initial=0) < 1e3:
        assert cases.error_of(got, want) <= 10 * cases.TOLERANCE[got.dtype.name]


def check_call(cell, call, function, refusals):
    """Calls `function`; an error names an argument, a result is the reference's."""
    try:
        with np.errstate(all="ignore"):
            outputs, state = function(**call)
    except refusals as error:
        if isinstance(error, ValueError):
            assert any(name in str(error) for name in ARGUMENTS), error
        assert str(error)
        return
    plain = reading(cell, call)
    with np.errstate(all="ignore"):
        want = reference.forward(cell, **plain)
    dtype = np.asarray(outputs).dtype
    assert dtype.name in cases.DTYPES
    check_numbers(outputs, want[0], dtype)
    for got, wanted in zip(state if cell == "lstm" else [state], want[1:]):
        check_numbers(got, wanted, dtype)


def draw_call(data):
    cell = data.draw(st.sampled_from(CELLS), "cell")
    sizes = data.draw(st.sampled_from(SIZES), "sizes")
    dtype = data.draw(st.sampled_from(("float32", "float64", "float16")), "dtype")
    call = right_call(cell, sizes, dtype, data.draw(st.booleans(), "lengths"),
                      np.random.default_rng(0))  # fmt: skip
    names = [n for n, v in call.items() if v is not None and n != "reset_after"]
    for name in data.draw(
        st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True), "arguments"
    ):
        spoil(data, call, name)
    return cell, call


@examples(600)
@given(st.data())
def test_functions_on_arrays(data):
    cell, call = draw_call(data)
    check_call(cell, call, mnp.lstm if cell == "lstm" else mnp.gru, REFUSALS)


TENSORS = (
    lambda a: tf.constant(np.array(a)),
    lambda a: tf.Variable(np.array(a)),
    lambda a: tf.constant(np.array(a))[None],
    lambda a: tf.cast(np.array(a), tf.complex64),
    lambda a: tf.cast(np.array(a), tf.bfloat16),
    lambda a: tf.sparse.from_dense(np.array(a)),
    lambda a: tf.RaggedTensor.from_tensor(np.array(a)) if a.ndim > 1 else tf.ragged.constant([[]]),
    lambda a: tf.ragged.constant([[[1.0], [2.0, 3.0]], []]),
    lambda a: tf.strings.as_string(np.array(a)),
    lambda a: keras.KerasTensor(a.shape, "float32"),
    lambda a: keras.KerasTensor((None,) * a.ndim, a.dtype.name),
    lambda a: tf.TensorSpec(a.shape, a.dtype),
    lambda a: tf.data.Dataset.from_tensors(1),
    lambda a: tf.IndexedSlices(tf.constant(np.array(a)), tf.constant([0])),
    lambda a: keras.Variable(np.array(a)),
)


@examples(250)
@given(st.data())
def test_functions_on_tensors(data):
    cell, call = draw_call(data)
    arrays = [n for n, v in call.items() if isinstance(v, np.ndarray)]
    if arrays and data.draw(st.booleans(), "as tensor"):
        name = data.draw(st.sampled_from(arrays), "tensor")
        if call[name].size < 1000:
            try:
                call[name] = data.draw(st.sampled_from(TENSORS), "kind")(call[name])
            except (ValueError, TypeError, tf.errors.OpError):
                pass  # TensorFlow does not make one of this array
    check_call(cell, call, masked_rnn.lstm if cell == "lstm" else masked_rnn.gru, IN_TENSORFLOW)


@examples(300)
@given(st.data())
def test_gradients_on_arrays(data):
    cell = data.draw(st.sampled_from(CELLS), "cell")
    sizes = data.draw(st.sampled_from(SIZES), "sizes")
    rng = np.random.default_rng(0)
    call = right_call(cell, sizes, "float64", False, rng)
    batch, time, _, units = sizes
    d_state = [rng.standard_normal((batch, units)) for _ in range(2)]
    call["d_outputs"] = rng.standard_normal((batch, time, units))
    call["d_state"] = d_state if cell == "lstm" else d_state[0]
    for name in data.draw(
        st.lists(st.sampled_from(("d_outputs", "d_state", "initial_state", "mask")), min_size=1,
                 max_size=2, unique=True), "arguments"
    ):  # fmt: skip
        spoil(data, call, name)
    try:
        got = (mnp.lstm_vjp if cell == "lstm" else mnp.gru_vjp)(**call)
    except REFUSALS as error:
        assert not isinstance(error, ValueError) or any(n in str(error) for n in ARGUMENTS), error
        return
    d_outputs, d_state = call.pop("d_outputs"), call.pop("d_state")
    d_h, d_c = (d_state or (None, None)) if cell == "lstm" else (d_state, None)
    d_results = {"d_outputs": d_outputs, "d_state_h": d_h, "d_state_c": d_c}
    for name, value in d_results.items():
        if value is not None:
            d_results[name] = numbers(value)
            shape = (batch, time, units) if name == "d_outputs" else (batch, units)
            assert d_results[name].shape == shape and d_results[name].dtype.kind in "biuf"
    with np.errstate(all="ignore"):
        want = reference.backward(cell, **reading(cell, call), **d_results)
    state = got.initial_state if cell == "lstm" else (got.initial_state, None)
    for g, w in zip((*got[:4], *(state or (None, None))), want):
        if g is not None:
            check_numbers(g, w, np.dtype("float64"))


@pytest.mark.parametrize("shape", ((0,), (5,), (1, 5), (2, 1), (2, 5, 1), ()))
@pytest.mark.parametrize("cell", CELLS)
def test_a_graph_that_knows_no_shape(cell, shape):
    """An empty vector is what an absent argument is to the op; nobody else's may become one."""
    call = right_call(cell, (2, 4, 3, 5), "float32", False, np.random.default_rng(0))
    function = masked_rnn.lstm if cell == "lstm" else masked_rnn.gru
    unknown = tf.TensorSpec(None, "float32")

    @tf.function(input_signature=[unknown] * 4)
    def run(kernel, recurrent_kernel, bias, state):
        state = [state, state] if cell == "lstm" else state
        changed = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
        return function(**{**call, **changed, "initial_state": state})[0]

    weights = [call[n] for n in ("kernel", "recurrent_kernel", "bias")]
    state = np.ones((2, 5), "float32")
    assert run(*weights, state).shape == (2, 4, 5)
    for at in range(4):
        arguments = [*weights, state]
        arguments[at] = np.ones(shape, "float32")
        named = ("kernel", "kernel", "bias", "initial_state")[at]
        with pytest.raises(tf.errors.InvalidArgumentError, match=named):
            run(*arguments)
    layer = built_layer(cell)
    in_layer = tf.function(
        lambda state: layer(call["inputs"], initial_state=[state] * len(layer.state_size)),
        input_signature=[unknown],
    )
    assert in_layer(state)[0].shape == (2, 4, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="initial_state"):
        in_layer(np.ones(shape, "float32"))


# --- layers --------------------------------------------------------------------------------

LAYERS = {
    "gru": lambda **o: masked_rnn.GRU(5, **o),
    "gru_reset_before": lambda **o: masked_rnn.GRU(5, reset_after=False, **o),
    "lstm": lambda **o: masked_rnn.LSTM(5, **o),
    "simple_rnn": lambda **o: masked_rnn.SimpleRNN(5, **o),
    "rnn": lambda **o: masked_rnn.RNN(keras.layers.LSTMCell(5), **o),
}


@functools.lru_cache(maxsize=None)
def built_layer(kind):
    layer = LAYERS[kind](return_sequences=True, return_state=True)
    layer(np.zeros((1, 1, 3), "float32"))
    return layer


def spoil_for_tensorflow(data, call, name):
    """As `spoil`, or a tensor of some kind in its place."""
    if isinstance(call[name], np.ndarray) and data.draw(st.booleans(), "as tensor"):
        kind = data.draw(st.sampled_from(TENSORS), "kind")
        try:
            call[name] = kind(call[name])
        except (ValueError, TypeError, tf.errors.OpError):
            pass  # TensorFlow does not make one of this array
    else:
        spoil(data, call, name)


@examples(250)
@given(st.data())
def test_calls_of_layers(data):
    kind = data.draw(st.sampled_from(list(LAYERS)), "layer")
    layer = built_layer(kind)
    cell = "lstm" if kind == "rnn" else kind
    batch, time = data.draw(st.sampled_from(((2, 4), (3, 3), (1, 1), (0, 4), (2, 0))), "sizes")
    rng = np.random.default_rng(0)
    state = [rng.standard_normal((batch, 5)).astype("float32") for _ in layer.state_size]
    call = {
        "sequences": rng.standard_normal((batch, time, 3)).astype("float32"),
        "initial_state": state if cell == "lstm" else state[0],
        "mask": rng.random((batch, time)) < 0.6,
    }
    if data.draw(st.booleans(), "lengths"):
        call["mask"], call["sequence_length"] = None, rng.integers(0, time + 1, batch)
    for name in data.draw(
        st.lists(st.sampled_from([n for n in call if call[n] is not None]), min_size=1, max_size=2,
                 unique=True), "arguments"
    ):  # fmt: skip
        spoil_for_tensorflow(data, call, name)
    how = data.draw(st.sampled_from(("eager", "function")), "how")
    run = layer if how == "eager" else tf.function(layer.__call__)
    try:
        with np.errstate(all="ignore"):
            results = run(**call)
    except IN_TENSORFLOW as error:
        assert str(error)
        return
    if not isinstance(results[0], tf.Tensor) or isinstance(call["sequences"], tf.RaggedTensor):
        return  # symbolic: nothing has run; ragged: tests/test_ragged.py has the numbers
    sequences = call.pop("sequences")
    if cell != "lstm" and isinstance(call["initial_state"], (list, tuple)):
        first = call["initial_state"][0]
        call["initial_state"] = first if np.ndim(first) == 2 else call["initial_state"]
    if isinstance(call["mask"], list) and call["mask"] == [None]:  # Keras's list of masks, with none
        call["mask"] = None
    weights = [layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias]
    weights = dict(zip(("kernel", "recurrent_kernel", "bias"), weights))
    plain = reading(
        cell,
        {"sequence_length": None, "activation": "tanh", "recurrent_activation": "sigmoid",
         "go_backwards": False, "zero_output_for_mask": False, "inputs": sequences,
         **weights, **call},
    )  # fmt: skip
    with np.errstate(all="ignore"):
        want = reference.forward(cell, **plain)
    for got, wanted in zip(results, want):
        check_numbers(got, wanted, np.dtype("float32"))


SIZES_OF_LAYERS = st.sampled_from(
    (1, 3, 0, -1, wrong.HUGE, -wrong.HUGE, 2**70, np.int64(3), np.uint8(3), np.int64(-3), True,
     False, 2.5, 3.0, np.float32(3), float("nan"), None, "3", "", b"3", [], [3], (3,), {}, object(), 3j,
     np.array(3), np.array([3]), tf.constant(3), tf.constant(2.5))
)  # fmt: skip
OPTIONS = {
    **dict.fromkeys(("activation", "recurrent_activation"), wrong.NAMES),
    **dict.fromkeys(
        ("use_bias", "return_sequences", "return_state", "go_backwards", "stateful", "unroll",
         "zero_output_for_mask", "reset_after", "unit_forget_bias", "time_major"), wrong.FLAGS
    ),
    **dict.fromkeys(("dropout", "recurrent_dropout"), st.sampled_from(
        (0, 0.5, 1, 1.0, -0.5, 2.0, float("nan"), float("inf"), None, "0.5", [], True, 10**400)
    )),
    **dict.fromkeys(("kernel_initializer", "bias_initializer", "kernel_regularizer"),
                    st.sampled_from((None, "zeros", "l2", "no such", 3, [], object(), np.zeros))),
    "dtype": st.sampled_from((None, "float32", "float64", "float16", "bfloat16", "int32", "bool",
                              "complex64", "string", "no such", 3, [], object(), np.float32,
                              tf.float64, "mixed_float16")),
    "use_cudnn": wrong.FLAGS,
    "name": st.sampled_from((None, "a", "", "a/b", "\0", 3, [])),
    "no_such_option": st.just(1),
}  # fmt: skip


@examples(120)
@given(st.data())
def test_constructors_of_layers(data):
    kind = data.draw(
        st.sampled_from((masked_rnn.GRU, masked_rnn.LSTM, masked_rnn.SimpleRNN)), "layer"
    )
    units = data.draw(st.one_of(st.just(3), SIZES_OF_LAYERS), "units")
    names = data.draw(
        st.lists(st.sampled_from(sorted(OPTIONS)), max_size=2, unique=True), "options"
    )
    options = {name: data.draw(OPTIONS[name], name) for name in names}
    sequences = np.zeros((2, 4, 3), "float32")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = kind(units, **options)
            results = layer(sequences, mask=np.ones((2, 4)))
    except (*IN_TENSORFLOW, RuntimeError) as error:
        assert str(error)
        return
    assert units == layer.units and layer.units > 0
    first = results[0] if layer.return_state else results
    assert first.shape == ((2, 4, units) if layer.return_sequences else (2, units))
    assert np.isfinite(np.asarray(first, "float64")).all() or options.get("dropout") is not None


# --- the rest ------------------------------------------------------------------------------


@examples(100)
@given(st.data())
def test_dynamic_rnn(data):
    rng = np.random.default_rng(0)
    call = {
        "inputs": rng.standard_normal((2, 4, 3)).astype("float32"),
        "sequence_length": np.array([4, 2]),
        "initial_state": rng.standard_normal((2, 5)).astype("float32"),
        "time_major": False,
        "dtype": None,
    }
    call["cell"] = cell = dynamic_cell()
    name = data.draw(st.sampled_from(sorted(call)), "argument")
    if isinstance(call[name], np.ndarray):
        spoil_for_tensorflow(data, call, name)
    else:
        options = {"time_major": wrong.FLAGS, "dtype": OPTIONS["dtype"]}
        call[name] = data.draw(
            options.get(name, st.sampled_from((None, 3, "gru", [], keras.layers.Dense(3)))), name
        )
    try:
        with np.errstate(all="ignore"):
            outputs, state = masked_rnn.dynamic_rnn(**call)
    except IN_TENSORFLOW as error:
        assert str(error)
        return
    if name in ("time_major", "dtype") or not isinstance(outputs, tf.Tensor):
        return
    first = call["initial_state"]
    if isinstance(first, (list, tuple)):
        first = first[0] if np.ndim(first[0]) == 2 else first
    plain = reading(
        "gru",
        {"inputs": call["inputs"], "sequence_length": call["sequence_length"], "mask": None,
         "kernel": cell.kernel, "recurrent_kernel": cell.recurrent_kernel, "bias": cell.bias,
         "initial_state": first, "activation": "tanh", "recurrent_activation": "sigmoid",
         "go_backwards": False, "zero_output_for_mask": True},
    )  # fmt: skip
    with np.errstate(all="ignore"):
        want = reference.forward("gru", **plain)
    check_numbers(outputs, want[0], np.dtype("float32"))
    check_numbers(state, want[1], np.dtype("float32"))


@functools.lru_cache(maxsize=None)
def dynamic_cell():
    cell = keras.layers.GRUCell(5)
    cell.build((None, 3))
    return cell


CONVERSIONS = {
    convert.lstm_cell: [(8, 20), (20,)],
    convert.gru_cell: [(8, 10), (10,), (8, 5), (5,)],
    convert.basic_rnn_cell: [(8, 5), (5,)],
    convert.cudnn_gru: [(3, 15), (5, 15), (30,)],
    convert.cudnn_lstm: [(3, 20), (5, 20), (40,)],
}
MADE = {3: [(3, 15), (5, 15), (2, 15)], 4: [(3, 20), (5, 20), (20,)], 1: [(3, 5), (5, 5), (5,)]}


@examples(200)
@given(st.data())
def test_conversions(data):
    function = data.draw(st.sampled_from(list(CONVERSIONS)), "function")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in CONVERSIONS[function]]
    at = data.draw(st.integers(0, len(arrays) - 1), "argument")
    arrays[at] = data.draw(wrong.spoiled(arrays[at]), "value")
    try:
        with np.errstate(all="ignore"):
            made = function(*arrays)
    except REFUSALS as error:
        assert str(error)
        return
    kernel, recurrent_kernel, bias = made
    units = recurrent_kernel.shape[0]
    assert kernel.ndim == recurrent_kernel.ndim == 2 and units > 0
    assert kernel.shape[1] == recurrent_kernel.shape[1] == bias.shape[-1]
    assert kernel.shape[1] % units == 0
    assert all(np.asarray(a).dtype.kind in "iufV" for a in arrays), arrays[at]


@pytest.mark.parametrize(
    "function",
    [masked_rnn.accelerate, masked_rnn.to_keras, masked_rnn.explain, masked_rnn.RNN,
     masked_rnn.Bidirectional],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_what_is_no_layer_is_refused(function):
    for value in (*wrong._OBJECTS, *SIZES_OF_LAYERS.elements, keras.layers.GRU, tf.constant(1.0)):
        with pytest.raises((ValueError, TypeError)) as caught:
            pytest.fail(f"{value!r} gave {function(value)!r}")
        assert str(caught.value)
