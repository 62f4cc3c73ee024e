"""Swaps Keras's recurrent layers for ours inside a model that exists already, and back.

Our layers have Keras's attributes and a few of their own, so a layer changes over by changing its
class. It stays the same object with the same variables, and so nothing that refers to it has to
be made anew: functional graphs, wrappers, the optimizer, callbacks, names.
"""

import functools
import inspect
from typing import Any, List, NamedTuple

import keras

from masked_rnn import bidirectional, cells, layers, rnn
from masked_rnn.tables import table

# Keras's class -> ours. Exactly these: what a subclass overrides would be lost.
_OURS = {
    keras.layers.GRU: layers.GRU,
    keras.layers.LSTM: layers.LSTM,
    keras.layers.SimpleRNN: layers.SimpleRNN,
    layers.KerasRNN: rnn.RNN,
}
_KERAS = {ours: theirs for theirs, ours in _OURS.items()}
_KERAS[bidirectional.Bidirectional] = keras.layers.Bidirectional
# What a layer object may have been given in place of its class's method.
_METHODS = ("call", "inner_loop", "get_initial_state", "compute_mask", "__call__")


class Swap(NamedTuple):
    """What became of one recurrent layer."""

    layer: str  # its name, below the names of the layers round it
    before: str  # its class
    after: str  # its class now
    why: str  # why it was left, or empty


def accelerate(model: Any, verbose: bool = False) -> Any:
    """Replaces every Keras GRU, LSTM, SimpleRNN and RNN of a known cell by ours, in place.

    Layers inside Bidirectional, TimeDistributed, nested, functional, Sequential and subclassed
    models are found, wherever Keras itself finds them. The model stays the same object with the
    same weights, names, compilation and optimizer state, and gives the same outputs. What Keras
    has traced is forgotten, so the next `fit`, `evaluate` or `predict` traces anew; a
    `tf.function` that you keep outside the model does not know, and has to be made again.

    Left as they are: subclasses of Keras's layers, as what they override would be lost, and what
    the op could not run anyway (custom activations, RNN of a custom cell).

    A model saved afterwards names our classes, and loads where `masked_rnn` is imported;
    `to_keras` goes back.

    Args:
        model: a Keras model or layer, built or not, compiled or not.
        verbose: print what was replaced, what was not, and why.

    Returns:
        `model`.

    Raises:
        ValueError: `model` is not a Keras layer.

    Example:

        >>> import keras, masked_rnn
        >>> model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, name="gru")])
        >>> model = masked_rnn.accelerate(model, verbose=True)
        layer           class             now             why
        --------------  ----------------  --------------  ---
        sequential/gru  keras.layers.GRU  masked_rnn.GRU
    """
    return _swap_all(model, _to_ours, "model", verbose)


def to_keras(model: Any, verbose: bool = False) -> Any:
    """Replaces every layer of ours by Keras's, in place: the inverse of `accelerate`.

    The model then holds and saves nothing that needs this package, so it can be converted (TFLite,
    ONNX) or served anywhere. Variables, names, compilation and optimizer state are kept.

    A functional model that was made with `sequence_length=` keeps a small operation of ours, which
    runs in plain TensorFlow but needs `masked_rnn` to load from a `.keras` file; the printed table
    names it.

    Args:
        model: a Keras model or layer.
        verbose: print what was replaced, what was not, and why.

    Returns:
        `model`.

    Raises:
        ValueError: `model` is not a Keras layer.
    """
    return _swap_all(model, _to_keras, "model", verbose)


def swap(model: Any) -> List[Swap]:
    """`accelerate`, returning what was done."""
    rows: List[Swap] = []
    _walk(model, "", rows, set(), _to_ours)
    return rows


def _swap_all(model, change, argument, verbose):
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"{argument} is {type(model).__name__}, needed is a Keras model or layer."
        )
    rows: List[Swap] = []
    _walk(model, "", rows, set(), change)
    if verbose:
        titles = ("layer", "class", "now", "why")
        print(table(titles, rows) if rows else "No recurrent layers.")
    return model


