"""Models that one TensorFlow writes and another reads; `tests/matrix.py` runs this in both.

    python exchange.py write FOLDER
    python exchange.py read FOLDER

FOLDER gets a SavedModel with its training step, the same model as a .keras file, and the numbers
that both have to give.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import masked_rnn

BATCH, STEPS, FEATURES, UNITS = 3, 6, 4, 5
MASK = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0]], bool)
SIGNATURE = [tf.TensorSpec([None, None, FEATURES]), tf.TensorSpec([None, None], "bool")]
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}  # TensorFlow's own products differ by that


def make_model():
    """Every cell, masked, forwards and backwards, with weights that no version draws otherwise."""
    inputs = keras.Input((None, FEATURES))
    # Given to each layer: whether a layer passes on a mask differs among versions of Keras.
    mask = keras.Input((None,), dtype="bool")
    x = keras.layers.Bidirectional(masked_rnn.LSTM(UNITS, return_sequences=True))(inputs, mask=mask)
    x = masked_rnn.GRU(UNITS, return_sequences=True, zero_output_for_mask=True)(x, mask=mask)
    x = masked_rnn.GRU(UNITS, return_sequences=True, reset_after=False, activation="relu")(
        x, mask=mask
    )
    model = keras.Model([inputs, mask], masked_rnn.SimpleRNN(UNITS)(x, mask=mask))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return model


def make_inputs():
    rng = np.random.default_rng(1)
    return rng.standard_normal((BATCH, STEPS, FEATURES)).astype("float32"), MASK


class Trained(tf.Module):
    """A model with a function that holds the gradient ops itself."""

    def __init__(self, model):
        self.model = model
        self.weights = [weight.value for weight in model.trainable_weights]

    @tf.function(input_signature=SIGNATURE)
    def serve(self, inputs, mask):
        return self.model([inputs, mask])

    @tf.function(input_signature=SIGNATURE)
    def gradients(self, inputs, mask):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.model([inputs, mask]) ** 2)
        return tape.gradient(loss, self.weights)


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    model, inputs = make_model(), make_inputs()
    module = Trained(model)
    outputs, gradients = module.serve(*inputs), module.gradients(*inputs)
    assert all(np.any(gradient) for gradient in gradients)
    tf.saved_model.save(module, str(folder / "saved_model"))
    model.save(folder / "model.keras")
    numbers = {f"gradient_{i:02}": gradient for i, gradient in enumerate(gradients)}
    np.savez(folder / "numbers.npz", outputs=outputs, **numbers)


def read(folder):
    numbers, inputs = np.load(folder / "numbers.npz"), make_inputs()
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    np.testing.assert_allclose(loaded.serve(*inputs), numbers["outputs"], **TOLERANCE)
    want = [numbers[name] for name in sorted(numbers) if name.startswith("gradient_")]
    for got, gradient in zip(loaded.gradients(*inputs), want, strict=True):
        np.testing.assert_allclose(got, gradient, **TOLERANCE)
    model = keras.models.load_model(folder / "model.keras")
    assert type(model.layers[-1]) is masked_rnn.SimpleRNN
    np.testing.assert_allclose(model(list(inputs)), numbers["outputs"], **TOLERANCE)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
