"""What the fused op cannot take: Keras's loop, checked and masked the same way, and the warning."""

import itertools
import warnings

import numpy as np
import pytest

from .pairs import (
    CLASSES,
    NAMES,
    STATES,
    check_equal,
    keras,
    make_pair,
    masked_rnn,
    message_of,
    results_and_gradients,
    tf,
)

B, T, F, H = 4, 5, 3, 4
MASK = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
both = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def custom(x):
    return tf.sin(x)


def make_x(dtype="float64"):
    return np.random.default_rng(1).standard_normal((B, T, F)).astype(dtype)


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "allow")


@both
def test_it_warns_once_a_layer_and_names_the_reason(name):
    layer = CLASSES[name][1](H, activation=custom, name="mine")
    with pytest.warns(masked_rnn.FallbackWarning, match="mine.*activation=custom"):
        layer(make_x())
    layer(make_x())  # warnings are errors in these tests
    other = CLASSES[name][1](H, recurrent_activation=lambda x: x)
    with pytest.warns(masked_rnn.FallbackWarning, match="recurrent_activation=<lambda>"):
        other(make_x())
    assert issubclass(masked_rnn.FallbackWarning, UserWarning)


@both
def test_the_environment_decides(name, monkeypatch):
    layer = CLASSES[name][1](H, activation=custom)
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "error")
    assert "activation" in message_of(lambda: layer(make_x()), RuntimeError)
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "nonsense")
    assert "MASKED_RNN_FALLBACK" in message_of(lambda: layer(make_x()), ValueError)
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "allow")
    layer(make_x())
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "warn")
    with pytest.warns(masked_rnn.FallbackWarning):
        layer(make_x())
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "error")
    fused = CLASSES[name][1](H, activation=tf.nn.relu)
    fused(make_x())


@both
def test_numbers_and_gradients_are_keras(name, allowed):
    states = [s for s in np.random.default_rng(3).standard_normal((STATES[name], B, H))]
    for sequences, zero, back, unroll in itertools.product((False, True), repeat=4):
        options = {
            "units": H, "return_sequences": sequences, "return_state": True, "dropout": 0.3,
            "recurrent_dropout": 0.2, "seed": 5, "activation": custom,
            "zero_output_for_mask": zero, "go_backwards": back, "dtype": "float64",
        }  # fmt: skip
        keras_layer, layer = make_pair(name, F, **options)
        layer.unroll = unroll
        call = {"mask": MASK, "training": True}
        want = results_and_gradients(keras_layer, make_x(), states, **call)
        got = results_and_gradients(layer, make_x(), states, **call)
        check_equal(got[0] + got[1], want[0] + want[1])


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_stands_at_masked_steps_is_never_read(name, bad, allowed):
    _, layer = make_pair(name, F, units=H, activation=custom, return_sequences=True)
    results = []
    for value in (0.0, bad):
        x = make_x("float32")
        x[~MASK] = value
        results.append(results_and_gradients(layer, x, mask=MASK))
    for a, b in zip(results[0][0] + results[0][1], results[1][0] + results[1][1]):
        np.testing.assert_array_equal(a, b)
    assert not results[1][1][0][~MASK].any()


@both
def test_it_is_checked_the_same_way(name, allowed):
    layer = CLASSES[name][1](H, activation=custom)
    x = make_x("float32")
    layer(x)
    assert "mask" in message_of(lambda: layer(x, mask=np.ones((1, T))), ValueError)
    assert "mask" in message_of(lambda: layer(x, mask=np.ones((B, T, F))), ValueError)
    wrong = [np.zeros((1, H), "float32")] * STATES[name]
    assert "initial_state" in message_of(lambda: layer(x, initial_state=wrong), ValueError)
    signature = [tf.TensorSpec([None, None, F]), tf.TensorSpec([None, None], "bool")]
    graph = tf.function(lambda x, m: layer(x, mask=m), input_signature=signature)
    for shape in ((1, T), (B, T - 1), (B, 1)):
        message = message_of(
            lambda: graph(x, np.ones(shape, bool)), tf.errors.InvalidArgumentError
        )
        assert "mask" in message
    signature = [tf.TensorSpec([None, None, F])] + [tf.TensorSpec([None, H])] * STATES[name]
    graph = tf.function(
        lambda x, *states: layer(x, initial_state=list(states)), input_signature=signature
    )
    message = message_of(lambda: graph(x, *wrong), tf.errors.InvalidArgumentError)
    assert "initial_state" in message


