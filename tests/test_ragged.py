"""Ragged sequences into the layers, the wrapper and the functions."""

import numpy as np
import pytest

from .pairs import CLASSES, NAMES, check_equal, keras, make_pair, masked_rnn, message_of, shake, tf

B, T, F, H = 4, 6, 3, 5
LENGTHS = np.array([6, 0, 3, 1])
MASK = np.arange(T) < LENGTHS[:, None]
both = pytest.mark.parametrize("name", NAMES)
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning"),
    # TensorFlow's, of the gradient of a padded batch's scatter.
    pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices:UserWarning"),
]


def make_x(dtype="float32"):
    return np.random.default_rng(0).standard_normal((B, T, F)).astype(dtype)


def ragged(x):
    return tf.RaggedTensor.from_tensor(x, lengths=LENGTHS)


def rows(outputs, backwards=False):
    """The real part of every row of padded outputs in the order of processing."""
    outputs = np.asarray(outputs)
    return [y[T - n :] if backwards else y[:n] for y, n in zip(outputs, LENGTHS)]


def check_rows(got, want):
    assert isinstance(got, tf.RaggedTensor)
    np.testing.assert_array_equal(got.row_lengths(), LENGTHS)
    for i, row in enumerate(want):
        np.testing.assert_array_equal(got[i].numpy().reshape(row.shape), row)


@both
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_layers(name, backwards, sequences, state):
    layer = CLASSES[name][1](
        H, return_sequences=sequences, return_state=state, go_backwards=backwards
    )
    x = make_x()
    got = layer(ragged(x))
    want = layer(x, mask=MASK)
    got, want = (list(y) if state else [y] for y in (got, want))
    if sequences:
        check_rows(got.pop(0), rows(want.pop(0), backwards))
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)


@both
def test_gradients_in_a_graph_of_unknown_sizes(name):
    _, layer = make_pair(name, F, units=H, return_sequences=True, dtype="float64")
    x = make_x("float64")
    weights = [w.value for w in layer.trainable_weights]
    spec = tf.RaggedTensorSpec([None, None, F], tf.float64, ragged_rank=1)

    @tf.function(input_signature=[spec])
    def step(sequences):
        with tf.GradientTape() as tape:
            tape.watch(sequences.flat_values)
            loss = tf.reduce_sum(layer(sequences).flat_values ** 2)
        return tape.gradient(loss, [sequences.flat_values, *weights])

    got = step(ragged(x))
    layer.zero_output_for_mask = True
    with tf.GradientTape() as tape:
        padded = tf.constant(x)
        tape.watch(padded)
        loss = tf.reduce_sum(layer(padded, mask=MASK) ** 2)
    d_x, *d_weights = tape.gradient(loss, [padded, *weights])
    check_equal(got, [d_x.numpy()[MASK], *d_weights])


@both
def test_ragged_features_and_row_splits_of_int32(name):
    layer = CLASSES[name][1](H, return_sequences=True)
    x = make_x()
    want = layer(ragged(x))
    nested = tf.ragged.constant([x[i, :n].tolist() for i, n in enumerate(LENGTHS)])  # ragged twice
    for same in (nested, ragged(x).with_row_splits_dtype("int32")):
        got = layer(same)
        np.testing.assert_allclose(got.flat_values, want.flat_values, rtol=1e-6)


@both
def test_empty_batches(name):
    layer = CLASSES[name][1](H, return_sequences=True)
    layer(make_x())
    nothing = tf.RaggedTensor.from_row_lengths(np.zeros((0, F), "float32"), [0, 0])
    assert layer(nothing).shape[0] == 2 and layer(nothing).flat_values.shape == (0, H)


@both
def test_no_mask_goes_with_it(name):
    layer, bidirectional = CLASSES[name][1](H), masked_rnn.Bidirectional(CLASSES[name][1](H))
    x = ragged(make_x())
    for each in (layer, bidirectional):
        for call in ({"mask": MASK}, {"sequence_length": LENGTHS}):
            message = message_of(lambda each=each, call=call: each(x, **call), ValueError)
            assert "ragged" in message
    assert "ragged" in message_of(lambda: layer(x, None, MASK), ValueError).lower()
    flat = tf.RaggedTensor.from_row_lengths([1.0, 2.0], [1, 1])
    assert "RaggedTensor" in message_of(lambda: layer(flat), ValueError)


