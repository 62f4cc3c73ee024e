"""Training for a long time on batches of changing shapes: memory stays flat and numbers right.

    python -m benchmarks.soak [--steps 20000] [--layers ours | keras] [--seed 0]

Every step draws a layer (cell, direction, dropout, dtype and so on), the batch size, the number of
time steps and the kind of mask, and trains on that. All functions are traced before the first step,
for any batch and time, so that what TensorFlow keeps for every shape is not in question. At some
steps loss and gradients are compared with those of Keras's own layer, with the same weights.

Ends with PASS, or with FAIL and exit status 1: the resident memory must stay within 20 MB from the
first tenth of the steps on, every loss and gradient be finite (what stands at masked steps is NaN),
and agree with Keras's. `--layers keras` trains Keras's own layers instead, on the same batches.
"""

import argparse
import dataclasses
import gc
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track
from rich.table import Table

import masked_rnn
from benchmarks.memory import status

FEATURES, UNITS = 6, 24
MOST_ROWS, MOST_STEPS = 40, 40
MEGABYTE = 1 << 20
FLAT_WITHIN = 20 * MEGABYTE
LINES = 20  # of the table, at most
STEPS_PER_CHECK = 500  # Keras's loop costs some 40 KB at every one, which stay
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of Keras's largest magnitude in an array
SMALLEST = 1e-2  # that counts as such

LAYERS = (
    ("GRU", {}),
    ("GRU", {"reset_after": False, "go_backwards": True}),
    ("GRU", {"return_sequences": False, "recurrent_dropout": 0.2}),
    ("LSTM", {"dropout": 0.2}),
    ("LSTM", {"zero_output_for_mask": True, "go_backwards": True}),
    ("LSTM", {"dtype": "float64"}),
    ("LSTM", {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "use_bias": False}),
    ("SimpleRNN", {"return_sequences": False}),
)
MASKS = {
    "dense": lambda rng, batch, steps: np.ones((batch, steps), bool),
    "none real": lambda rng, batch, steps: np.zeros((batch, steps), bool),
    "right": lambda rng, batch, steps: np.arange(steps) < rng.integers(0, steps + 1, (batch, 1)),
    "left": lambda rng, batch, steps: np.arange(steps) >= rng.integers(0, steps + 1, (batch, 1)),
    "holes": lambda rng, batch, steps: rng.random((batch, steps)) < rng.random(),
}


class Trained:
    """A layer, and its steps of training as functions that are traced once.

    Attributes:
        step: (inputs [B,T,I], mask [B,T]) -> loss, largest magnitude of a gradient.
        loss_and_gradients: the same arguments -> loss, gradients of weights, without dropout.
    """

    def __init__(self, module, name, arguments):
        arguments = {"return_sequences": True, **arguments}
        if module is keras.layers and name != "SimpleRNN":
            arguments["use_cudnn"] = False
        self.layer = getattr(module, name)(UNITS, **arguments)
        self.layer.build((None, None, FEATURES))
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.layer.trainable_variables)
        self.dtype = self.layer.compute_dtype
        signature = [
            tf.TensorSpec([None, None, FEATURES], self.dtype), tf.TensorSpec([None, None], tf.bool)
        ]  # fmt: skip
        self.step = tf.function(self._step, signature, autograph=False)
        self.loss_and_gradients = tf.function(self._differentiated, signature, autograph=False)

    def _differentiated(self, inputs, mask, training=False):
        with tf.GradientTape() as tape:
            outputs = self.layer(inputs, mask=mask, training=training)
            # Something to learn that never gets done: the sum of a row's features at real steps.
            goal = tf.reduce_sum(tf.where(mask[:, :, None], inputs, tf.zeros_like(inputs)), [1, 2])
            said = tf.reduce_mean(outputs, list(range(1, outputs.shape.rank)))
            loss = tf.reduce_mean(tf.square(said - tf.tanh(goal)))
        weights = [variable.value for variable in self.layer.trainable_variables]
        return loss, tape.gradient(loss, weights)

    def _step(self, inputs, mask):
        loss, gradients = self._differentiated(inputs, mask, training=True)
        self.optimizer.apply(gradients, self.layer.trainable_variables)
        return loss, tf.reduce_max([tf.reduce_max(tf.abs(g)) for g in gradients])


