"""masked_rnn beside Keras, on one made-up example and on real recordings.

    python -m masked_rnn.demo [--picture FILE] [--epochs N]

1. Two short sequences with padding whose right answers can be worked out by hand.
2. Japanese Vowels (Kudo, Toyama and Shimbo, 1999): 270 + 370 utterances of 7 to 29 frames by nine
   speakers, padded on the left. The same classifier is trained twice, with keras.layers.GRU and
   with masked_rnn.GRU, from the same weights on the same batches.
3. Time of one layer against the fraction of steps that are real.

Writes a picture of 2 and 3. Exits with 1 if a number is not what it should be.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path

from masked_rnn.quiet import quiet_unless_it_fails

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

for needed in ("tensorflow", "sktime", "matplotlib", "rich"):
    if importlib.util.find_spec(needed) is None:
        sys.exit(f"The demo needs {needed}: pip install 'masked_rnn[cpu,demo]'")


with quiet_unless_it_fails():
    import keras
    import tensorflow as tf

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import masked_rnn

LAYERS = {"Keras": keras.layers.GRU, "masked_rnn": masked_rnn.GRU}
COLOURS = {"Keras": "#e0791f", "masked_rnn": "#1f5fa8"}

BATCH = 30
# Other orders of summation move Keras's own losses by up to 7e-7 of their value in 30 epochs (rows
# of each batch reversed, four seeds). Short steps and clipped gradients keep it so: without them
# training amplifies rounding until the losses tell nothing.
LOSS_TOLERANCE = 1e-4
ACCURACY_NEEDED = 0.9


def fail(message):
    sys.exit(f"demo failed: {message}")


def progress_bar(console):
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TimeElapsedColumn(), console=console, transient=True)


# ---- 1. by hand ---------------------------------------------------------------------------------

def by_hand(console):
    """A linear GRU of one unit whose states are whole numbers; 0.37 marks padding."""
    pad = [0.37, 0.37]
    rows = np.array([[[1, 1], [2, 2], [1, 1], pad, pad],
                     [pad, [1, 1], [2, 2], [1, 1], pad]], "float32")
    table = Table(title="Linear GRU(1); row 1 is padded on the right, row 2 on both sides",
                  title_justify="left")
    for heading in ("reset_after", "layer", "row 1", "row 2"):
        table.add_column(heading)
    for reset_after, last in ((False, -156.0), (True, -745.0)):
        for name, layer in LAYERS.items():
            gru = layer(1, activation=None, recurrent_activation=None, kernel_initializer="ones",
                        recurrent_initializer="zeros", bias_initializer="ones",
                        return_sequences=True, reset_after=reset_after)
            outputs = keras.Sequential([keras.layers.Masking(0.37), gru])(rows).numpy()[:, :, 0]
            table.add_row(str(reset_after), name, *(" ".join(f"{v:g}" for v in r) for r in outputs))
            if outputs[0, -1] != last:
                fail(f"{name}, reset_after={reset_after}: row 1 ends at {outputs[0, -1]}, "
                     f"not at {last}")
            if outputs[1, 0] != 0:
                fail(f"{name}, reset_after={reset_after}: row 2 starts at {outputs[1, 0]}, not 0")
    console.print(table)
    console.print("Row 1 ends at -156 and at -745, row 2 starts at 0: as worked out by hand.\n")


# ---- 2. real recordings -------------------------------------------------------------------------

def recordings():
    """((frames [B,T,12] padded on the left, speaker [B]) for training and for test, pad value)."""
    from sktime.datasets import load_japanese_vowels

    splits = {}
    for split in ("train", "test"):
        utterances, speakers = load_japanese_vowels(split, return_type="df-list")
        splits[split] = [u.to_numpy("float32") for u in utterances], speakers.astype("int32") - 1
    # Larger than any measured value, so that no real frame can be taken for padding.
    pad = float(np.ceil(max(u.max() for us, _ in splits.values() for u in us)) + 1)
    padded = [(keras.utils.pad_sequences(us, dtype="float32", value=pad), speakers)
              for us, speakers in splits.values()]
    return *padded, pad


def classifier(layer, features, pad):
    model = keras.Sequential([
        keras.Input((None, features)),
        keras.layers.Masking(pad),
        layer(100),
        keras.layers.Dense(9, activation="softmax"),
    ])
    model.compile(optimizer=keras.optimizers.Adam(7e-4, clipnorm=1.0),
                  loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(console, epochs):
    """Trains both classifiers, an epoch of one and an epoch of the other; returns their losses."""
    (frames, speakers), test, pad = recordings()
    lengths = (frames != pad).any(2).sum(1)
    console.print(f"Japanese Vowels: {len(frames)} utterances of {lengths.min()} to "
                  f"{lengths.max()} frames to train on, {len(test[0])} to test on; "
                  f"{1 - lengths.mean() / frames.shape[1]:.0%} of the padded batch is padding.")
    keras.utils.set_random_seed(1)
    models = {name: classifier(layer, frames.shape[2], pad) for name, layer in LAYERS.items()}
    models["masked_rnn"].set_weights(models["Keras"].get_weights())

    losses, seconds = {name: [] for name in LAYERS}, {name: [] for name in LAYERS}
    orders = np.random.default_rng(1)
    with progress_bar(console) as progress:
        for epoch in progress.track(range(epochs), description="training"):
            batches = orders.permutation(len(frames)).reshape(-1, BATCH)
            for name, model in models.items():
                start = time.perf_counter()
                of_batches = [model.train_on_batch(frames[batch], speakers[batch])[0]
                              for batch in batches]
                seconds[name].append(time.perf_counter() - start)
                losses[name].append(statistics.fmean(of_batches))
            console.print(f"  epoch {epoch + 1:3d}   loss: " + "   ".join(
                f"{name} {values[-1]:.6f}" for name, values in losses.items()), highlight=False)

    accuracy = {name: model.evaluate(*test, verbose=0)[1] for name, model in models.items()}
    table = Table(title=f"{epochs} epochs of batches of {BATCH}", title_justify="left")
    for heading in ("layer", "last loss", "test accuracy", "seconds", "median epoch"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    epoch_time = {name: statistics.median(values) for name, values in seconds.items()}
    for name in LAYERS:
        table.add_row(name, f"{losses[name][-1]:.6f}", f"{accuracy[name]:.1%}",
                      f"{sum(seconds[name]):.1f}", f"{1e3 * epoch_time[name]:.0f} ms")
    console.print(table)

    difference = max(abs(ours / theirs - 1) for ours, theirs in zip(losses["masked_rnn"],
                                                                    losses["Keras"]))
    console.print(f"The losses differ by {difference:.1e} of their value at most.\n"
                  f"Time of an epoch, Keras / masked_rnn: "
                  f"{epoch_time['Keras'] / epoch_time['masked_rnn']:.1f}\n", highlight=False)
    if not difference <= LOSS_TOLERANCE:
        fail(f"the losses differ by {difference:.1e}, more than rounding explains "
             f"({LOSS_TOLERANCE:.0e})")
    if not accuracy["masked_rnn"] > ACCURACY_NEEDED:
        fail(f"test accuracy {accuracy['masked_rnn']:.3f} is not over {ACCURACY_NEEDED}")
    return losses


# ---- 3. time against the fraction of real steps -------------------------------------------------

SIZE = {"batch": 64, "steps": 100, "features": 32, "units": 128}
WHAT = "forward", "training"
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
ROUNDS = 7


def forward_and_training(layer):
    """Two compiled functions of (inputs, mask): outputs, and gradients of inputs and weights."""
    @tf.function
    def forward(inputs, mask):
        return layer(inputs, mask=mask)

    @tf.function
    def training(inputs, mask):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_mean(tf.square(layer(inputs, mask=mask)))
        return tape.gradient(loss, [inputs, *layer.trainable_variables])

    return dict(zip(WHAT, (forward, training)))


def measure(console):
    """{(function, layer): [median seconds for each of FRACTIONS]}"""
    random = np.random.default_rng(2)
    shape = SIZE["batch"], SIZE["steps"], SIZE["features"]
    inputs = tf.constant(random.standard_normal(shape), tf.float32)
    functions = {}
    for name, layer in LAYERS.items():
        gru = layer(SIZE["units"], return_sequences=True)
        gru.build(shape)
        for what, function in forward_and_training(gru).items():
            functions[what, name] = function

    medians = {key: [] for key in functions}
    with progress_bar(console) as progress:
        bar = progress.add_task("measuring", total=len(FRACTIONS) * ROUNDS)
        for fraction in FRACTIONS:
            # Every row has this share of real steps, anywhere in the row.
            ranks = random.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)
            mask = tf.constant(ranks < round(fraction * shape[1]))
            times = {key: [] for key in functions}
            for function in functions.values():
                function(inputs, mask)  # traced and warm
            for _ in range(ROUNDS):
                for key, function in functions.items():  # in turn, so that all meet the same noise
                    start = time.perf_counter()
                    function(inputs, mask)
                    times[key].append(time.perf_counter() - start)
                progress.advance(bar)
            for key, values in times.items():
                medians[key].append(statistics.median(values))

    table = Table(title="GRU: batch {batch}, {steps} steps, {features} features, {units} units; "
                        "median ms".format(**SIZE), title_justify="left")
    table.add_column("real\nsteps", justify="right")
    for what in WHAT:
        for name in (*LAYERS, "ratio"):
            table.add_column(f"{what}\n{name}", justify="right")
    for i, fraction in enumerate(FRACTIONS):
        cells = []
        for what in WHAT:
            theirs, ours = medians[what, "Keras"][i], medians[what, "masked_rnn"][i]
            cells += [f"{1e3 * theirs:.1f}", f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}"]
        table.add_row(f"{fraction:.0%}", *cells)
    console.print(table)
    return medians


# ---- the picture --------------------------------------------------------------------------------

def draw(losses, medians, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curves, *times) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    epochs = range(1, len(losses["Keras"]) + 1)
    curves.plot(epochs, losses["Keras"], color=COLOURS["Keras"], linewidth=6, alpha=0.45,
                label="keras.layers.GRU")
    curves.plot(epochs, losses["masked_rnn"], color=COLOURS["masked_rnn"], linewidth=1.5,
                label="masked_rnn.GRU")
    curves.set(title="Japanese Vowels, padded on the left", xlabel="epoch", ylabel="training loss",
               yscale="log")
    curves.legend(frameon=False)

    for axes, what in zip(times, WHAT):
        for name in LAYERS:
            axes.plot([100 * fraction for fraction in FRACTIONS],
                      [1e3 * value for value in medians[what, name]], marker="o",
                      color=COLOURS[name], label=name)
        axes.set(title=f"One GRU layer, {what}", xlabel="real steps (%)", ylabel="time (ms)")
        axes.set_xlim(0, 103)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    times[0].text(0.98, 0.02, "batch {batch}, {steps} steps\n{features} features, {units} units"
                  .format(**SIZE), transform=times[0].transAxes, ha="right", va="bottom",
                  fontsize="small", color="0.35")
    for axes in (curves, *times):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(prog="python -m masked_rnn.demo",
                                     description="masked_rnn beside Keras.")
    parser.add_argument("--picture", type=Path, default=Path("masked_rnn_demo.png"),
                        help="the picture to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    arguments = parser.parse_args()

    tf.config.set_visible_devices([], "GPU")  # both layers on the CPU, as ours has no GPU kernel
    console = Console()
    by_hand(console)
    losses = train(console, arguments.epochs)
    medians = measure(console)
    draw(losses, medians, arguments.picture)
    console.print(f"Picture: {arguments.picture.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    main()