@both
def test_functions(name):
    _, layer = make_pair(name, F, units=H)
    function = getattr(masked_rnn, name.lower())
    weights = [w.value for w in layer.trainable_weights]
    x = make_x()
    for backwards in (False, True):
        got, state = function(ragged(x), *weights, go_backwards=backwards)
        want, want_state = function(x, *weights, mask=MASK, go_backwards=backwards)
        check_rows(got, rows(want, backwards))
        check_equal(tf.nest.flatten(state), tf.nest.flatten(want_state), 0)
    assert "ragged" in message_of(
        lambda: function(ragged(x), *weights, sequence_length=LENGTHS), ValueError
    )


@pytest.mark.parametrize("cell", ["SimpleRNN", "stack"])
def test_other_layers(cell):
    layer = masked_rnn.SimpleRNN(H, return_sequences=True)
    if cell == "stack":
        cells = [keras.layers.GRUCell(4), keras.layers.LSTMCell(H)]
        layer = masked_rnn.RNN(cells, return_sequences=True)
    x = make_x()
    check_rows(layer(ragged(x)), rows(layer(x, mask=MASK)))


@both
@pytest.mark.parametrize("mode", ["concat", None])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, {"return_state": True},
                                     {"return_sequences": True, "return_state": True}])  # fmt: skip
def test_bidirectional(name, options, mode):
    layer = masked_rnn.Bidirectional(CLASSES[name][1](H, **options), merge_mode=mode)
    x = make_x()
    got, want = (keras.tree.flatten(y) for y in (layer(ragged(x)), layer(x, mask=MASK)))
    assert len(got) == len(want)
    for a, b in zip(got, want):
        if isinstance(a, tf.RaggedTensor):
            assert "return_sequences" in options
            check_rows(a, rows(b))
        else:
            np.testing.assert_array_equal(a, b)


def pipeline(x, y):
    return tf.data.Dataset.from_tensor_slices((ragged(x), y)).batch(2)


def padded_pipeline(x, y):
    return tf.data.Dataset.from_tensor_slices(((x, LENGTHS.astype("int32")), y)).batch(2)


@pytest.mark.parametrize(
    "name, how", [("GRU", "functional"), ("LSTM", "sequential"), ("GRU", "no input")]
)
def test_fit_from_a_ragged_pipeline(name, how):
    kind = CLASSES[name][1]
    x, y = make_x(), np.random.default_rng(1).standard_normal((B, 1)).astype("float32")

    def layers():
        return [
            kind(4, return_sequences=True),
            masked_rnn.Bidirectional(kind(3)),
            keras.layers.Dense(1),
        ]

    first, second, dense = layers()
    inputs, lengths = keras.Input((None, F)), keras.Input((), dtype="int32")
    hidden = second(first(inputs, sequence_length=lengths))
    padded = shake(keras.Model([inputs, lengths], dense(hidden)))

    if how == "functional":
        first, second, dense = layers()
        inputs = keras.Input((None, F), ragged=True)
        hidden = first(inputs)
        assert hidden.ragged
        model = keras.Model(inputs, dense(second(hidden)))
    elif how == "sequential":
        model = keras.Sequential([keras.Input((None, F), ragged=True), *layers()])
    else:
        model = keras.Sequential(layers())
        model(ragged(x))
    model.set_weights(padded.get_weights())
    for each in (model, padded):
        each.compile(keras.optimizers.Adam(0.05), "mse")
    want = padded.fit(padded_pipeline(x, y), epochs=2, verbose=0).history["loss"]
    got = model.fit(pipeline(x, y), epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    want = padded.predict(padded_pipeline(x, y), verbose=0)
    check_equal(model.predict(pipeline(x, y), verbose=0), want, 1e-5)
    check_equal(model.evaluate(pipeline(x, y), verbose=0),
                padded.evaluate(padded_pipeline(x, y), verbose=0), 1e-5)  # fmt: skip


@both
def test_embedding_of_ragged_words(name):
    words = tf.ragged.constant([[1, 2, 3], [], [4]])
    inputs = keras.Input((None,), dtype="int32", ragged=True)
    embedding = keras.layers.Embedding(6, F)
    layer = CLASSES[name][1](H)
    model = keras.Model(inputs, layer(embedding(inputs)))
    padded = words.to_tensor()
    want = layer(embedding(padded), sequence_length=[3, 0, 1])
    check_equal(model(words), want, 1e-6)
