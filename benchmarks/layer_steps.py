"""What the benchmarks of Keras layers that stand alone share: a training step, and turns."""

import statistics
import time

import tensorflow as tf


def training_step(layer, inputs, mask):
    """A function without arguments that takes gradients of inputs and weights, in a tf.function.

    Args:
        layer: a built Keras layer.
        inputs [B,T,I], mask bool [B,T]: tensors.
    """

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, mask=mask, training=True))
        return tape.gradient(loss, [inputs, *[w.value for w in layer.trainable_weights]])

    return step


def medians(functions, rounds):
    """{key: median seconds} of {key: function}; in every round each is called once, in turn."""
    seconds = {key: [] for key in functions}
    for round_number in range(rounds + 1):
        for key, function in functions.items():
            start = time.perf_counter()
            function()
            if round_number:  # the first is to warm up
                seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in seconds.items()}
