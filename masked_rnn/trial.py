"""What `python -m masked_rnn try` does: a user's own model, before and after the swap."""

import importlib
import time
from typing import Any, Dict, List, Sequence

import keras
import numpy as np
import tensorflow as tf

from masked_rnn import acceleration, layers
from masked_rnn.tables import table

# Largest relative difference that two right answers of a dtype have.
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 1e-1}


def run(
    path: str, batch: int = 32, steps: int = 64, rounds: int = 5, modules: Sequence[str] = ()
) -> Dict[str, Any]:
    """Loads a model twice, swaps the layers of one, compares and times the two.

    Args:
        path: a file that Keras can load.
        batch: rows, where the model leaves them open.
        steps: time steps (any dimension but the last), where the model leaves them open.
        rounds: how often each is timed; the best counts.
        modules: imported first, for classes that they register.

    Returns:
        Plain data: "agree", the largest relative differences, and for every layer and the whole
        model the times in milliseconds.

    Raises:
        ValueError: the model's inputs are not known. And what Keras raises over the file.
    """
    for module in modules:
        importlib.import_module(module)
    before, after = (keras.models.load_model(path, compile=False) for _ in range(2))
    inputs = random_inputs(before, batch, steps)
    recorded = _record_calls(before, inputs)
    swaps = acceleration.swap(after)
    outputs, gradients = _differences(before, after, inputs)
    allowed = max(_TOLERANCE.get(layer.compute_dtype, 1e-3) for layer in _every(before))
    return {
        "model": str(path),
        "inputs": [list(x.shape) for x in tf.nest.flatten(inputs)],
        "agree": bool(outputs <= allowed and gradients <= allowed),
        "outputs_difference": outputs,
        "gradients_difference": gradients,
        "allowed_difference": allowed,
        "layers": [
            _layer_row(swap, *pair, recorded.get(id(pair[0])), rounds)
            for swap, *pair in zip(swaps, _recurrent(before), _recurrent(after))
        ],
        "forward": _times(_forward(before, inputs), _forward(after, inputs), rounds),
        "forward_and_backward": _times(_training(before, inputs), _training(after, inputs), rounds),
    }


def shown(found: Dict[str, Any]) -> str:
    """`run`'s answer as text for people."""

    def row(name, path, times):
        if times is None:
            return (name, path, "-", "-", "-")
        numbers = [f"{times[k]:.2f} ms" for k in ("before_ms", "after_ms")]
        return (name, path, *numbers, f"{times['ratio']:.1f}x")

    rows = [row(r["layer"], r["path"], r["times"]) for r in found["layers"]]
    rows += [
        row("model, forward", "", found["forward"]),
        row("model, forward and backward", "", found["forward_and_backward"]),
    ]
    text = [
        f"{found['model']} on random inputs {found['inputs']}, about half of the steps masked",
        "",
        table(("layer", "path", "before", "after", "ratio"), rows),
        "",
    ]
    text += [f"{r['layer']}: {r['why']}" for r in found["layers"] if r["why"]]
    if not any(r["path"] == "fused" for r in found["layers"]):
        text.append("There is nothing to replace in this model.")
    verdict = "agree" if found["agree"] else "DO NOT AGREE"
    text.append(
        f"Outputs and gradients {verdict}: they differ by {found['outputs_difference']:.1e} and "
        f"{found['gradients_difference']:.1e} of the largest value, allowed is "
        f"{found['allowed_difference']:.0e}."
    )
    return "\n".join(text)


def random_inputs(model: Any, batch: int, steps: int) -> Any:
    """Random inputs in the structure of the model's, about half of the steps masked.

    Floats are normal, with the value that a Masking layer looks for at masked steps; integers are
    word numbers below the smallest Embedding, with 0 at masked steps.
    """
    rng = np.random.default_rng(0)
    every = _every(model)
    masking = [x.mask_value for x in every if isinstance(x, keras.layers.Masking)]
    words = [x.input_dim for x in every if isinstance(x, keras.layers.Embedding)]
    real: Dict[Any, np.ndarray] = {}  # inputs of the same steps have the same mask

    def one(shape, dtype):
        sizes = [batch if shape[0] is None else shape[0]]
        sizes += [steps if size is None else size for size in shape[1:]]
        integers = not keras.backend.is_float_dtype(dtype)
        x = rng.integers(1, max(2, min(words, default=2)), sizes) if integers else None
        x = rng.standard_normal(sizes) if x is None else x
        over = sizes if integers else sizes[:-1]
        if len(over) > 1:
            key = tuple(over)
            if key not in real:
                # Padded on the right, so that Keras's fastest path takes it; never without a step.
                lengths = rng.integers(1, over[-1] + 1, over[:-1])
                real[key] = np.arange(over[-1]) < lengths[..., None]
            x[~real[key]] = masking[0] if masking and not integers else 0
        return tf.cast(tf.constant(x), dtype)

    if isinstance(getattr(model, "input", None), (keras.KerasTensor, list, tuple, dict)):
        return keras.tree.map_structure(lambda t: one(t.shape, t.dtype), model.input)
    shape = (model.get_build_config() or {}).get("input_shape")
    known = isinstance(shape, (list, tuple))
    if not known or not all(isinstance(size, (int, type(None))) for size in shape):
        raise ValueError(f"the inputs of {type(model).__name__} are not known from its file")
    return one(shape, "int32" if words and len(shape) == 2 else "float32")


