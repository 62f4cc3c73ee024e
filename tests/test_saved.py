"""Files: weights both ways with Keras, .keras and .h5 of ours, SavedModels, in new processes."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from .pairs import CLASSES, NAMES, check_equal, keras, make_pair, masked_rnn, shake, tf

B, T, F, H = 3, 5, 2, 4
MASK = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 1, 0]], bool)
both = pytest.mark.parametrize("name", NAMES)
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]


def make_x():
    x = np.random.default_rng(0).standard_normal((B, T, F)).astype("float32")
    x[~MASK] = 0.0
    return x


def make_model(kind):
    """Every way in which a layer stands in a model: bare, wrapped, masked, with options."""
    return shake(
        keras.Sequential(
            [
                keras.Input((None, F)),
                keras.layers.Masking(),
                kind(H, return_sequences=True, activation="relu", go_backwards=True),
                keras.layers.Bidirectional(kind(3, return_sequences=True, use_bias=False)),
                kind(2, dropout=0.2, recurrent_dropout=0.1, zero_output_for_mask=True),
            ]
        )
    )


def in_new_process(code, *arguments):
    """Runs code with only what it imports itself."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    folder = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))
    environment["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@both
def test_weights_files_go_both_ways(name, tmp_path):
    models = [make_model(kind) for kind in CLASSES[name]]
    x, path = make_x(), tmp_path / "model.weights.h5"
    for source, target in (models, models[::-1]):
        shake(source, seed=3)
        shake(target, seed=4)
        source.save_weights(path)
        target.load_weights(path)
        for a, b in zip(source.get_weights(), target.get_weights()):
            np.testing.assert_array_equal(a, b)
        check_equal(target(x), source(x), 1e-6)


@both
def test_weight_lists_are_keras(name):
    keras_layer, layer = make_pair(name, F, units=H)
    assert [w.path.split("/", 1)[1] for w in layer.weights] == [
        w.path.split("/", 1)[1] for w in keras_layer.weights
    ]
    layer.set_weights(keras_layer.get_weights())


@both
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_model_files(name, suffix, tmp_path):
    model, path = make_model(CLASSES[name][1]), tmp_path / f"model.{suffix}"
    x = make_x()
    model.save(path)
    loaded = keras.models.load_model(path, compile=False)
    assert type(loaded.layers[-1]) is CLASSES[name][1]
    check_equal(loaded(x), model(x), 0)
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()


@both
def test_config_round_trip(name):
    layer = CLASSES[name][1](
        H, activation="elu", recurrent_activation=None, use_bias=False, dropout=0.1,
        recurrent_dropout=0.2, seed=3, return_sequences=True, return_state=True,
        go_backwards=True, stateful=True, unroll=True, zero_output_for_mask=True,
        kernel_regularizer="l2", bias_constraint="non_neg", recurrent_initializer="identity",
        dtype="mixed_float16",
    )  # fmt: skip
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    keras_layer = CLASSES[name][0].from_config(layer.get_config())
    assert keras_layer.get_config() == layer.get_config()
    assert CLASSES[name][1].from_config(keras_layer.get_config()).get_config() == layer.get_config()


@both
def test_constant_mask_and_states_in_a_functional_model(name, tmp_path):
    x = make_x()
    states = [np.full((B, H), i + 1, "float32") for i in range(1 + (name == "LSTM"))]
    inputs = keras.Input((T, F), batch_size=B)
    outputs = CLASSES[name][1](H)(
        inputs, mask=tf.constant(MASK), initial_state=[tf.constant(s) for s in states]
    )
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    check_equal(loaded(x), model(x), 0)


LOAD = """
    import sys
    import masked_rnn, keras, numpy as np
    x, want = np.load(sys.argv[2]), np.load(sys.argv[3])
    model = keras.models.load_model(sys.argv[1], compile=False)
    np.testing.assert_array_equal(model.predict(x, verbose=0), want)
    assert type(model.layers[-1]).__module__ == "masked_rnn.layers"
"""


def test_keras_files_load_in_a_new_process(tmp_path):
    model, x = make_model(masked_rnn.GRU), make_x()
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x, verbose=0))
    files = [tmp_path / n for n in ("m.keras", "x.npy", "y.npy")]
    in_new_process(LOAD, *files)