def _walk(layer, prefix, rows, seen, change):
    if id(layer) in seen:
        return
    seen.add(id(layer))
    name = f"{prefix}{layer.name}"
    changed = change(layer, name)
    if changed is not None:
        rows.append(changed)
    if isinstance(layer, layers.KerasRNN):
        return  # its cells are no layers of their own
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        _walk(inner, f"{name}/", rows, seen, change)
    _forget_traces(layer)
    for operation in getattr(layer, "operations", ()):
        if isinstance(operation, layers.SequenceMask) and change is _to_keras:
            rows.append(
                Swap(f"{name}/{operation.name}", "SequenceMask", "SequenceMask",
                     "made by sequence_length=; Keras has none")
            )  # fmt: skip


def _to_ours(layer, name):
    kind, ours = type(layer), _OURS.get(type(layer))
    if ours is None:
        if not isinstance(layer, (layers.KerasRNN, *_OURS)):
            return None
        if kind in _KERAS:
            return Swap(name, _shown(kind), _shown(kind), "already ours")
        base = next((theirs for theirs in _OURS if issubclass(kind, theirs)), layers.KerasRNN)
        why = f"a subclass of {_shown(base)}: what it overrides would be lost"
        if kind.__module__.startswith("keras."):
            why = "masked_rnn has no such layer"
        return Swap(name, _shown(kind), _shown(kind), why)
    why = cells.reason_against(layer.cell)
    own = [method for method in _METHODS if method in vars(layer)]
    if own:
        why = f"this layer has been given its own {', '.join(own)}"
    if why is not None:
        return Swap(name, _shown(kind), _shown(kind), why)
    _set_class(layer, ours)
    layer._become_fused()
    _refresh_signature(layer)
    if not layer.built:
        _build_as_ours(layer)
    return Swap(name, _shown(kind), _shown(ours), "")


def _to_keras(layer, name):
    kind, theirs = type(layer), _KERAS.get(type(layer))
    if theirs is None:
        if not isinstance(layer, (layers._FusedLayer, bidirectional.Bidirectional)):
            return None
        return Swap(name, _shown(kind), _shown(kind), "a subclass: what it overrides would be lost")
    _set_class(layer, theirs)
    if isinstance(layer, layers.KerasRNN):
        layer.supports_jit = layer._keras_supports_jit
    _refresh_signature(layer)
    return Swap(name, _shown(kind), _shown(theirs), "")


def _set_class(layer, kind):
    object.__setattr__(layer, "__class__", kind)  # Keras's own would look for variables in it


def _refresh_signature(layer):
    """What Keras has read off `call` when it made the layer."""
    layer._call_signature = inspect.signature(layer.call)
    if hasattr(layer, "call_signature_parameters"):
        parameters = [p.name for p in layer._call_signature.parameters.values()]
        layer.call_signature_parameters = parameters


def _build_as_ours(layer):
    """Keras binds `build` to the object when it makes it: wraps what is bound there."""
    keras_build = layer.build

    @functools.wraps(keras_build)
    def build(*args, **kwargs):
        with layers._OrthogonalInFloat32(layer.cell):
            return keras_build(*args, **kwargs)

    if layer.variable_dtype == "bfloat16":
        layer.build = build


def _forget_traces(layer):
    """Makes a model trace anew, and not under XLA, for which the op has no kernel."""
    for name in ("train_function", "test_function", "predict_function"):
        if getattr(layer, name, None) is not None:
            setattr(layer, name, None)
    if getattr(layer, "_jit_compile", None) and not _supports_jit(layer):
        layer._jit_compile = False
    # Methods under @tf.function keep a traced copy for each object.
    for kind in type(layer).__mro__:
        for value in vars(kind).values():
            copies = getattr(value, "_descriptor_cache", None)
            if copies is not None:
                copies.pop(layer, None)
    for name, value in list(vars(layer).items()):
        if hasattr(value, "python_function") and hasattr(value, "_clone"):
            setattr(layer, name, value._clone(None))


def _supports_jit(model):
    return all(inner.supports_jit for inner in model._flatten_layers())


def _shown(kind):
    if kind.__module__.startswith("keras."):
        return f"keras.layers.{kind.__name__}"
    if kind.__module__.startswith("masked_rnn."):
        return f"masked_rnn.{kind.__name__}"
    return kind.__name__
