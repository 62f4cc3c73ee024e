"""Keras's Bidirectional around our layers beside PyTorch's bidirectional packed run.

    python -m benchmarks.bidirectional [--rounds 5] [--threads 2]

Right-padded batches, half of the steps real on average, forward and training (gradients of inputs
and weights); the two take turns, medians are printed. Packing and unpacking count.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import torch
from rich.console import Console
from rich.table import Table

import masked_rnn
from benchmarks.layer_steps import medians, training_step

CASES = (
    ("GRU", 32, 128, 64, 128),
    ("GRU", 64, 128, 256, 512),
    ("GRU", 8, 1000, 64, 256),
    ("GRU", 512, 30, 32, 32),
    ("LSTM", 32, 128, 64, 128),
    ("LSTM", 64, 128, 256, 512),
    ("LSTM", 256, 50, 128, 256),
)


def ours(cell, units, inputs, mask):
    """(forward, training) of Keras's Bidirectional in a tf.function."""
    layer = keras.layers.Bidirectional(getattr(masked_rnn, cell)(units, return_sequences=True))
    inputs, mask = tf.constant(inputs), tf.constant(mask)
    layer(inputs, mask=mask)

    @tf.function(autograph=False)
    def forward():
        return layer(inputs, mask=mask)

    return forward, training_step(layer, inputs, mask)


def torch_packed(cell, units, inputs, lengths):
    """(forward, training) of torch.nn.GRU or LSTM(bidirectional=True) on packed sequences."""
    module = getattr(torch.nn, cell)(
        inputs.shape[2], units, batch_first=True, bidirectional=True
    )
    inputs = torch.from_numpy(inputs).requires_grad_(True)
    lengths = torch.from_numpy(lengths)

    def run():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            inputs, lengths, batch_first=True, enforce_sorted=False
        )
        outputs, _ = module(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)[0]

    def forward():
        with torch.no_grad():
            return run()

    def training():
        module.zero_grad()
        inputs.grad = None
        run().sum().backward()

    return forward, training


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--threads", type=int, default=2)
    options = parse.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    table = Table("case B,T,I,H", "pass", "ours ms", "torch packed ms", "ratio")
    for cell, batch, steps, features, units in CASES:
        inputs = rng.standard_normal((batch, steps, features)).astype("float32")
        lengths = rng.integers(1, steps + 1, batch)
        mask = np.arange(steps) < lengths[:, None]
        mine = ours(cell, units, inputs, mask)
        theirs = torch_packed(cell, units, inputs, lengths)
        for name, *pair in zip(("forward", "training"), mine, theirs):
            seconds = medians(dict(enumerate(pair)), options.rounds)
            a, b = 1e3 * seconds[0], 1e3 * seconds[1]
            case = f"{cell} {batch},{steps},{features},{units}"
            table.add_row(case, name, f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
