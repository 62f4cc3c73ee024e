"""`masked_rnn.accelerate` and `to_keras` on models of every kind that Keras makes."""

import numpy as np
import pytest

from .pairs import check_equal, keras, masked_rnn, message_of, shake, tf

L = keras.layers
B, T, F = 4, 6, 3
HOLES = np.array(
    [[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool
)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_x(shape=(B, T, F)):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    x[..., :, :][~np.broadcast_to(HOLES, shape[:-1])] = 0.0
    return x


def targets():
    return np.random.default_rng(1).standard_normal((B, 1)).astype("float32")


def sequential():
    return keras.Sequential(
        [
            keras.Input((None, F)),
            L.Masking(),
            L.Bidirectional(L.LSTM(4, return_sequences=True)),
            L.RNN([L.GRUCell(3), L.LSTMCell(4)], return_sequences=True),
            L.SimpleRNN(3, return_sequences=True, go_backwards=True),
            L.GRU(2),
            L.Dense(1),
        ]
    )


def functional():
    inputs = keras.Input((T, F))
    masked = L.Masking()(inputs)
    inner_input = keras.Input((T, F))
    inner = keras.Model(inner_input, L.GRU(4, return_sequences=True)(inner_input), name="inner")
    shared = L.LSTM(4, return_sequences=True, return_state=True)
    _, h, c = shared(inner(inputs))
    hidden, *_ = shared(inner(inputs), initial_state=[h, c], mask=masked._keras_mask)
    folded = L.TimeDistributed(L.GRU(2))(L.Reshape((3, 2, F))(inputs))
    return keras.Model(inputs, L.Dense(1)(L.Concatenate()([L.GRU(3)(folded), L.LSTM(2)(hidden)])))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.masking = L.Masking()
        self.first = L.GRU(4, return_sequences=True)
        self.others = [L.LSTM(3, return_sequences=True), {"last": L.Bidirectional(L.GRU(2))}]
        self.dense = L.Dense(1)

    def call(self, x):
        return self.dense(self.others[1]["last"](self.others[0](self.first(self.masking(x)))))


MODELS = {"sequential": sequential, "functional": functional, "subclassed": Subclassed}
every_model = pytest.mark.parametrize("kind", MODELS)


def made(kind):
    keras.utils.set_random_seed(3)
    model = MODELS[kind]()
    model(make_x())
    # Tracing Keras's loops and their gradients takes long; `test_traced_functions` does it once.
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return shake(model)


def recurrent(model):
    found = [x for x in model._flatten_layers() if isinstance(x, masked_rnn.layers.KerasRNN)]
    assert found
    return found


@every_model
def test_in_place_with_equal_outputs_and_training_that_goes_on(kind):
    x, y = make_x(), targets()
    accelerated, untouched = made(kind), made(kind)
    for model in (accelerated, untouched):
        model.fit(x, y, verbose=0)
    weights, state = list(accelerated.weights), list(accelerated.optimizer.variables)
    names = [layer.name for layer in accelerated._flatten_layers()]
    objects = [id(layer) for layer in accelerated._flatten_layers()]

    assert masked_rnn.accelerate(accelerated) is accelerated

    assert [id(w) for w in accelerated.weights] == [id(w) for w in weights]
    assert [id(v) for v in accelerated.optimizer.variables] == [id(v) for v in state]
    assert [layer.name for layer in accelerated._flatten_layers()] == names
    assert [id(layer) for layer in accelerated._flatten_layers()] == objects
    assert all(type(r).__module__.startswith("masked_rnn") for r in recurrent(accelerated))
    check_equal(accelerated(x), untouched(x), 1e-5)
    want = untouched.fit(x, y, verbose=0, epochs=2).history["loss"]
    got = accelerated.fit(x, y, verbose=0, epochs=2).history["loss"]
    np.testing.assert_allclose(got, want, 1e-4)
    assert {row.path for row in masked_rnn.explain(accelerated).rows} == {"fused"}

    assert masked_rnn.to_keras(accelerated) is accelerated
    assert all(type(r).__module__.startswith("keras.") for r in recurrent(accelerated))
    assert [r.supports_jit for r in recurrent(accelerated)] == [
        r.supports_jit for r in recurrent(untouched)
    ]
    check_equal(accelerated(x), untouched(x), 1e-5)


def test_traced_functions():
    x, y = make_x(), targets()
    model = keras.Sequential([keras.Input((T, F)), L.Masking(), L.GRU(3), L.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, verbose=0)
    want = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
    traced = model.train_function, model.test_function, model.predict_function
    masked_rnn.accelerate(model)
    check_equal([model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)], list(want), 1e-5)
    model.fit(x, y, verbose=0)
    now = model.train_function, model.test_function, model.predict_function
    assert not any(a is b for a, b in zip(now, traced))


@every_model
def test_what_is_traced_and_graphs_hold_the_op(kind):
    model = masked_rnn.accelerate(made(kind))
    for ours in (True, False):
        call = tf.function(lambda x: model(x, training=False))
        graph = call.get_concrete_function(make_x()).graph.as_graph_def()
        nodes = [n for f in graph.library.function for n in f.node_def]
        found = any(n.op.startswith("MaskedRnn") for n in [*graph.node, *nodes])
        assert found == ours
        masked_rnn.to_keras(model)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_files(kind, tmp_path):
    x, model = make_x(), made(kind)
    model.fit(x, targets(), verbose=0)
    want = model(x)
    model.save(tmp_path / "keras.keras")

    loaded = masked_rnn.accelerate(keras.models.load_model(tmp_path / "keras.keras"))
    check_equal(loaded(x), want, 1e-5)
    loaded.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert all(type(r).__module__.startswith("masked_rnn") for r in recurrent(again))
    check_equal(again(x), want, 1e-5)
    for a, b in zip(again.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(a.numpy(), b.numpy())

    masked_rnn.to_keras(again).save(tmp_path / "back.keras")
    config = keras.models.load_model(tmp_path / "back.keras").to_json()
    assert "masked_rnn" not in config
    model.save_weights(tmp_path / "w.weights.h5")
    loaded.load_weights(tmp_path / "w.weights.h5")


class MyGRU(L.GRU):
    pass


def test_report_says_what_was_left_and_why(capsys):
    patched = L.GRU(2, return_sequences=True, name="patched")
    patched.inner_loop = patched.inner_loop
    model = keras.Sequential(
        [
            keras.Input((T, F)),
            L.LSTM(3, return_sequences=True, name="swapped"),
            MyGRU(3, return_sequences=True, name="mine"),
            L.GRU(2, activation=lambda x: x, return_sequences=True, name="lambda"),
            patched,
            masked_rnn.GRU(2, return_sequences=True, name="ours"),
            L.Reshape((T, 1, 2)),
            L.ConvLSTM1D(2, 1, name="conv"),
        ],
        name="m",
    )
    kinds = [type(layer) for layer in model.layers]
    masked_rnn.accelerate(model, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    for name, word in (
        ("swapped", "masked_rnn.LSTM"),
        ("mine", "subclass"),
        ("lambda", "custom"),
        ("patched", "inner_loop"),
        ("ours", "already ours"),
        ("conv", "no such layer"),
    ):
        assert any(line.startswith(f"m/{name} ") and word in line for line in lines), name
    changed = [k is not type(layer) for k, layer in zip(kinds, model.layers)]
    assert changed == [True, False, False, False, False, False, False]
    masked_rnn.accelerate(keras.Sequential([L.Dense(1)]), verbose=True)
    assert "No recurrent layers" in capsys.readouterr().out


def test_a_layer_alone_and_an_unbuilt_one():
    layer = L.GRU(4, dtype="bfloat16", return_sequences=True)
    assert type(masked_rnn.accelerate(layer)) is masked_rnn.GRU
    assert layer(make_x(), sequence_length=[1, 2, 0, 6]).shape == (B, T, 4)
    assert layer.supports_jit is False
    for wrong in (None, [layer], "model"):
        assert "model" in message_of(lambda: masked_rnn.accelerate(wrong), ValueError)
        assert "model" in message_of(lambda: masked_rnn.to_keras(wrong), ValueError)


def test_our_bidirectional_goes_back_and_a_mask_from_lengths_is_named(capsys):
    inputs, lengths = keras.Input((T, F)), keras.Input((), dtype="int32")
    hidden = masked_rnn.Bidirectional(masked_rnn.GRU(2))(inputs, sequence_length=lengths)
    model = keras.Model([inputs, lengths], hidden)
    x, n = make_x(), np.array([6, 0, 3, 1], "int32")
    want = model([x, n])
    masked_rnn.to_keras(model, verbose=True)
    assert "SequenceMask" in capsys.readouterr().out
    assert type(model.layers[-1]) is L.Bidirectional
    check_equal(model([x, n]), want, 1e-5)


class Traced(keras.Model):
    def __init__(self):
        super().__init__()
        self.rnn = L.GRU(3)
        self.held = tf.function(lambda x: self.rnn(x))

    @tf.function
    def step(self, x):
        return self.rnn(x)


def test_traces_under_tf_function_are_forgotten():
    model, x = Traced(), tf.constant(make_x())
    before = model.step(x), model.held(x)
    masked_rnn.accelerate(model)
    check_equal([model.step(x), model.held(x)], list(before), 1e-5)
    for function in (model.step, model.held):
        ops = {n.type for n in function.get_concrete_function(x).graph.get_operations()}
        assert "MaskedRnnLast" in ops


def test_compiled_for_xla_no_more():
    model = keras.Sequential([keras.Input((T, F)), L.SimpleRNN(3), L.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile
    masked_rnn.accelerate(model)
    assert not model.jit_compile
    model.fit(make_x(), targets(), verbose=0)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_tflite_of_what_went_back(name):
    interpreter = getattr(getattr(tf, "lite", None), "Interpreter", None)
    if interpreter is None:
        pytest.skip("this TensorFlow has no TFLite interpreter")
    model = keras.Sequential(
        [
            keras.Input((T, F), batch_size=1),
            L.Masking(),
            getattr(masked_rnn, name)(4, return_sequences=True),
            masked_rnn.Bidirectional(getattr(masked_rnn, name)(3)),
            L.Dense(2),
        ]
    )
    shake(model)
    x = make_x()[1:2]
    want = model(x)
    masked_rnn.to_keras(model)
    run = interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], x)
    run.invoke()
    check_equal(run.get_tensor(run.get_output_details()[0]["index"]), want, 1e-5)
