"""A Keras layer and ours with the same weights, and what both make of the same arrays."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import masked_rnn

CLASSES = {
    "GRU": (keras.layers.GRU, masked_rnn.GRU),
    "LSTM": (keras.layers.LSTM, masked_rnn.LSTM),
}
NAMES = tuple(CLASSES)
STATES = {"GRU": 1, "LSTM": 2}


def make_pair(name, features, weights_seed=0, **arguments):
    """(Keras's layer, ours), built, with the same random weights, biases too."""
    keras_kind, our_kind = CLASSES[name]
    our_layer = our_kind(**arguments)
    # Without this, Keras fails with implementation=1 and dropout, even where there is no GPU.
    keras_layer = keras_kind(**arguments, use_cudnn=False)
    for layer in (keras_layer, our_layer):
        layer.build((None, None, features))
    rng = np.random.default_rng(weights_seed)
    weights = [0.5 * rng.standard_normal(w.shape) for w in keras_layer.trainable_weights]
    for layer in (keras_layer, our_layer):
        shake(layer, weights)
    return keras_layer, our_layer


def shake(layer, values=None, seed=0):
    """Random values for every trainable weight, so that a bias that is lost shows."""
    rng = np.random.default_rng(seed)
    for i, weight in enumerate(layer.trainable_weights):
        value = 0.5 * rng.standard_normal(weight.shape) if values is None else values[i]
        weight.assign(value)
    return layer


def results_and_gradients(layer, x, state=None, seed=0, **call):
    """[outputs and states], [gradients of x, weights, initial states] of a random weighting."""
    x = tf.convert_to_tensor(x)
    state = None if state is None else [tf.convert_to_tensor(s) for s in state]
    weights = [w.value for w in layer.trainable_weights]
    sources = [x, *weights, *(state or [])]
    with tf.GradientTape() as tape:
        tape.watch([x, *(state or [])])
        if state is not None:
            call["initial_state"] = state if len(state) > 1 else state[0]
        results = keras.tree.flatten(layer(x, **call))
        rng = np.random.default_rng(seed)
        loss = 0
        for y in results:
            y = tf.cast(y, "float64")
            loss += tf.reduce_sum(y * rng.standard_normal(y.shape)) + tf.reduce_sum(y**2)
    gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
    return [to_numpy(y) for y in results], [to_numpy(g) for g in gradients]


def to_numpy(x):
    return np.asarray(tf.cast(tf.convert_to_tensor(x), "float64"))


def check_equal(got, want, tolerance=1e-11):
    """Arrays or lists of arrays, relative to the largest magnitude in each."""
    if not isinstance(want, (list, tuple)):
        got, want = [got], [want]
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        a, b = to_numpy(a), to_numpy(b)
        assert a.shape == b.shape, f"{i}: {a.shape}, not {b.shape}"
        assert np.isfinite(a).all(), f"{i}: not finite"
        scale = max(1.0, np.max(np.abs(b), initial=0.0))
        error = np.max(np.abs(a - b), initial=0.0) / scale
        assert error <= tolerance, f"{i}: relative error {error:.2e}, allowed {tolerance:.0e}"


def message_of(call, *kinds):
    """The text of the error that `call` raises, without Keras's list of arguments."""
    try:
        call()
    except kinds as error:
        return str(error).split("Arguments received")[0]
    raise AssertionError("no error was raised")
