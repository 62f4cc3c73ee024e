"""Right input of any shape, mask, dtype and option: the reference's numbers.

`tests/cases.py` has a table of chosen cases; here hypothesis draws them, on every route to the
kernels: the core on every instruction set with any number of threads, the functions on arrays and
on tensors, and the layers beside Keras's own loop in float64.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import masked_rnn
from masked_rnn import _core, reference
from masked_rnn import numpy as mnp

from . import cases
from .cases import BACKWARD_RESULTS, FORWARD_RESULTS, Case
from .examples import examples
from .test_core import run
from .test_numpy import flat, flat_gradients, incoming, public_call

KERNELS = [(k["cell"], k["dtype"], k["isa"]) for k in _core.kernels()]
# Those that make a contraction of a step, and have no kink that float32 and float64 may see from
# different sides. With the gates' sigmoid; every activation is in the table of tests/cases.py.
ACTIVATIONS = ("tanh", "tanh", "sigmoid", "softsign")
dropout = st.sampled_from(("", "", "shared", "per_gate"))

sizes = st.tuples(
    st.integers(0, 12) | st.sampled_from((16, 17, 33)),
    st.integers(0, 10) | st.sampled_from((19, 40)),
    st.integers(0, 9) | st.sampled_from((16, 17, 33)),
    st.integers(1, 9) | st.sampled_from((15, 16, 17, 32, 33, 47, 65)),
)


@st.composite
def calls(draw, most_dropout=True):
    """A case, its sizes and options drawn; and a mask of any bits, or None."""
    options = {
        field.name: draw(st.booleans())
        for field in dataclasses.fields(Case)
        if field.type is bool or field.type == "bool"
    }
    case = Case(
        *draw(sizes),
        mask="none",
        input_dropout=draw(dropout) if most_dropout else "",
        recurrent_dropout=draw(dropout) if most_dropout else "",
        activation=draw(st.sampled_from(ACTIVATIONS)),
        **options,
    )
    if draw(st.integers(0, 7)) == 0:
        return case, None
    # A byte of 0 is a row without a step, one of 255 a full one; else each bit is a step's.
    bits = draw(st.binary(min_size=case.batch, max_size=case.batch))
    seed = draw(st.integers(0, 2**32 - 1))
    density = np.frombuffer(bits, np.uint8)[:, None] / 255
    return case, np.random.default_rng(seed).random((case.batch, case.time)) < density


def arrays_of(call, cell, dtype):
    """-> (arguments, incoming gradients, what the reference says)"""
    case, mask = call
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    arguments = {**arguments, "mask": mask}
    want = reference.forward(cell, **arguments)
    want += reference.backward(cell, **arguments, **gradients)
    return arguments, gradients, dict(zip(FORWARD_RESULTS + BACKWARD_RESULTS, want))


def check_close(got, want, dtype, tolerance):
    """As `cases.check_close`, but what is small beside the gradients that come in (some are 1), as
    after many saturated steps or where a sum cancels, is compared with these."""
    for name, value in got.items():
        if want[name] is None:
            assert value is None, name
            continue
        assert value.shape == want[name].shape and value.dtype == cases.DTYPES[dtype], name
        error = np.abs(np.asarray(value, np.float64) - want[name]).max(initial=0)
        scale = np.abs(want[name]).max(initial=0.25)
        assert error <= tolerance * scale, f"{name}: {error:.2e} beside {scale:.2e}"


@examples(400)
@given(calls(), st.sampled_from(KERNELS), st.integers(1, 5))
def test_kernels(call, kernel, threads):
    cell, dtype, isa = kernel
    arguments, gradients, want = arrays_of(call, cell, dtype)
    got = run(cell, arguments, gradients, isa, threads)
    check_close(got, want, dtype, 4 * cases.tolerance_of(dtype, isa))


def check_exact_zeros(arguments, d_inputs):
    """A masked step gives its input an exact zero."""
    if arguments["mask"] is not None:
        assert not np.asarray(d_inputs, np.float64)[~arguments["mask"]].any()


public_cells = st.sampled_from(("gru", "gru_reset_before", "lstm"))
dtypes = st.sampled_from(("float32", "float64", "float16"))


@examples(150)
@given(calls(most_dropout=False), public_cells, dtypes)
def test_functions_on_arrays(call, cell, dtype):
    call = dataclasses.replace(call[0], return_sequences=True), call[1]
    arguments, gradients, want = arrays_of(call, cell, dtype)
    given_arguments = public_call(cell, arguments)
    name = "lstm" if cell == "lstm" else "gru"
    with_nan = {**given_arguments, "inputs": np.array(arguments["inputs"])}
    if arguments["mask"] is not None:
        with_nan["inputs"][~arguments["mask"]] = np.nan
    got = flat(*getattr(mnp, name)(**with_nan))
    gradients = getattr(mnp, f"{name}_vjp")(**with_nan, **incoming(cell, gradients))
    got |= flat_gradients(gradients)
    if arguments["initial_h"] is None:
        want |= dict.fromkeys(("d_initial_h", "d_initial_c"))
    check_close(got, want, dtype, 4 * cases.TOLERANCE[dtype])
    check_exact_zeros(arguments, got["d_inputs"])


@examples(80)
@given(calls(most_dropout=False), public_cells, dtypes, st.booleans())
def test_functions_on_tensors(call, cell, dtype, in_graph):
    call = dataclasses.replace(call[0], return_sequences=True), call[1]
    arguments, gradients, want = arrays_of(call, cell, dtype)
    given_arguments = public_call(cell, arguments)
    function = masked_rnn.lstm if cell == "lstm" else masked_rnn.gru
    names = [n for n in ("inputs", "kernel", "recurrent_kernel", "bias")
             if given_arguments[n] is not None]  # fmt: skip
    rest = {n: v for n, v in given_arguments.items() if n not in names}

    def both(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs, state = function(**dict(zip(names, tensors)), **rest)
        results = [outputs, *(state if cell == "lstm" else [state])]
        upstream = [g for g in gradients.values() if g is not None]
        return results, tape.gradient(results, tensors, upstream)

    tensors = [tf.constant(given_arguments[n]) for n in names]
    results, d_tensors = (tf.function(both) if in_graph else both)(*tensors)
    got = dict(zip(FORWARD_RESULTS, (r.numpy() for r in results)))
    got |= {f"d_{n}": d.numpy() for n, d in zip(names, d_tensors)}
    check_close(got, want, dtype, 4 * cases.TOLERANCE[dtype])
    check_exact_zeros(arguments, got["d_inputs"])


PAIRS = {
    "gru": (masked_rnn.GRU, keras.layers.GRU, {}),
    "gru_reset_before": (masked_rnn.GRU, keras.layers.GRU, {"reset_after": False}),
    "lstm": (masked_rnn.LSTM, keras.layers.LSTM, {}),
    "simple_rnn": (masked_rnn.SimpleRNN, keras.layers.SimpleRNN, {}),
}


@examples(25)
@given(calls(most_dropout=False), st.sampled_from(sorted(PAIRS)))
def test_layers_beside_keras(call, cell):
    case, mask = call
    # Keras's loop fails where there is no row, no step or no feature.
    case = dataclasses.replace(
        case, batch=max(case.batch, 1), time=max(case.time, 1), features=max(case.features, 1)
    )
    if mask is not None:
        mask = np.resize(mask, (case.batch, case.time)) if mask.size else None
    ours, theirs, options = PAIRS[cell]
    options = {
        **options,
        "activation": case.activation,
        "use_bias": case.bias,
        "go_backwards": case.go_backwards,
        "zero_output_for_mask": case.zero_output_for_mask,
        "return_sequences": case.return_sequences,
        "return_state": True,
        "dtype": "float64",
    }
    if cell != "simple_rnn":
        options["recurrent_activation"] = case.recurrent_activation
    if theirs is not keras.layers.SimpleRNN:
        keras_layer = theirs(case.units, **options, use_cudnn=False)
    else:
        keras_layer = theirs(case.units, **options)
    our_layer = ours(case.units, **options)
    arguments, _ = cases.make_arrays(case, cell, "float64")
    state = [arguments[n] for n in ("initial_h", "initial_c") if arguments[n] is not None]
    inputs = tf.constant(arguments["inputs"])
    weights = [arguments[n] for n in ("kernel", "recurrent_kernel", "bias")]
    results = []
    for layer in (our_layer, keras_layer):
        layer.build(inputs.shape)
        layer.set_weights([w for w in weights if w is not None])
        watched = [inputs, *layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            out = layer(inputs, mask=mask, initial_state=[tf.constant(s) for s in state] or None)
            total = tf.add_n([tf.reduce_sum(tf.sin(y)) for y in out])
        watched = [inputs, *[v.value for v in layer.trainable_variables]]
        d_all = tape.gradient(total, watched, unconnected_gradients="zero")
        results.append([np.asarray(r) for r in (*out, *d_all)])
    for got, want in zip(*results):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert np.abs(got - want).max(initial=0) <= 1e-12 * np.abs(want).max(initial=0.25)