@dataclasses.dataclass
class Line:
    """What the table says of the steps since the line before."""

    steps: int
    resident: int  # bytes
    seconds: float  # a step
    loss: float
    error: float  # largest, relative to Keras


def draw_batch(rng, dtype, fill):
    """(inputs [B,T,I], mask [B,T]) as arrays; what stands at masked steps is `fill`."""
    batch, steps = rng.integers(1, MOST_ROWS + 1), rng.integers(1, MOST_STEPS + 1)
    mask = MASKS[rng.choice(list(MASKS))](rng, batch, steps)
    inputs = rng.standard_normal((batch, steps, FEATURES)).astype(dtype)
    inputs[~mask] = fill
    return inputs, mask


def difference(model, twin, inputs, mask):
    """The largest between loss and gradients of both, relative to what is allowed."""
    twin.layer.set_weights(model.layer.get_weights())
    ours = tf.nest.flatten(model.loss_and_gradients(inputs, mask))
    theirs = tf.nest.flatten(twin.loss_and_gradients(np.nan_to_num(inputs), mask))
    return max(
        float(np.max(np.abs(a - b)) / max(SMALLEST, np.max(np.abs(b)))) / TOLERANCE[model.dtype]
        for a, b in zip(map(np.asarray, ours), map(np.asarray, theirs))
    )


def soak(steps, layers, seed, console):
    """Trains, and returns a list of `Line`.

    Raises:
        FloatingPointError: a loss or a gradient is not finite.
    """
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    module = masked_rnn if layers == "ours" else keras.layers
    models = [Trained(module, *each) for each in LAYERS]
    twins = [Trained(keras.layers, *each) for each in LAYERS]
    fill = np.nan if layers == "ours" else 0.0
    for model, twin in zip(models, twins):  # traces
        model.step(*draw_batch(rng, model.dtype, fill))
        difference(model, twin, *draw_batch(rng, model.dtype, fill))

    lines, losses, worst, start = [], [], 0.0, time.perf_counter()
    per_line = max(1, steps // LINES)
    for done in track(range(1, steps + 1), "soak", console=console, update_period=1):
        which = rng.integers(len(models))
        model = models[which]
        batch = draw_batch(rng, model.dtype, fill)
        loss, largest_gradient = model.step(*batch)
        losses.append(float(loss))
        if not np.isfinite([losses[-1], float(largest_gradient)]).all():
            raise FloatingPointError(
                f"step {done}, {LAYERS[which]}, inputs {batch[0].shape}: loss {losses[-1]}, "
                f"largest gradient {float(largest_gradient)}"
            )
        if done % STEPS_PER_CHECK == 0:
            worst = max(worst, difference(model, twins[which], *batch))
        if done % per_line == 0:
            gc.collect()
            seconds = (time.perf_counter() - start) / len(losses)
            lines.append(Line(done, status("VmRSS"), seconds, float(np.mean(losses)), worst))
            losses, worst, start = [], 0.0, time.perf_counter()
    return lines


def growth(lines):
    """Bytes between the most and the least resident memory after the first tenth of the steps."""
    warm = [line.resident for line in lines if line.steps >= lines[-1].steps / 10]
    return max(warm) - min(warm)


def main():
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--steps", type=int, default=20000)
    parse.add_argument("--layers", choices=("ours", "keras"), default="ours")
    parse.add_argument("--seed", type=int, default=0)
    options = parse.parse_args()
    if options.steps < LINES:
        parse.error(f"--steps {options.steps}, needed: at least {LINES}")
    try:
        lines = soak(options.steps, options.layers, options.seed, Console(stderr=True))
    except FloatingPointError as error:
        print(f"FAIL: {error}")
        return 1
    table = Table("steps", "resident MB", "ms a step", "loss", "error / allowed")
    for line in lines:
        resident = f"{line.resident / MEGABYTE:.1f}"
        row = resident, f"{1e3 * line.seconds:.2f}", f"{line.loss:.3f}", f"{line.error:.2f}"
        table.add_row(str(line.steps), *row)
    Console().print(table)
    grown, error = growth(lines), max(line.error for line in lines)
    passed = grown <= FLAT_WITHIN and error <= 1
    print(
        f"{'PASS' if passed else 'FAIL'}: resident memory within {grown / MEGABYTE:.1f} MB after "
        f"the first tenth (allowed {FLAT_WITHIN // MEGABYTE}), all numbers finite, largest error "
        f"{error:.2f} of what is allowed beside Keras"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
