"""The main promises in a few seconds: what is run with every TensorFlow and every Keras, and on an
installed wheel (`make matrix`, `make check-wheel`)."""

import numpy as np
import pytest

from masked_rnn import _core

from .pairs import check_equal, keras, masked_rnn, results_and_gradients, shake, tf

B, T, F, H = 4, 7, 3, 5
NAMES = ("GRU", "LSTM", "SimpleRNN")
MASKS = {
    "none": None,
    "left": np.arange(T) >= np.array([[0], [2], [6], [4]]),
    "right": np.arange(T) < np.array([[7], [3], [1], [0]]),
    "holes": np.random.default_rng(0).random((B, T)) < 0.5,
}
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("error::masked_rnn.FallbackWarning"),
]


def both(name, **arguments):
    """Keras's layer and ours, built, with the same random weights."""
    layers = getattr(keras.layers, name)(**arguments), getattr(masked_rnn, name)(**arguments)
    for layer in layers:
        layer.build((None, None, F))
        shake(layer)
    return layers


def arrays(dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((B, T, F)).astype(dtype)


def classifier(module):
    """Words to one of three classes, with layers of `module`, Keras's or this package."""
    model = keras.Sequential(
        [
            keras.layers.Embedding(20, 6, mask_zero=True),
            keras.layers.Bidirectional(module.GRU(H, return_sequences=True)),
            module.LSTM(H, return_sequences=True),
            module.SimpleRNN(H),
            keras.layers.Dense(3),
        ]
    )
    model.build((None, T))
    return shake(model)


def sentences(number=32):
    rng = np.random.default_rng(1)
    words = rng.integers(1, 20, (number, T))
    words[np.arange(T) < rng.integers(0, T, (number, 1))] = 0
    return words, words.sum(axis=1) % 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_numbers_are_keras(name, mask, dtype):
    layers = both(name, units=H, return_sequences=True, return_state=True, dtype=dtype)
    given = {} if MASKS[mask] is None else {"mask": tf.constant(MASKS[mask])}
    x = arrays(dtype)
    if mask != "none":
        x[~MASKS[mask]] = 0  # Keras computes on these
    want, got = (results_and_gradients(layer, x, **given) for layer in layers)
    for a, b in zip(got, want):
        check_equal(a, b, TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_masked_is_not_read(name):
    layer, x, mask = both(name, units=H)[1], arrays(), MASKS["holes"]
    got = results_and_gradients(layer, np.where(mask[..., None], x, np.nan), mask=tf.constant(mask))
    want = results_and_gradients(layer, x, mask=tf.constant(mask))
    for a, b in zip(got, want):
        check_equal(a, b, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    halves = masked_rnn.GRU(H, dtype=dtype)
    layer = masked_rnn.GRU(H)
    for each in (halves, layer):
        each.build((None, None, F))
        shake(each)
    x, mask = arrays().astype(halves.compute_dtype), MASKS["left"]
    want = layer(x.astype("float32"), mask=mask)
    check_equal(halves(x, mask=mask), want, {"bfloat16": 3e-2, "float16": 3e-3}[dtype])


def test_fit_has_the_losses_of_keras():
    histories = []
    for module in (keras.layers, masked_rnn):
        model = classifier(module)
        model.compile(
            keras.optimizers.Adam(1e-3, clipnorm=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        words, classes = sentences()
        history = model.fit(words, classes, batch_size=8, epochs=3, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
        assert np.isfinite(model.predict(words, verbose=0)).all()
    np.testing.assert_allclose(histories[1], histories[0], rtol=2e-6)
    assert histories[1][-1] < histories[1][0]


def test_files_of_models_and_of_weights(tmp_path):
    model, (words, _) = classifier(masked_rnn), sentences()
    want = model.predict(words, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(loaded.predict(words, verbose=0), want)

    model.save_weights(tmp_path / "model.weights.h5")
    theirs = shake(classifier(keras.layers), seed=2)
    theirs.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(theirs.predict(words, verbose=0), want, atol=2e-6)
    shake(theirs, seed=3).save_weights(tmp_path / "theirs.weights.h5")
    model.load_weights(tmp_path / "theirs.weights.h5")
    want = theirs.predict(words, verbose=0)
    np.testing.assert_allclose(model.predict(words, verbose=0), want, atol=2e-6)


def test_a_whole_model_changes_over_and_back():
    model, (words, _) = classifier(keras.layers), sentences()
    want = model(words)
    check_equal(masked_rnn.accelerate(model)(words), want, 2e-6)
    assert type(model.layers[2]) is masked_rnn.LSTM
    assert type(masked_rnn.to_keras(model).layers[2]) is keras.layers.LSTM


def test_numpy_agrees_with_tensorflow():
    layer, x, mask = both("GRU", units=H, return_sequences=True)[1], arrays(), MASKS["holes"]
    weights = [w.numpy() for w in layer.trainable_weights]
    outputs, _ = masked_rnn.numpy.gru(x, *weights, mask=mask)
    np.testing.assert_array_equal(outputs, layer(x, mask=tf.constant(mask)))


def test_errors_of_the_core_reach_python():
    """Thrown in one library and caught in the two others."""
    x, kernel = np.zeros((B, T, F)), np.zeros((F, 3 * H))
    with pytest.raises(ValueError, match="recurrent_kernel"):
        masked_rnn.numpy.gru(x, kernel, np.zeros((H, H)))
    endless = [np.empty(shape) for shape in ((1, 2**32, 0), (0, 1), (1, 1))]
    with pytest.raises(MemoryError, match="4294967296 time steps"):
        _core.forward("simple_rnn", *endless, *[None] * 6, "tanh", "sigmoid", *[False] * 4)

    @tf.function(input_signature=[tf.TensorSpec(None, "float64")])
    def with_unknown_shape(recurrent_kernel):
        return masked_rnn.gru(x, kernel, recurrent_kernel)[0]

    with pytest.raises(tf.errors.InvalidArgumentError, match="recurrent_kernel"):
        with_unknown_shape(np.zeros((H, H)))
