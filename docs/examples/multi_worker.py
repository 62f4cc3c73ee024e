"""Training in several processes, with `tf.distribute.MultiWorkerMirroredStrategy`.

    python multi_worker.py

`fit` under this strategy fails in Keras 3 for every model, whatever its layers; the loop in
`train` is what to use in its place. Each worker takes its part of every batch. Run so, the program
starts two workers on this machine, and ends with an error unless they have learned what one
process learns from the joined batches. On machines of your own, set TF_CONFIG on each and call
`train`.
"""

import json
import os
import socket
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf

import masked_rnn

BATCH = 8
rng = np.random.default_rng(0)
LENGTHS = rng.integers(0, 8, 16)
X = rng.standard_normal((16, 7, 3)).astype("float32")
X[np.arange(7) >= LENGTHS[:, None]] = 0.0
Y = rng.standard_normal((16, 1)).astype("float32")


def make_model():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.Masking(),
            masked_rnn.GRU(4),
            keras.layers.Dense(1),
        ]
    )


def train(strategy, epochs=3):
    """The loop: every replica computes its part of the gradient of the batch's mean loss."""
    with strategy.scope():
        model = make_model()
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)

    # The dataset gives whole batches; every worker gets its share of each.
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    batches = strategy.experimental_distribute_dataset(batches)

    def step(x, y):
        with tf.GradientTape() as tape:
            errors = keras.losses.mean_squared_error(y, model(x, training=True))
            loss = tf.reduce_sum(errors) / BATCH  # of the whole batch, not of this share
        gradients = tape.gradient(loss, model.trainable_variables)
        # Sums the gradients over all replicas, then takes the same step on each.
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def distributed_step(x, y):
        return strategy.reduce("SUM", strategy.run(step, args=(x, y)), axis=None)

    for _ in range(epochs):
        for x, y in batches:
            loss = distributed_step(x, y)
    return float(loss), model.get_weights()


def work(folder):
    """One worker, of those that TF_CONFIG names."""
    # Before anything else of TensorFlow runs.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    _, weights = train(strategy)
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    np.savez(os.path.join(folder, f"{index}.npz"), *weights)


def main():
    import tempfile

    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("localhost", 0))
    workers = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for index in range(2):
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
            command = [sys.executable, os.path.abspath(__file__), folder]
            running.append(subprocess.Popen(command, env=environment))
        try:
            codes = [process.wait(timeout=300) for process in running]
        finally:
            for process in running:
                process.kill()
        if any(codes):
            sys.exit(f"A worker failed: exit codes {codes}.")
        _, one = train(tf.distribute.get_strategy())
        for index in range(2):
            with np.load(os.path.join(folder, f"{index}.npz")) as two:
                for a, b in zip(two.values(), one):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    print("2 workers have learned what one process learns.")


if __name__ == "__main__":
    work(sys.argv[1]) if len(sys.argv) > 1 else main()