@both
@pytest.mark.parametrize("shape", [(B, 0), (0, T), (0, 0)])
@pytest.mark.parametrize("sequences", [False, True])
def test_nothing_to_do(name, shape, sequences, allowed):
    layer = CLASSES[name][1](
        H, activation=custom, return_sequences=sequences, return_state=True, dropout=0.2
    )
    layer.build((None, None, F))
    states = [tf.ones([shape[0], H])] * STATES[name]
    given = states if name == "LSTM" else states[0]
    for training, mask in itertools.product((False, True), (None, np.ones(shape, bool))):
        for call in (layer, tf.function(layer)):
            x = tf.zeros([*shape, F])
            results = call(x, initial_state=given, mask=mask, training=training)
            assert results[0].shape == ((*shape, H) if sequences else (shape[0], H))
            assert not np.any(results[0])
            if shape[1] == 0:
                for a, b in zip(results[1:], states):
                    np.testing.assert_array_equal(a, b)


@both
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_under_xla_keras_loop_runs(name, mask):
    keras_layer, layer = make_pair(
        name, F, units=H, return_sequences=True, return_state=True, dtype="float64"
    )
    x = make_x()
    if mask is not None:
        x[~mask] = np.nan

    @tf.function(jit_compile=True)
    def compiled(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = layer(x, mask=mask)
            loss = sum(tf.reduce_sum(y**2) for y in results)
        return list(results), tape.gradient(loss, x)

    with pytest.warns(masked_rnn.FallbackWarning, match="XLA"):
        results, gradient = compiled(tf.constant(x))
    check_equal(results, list(layer(x, mask=mask)))
    clean = np.nan_to_num(x)
    with tf.GradientTape() as tape:
        clean = tf.constant(clean)
        tape.watch(clean)
        loss = sum(tf.reduce_sum(y**2) for y in keras_layer(clean, mask=mask))
    check_equal(gradient, tape.gradient(loss, clean))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "lstm"])
def test_functions_run_tensorflow_operations_under_xla(name, dtype, monkeypatch):
    rng = np.random.default_rng(2)
    gates = 4 if name == "lstm" else 3

    def draw(*shape):
        return tf.cast(rng.standard_normal(shape), dtype)

    x = make_x()
    x[~MASK] = np.nan
    bias = draw(2, gates * H) if name == "gru" else draw(gates * H)
    weights = [tf.cast(x, dtype), draw(F, gates * H), draw(H, gates * H), bias]
    states = draw(B, H), draw(B, H)
    options = {"go_backwards": True, "zero_output_for_mask": name == "gru"}
    if name == "lstm":
        function = masked_rnn.lstm
    else:
        function, states = masked_rnn.gru, states[0]
        options["reset_after"] = name == "gru"

    def step(*weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            results = tf.nest.flatten(
                function(*weights, mask=MASK, initial_state=states, **options)
            )
            loss = sum(tf.reduce_sum(y**2) for y in results)
        return results, tape.gradient(loss, weights)

    want = step(*weights)
    with pytest.warns(masked_rnn.FallbackWarning, match=f"{name}.*XLA"):
        got = tf.function(step, jit_compile=True)(*weights)
    tolerance = {"float64": 1e-13, "float32": 1e-5, "bfloat16": 5e-2}[dtype]
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(want)):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = (tf.cast(y, "float64").numpy() for y in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.max(np.abs(b))))

    monkeypatch.setenv("MASKED_RNN_FALLBACK", "error")
    with pytest.raises(RuntimeError, match="MASKED_RNN_FALLBACK=error"):
        tf.function(step, jit_compile=True)(*weights)


