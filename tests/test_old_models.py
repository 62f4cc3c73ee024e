"""Configurations and .h5 files that Keras 2 wrote, and weights of TensorFlow 1's cells."""

import json

import numpy as np
import pytest

from .pairs import CLASSES, NAMES, check_equal, keras, masked_rnn, message_of, shake

B, T, F, H = 3, 5, 2, 4
both = pytest.mark.parametrize("name", NAMES)
convert = masked_rnn.convert


def rand(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tf_keras_config(name):
    """What tf.keras 2.15 wrote of a layer."""
    config = {
        "name": name.lower(), "trainable": True, "dtype": "float32", "return_sequences": True,
        "return_state": False, "go_backwards": False, "stateful": False, "unroll": False,
        "time_major": False, "units": H, "activation": "tanh", "use_bias": True,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "recurrent_initializer": {
            "class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None},
        },
        "bias_initializer": {"class_name": "Zeros", "config": {}},
        "kernel_regularizer": None, "recurrent_regularizer": None, "bias_regularizer": None,
        "activity_regularizer": None, "kernel_constraint": None, "recurrent_constraint": None,
        "bias_constraint": None, "dropout": 0.0, "recurrent_dropout": 0.0,
    }  # fmt: skip
    if name != "SimpleRNN":
        config |= {"recurrent_activation": "sigmoid", "implementation": 2}
    if name == "GRU":
        config["reset_after"] = True
    if name == "LSTM":
        config["unit_forget_bias"] = True
    return config


OLDER = [
    {},
    {"implementation": 0},
    {"dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}},
    {"batch_input_shape": [None, T, F]},
    {"input_length": T},
    {
        "kernel_initializer": {
            "class_name": "VarianceScaling",
            "config": {
                "scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None,
                "dtype": "float32",
            },
        }
    },
]  # fmt: skip


@pytest.mark.parametrize("older", OLDER, ids=lambda o: "".join(o) or "2.15")
@pytest.mark.parametrize("name", [*NAMES, "SimpleRNN"])
def test_configurations(name, older):
    config = {**tf_keras_config(name), **older}
    before = json.dumps(config)
    layer = getattr(masked_rnn, name).from_config(config)
    assert layer.units == H and layer.return_sequences
    assert json.dumps(config) == before
    model = keras.Sequential([keras.Input((T, F)), layer])
    assert model(rand(B, T, F)).shape == (B, T, H)
    new = type(layer).from_config(layer.get_config())
    assert new.get_config() == layer.get_config() and "time_major" not in layer.get_config()


@pytest.mark.parametrize("name", [*NAMES, "SimpleRNN"])
def test_time_major(name):
    kind = getattr(masked_rnn, name)
    assert kind(H, time_major=False).units == H
    for call in (
        lambda: kind(H, time_major=True),
        lambda: kind.from_config({**tf_keras_config(name), "time_major": True}),
    ):
        assert "time_major" in message_of(call, ValueError)
    cell = {"module": "keras.layers", "class_name": f"{name}Cell", "config": {"units": H}}
    cell["config"]["kernel_initializer"] = {
        "class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"},
    }  # fmt: skip
    config = {"cell": cell, "time_major": False, "return_sequences": True}
    assert masked_rnn.RNN.from_config(config)(rand(B, T, F)).shape == (B, T, H)


def sequential_h5(path, layers, weights, in_input_layer=False, weights_only=False):
    """An .h5 file as Keras 2.2.4 wrote it."""
    import h5py

    if in_input_layer:
        first = {"class_name": "InputLayer", "config": {
            "name": "i", "batch_input_shape": [None, T, F], "dtype": "float32"}}  # fmt: skip
        layers = [first, *layers]
    else:
        layers[0]["config"]["batch_input_shape"] = [None, T, F]
    with h5py.File(path, "w") as file:
        group = file if weights_only else file.create_group("model_weights")
        for holder in {file, group}:
            holder.attrs["keras_version"], holder.attrs["backend"] = "2.2.4", "tensorflow"
        if not weights_only:
            config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
            file.attrs["model_config"] = json.dumps(config)
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            inner = group.create_group(name)
            names = [f"{name}/{i}:0" for i in range(len(arrays))]
            inner.attrs["weight_names"] = [n.encode() for n in names]
            for n, array in zip(names, arrays):
                inner[n] = array


def cudnn_weights(name, features=F, units=H, seed=0):
    gates = {"GRU": 3, "LSTM": 4}[name]
    return [
        0.5 * rand(features, gates * units, seed=seed),
        0.5 * rand(units, gates * units, seed=seed),
        0.5 * rand(2 * gates * units, seed=seed),
    ]


def cudnn_outputs(name, x, weights):
    """What cuDNN computes: y = W x + R h + b + c, where a gate's W is the buffer of its slice of
    the kernel, read as [units, features]."""
    kernel, recurrent, bias = weights
    gates, units = kernel.shape[1] // recurrent.shape[0], recurrent.shape[0]

    def matrices(x):
        return [part.reshape(-1).reshape(units, -1) for part in np.split(x, gates, axis=1)]

    W, R = matrices(kernel), matrices(recurrent)
    b, c = np.split(bias[: gates * units], gates), np.split(bias[gates * units :], gates)
    h, cell, outputs = np.zeros((len(x), units)), np.zeros((len(x), units)), []
    for t in range(x.shape[1]):
        inputs = [x[:, t] @ w.T + v for w, v in zip(W, b)]
        states = [h @ r.T + v for r, v in zip(R, c)]
        both = [a + s for a, s in zip(inputs, states)]
        if name == "GRU":
            z, r = sigmoid(both[0]), sigmoid(both[1])
            h = z * h + (1 - z) * np.tanh(inputs[2] + r * states[2])
        else:
            cell = sigmoid(both[1]) * cell + sigmoid(both[0]) * np.tanh(both[2])
            h = sigmoid(both[3]) * np.tanh(cell)
        outputs.append(h)
    return np.stack(outputs, axis=1)


@both
@pytest.mark.parametrize("in_input_layer", [False, True])
def test_h5_of_cudnn_layers(name, in_input_layer, tmp_path):
    path, weights = tmp_path / "old.h5", cudnn_weights(name)
    layer = {
        "class_name": f"CuDNN{name}", "config": {"name": "rnn", "units": H,
        "return_sequences": True, "stateful": False, "go_backwards": False, "trainable": True},
    }  # fmt: skip
    sequential_h5(path, [layer], {"rnn": weights}, in_input_layer)
    ours = CLASSES[name][1]
    model = keras.models.load_model(path, custom_objects={f"CuDNN{name}": ours}, compile=False)
    assert type(model.layers[-1]) is ours
    x = rand(B, T, F)
    check_equal(model(x), cudnn_outputs(name, x, weights), 1e-5)
    check_equal(model.layers[-1].get_weights(), getattr(convert, f"cudnn_{name.lower()}")(*weights))


@both
def test_h5_of_cudnn_layers_in_bidirectional(name, tmp_path):
    path = tmp_path / "old.h5"
    forward, backward = cudnn_weights(name), cudnn_weights(name, seed=1)
    dense = [rand(2 * H, 2), rand(2)]
    inner = {"class_name": f"CuDNN{name}", "config": {"name": "r", "units": H,
             "return_sequences": True}}  # fmt: skip
    wrapper = {"class_name": "Bidirectional", "config": {"name": "b", "layer": inner}}
    last = {"class_name": "Dense", "config": {"name": "d", "units": 2}}
    weights = {"b": forward + backward, "d": dense}
    sequential_h5(path, [wrapper, last], weights, in_input_layer=True)
    model = keras.models.load_model(
        path, custom_objects={f"CuDNN{name}": CLASSES[name][1]}, compile=False
    )
    x = rand(B, T, F)
    back = cudnn_outputs(name, x[:, ::-1], backward)[:, ::-1]
    want = np.concatenate([cudnn_outputs(name, x, forward), back], axis=-1) @ dense[0] + dense[1]
    check_equal(model(x), want, 1e-5)


@both
def test_h5_of_weights_alone_and_of_todays_layers(name, tmp_path):
    path, weights = tmp_path / "old.h5", cudnn_weights(name)
    sequential_h5(path, [{"config": {}}], {"rnn": weights}, weights_only=True)
    model = keras.Sequential([keras.Input((T, F)), CLASSES[name][1](H, return_sequences=True)])
    model.load_weights(path)
    x = rand(B, T, F)
    check_equal(model(x), cudnn_outputs(name, x, weights), 1e-5)
    if name == "GRU":
        model = keras.Sequential([keras.Input((T, F)), masked_rnn.GRU(H, reset_after=False)])
        assert "reset_after" in message_of(lambda: model.load_weights(path), ValueError)
    # What needs no conversion is left alone.
    todays = shake(keras.Sequential([keras.Input((T, F)), CLASSES[name][1](H)])).get_weights()
    sequential_h5(path, [{"config": {}}], {"rnn": todays}, weights_only=True)
    model = keras.Sequential([keras.Input((T, F)), CLASSES[name][1](H)])
    model.load_weights(path)
    check_equal(model.get_weights(), todays, 0)


def test_lstm_of_tensorflow_1():
    kernel, bias = 0.5 * rand(F + H, 4 * H), rand(4 * H)
    x = rand(B, T, F)
    for forget_bias in (1.0, 0.0):
        layer = masked_rnn.LSTM(H, return_sequences=True)
        layer.build((None, None, F))
        layer.set_weights(convert.lstm_cell(kernel, bias, forget_bias))
        h = c = np.zeros((B, H))
        want = []
        for t in range(T):
            i, j, f, o = np.split(np.concatenate([x[:, t], h], 1) @ kernel + bias, 4, axis=1)
            c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            want.append(h)
        check_equal(layer(x), np.stack(want, 1), 1e-5)


def test_gru_of_tensorflow_1():
    gates, gates_bias = 0.5 * rand(F + H, 2 * H), rand(2 * H)
    candidate, candidate_bias = 0.5 * rand(F + H, H), rand(H)
    layer = masked_rnn.GRU(H, reset_after=False, return_sequences=True)
    layer.build((None, None, F))
    layer.set_weights(convert.gru_cell(gates, gates_bias, candidate, candidate_bias))
    x, h, want = rand(B, T, F), np.zeros((B, H)), []
    for t in range(T):
        value = sigmoid(np.concatenate([x[:, t], h], 1) @ gates + gates_bias)
        r, u = np.split(value, 2, axis=1)
        c = np.tanh(np.concatenate([x[:, t], r * h], 1) @ candidate + candidate_bias)
        h = u * h + (1 - u) * c
        want.append(h)
    check_equal(layer(x), np.stack(want, 1), 1e-5)


def test_basic_rnn_of_tensorflow_1():
    kernel, bias = 0.5 * rand(F + H, H), rand(H)
    layer = masked_rnn.SimpleRNN(H, return_sequences=True)
    layer.build((None, None, F))
    layer.set_weights(convert.basic_rnn_cell(kernel, bias))
    x, h, want = rand(B, T, F), np.zeros((B, H)), []
    for t in range(T):
        h = np.tanh(np.concatenate([x[:, t], h], 1) @ kernel + bias)
        want.append(h)
    check_equal(layer(x), np.stack(want, 1), 1e-5)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: convert.lstm_cell(rand(6, 16), rand(15)), "bias"),
        (lambda: convert.lstm_cell(rand(6, 12), rand(16)), "kernel"),
        (lambda: convert.lstm_cell(rand(4, 16), rand(16)), "kernel"),
        (lambda: convert.gru_cell(rand(6, 8), rand(8), rand(6, 4), rand(5)), "candidate"),
        (lambda: convert.gru_cell(rand(5, 8), rand(8), rand(6, 4), rand(4)), "gates_kernel"),
        (lambda: convert.gru_cell(rand(6, 8), rand(7), rand(6, 4), rand(4)), "gates_bias"),
        (lambda: convert.basic_rnn_cell(rand(6, 4), rand(4, 1)), "bias"),
        (lambda: convert.cudnn_gru(rand(2, 12), rand(4, 12), rand(12)), "recurrent_kernel"),
        (lambda: convert.cudnn_lstm(rand(2, 12), rand(4, 16), rand(32)), "kernel"),
    ],
)
def test_arrays_that_do_not_fit(call, word):
    assert word in message_of(call, ValueError)
