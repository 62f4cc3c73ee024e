"""What dropout costs a training step, ours and Keras's.

    python -m benchmarks.dropout [--rounds 7] [--threads 2] [--dtype float32]

Right-padded batches, half of the steps real on average; gradients of inputs and weights. Layers with
dropout=0.2, with recurrent_dropout=0.2 and with both take turns with the same layer without; medians
are printed. With recurrent_dropout Keras draws masks for each gate, and so do we; drawing them counts.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import masked_rnn
from benchmarks.layer_steps import medians, training_step

CASES = (
    ("GRU", 32, 128, 64, 128),
    ("GRU", 64, 128, 256, 512),
    ("GRU", 512, 30, 32, 32),
    ("LSTM", 32, 128, 64, 128),
    ("LSTM", 256, 50, 128, 256),
)
OPTIONS = {
    "none": {},
    "dropout": {"dropout": 0.2},
    "recurrent_dropout": {"recurrent_dropout": 0.2},
    "both": {"dropout": 0.2, "recurrent_dropout": 0.2},
}


def training(layer, inputs, mask):
    inputs, mask = tf.constant(inputs), tf.constant(mask)
    layer(inputs, mask=mask)
    return training_step(layer, inputs, mask)


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--rounds", type=int, default=7)
    parse.add_argument("--threads", type=int, default=2)
    parse.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parse.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.config.set_dtype_policy(
        options.dtype if options.dtype == "float32" else f"mixed_{options.dtype}"
    )
    rng = np.random.default_rng(0)
    table = Table("case B,T,I,H", "dropout", "ours ms", "times none", "keras ms", "times none", "ratio")
    for cell, batch, steps, features, units in CASES:
        inputs = rng.standard_normal((batch, steps, features)).astype("float32")
        mask = np.arange(steps) < rng.integers(1, steps + 1, batch)[:, None]
        functions = {
            (library, name): training(
                getattr(library, cell)(units, return_sequences=True, **arguments), inputs, mask
            )
            for name, arguments in OPTIONS.items()
            for library in (masked_rnn, keras.layers)
        }
        seconds = medians(functions, options.rounds)
        for name in OPTIONS:
            ours, theirs = (seconds[library, name] for library in (masked_rnn, keras.layers))
            table.add_row(
                f"{cell} {batch},{steps},{features},{units}",
                name,
                f"{1e3 * ours:.2f}",
                f"{ours / seconds[masked_rnn, 'none']:.2f}",
                f"{1e3 * theirs:.1f}",
                f"{theirs / seconds[keras.layers, 'none']:.2f}",
                f"{theirs / ours:.1f}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
