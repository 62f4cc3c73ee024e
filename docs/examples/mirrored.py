"""`fit` on two devices of one machine, with `tf.distribute.MirroredStrategy`.

    python mirrored.py

Splits the CPU in two, so that it runs anywhere; with GPUs, leave the first three lines of `main`
away. Ends with an error unless the two replicas have learned what one device learns.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf

import masked_rnn

rng = np.random.default_rng(0)
LENGTHS = rng.integers(1, 8, 16)
X = rng.standard_normal((16, 7, 3)).astype("float32")
X[np.arange(7) >= LENGTHS[:, None]] = 0.0
Y = rng.standard_normal((16, 1)).astype("float32")


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.Masking(),
            keras.layers.Bidirectional(masked_rnn.LSTM(4, return_sequences=True)),
            masked_rnn.GRU(4),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def train(model):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    model.fit(batches, epochs=3, verbose=0)
    return model.get_weights()


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
    two = train(model)

    one = train(make_model())
    for a, b in zip(two, one):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    print(f"{strategy.num_replicas_in_sync} replicas have learned what one device learns.")


if __name__ == "__main__":
    main()
