"""The NumPy reference against Keras's generic path, in float64 on the CPU.

The reference is what every kernel is measured with, so it is itself measured here: outputs,
states and all gradients, for every cell, activation and option.
"""

import itertools
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

from masked_rnn import reference

TOLERANCE = 1e-10  # of the largest magnitude in the array
# TensorFlow rounds two constants to float32 even in float64: the slope 0.2 and the root of 2.
# The reference has the numbers themselves, so these two agree to float32 only.
FLOAT32_CONSTANT = {"leaky_relu": 1e-6, "gelu": 1e-6}
BATCH, TIME, FEATURES, UNITS = 4, 5, 3, 2

MASK = np.array(
    [
        [1, 1, 1, 1, 1],
        [0, 0, 1, 1, 0],
        [1, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
    ],
    bool,
)
CELLS = list(reference.CELLS)
ACTIVATIONS = list(reference.ACTIVATIONS)


def make_arrays(
    cell, use_bias=True, initial_state=True, input_masks=0, recurrent_masks=0, scale=0.5
):
    """The array arguments of reference.forward, by name."""
    rng = np.random.default_rng(7)
    gates, width = reference.CELLS[cell].gates, reference.CELLS[cell].gates * UNITS
    bias_shape = (2, width) if cell == "gru" else (width,)

    def keep_three_in_four(*shape):
        return (rng.random(shape) < 0.75) / 0.75

    def state():
        return rng.uniform(-1, 1, (BATCH, UNITS)) if initial_state else None

    arrays = {
        "inputs": rng.normal(size=(BATCH, TIME, FEATURES)),
        "kernel": scale * rng.normal(size=(FEATURES, width)),
        "recurrent_kernel": scale * rng.normal(size=(UNITS, width)),
        "bias": 0.3 * rng.normal(size=bias_shape) if use_bias else None,
        "initial_h": state(),
        "initial_c": state() if cell == "lstm" else None,
    }
    assert input_masks in (0, 1, gates) and recurrent_masks in (0, 1, gates)
    if input_masks:
        arrays["input_dropout"] = keep_three_in_four(input_masks, BATCH, FEATURES)
    if recurrent_masks:
        arrays["recurrent_dropout"] = keep_three_in_four(recurrent_masks, BATCH, UNITS)
    return arrays


def keras_layer(cell, arrays, implementation, return_sequences, **options):
    if cell == "simple_rnn":
        kind = keras.layers.SimpleRNN
        options.pop("recurrent_activation", None)
    else:
        kind = keras.layers.LSTM if cell == "lstm" else keras.layers.GRU
        options.update(implementation=implementation, use_cudnn=False)
        if cell != "lstm":
            options["reset_after"] = cell == "gru"
    layer = kind(
        UNITS,
        use_bias=arrays["bias"] is not None,
        return_sequences=return_sequences,
        return_state=True,
        dtype="float64",
        **options,
    )
    layer.build((BATCH, TIME, FEATURES))
    weights = (arrays["kernel"], arrays["recurrent_kernel"], arrays["bias"])
    layer.set_weights([w for w in weights if w is not None])
    return layer


def set_dropout(layer, arrays, gates):
    """Puts the dropout factors where the cell keeps the ones that it has drawn."""

    count = getattr(layer.cell, "dropout_mask_count", None)  # None: one mask for all gates

    def drawn(factors):
        masks = [tf.constant(f) for f in np.broadcast_to(factors, (gates, *factors.shape[1:]))]
        return masks if count else masks[0]

    if "input_dropout" in arrays:
        layer.cell.dropout = 0.5
        layer.cell._dropout_mask = drawn(arrays["input_dropout"])
    if "recurrent_dropout" in arrays:
        layer.cell.recurrent_dropout = 0.5
        layer.cell._recurrent_dropout_mask = drawn(arrays["recurrent_dropout"])


def close(name, got, want, tolerance):
    want = np.asarray(want)
    assert got.shape == want.shape, name
    error = np.max(np.abs(got - want), initial=0.0)
    assert error <= tolerance * max(1.0, np.max(np.abs(want), initial=0.0)), (name, error)


def compare(cell, arrays, mask=MASK, implementation=2, return_sequences=True, **options):
    """Outputs, states and every gradient of the reference and of Keras."""
    layer = keras_layer(cell, arrays, implementation, return_sequences, **options)
    set_dropout(layer, arrays, reference.CELLS[cell].gates)
    inputs = tf.constant(arrays["inputs"])
    given = [arrays[n] for n in ("initial_h", "initial_c") if arrays[n] is not None]
    states = [tf.constant(s) for s in given] or None
    with tf.GradientTape() as tape:
        tape.watch([inputs, *(states or [])])
        results = layer(
            inputs,
            initial_state=states,
            mask=None if mask is None else tf.constant(mask),
            training=True,
        )
        rng = np.random.default_rng(8)
        d_results = [rng.normal(size=r.shape) for r in results]
        loss = tf.add_n([tf.reduce_sum(r * d) for r, d in zip(results, d_results)])
    variables = [inputs, *layer.trainable_variables, *(states or [])]
    wanted = tape.gradient(loss, variables, unconnected_gradients="zero")

    names = (options.get("activation"), options.get("recurrent_activation"))
    tolerance = max(FLOAT32_CONSTANT.get(name, TOLERANCE) for name in names)
    call = dict(arrays, mask=mask, return_sequences=return_sequences, **options)
    got = reference.forward(cell, **call)
    for name, g, w in zip(("outputs", "state_h", "state_c"), got, results):
        close(name, g, w, tolerance)

    d_outputs, d_state_h, *d_state_c = d_results
    gradients = reference.backward(
        cell,
        **call,
        d_outputs=d_outputs,
        d_state_h=d_state_h,
        d_state_c=d_state_c[0] if d_state_c else None,
    )
    d_inputs, d_kernel, d_recurrent_kernel, d_bias, d_initial_h, d_initial_c = gradients
    got = [d_inputs, d_kernel, d_recurrent_kernel]
    got += [d_bias] if arrays["bias"] is not None else []
    got += [d for d in (d_initial_h, d_initial_c) if states and d is not None]
    assert len(got) == len(wanted)
    for variable, g, w in zip(variables, got, wanted):
        close(f"gradient of {getattr(variable, 'path', 'an argument')}", g, w, tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_slope_at_kinks_and_elsewhere(name):
    kinks = [-6, -3, -1, -0.5, -0.0, 0.0, 0.5, 1, 3, 6]
    x = np.concatenate([kinks, np.random.default_rng(0).normal(size=200) * 4, [-30, 30]])
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        want = keras.activations.get(name)(tensor)
    value, slope = reference.ACTIVATIONS[name](x)
    tolerance = FLOAT32_CONSTANT.get(name, 1e-12)
    np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slope, tape.gradient(want, tensor), rtol=tolerance, atol=tolerance)


def test_every_elementwise_keras_activation_is_there():
    elsewhere = {"softmax", "log_softmax", "sparsemax", "glu", "threshold"}  # not elementwise,
    # or (threshold) without default arguments
    from keras.src.activations import ALL_OBJECTS_DICT

    functions = {f.__name__ for f in ALL_OBJECTS_DICT.values()} - elsewhere
    assert functions == set(ACTIVATIONS)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_the_cell(cell, name):
    # exp of a product with exp of ... overflows unless the weights are small
    arrays = make_arrays(cell, scale=0.05 if name == "exponential" else 0.5)
    compare(cell, arrays, activation=name)
    compare(cell, arrays, recurrent_activation=name)


@pytest.mark.parametrize("implementation", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
def test_options(cell, masked, implementation):
    for go_backwards, zero_output, sequences, initial_state in itertools.product([0, 1], repeat=4):
        compare(
            cell,
            make_arrays(cell, initial_state=bool(initial_state)),
            mask=MASK if masked else None,
            implementation=implementation,
            return_sequences=bool(sequences),
            go_backwards=bool(go_backwards),
            zero_output_for_mask=bool(zero_output),
        )


@pytest.mark.parametrize("implementation", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_no_bias(cell, implementation):
    compare(cell, make_arrays(cell, use_bias=False), implementation=implementation)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout(cell):
    gates = reference.CELLS[cell].gates
    compare(cell, make_arrays(cell, input_masks=1), implementation=2)
    for input_masks, recurrent_masks in itertools.product((0, 1, gates), repeat=2):
        arrays = make_arrays(cell, input_masks=input_masks, recurrent_masks=recurrent_masks)
        compare(cell, arrays, implementation=1, go_backwards=True)


@pytest.mark.parametrize("cell", CELLS)
def test_what_keras_cannot_run(cell):
    """NaN at masked steps, T = 0 and an empty batch: what the contract says, by hand."""
    arrays = make_arrays(cell)
    ones = {"d_outputs": np.ones((BATCH, TIME, UNITS)), "d_state_h": np.ones((BATCH, UNITS))}
    poisoned = dict(arrays, inputs=np.where(MASK[:, :, None], arrays["inputs"], np.nan))
    zeroed = dict(arrays, inputs=np.where(MASK[:, :, None], arrays["inputs"], 0.0))
    for function, extra in ((reference.forward, {}), (reference.backward, ones)):
        got = function(cell, **poisoned, mask=MASK, **extra)
        want = function(cell, **zeroed, mask=MASK, **extra)
        for g, w in zip(got, want):
            assert np.array_equal(g, w) and (g is None or np.isfinite(g).all())

    outputs, state_h, state_c = reference.forward(cell, **arrays, mask=MASK)
    assert not outputs[3].any()  # a fully masked row
    assert np.array_equal(state_h[3], arrays["initial_h"][3])

    no_time = dict(arrays, inputs=np.zeros((BATCH, 0, FEATURES)))
    outputs, state_h, state_c = reference.forward(cell, **no_time)
    assert outputs.shape == (BATCH, 0, UNITS)
    assert np.array_equal(state_h, arrays["initial_h"])
    assert state_c is None or np.array_equal(state_c, arrays["initial_c"])
    outputs, _, _ = reference.forward(cell, **no_time, return_sequences=False)
    assert np.array_equal(outputs, np.zeros((BATCH, UNITS)))

    no_rows = {n: a[:0] if n in ("inputs", "initial_h", "initial_c") and a is not None else a
               for n, a in arrays.items()}
    outputs, state_h, _ = reference.forward(cell, **no_rows)
    assert outputs.shape == (0, TIME, UNITS) and state_h.shape == (0, UNITS)
    d_inputs, d_kernel, *_ = reference.backward(cell, **no_rows)
    assert d_inputs.shape == (0, TIME, FEATURES) and not d_kernel.any()
