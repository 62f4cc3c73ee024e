"""`masked_rnn.SimpleRNN` and `masked_rnn.RNN` against Keras's layers."""

import itertools
import warnings

import numpy as np
import pytest

from .pairs import (
    check_equal,
    keras,
    masked_rnn,
    message_of,
    results_and_gradients,
    shake,
    tf,
    to_numpy,
)

B, T, F, H = 4, 6, 3, 5
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
HOLES = np.array(
    [[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool
)
LENGTHS = np.array([6, 3, 0, 1])
RIGHT = np.arange(T) < LENGTHS[:, None]
MASKS = {"none": None, "holes": HOLES, "right": RIGHT, "left": RIGHT[:, ::-1]}


def make_x(seed=1, shape=(B, T, F), dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def built_pair(make, shape=(None, None, F)):
    """(Keras's layer, ours) from make(keras.layers or masked_rnn), with the same weights."""
    pair = [make(keras.layers), make(masked_rnn)]
    for layer in pair:
        layer.build(shape)
        shake(layer)
    return pair


# --- SimpleRNN -----------------------------------------------------------------------------


def _simple_configuration(seed):
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    arguments = {
        "units": H,
        "activation": pick("tanh", "relu", None, "softsign", "hard_sigmoid"),
        "use_bias": pick(True, True, False),
        "dropout": pick(0.0, 0.4),
        "recurrent_dropout": pick(0.0, 0.3),
        "seed": 7,
        "return_sequences": pick(True, False),
        "return_state": True,
        "go_backwards": pick(True, False),
        "zero_output_for_mask": pick(True, False),
        "dtype": "float64",
    }
    call = {"training": pick(True, False), "mask": pick(*MASKS.values())}
    state = pick(None, [make_x(3, (B, H))])
    return arguments, call, state


@pytest.mark.parametrize("seed", range(24))
def test_simple_rnn_equals_keras(seed):
    arguments, call, state = _simple_configuration(seed)
    pair = built_pair(lambda m: m.SimpleRNN(**arguments))
    want, got = (results_and_gradients(each, make_x(seed), state, **call) for each in pair)
    check_equal(got[0] + got[1], want[0] + want[1], 1e-10)


def test_simple_rnn_is_keras_in_configuration_and_weights():
    theirs, ours = built_pair(lambda m: m.SimpleRNN(H, activation="relu", dropout=0.1, name="r"))
    assert ours.get_config() == theirs.get_config()
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert keras.saving.get_registered_name(type(ours)) == "masked_rnn>SimpleRNN"
    assert str(masked_rnn.explain(ours)).count("fused") == 1


def test_simple_rnn_takes_lengths_and_reads_no_masked_step():
    _, layer = built_pair(lambda m: m.SimpleRNN(H, return_sequences=True))
    x = make_x(dtype="float32")
    want = layer(x, mask=RIGHT)
    x[~RIGHT] = np.nan
    np.testing.assert_array_equal(layer(x, sequence_length=LENGTHS), want)


def test_simple_rnn_second_order_gradient():
    pair = built_pair(lambda m: m.SimpleRNN(H, dtype="float64"))
    found = []
    for layer in pair:
        x = tf.constant(make_x())
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(layer(x, mask=HOLES) ** 2)
            penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        weights = [w.value for w in layer.trainable_weights]
        found.append(outer.gradient(penalty, [x, *weights]))
    check_equal(found[1], found[0], 1e-10)


def test_simple_rnn_stateful_bidirectional_and_fit():
    x, y = make_x(dtype="float32"), make_x(2, (B, 1), "float32")
    x[~HOLES] = 0.0
    losses = []
    for module in (keras.layers, masked_rnn):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((T, F), batch_size=B),
                keras.layers.Masking(),
                keras.layers.Bidirectional(module.SimpleRNN(H, return_sequences=True)),
                module.SimpleRNN(H, stateful=True, dropout=0.2),
                keras.layers.Dense(1),
            ]
        )
        # Tracing Keras's loop and its gradient takes long.
        model.compile("adam", "mse", run_eagerly=module is keras.layers)
        losses.append(model.fit(x, y, epochs=3, batch_size=B, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


# --- RNN -----------------------------------------------------------------------------------


def _gru(units, **kw):
    return keras.layers.GRUCell(units, dtype="float64", **kw)


def _lstm(units, **kw):
    return keras.layers.LSTMCell(units, dtype="float64", **kw)


def _simple(units, **kw):
    return keras.layers.SimpleRNNCell(units, dtype="float64", **kw)


def _stack(*cells):
    return keras.layers.StackedRNNCells(list(cells), dtype="float64")


CELLS = {
    "gru": lambda **kw: _gru(H, **kw),
    "gru before": lambda **kw: _gru(H, reset_after=False, **kw),
    "lstm": lambda **kw: _lstm(H, **kw),
    "simple": lambda **kw: _simple(H, **kw),
    "stack": lambda **kw: _stack(_gru(H, **kw), _lstm(4, **kw), _simple(3, **kw)),
    "stack of lstm": lambda **kw: _stack(_lstm(3, **kw), _lstm(H, **kw)),
    "stack of gru": lambda **kw: _stack(_gru(2, **kw), _gru(H, **kw)),
}
every_cell = pytest.mark.parametrize("kind", CELLS)


def flat_results(layer, x, seed=0, **call):
    """Results, flat, and gradients; like `pairs.results_and_gradients` for nested states."""
    x = tf.constant(x)
    sources = [x, *[w.value for w in layer.trainable_weights]]
    sources += keras.tree.flatten(call.get("initial_state") or [])
    with tf.GradientTape() as tape:
        for source in sources:
            tape.watch(source)
        results = layer(x, **call)
        flat = keras.tree.flatten(results)
        rng = np.random.default_rng(seed)
        loss = sum(tf.reduce_sum(y * rng.standard_normal(y.shape) + y**2) for y in flat)
    gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
    return results, [*flat, *gradients]


@every_cell
@pytest.mark.parametrize("mask", ["none", "holes"])
def test_rnn_equals_keras(kind, mask):
    for back, sequences in itertools.product((False, True), repeat=2):
        zero = back != sequences
        options = {
            "go_backwards": back, "zero_output_for_mask": zero, "return_sequences": sequences,
            "return_state": True, "dtype": "float64",
        }  # fmt: skip
        pair = built_pair(lambda m: m.RNN(CELLS[kind](), **options))
        (keras_results, want), (results, got) = (
            flat_results(layer, make_x(), mask=MASKS[mask]) for layer in pair
        )
        keras.tree.assert_same_structure(list(results), list(keras_results))
        check_equal(got, want, 1e-10)


@every_cell
def test_rnn_is_fused(kind, monkeypatch):
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "error")
    _, layer = built_pair(lambda m: m.RNN(CELLS[kind](), dtype="float64"))
    x = make_x()
    x[~HOLES] = np.nan
    assert np.isfinite(layer(x, mask=HOLES)).all()
    assert "fused" in str(masked_rnn.explain(layer))


@every_cell
def test_rnn_initial_state(kind):
    pair = built_pair(
        lambda m: m.RNN(CELLS[kind](), return_state=True, return_sequences=True, dtype="float64")
    )
    zeros = pair[0].get_initial_state(B)
    flat = [tf.constant(make_x(i, s.shape)) for i, s in enumerate(keras.tree.flatten(zeros))]
    states = keras.tree.pack_sequence_as(zeros, flat)
    (a, want), (b, got) = (
        flat_results(layer, make_x(), mask=HOLES, initial_state=states) for layer in pair
    )
    keras.tree.assert_same_structure(list(b), list(a))
    check_equal(got, want, 1e-10)
    wrong = keras.tree.map_structure(lambda s: s[:, 1:], states)
    assert "initial_state" in message_of(lambda: pair[1](make_x(), initial_state=wrong), ValueError)
    assert "initial_state" in message_of(
        lambda: pair[1](make_x(), initial_state=flat[:1] + flat), ValueError
    )


@every_cell
def test_rnn_dropout_draws_keras_numbers(kind):
    pair = built_pair(
        lambda m: m.RNN(CELLS[kind](dropout=0.3, recurrent_dropout=0.4, seed=5), dtype="float64")
    )
    for training in (True, False, True):
        (_, want), (_, got) = (
            flat_results(layer, make_x(), mask=HOLES, training=training) for layer in pair
        )
        check_equal(got, want, 1e-10)


@every_cell
def test_rnn_stateful(kind):
    pair = built_pair(
        lambda m: m.RNN(CELLS[kind](), stateful=True, return_sequences=True, dtype="float64"),
        (B, T, F),
    )
    for mask in (HOLES, None, RIGHT):
        want, got = (layer(make_x(), mask=mask) for layer in pair)
        check_equal(got, want, 1e-10)
    pair[1].reset_state()
    assert not any(to_numpy(s).any() for s in keras.tree.flatten(pair[1].states))


@every_cell
def test_rnn_files_and_symbolic_use(kind, tmp_path):
    inputs = keras.Input((None, F), dtype="float64")
    masked = keras.layers.Masking(dtype="float64")(inputs)
    layer = masked_rnn.RNN(CELLS[kind](), return_sequences=True, dtype="float64")
    model = keras.Model(inputs, layer(masked))
    assert model.output_shape == (None, None, layer.cell.output_size)
    shake(model)
    x = make_x()
    x[~HOLES] = 0.0
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.layers[-1]) is masked_rnn.RNN
    check_equal(loaded(x), layer(x, mask=HOLES))
    assert loaded.predict(x, verbose=0).shape == (B, T, layer.cell.output_size)


@pytest.mark.parametrize("kind", ["gru", "stack"])
def test_rnn_under_xla_and_custom_activation_run_keras_loop(kind):
    pair = built_pair(lambda m: m.RNN(CELLS[kind](), return_state=True, dtype="float64"))
    with pytest.warns(masked_rnn.FallbackWarning, match="XLA"):
        got = tf.function(pair[1], jit_compile=True)(tf.constant(make_x()), mask=tf.constant(HOLES))
    check_equal(keras.tree.flatten(got), keras.tree.flatten(pair[0](make_x(), mask=HOLES)), 1e-10)
    pair = built_pair(
        lambda m: m.RNN(CELLS[kind](activation=lambda x: tf.tanh(x) * 1.1), dtype="float64")
    )
    with pytest.warns(masked_rnn.FallbackWarning, match="custom"):
        got = pair[1](make_x(), mask=HOLES)
    check_equal(got, pair[0](make_x(), mask=HOLES), 1e-10)


class Minimal(keras.layers.Layer):
    """A cell nobody has seen."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size))
        self.recurrent = self.add_weight(shape=(self.state_size, self.state_size))

    def call(self, x, states):
        h = x @ self.kernel + keras.ops.tanh(states[0]) @ self.recurrent
        return h, [h]


class OurGRUCell(keras.layers.GRUCell):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: Minimal(H, dtype="float64"),
        lambda: OurGRUCell(H, dtype="float64"),
        lambda: _stack(_gru(3), Minimal(H, dtype="float64")),
    ],
    ids=["custom", "subclass", "stack"],
)
def test_rnn_of_other_cells_runs_keras_loop(make):
    pair = built_pair(
        lambda m: m.RNN(make(), return_sequences=True, return_state=True, dtype="float64")
    )
    x = make_x()
    _, want = flat_results(pair[0], x, mask=HOLES)
    with pytest.warns(masked_rnn.FallbackWarning, match="cell is a"):
        _, got = flat_results(pair[1], x, mask=HOLES)
    check_equal(got, want)
    want = pair[0](x, mask=RIGHT)
    got = pair[1](x, sequence_length=LENGTHS)
    check_equal(keras.tree.flatten(got), keras.tree.flatten(want))
    x[~HOLES] = np.nan
    _, clean = flat_results(pair[1], x, mask=HOLES)
    assert all(np.isfinite(a).all() for a in clean)
    assert "Keras loop" in str(masked_rnn.explain(pair[1]))


def test_rnn_of_lengths_and_no_steps():
    _, layer = built_pair(lambda m: m.RNN(CELLS["stack"](), return_sequences=True))
    want = layer(make_x(), mask=RIGHT)
    np.testing.assert_array_equal(layer(make_x(), sequence_length=LENGTHS), want)
    assert layer(make_x()[:, :0]).shape == (B, 0, 3)
    assert layer(make_x()[:0]).shape == (0, T, 3)


def test_rnn_inside_bidirectional_and_time_distributed():
    x = make_x(dtype="float32")
    x[~HOLES] = 0.0
    outputs = []
    for module in (keras.layers, masked_rnn):
        cells = [keras.layers.GRUCell(4), keras.layers.LSTMCell(3)]
        model = keras.Sequential(
            [
                keras.Input((None, F)),
                keras.layers.Masking(),
                keras.layers.Bidirectional(module.RNN(cells, return_sequences=True)),
                module.RNN(keras.layers.LSTMCell(2)),
            ]
        )
        outputs.append(shake(model).predict(x, verbose=0))
    check_equal(outputs[1], outputs[0], 1e-6)


def test_rnn_fit_equals_keras():
    x, y = make_x(dtype="float32"), make_x(2, (B, 1), "float32")
    x[~HOLES] = 0.0
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (keras.layers, masked_rnn):
            keras.utils.set_random_seed(1)
            cells = [keras.layers.LSTMCell(4, dropout=0.2), keras.layers.GRUCell(3)]
            layers = [keras.layers.Masking(), module.RNN(cells), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((None, F)), *layers])
            # Tracing Keras's loop and its gradient takes long.
            model.compile("adam", "mse", run_eagerly=module is keras.layers)
            losses.append(model.fit(x, y, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
