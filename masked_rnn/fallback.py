"""What happens, and what is said, when the fused op cannot take a layer or a function's call.

The environment variable MASKED_RNN_FALLBACK decides, at every call: `warn` (the default, once a
layer), `allow` (say nothing) or `error`.
"""

import os
import sys
import warnings
from typing import Any, List, NamedTuple

from masked_rnn.tables import table

_CHOICES = ("warn", "allow", "error")


class FallbackWarning(UserWarning):
    """Keras's generic loop (a layer), or one in TensorFlow operations (a function), runs in place of
    the fused op: same numbers, slower."""


class Row(NamedTuple):
    """One recurrent layer in an `Explanation`."""

    layer: str  # its name, below the names of the layers round it
    kind: str  # its class
    path: str  # "fused" or "Keras loop"
    why: str


class Explanation:
    """What `explain` found; `str()` of it is a table, `rows` is the same as a list of `Row`."""

    def __init__(self, rows: List[Row]):
        self.rows = rows

    def __str__(self) -> str:
        if not self.rows:
            return "No recurrent layers."
        return table(("layer", "class", "path", "why"), self.rows)

    __repr__ = __str__


def explain(layer_or_model: Any) -> Explanation:
    """Which way every recurrent layer of a model takes, and why.

    Args:
        layer_or_model: a Keras layer or model; nested models and wrappers (Bidirectional,
            TimeDistributed) are walked through.

    Returns:
        An `Explanation`: print it.

    Raises:
        ValueError: `layer_or_model` is not a Keras layer.
    """
    import keras

    if not isinstance(layer_or_model, keras.layers.Layer):
        raise ValueError(
            f"layer_or_model is {type(layer_or_model).__name__}, needed is a Keras layer or model."
        )
    rows: List[Row] = []
    # Some replace keras.layers.RNN by ours, which is not the base of all.
    ours = sys.modules.get("masked_rnn.layers")
    recurrent = keras.layers.RNN if ours is None else ours.KerasRNN
    _walk(layer_or_model, "", rows, set(), recurrent)
    return Explanation(rows)


def report(layer: Any, reason: str) -> None:
    """Warns (once), raises or keeps silent about a layer that falls back.

    Args:
        layer: the layer; its attribute `_warned_of_fallback` says whether it has warned before.
        reason: why the fused op does not take it.

    Raises:
        RuntimeError: MASKED_RNN_FALLBACK=error.
        ValueError: MASKED_RNN_FALLBACK is something unknown.
    """
    what = f"masked_rnn.{type(layer).__name__} '{layer.name}' runs Keras's generic loop"
    if _say(f"{what}, not the fused op: {reason}.", said=layer._warned_of_fallback):
        layer._warned_of_fallback = True


def report_function(cell: str, reason: str) -> None:
    """The same for a call of a function, whose `cell` is a name that `ops.rnn` takes."""
    _say(f"A masked_rnn function ({cell}) runs TensorFlow operations step by step, not the fused op: "
         f"{reason}.")  # fmt: skip


def _say(message, said=False):
    """-> whether it has warned. `said`: it need not again."""
    choice = os.environ.get("MASKED_RNN_FALLBACK", "") or "warn"
    if choice not in _CHOICES:
        raise ValueError(
            f"The environment variable MASKED_RNN_FALLBACK is {choice!r}, needed is one of "
            f"{', '.join(_CHOICES)}."
        )
    if choice == "error":
        raise RuntimeError(f"{message} (MASKED_RNN_FALLBACK=error)")
    if choice == "allow" or said:
        return False
    advice = "MASKED_RNN_FALLBACK=allow silences this, MASKED_RNN_FALLBACK=error forbids it."
    warnings.warn(f"{message} {advice}", FallbackWarning, stacklevel=3)
    return True


def _walk(layer, prefix, rows, seen, recurrent):
    if id(layer) in seen:
        return
    seen.add(id(layer))
    name = f"{prefix}{layer.name}"
    if isinstance(layer, recurrent):
        rows.append(_row(layer, name))
        return  # its cells are no layers of their own
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        _walk(inner, f"{name}/", rows, seen, recurrent)


def _row(layer, name):
    kind = type(layer).__name__
    reason_of = getattr(layer, "_fallback_reason", None)
    if reason_of is None:
        kind = f"keras.layers.{kind}" if type(layer).__module__.startswith("keras") else kind
        cell = type(layer.cell).__name__
        advice = f"use masked_rnn.{type(layer).__name__}, or masked_rnn.accelerate(model)"
        if type(layer).__name__ not in ("GRU", "LSTM", "SimpleRNN", "RNN"):
            advice = f"masked_rnn has no {kind} of {cell}"
        return Row(name, kind, "Keras loop", f"not a masked_rnn layer: {advice}")
    kind = f"masked_rnn.{kind}" if type(layer).__module__.startswith("masked_rnn") else kind
    reason = reason_of()
    if reason is not None:
        return Row(name, kind, "Keras loop", reason)
    return Row(name, kind, "fused", "the op takes every mask and option (not under XLA)")