def test_function_under_xla_with_unknown_sizes(allowed):
    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, None, F]), tf.TensorSpec([None], tf.int32)],
    )
    def compiled(x, lengths):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, state = masked_rnn.gru(x, kernel, recurrent_kernel, sequence_length=lengths)
            loss = tf.reduce_sum(y) + tf.reduce_sum(state)
        return y, tape.gradient(loss, x)

    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((F, 3 * H)).astype("float32")
    recurrent_kernel = rng.standard_normal((H, 3 * H)).astype("float32")
    x = make_x("float32")
    for lengths in ([5, 0, 2, 1], [4, 4, 1]):
        part = tf.constant(x[: len(lengths)])
        got, gradient = compiled(part, lengths)
        want, _ = masked_rnn.gru(part, kernel, recurrent_kernel, sequence_length=lengths)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        padding = np.arange(T) >= np.array(lengths)[:, None]
        assert np.all(gradient.numpy()[padding] == 0) and np.any(gradient)


@both
def test_sequence_length_and_files_of_a_layer_that_falls_back(name, allowed, tmp_path):
    layer = CLASSES[name][1](H, activation=custom, return_sequences=True)
    x = make_x("float32")
    lengths = [3, 0, 5, 1]
    mask = np.arange(T) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(layer(x, sequence_length=lengths), layer(x, mask=mask))
    model = keras.Sequential([keras.Input((T, F)), layer])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", custom_objects={"custom": custom})
    check_equal(loaded(x), model(x), 0)


@both
def test_a_foreign_cell_falls_back(name):
    class Cell(CLASSES[name][1]._keras_cell):
        def call(self, inputs, states, training=False):
            output, states = super().call(inputs, states, training)
            return output + 1, states

    layer = CLASSES[name][1](H)
    layer.cell = Cell(H)
    with pytest.warns(masked_rnn.FallbackWarning, match="cell"):
        got = layer(make_x("float32"))
    check_equal(got, keras.layers.RNN(layer.cell)(make_x("float32")), 1e-6)


# --- explain -------------------------------------------------------------------------------


def test_explain_walks_a_model():
    inner = keras.Sequential(
        [keras.Input((T, F)), masked_rnn.LSTM(H, activation=custom, name="inside")], name="nested"
    )
    model = keras.Sequential(
        [
            keras.Input((2, T, F)),
            keras.layers.TimeDistributed(inner, name="each"),
            keras.layers.Bidirectional(masked_rnn.GRU(H, return_sequences=True), name="two_ways"),
            keras.layers.GRU(3, return_sequences=True, name="theirs"),
            keras.layers.RNN(
                [keras.layers.LSTMCell(2), keras.layers.LSTMCell(2)],
                return_sequences=True,
                name="stack",
            ),
            masked_rnn.GRU(2, name="last"),
        ],
        name="model",
    )
    explanation = masked_rnn.explain(model)
    table = str(explanation)
    rows = {row.layer: row for row in explanation.rows}
    assert len(rows) == 6
    assert rows["model/each/nested/inside"].path == "Keras loop"
    assert "activation=custom" in rows["model/each/nested/inside"].why
    assert rows["model/theirs"].path == rows["model/stack"].path == "Keras loop"
    assert "masked_rnn.GRU" in rows["model/theirs"].why
    assert rows["model/last"].path == "fused"
    assert [r.path for n, r in rows.items() if "two_ways" in n] == ["fused", "fused"]
    lines = table.splitlines()
    assert lines[0].split() == ["layer", "class", "path", "why"]
    assert len(lines) == 2 + len(rows)
    assert all(any(name in line for line in lines) for name in rows)


@both
def test_explain_of_one_layer(name):
    layer = CLASSES[name][1](H, activation=tf.nn.relu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = masked_rnn.explain(layer).rows
    assert row.path == "fused" and row.layer == layer.name
    assert str(masked_rnn.explain(keras.layers.Dense(2))) == "No recurrent layers."
    assert "layer_or_model" in message_of(lambda: masked_rnn.explain(3), ValueError)