def _every(model):
    return list(model._flatten_layers())


def _recurrent(model):
    """The recurrent layers in the order in which `acceleration.swap` reports them. (Names may
    differ between two loads of one file.)"""
    found, seen = [], set()

    def walk(layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, layers.KerasRNN):
            found.append(layer)
            return
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            walk(inner)

    walk(model)
    return found


def _record_calls(model, inputs):
    """The arguments of every recurrent layer's first call, by layer, where they are values."""
    recorded: Dict[int, Any] = {}

    def watch(layer):
        call = layer.call

        def watching(*args, **kwargs):
            flat = [x for x in tf.nest.flatten((args, kwargs)) if tf.is_tensor(x)]
            if all(isinstance(x, tf.__internal__.EagerTensor) for x in flat):
                recorded.setdefault(id(layer), (args, kwargs))
            return call(*args, **kwargs)

        layer.call = watching

    watched = _recurrent(model)
    for layer in watched:
        watch(layer)
    try:
        model(inputs, training=False)
    finally:
        for layer in watched:
            del layer.call
    return recorded


def _layer_row(swap, before, after, call, rounds):
    times = None
    if call is not None and not before.stateful and swap.before != swap.after:
        args, kwargs = call

        def function(layer):
            return tf.function(lambda: layer.call(*args, **kwargs), autograph=False)

        times = _times(function(before), function(after), rounds)
    fused = swap.after.startswith("masked_rnn.")
    return {
        "layer": swap.layer,
        "before": swap.before,
        "after": swap.after,
        "path": "fused" if fused else "Keras loop",
        "why": swap.why,
        "times": times,
    }


def _loss(model, inputs):
    outputs = tf.nest.flatten(model(inputs, training=False))
    rng = np.random.default_rng(1)
    loss = 0.0
    for y in outputs:
        y = tf.cast(y, tf.float32)
        loss += tf.reduce_sum(y * tf.constant(rng.standard_normal(y.shape), tf.float32))
    return loss, outputs


def _step(model, inputs):
    """Outputs, and gradients of a random weighting of them."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss, outputs = _loss(model, inputs)
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return outputs, [tf.convert_to_tensor(g) for g in gradients]  # an Embedding's are sparse


def _differences(before, after, inputs):
    (want, d_want), (got, d_got) = (_step(model, inputs) for model in (before, after))
    return _largest(got, want), _largest(d_got, d_want)


def _largest(got: List[Any], want: List[Any]) -> float:
    worst = 0.0
    for a, b in zip(got, want):
        a, b = (np.asarray(tf.cast(tf.convert_to_tensor(x), tf.float64)) for x in (a, b))
        scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
        worst = max(worst, float(np.max(np.abs(a - b), initial=0.0)) / scale)
        if not np.isfinite(a).all():
            return float("inf")
    return worst


def _forward(model, inputs):
    return tf.function(lambda: model(inputs, training=False), autograph=False)


def _training(model, inputs):
    return tf.function(lambda: _step(model, inputs)[1], autograph=False)


def _times(before, after, rounds):
    """Best of each in milliseconds, taken in turns, so that other load hits both alike."""
    best = [float("inf")] * 2
    for function in (before, after):
        function()  # traces
    for _ in range(rounds):
        for i, function in enumerate((before, after)):
            start = time.perf_counter()
            tf.nest.map_structure(lambda x: x.numpy(), function())
            best[i] = min(best[i], time.perf_counter() - start)
    return {"before_ms": 1e3 * best[0], "after_ms": 1e3 * best[1], "ratio": best[0] / best[1]}