SERVE_AND_TRAIN = """
    import sys
    import masked_rnn
    import numpy as np, tensorflow as tf
    assert "masked_rnn.ops" in sys.modules
    loaded = tf.saved_model.load(sys.argv[1])
    x, want = tf.constant(np.load(sys.argv[2])), np.load(sys.argv[3])
    np.testing.assert_array_equal(loaded.serve(x), want)
    np.testing.assert_allclose(loaded.serve(x[:1, :3]), loaded.serve(x)[:1], atol=1e-6)
    variables = loaded.trainable_variables
    assert variables

    def loss(x):
        return tf.reduce_sum((loaded.serve(x) - 1) ** 2)

    def step(x):
        with tf.GradientTape() as tape:
            value = loss(x)
        gradients = tape.gradient(value, variables)
        assert all(g is not None for g in gradients)
        return value, gradients

    # In eager, in a graph, and by finite differences.
    value, gradients = step(x)
    for a, b in zip(gradients, tf.function(step)(x)[1]):
        np.testing.assert_allclose(a, b, atol=1e-5)
    directions = [tf.random.stateless_normal(v.shape, [i, 1]) for i, v in enumerate(variables)]
    start = [tf.identity(v) for v in variables]
    values = []
    for sign in (1, -1):
        for v, s, d in zip(variables, start, directions):
            v.assign(s + sign * 1e-3 * d)
        values.append(loss(x))
    slope = sum(tf.reduce_sum(g * d) for g, d in zip(gradients, directions))
    np.testing.assert_allclose((values[0] - values[1]) / 2e-3, slope, rtol=2e-2, atol=1e-3)
    for v, s, g in zip(variables, start, gradients):
        v.assign(s - 0.01 * g)
    assert loss(x) < value
"""


def test_saved_model_serves_and_trains_in_a_new_process(tmp_path):
    x = make_x()
    model = shake(
        keras.Sequential(
            [
                keras.Input((None, F)),
                keras.layers.Masking(),
                keras.layers.Bidirectional(masked_rnn.LSTM(H, return_sequences=True)),
                masked_rnn.GRU(3),
            ]
        )
    )
    model.export(tmp_path / "saved", verbose=False)
    graph = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"].graph
    nodes = [n for f in graph.as_graph_def().library.function for n in f.node_def]
    fused = [n for n in nodes if n.op.startswith("MaskedRnn")]
    assert fused and not any(n.attr["keep_reserve"].b for n in fused)
    assert not any("while" in n.op.lower() or "cudnn" in n.op.lower() for n in nodes)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model(x))
    in_new_process(SERVE_AND_TRAIN, *[tmp_path / n for n in ("saved", "x.npy", "y.npy")])


def test_tf_saved_model_of_a_module_with_training_step(tmp_path):
    """A SavedModel that holds the gradient itself."""

    class Module(tf.Module):
        def __init__(self):
            kernel = np.random.default_rng(0).standard_normal((F, 3 * H))
            self.kernel = tf.Variable(kernel, dtype="float32")

        @tf.function(input_signature=[tf.TensorSpec([None, None, F])])
        def gradient(self, x):
            with tf.GradientTape() as tape:
                y, _ = masked_rnn.gru(x, self.kernel, tf.ones([H, 3 * H]) / H)
                value = tf.reduce_sum(y**2)
            return tape.gradient(value, self.kernel)

    module, x = Module(), make_x()
    tf.saved_model.save(module, tmp_path / "module")
    loaded = tf.saved_model.load(tmp_path / "module")
    check_equal(loaded.gradient(x), module.gradient(x), 1e-6)
