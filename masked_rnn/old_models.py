"""Configurations and .h5 files of Keras 2, as our layers understand them.

Keras 3 refuses some of what Keras 2 wrote for every recurrent layer, and has no CuDNNGRU and
CuDNNLSTM. A configuration is brought up to date here. The weights of the CuDNN layers are, when
an .h5 file is loaded, told by their shapes: Keras's loader has no hook for a layer, so the one
function of it that sets weights is wrapped; it does what it did for any weights but these.
"""

import copy
import functools

from masked_rnn import convert

_INITIALIZERS = ("kernel_initializer", "recurrent_initializer", "bias_initializer")


def up_to_date(config: dict, implementation: bool = True) -> dict:
    """A copy of a recurrent layer's configuration without what only Keras 2 knew.

    Args:
        config: of a layer, or of an RNN with its cell.
        implementation: whether the layer takes this argument.

    Raises:
        ValueError: time_major=True.
    """
    config = copy.deepcopy(config)
    drop_time_major(config)
    for name in ("input_length", "dynamic"):
        config.pop(name, None)
    if not implementation:
        config.pop("implementation", None)
    shape = config.pop("batch_input_shape", None)
    if shape is not None:
        config["input_shape"] = shape
    # Keras's loader of .h5 files calls the shape with its batch size so.
    if len(config.get("input_shape") or ()) == 3:
        config["input_shape"] = tuple(config["input_shape"][1:])
    policy = config.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") in ("Policy", "PolicyV1"):
        config["dtype"] = policy["config"]["name"]
    for name in _INITIALIZERS:
        _initializer(config.get(name))
    cell = config.get("cell")
    for inner in [cell] if isinstance(cell, dict) else []:
        for each in [inner, *inner.get("config", {}).get("cells", [])]:
            for name in _INITIALIZERS:
                _initializer(each.get("config", {}).get(name))
    return config


def drop_time_major(arguments: dict) -> None:
    """Takes time_major=False out of a layer's arguments.

    Raises:
        ValueError: it is True.
    """
    if arguments.pop("time_major", False):
        raise ValueError(
            "time_major is True, needed is False: Keras 3 has batch-major layers only, so "
            "transpose inputs and outputs outside."
        )


def watch_h5_weights() -> None:
    """Has Keras's loader of .h5 files convert weights of CuDNN layers for ours. Idempotent."""
    try:
        from keras.src.legacy.saving import legacy_h5_format
    except ImportError:  # pragma: no cover
        return
    original = getattr(legacy_h5_format, "_set_weights", None)
    if original is None or hasattr(original, "_of_masked_rnn"):
        return

    @functools.wraps(original)
    def set_weights(instance, symbolic_weights, weight_values, *args, **kwargs):
        values = _from_cudnn(instance, symbolic_weights, weight_values)
        return original(instance, symbolic_weights, values, *args, **kwargs)

    set_weights._of_masked_rnn = True
    legacy_h5_format._set_weights = set_weights


def _from_cudnn(instance, variables, values):
    """`values` with those of CuDNN layers converted, for the layers of ours in `instance`."""
    from masked_rnn import layers

    values, place = list(values), {id(v): i for i, v in enumerate(variables)}
    for layer in instance._flatten_layers():
        if isinstance(layer, layers.GRU):
            converted, gates = convert.cudnn_gru, 3
        elif isinstance(layer, layers.LSTM):
            converted, gates = convert.cudnn_lstm, 4
        else:
            continue
        cell = layer.cell
        three = [getattr(cell, n, None) for n in ("kernel", "recurrent_kernel", "bias")]
        at = [place.get(id(v), len(values)) for v in three]
        if max(at) >= len(values) or values[at[2]].shape != (2 * gates * cell.units,):
            continue
        if isinstance(layer, layers.GRU) and not cell.reset_after:
            raise ValueError(
                f"layer '{layer.name}' has reset_after=False, needed is True for the weights of a "
                "CuDNNGRU."
            )
        for i, value in zip(at, converted(*[values[i] for i in at])):
            values[i] = value
    return values


def _initializer(config):
    """Initializers of TensorFlow 1 name a dtype; Keras 3's take none."""
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        config["config"].pop("dtype", None)
