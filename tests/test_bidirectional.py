"""`masked_rnn.Bidirectional` against Keras's wrapper, and what Keras's does not do."""

import numpy as np
import pytest

from .pairs import CLASSES, NAMES, check_equal, keras, masked_rnn, message_of, shake, tf

B, T, F, H = 4, 6, 3, 5
LENGTHS = np.array([6, 0, 3, 1], "int32")
RIGHT = np.arange(T) < LENGTHS[:, None]
HOLES = np.array(
    [[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool
)
both = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_x(dtype="float32"):
    return np.random.default_rng(0).standard_normal((B, T, F)).astype(dtype)


def made(wrapper, kind, shape=(None, None, F), merge_mode="concat", **options):
    layer = wrapper(kind(H, dtype="float64", **options), merge_mode=merge_mode, dtype="float64")
    layer.build(shape)
    return shake(layer)


@both
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("sequences", [False, True])
def test_equals_keras(name, mode, sequences):
    state = sequences == (mode in ("concat", "mul"))
    options = {"return_sequences": sequences, "return_state": state, "merge_mode": mode}
    x = make_x("float64")
    theirs = made(keras.layers.Bidirectional, CLASSES[name][0], **options)
    for kind in CLASSES[name]:
        ours = made(masked_rnn.Bidirectional, kind, **options)
        for mask in (None, HOLES):
            want, got = (keras.tree.flatten(each(x, mask=mask)) for each in (theirs, ours))
            check_equal(got, want)
        assert ours.compute_output_shape((B, T, F)) == theirs.compute_output_shape((B, T, F))


@both
def test_sequence_length(name):
    layer = made(masked_rnn.Bidirectional, CLASSES[name][1], return_sequences=True)
    x = make_x("float64")
    want = layer(x, mask=RIGHT)
    graph = tf.function(
        lambda x, n: layer(x, sequence_length=n),
        input_signature=[tf.TensorSpec([None, None, F], "float64"), tf.TensorSpec([None], "int32")],
    )
    for got in (layer(x, sequence_length=LENGTHS), layer(x, sequence_length=LENGTHS.tolist()),
                graph(x, LENGTHS)):  # fmt: skip
        np.testing.assert_array_equal(got, want)
    got = layer(x, sequence_length=LENGTHS)
    np.testing.assert_array_equal(got._keras_mask, RIGHT)
    x[~HOLES] = 0.0
    masked = keras.layers.Masking(dtype="float64")(x)
    np.testing.assert_array_equal(
        layer(masked, sequence_length=LENGTHS), layer(x, mask=RIGHT & HOLES)
    )
    for lengths in ([7, 0, 1, 1], [1, 1], [1.0] * B):
        call = lambda lengths=lengths: layer(x, sequence_length=lengths)  # noqa: E731
        assert "sequence_length" in message_of(call, ValueError)
    assert "sequence_length" in message_of(
        lambda: layer(x, mask=RIGHT, sequence_length=LENGTHS), ValueError
    )


@both
def test_sequence_length_in_a_functional_model(name, tmp_path):
    inputs, lengths = keras.Input((None, F)), keras.Input((), dtype="int32")
    layer = masked_rnn.Bidirectional(CLASSES[name][1](H, return_sequences=True))
    second = masked_rnn.Bidirectional(CLASSES[name][1](3))
    model = keras.Model([inputs, lengths], second(layer(inputs, sequence_length=lengths)))
    shake(model)
    x = make_x()
    want = second(tf.constant(layer(x, mask=RIGHT)), mask=RIGHT)
    check_equal(model([x, LENGTHS]), want, 1e-6)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.layers[-1]) is masked_rnn.Bidirectional
    check_equal(loaded.predict([x, LENGTHS], verbose=0), want, 1e-6)


@both
@pytest.mark.parametrize("mode", ["concat", None])
def test_stateful_with_states_and_a_mask(name, mode):
    options = {"stateful": True, "return_state": True, "return_sequences": True}
    layer = made(masked_rnn.Bidirectional, CLASSES[name][1], (B, T, F), mode, **options)
    x = make_x("float64")
    one_by_one = []
    for inner, kind in zip((layer.forward_layer, layer.backward_layer), (0, 1)):
        alone = CLASSES[name][1](
            H, dtype="float64", go_backwards=bool(kind), zero_output_for_mask=True, **options
        )
        alone.build((B, T, F))
        alone.set_weights(inner.get_weights())
        one_by_one.append(alone)
    for mask in (HOLES, RIGHT):
        outputs = layer(x, mask=mask)
        forward, backward = (each(x, mask=mask) for each in one_by_one)
        flat = keras.tree.flatten(outputs)
        ys = [forward[0], tf.reverse(backward[0], [1])]
        ys = [tf.concat(ys, -1)] if mode else ys
        check_equal(flat, [*ys, *forward[1:], *backward[1:]])
    assert "batch" in message_of(lambda: layer(x[:2]), ValueError)
    layer.reset_state()
    assert not any(np.any(s.numpy()) for s in layer.states)
    inputs = keras.Input((T, F), batch_size=B, dtype="float64")
    masked = keras.layers.Masking(dtype="float64")(inputs)
    model = keras.Model(inputs, keras.tree.flatten(layer(masked)))
    assert len(model(x)) == len(flat)


@both
def test_initial_state_and_fit(name):
    layer = made(masked_rnn.Bidirectional, CLASSES[name][1])
    theirs = made(keras.layers.Bidirectional, CLASSES[name][0])
    rng = np.random.default_rng(1)
    states = [rng.standard_normal((B, H)) for _ in range(2 + 2 * (name == "LSTM"))]
    x = make_x("float64")
    check_equal(*(each(x, initial_state=states, mask=HOLES) for each in (layer, theirs)))

    x[~HOLES] = 0.0
    model = keras.Sequential(
        [
            keras.Input((T, F)),
            keras.layers.Masking(),
            masked_rnn.Bidirectional(CLASSES[name][1](4)),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    losses = model.fit(x, np.ones((B, 1)), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {row.path for row in masked_rnn.explain(model).rows} == {"fused"}
