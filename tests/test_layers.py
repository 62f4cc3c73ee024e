"""`masked_rnn.GRU` and `.LSTM` against Keras's layers, mostly in float64, where any difference
is a difference of meaning: numbers, gradients, arguments, masks and states."""

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
    shake,
    tf,
    to_numpy,
)

B, T, F, H = 4, 6, 3, 5
# An older Keras does not have all of them.
ACTIVATIONS = [n for n in masked_rnn.ops.activations.NAMES if hasattr(keras.activations, n)]
# TensorFlow rounds a constant of these to float32, also in float64.
LOOSE = {"leaky_relu": 1e-6, "gelu": 1e-6}

both = pytest.mark.parametrize("name", NAMES)
# TensorFlow's variables are behind NumPy 2.4 here, and Keras turns them into arrays to save them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_x(seed=1, shape=(B, T, F), dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make_states(name, seed=2, shape=(B, H), dtype="float64"):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(STATES[name])]


def lengths_mask(lengths, time=T):
    return np.arange(time) < np.asarray(lengths)[:, None]


MASKS = {
    "none": None,
    "ones": np.ones((B, T), bool),
    "zeros": np.zeros((B, T), bool),
    "right": lengths_mask([6, 3, 1, 0]),
    "left": lengths_mask([6, 3, 1, 2])[:, ::-1],
    "holes": np.array(
        [[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool
    ),
}
HOLES = MASKS["holes"]


# --- numbers -------------------------------------------------------------------------------


def _random_configuration(seed):
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    name = pick(*NAMES)
    arguments = {
        "units": H,
        "activation": pick("tanh", *ACTIVATIONS),
        "recurrent_activation": pick("sigmoid", *ACTIVATIONS),
        "use_bias": pick(True, True, False),
        "dropout": pick(0.0, 0.4),
        "recurrent_dropout": pick(0.0, 0.3),
        "seed": 7,
        "return_sequences": pick(True, False),
        "return_state": True,
        "go_backwards": pick(True, False),
        "zero_output_for_mask": pick(True, False),
        "implementation": pick(1, 2),
        "dtype": "float64",
    }
    if name == "GRU":
        arguments["reset_after"] = pick(True, False)
    call = {"training": pick(True, False), "mask": pick(*MASKS.values())}
    return name, arguments, call, pick(None, make_states(name))


@pytest.mark.parametrize("seed", range(40))
def test_random_configuration_equals_keras(seed):
    name, arguments, call, state = _random_configuration(seed)
    keras_layer, layer = make_pair(name, F, seed, **arguments)
    want = results_and_gradients(keras_layer, make_x(seed), state, **call)
    scale = 1.0
    while not all(np.isfinite(y).all() for y in want[0]):  # e to the power of e to the power of ...
        scale *= 0.2
        keras_layer, layer = make_pair(name, F, seed, **arguments)
        for weight in keras_layer.trainable_weights + layer.trainable_weights:
            weight.assign(scale * weight)
        want = results_and_gradients(keras_layer, make_x(seed), state, **call)
    got = results_and_gradients(layer, make_x(seed), state, **call)
    tolerance = max(
        LOOSE.get(arguments[a], 1e-10) for a in ("activation", "recurrent_activation")
    )
    check_equal(got[0], want[0], tolerance)
    check_equal(got[1], want[1], tolerance)


@both
@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_in_a_graph_of_unknown_sizes(name, kind):
    keras_layer, layer = make_pair(name, F, units=H, return_sequences=True, dtype="float64")
    x, mask = tf.constant(make_x()), MASKS[kind]

    def step(a, m=None):
        with tf.GradientTape() as tape:
            tape.watch(a)
            loss = tf.reduce_sum(layer(a, mask=m) ** 2)
        return [loss, *tape.gradient(loss, [a, *[w.value for w in layer.trainable_weights]])]

    signature = [tf.TensorSpec([None, None, F], "float64")]
    arguments = [x]
    if mask is not None:
        signature.append(tf.TensorSpec([None, None], "bool"))
        arguments.append(tf.constant(mask))
    got = tf.function(step, input_signature=signature)(*arguments)
    layer = keras_layer
    check_equal(got, step(x, mask))


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_what_stands_at_masked_steps_is_never_read(name, bad):
    _, layer = make_pair(name, F, units=H, return_sequences=True, return_state=True)
    clean = make_x(dtype="float32")
    clean[~HOLES] = 0
    dirty = clean.copy()
    with np.errstate(over="ignore"):
        dirty[~HOLES] = bad
    want = results_and_gradients(layer, clean, mask=HOLES)
    got = results_and_gradients(layer, dirty, mask=HOLES)
    for a, b in zip(got[0] + got[1], want[0] + want[1]):
        np.testing.assert_array_equal(a, b)
    assert not got[1][0][~HOLES].any()


@both
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 5e-3)])
@pytest.mark.parametrize("policy", ["{}", "mixed_{}"])
def test_policies_near_keras(name, policy, dtype, tolerance):
    policy = policy.format(dtype)
    if policy == "mixed_float32":
        policy = "float32"
    keras_layer, layer = make_pair(name, F, units=H, return_state=True, dtype=policy)
    x = make_x(dtype="float32")
    got, d_got = results_and_gradients(layer, x, mask=HOLES)
    want, d_want = results_and_gradients(keras_layer, x, mask=HOLES)
    check_equal(got, want, tolerance)
    check_equal(d_got, d_want, 10 * tolerance)
    assert keras.backend.standardize_dtype(layer(x)[0].dtype) == layer.compute_dtype


@both
@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16_builds_and_runs(name, policy):
    layer = CLASSES[name][1](H, dtype=policy, seed=3)
    layer.build((None, None, F))
    x = make_x(dtype="float32")
    got, gradients = results_and_gradients(layer, x, mask=HOLES)
    _, exact = make_pair(name, F, units=H)
    for target, weight in zip(exact.trainable_weights, layer.trainable_weights):
        target.assign(to_numpy(weight))
    want, d_want = results_and_gradients(exact, x, mask=HOLES)
    check_equal(got, want, 3e-2)
    check_equal(gradients, d_want, 5e-2)
    recurrent = to_numpy(layer.cell.recurrent_kernel)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(H), atol=2e-2)
    assert isinstance(layer.recurrent_initializer, keras.initializers.Orthogonal)
    if policy == "bfloat16":
        assert {w.dtype for w in layer.weights if "seed" not in w.path} == {"bfloat16"}


@both
def test_same_seeds_give_the_same_initial_weights_as_keras(name):
    weights = []
    for kind in CLASSES[name]:
        keras.utils.set_random_seed(5)
        layer = kind(H)
        layer.build((None, T, F))
        weights.append(layer.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)


@both
@pytest.mark.parametrize("inputs", ["int64", "bool", "float16", "list"])
def test_inputs_of_other_dtypes(name, inputs):
    keras_layer, layer = make_pair(name, F, units=H)
    x = (make_x() > 0) if inputs == "bool" else np.round(make_x())
    x = x.astype("float32" if inputs == "list" else inputs)
    want = keras_layer(x.astype("float32"))
    check_equal(layer(x), want, 1e-6)


# --- dropout -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.4, 0.3), (1.0, 0.0), (0.3, 1.0)])
@pytest.mark.parametrize("implementation", [1, 2])
def test_dropout_draws_keras_numbers(name, rates, implementation):
    keras_layer, layer = make_pair(
        name, F, units=H, dropout=rates[0], recurrent_dropout=rates[1], seed=11,
        implementation=implementation, return_sequences=True, dtype="float64",
    )  # fmt: skip
    # Inference draws too, and so moves the generator on.
    for training in (True, False, True):
        want = results_and_gradients(keras_layer, make_x(), mask=HOLES, training=training)
        got = results_and_gradients(layer, make_x(), mask=HOLES, training=training)
        check_equal(got[0] + got[1], want[0] + want[1])
    ours, theirs = layer.cell.seed_generator.state, keras_layer.cell.seed_generator.state
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@both
def test_dropout_masks_do_not_outlive_a_failed_call(name):
    layer = CLASSES[name][1](H, dropout=0.5)
    layer(make_x())
    with pytest.raises(ValueError):
        layer(make_x(), mask=np.ones((B, T + 1)))
    assert getattr(layer.cell, "_dropout_mask", None) is None


# --- arguments -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("time", [1, T])
def test_unroll_changes_nothing(name, time):
    for sequences, zero, back in itertools.product((False, True), repeat=3):
        options = {
            "units": H, "return_sequences": sequences, "return_state": True,
            "zero_output_for_mask": zero, "go_backwards": back, "dtype": "float64",
        }  # fmt: skip
        keras_layer, unrolled = make_pair(name, F, **options)
        unrolled.unroll = True
        x, mask = make_x()[:, :time], HOLES[:, :time]
        check_equal(list(unrolled(x, mask=mask)), list(keras_layer(x, mask=mask)))


@both
def test_unroll_needs_the_number_of_steps(name):
    layer = CLASSES[name][1](H, unroll=True)
    call = tf.function(layer, input_signature=[tf.TensorSpec([None, None, F])])
    assert "unroll" in message_of(lambda: call(make_x(dtype="float32")), ValueError)


@both
@pytest.mark.parametrize("units", [np.int64(5), np.int32(5), np.uint8(5)])
def test_numpy_units(name, units):
    layer = CLASSES[name][1](units)
    assert layer(make_x()).shape == (B, 5)
    assert type(layer.get_config()["units"]) is int
    assert layer.from_config(layer.get_config()).units == 5


@both
@pytest.mark.parametrize("units", [5.0, "5", None, 0, -1])
def test_wrong_units(name, units):
    assert "units" in message_of(lambda: CLASSES[name][1](units), ValueError)


@both
def test_attributes_written_after_construction_count(name):
    keras_layer, layer = make_pair(name, F, units=H, return_sequences=True, dtype="float64")
    before = layer(make_x(), mask=HOLES)
    for each in (keras_layer, layer):
        each.zero_output_for_mask = True
        each.use_cudnn = False
    after = layer(make_x(), mask=HOLES)
    assert not np.array_equal(before, after)
    check_equal(after, keras_layer(make_x(), mask=HOLES))


@both
def test_layer_is_what_keras_asks_for(name):
    layer = CLASSES[name][1](H, use_cudnn=True)
    assert layer.use_cudnn is True and layer.supports_jit is False
    assert "use_cudnn" not in layer.get_config() and "implementation" not in layer.get_config()
    assert layer(make_x()).shape == (B, H)  # no complaint that cuDNN is not there
    assert layer.supports_masking == CLASSES[name][0](H).supports_masking
    assert keras.saving.get_registered_name(type(layer)) == f"masked_rnn>{name}"
    paths = {w.path.split("/", 1)[1] for w in layer.trainable_weights}
    cell = name.lower() + "_cell"
    assert paths == {f"{cell}/{w}" for w in ("kernel", "recurrent_kernel", "bias")}


@both
def test_positional_arguments_are_keras(name):
    arguments = (H, "relu", "hard_sigmoid", False)
    keras_layer, layer = (kind(*arguments) for kind in CLASSES[name])
    ours, theirs = layer.get_config(), keras_layer.get_config()
    assert {**ours, "name": ""} == {**theirs, "name": ""}


# --- masks ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8", "float32", "float16", "int64"])
def test_masks_of_any_dtype(name, dtype):
    _, layer = make_pair(name, F, units=H, return_sequences=True)
    x = make_x(dtype="float32")
    want = layer(x, mask=HOLES)
    for mask in (HOLES.astype(dtype), HOLES.astype(dtype)[..., None]):
        np.testing.assert_array_equal(layer(x, mask=mask), want)
        np.testing.assert_array_equal(layer(x, mask=tf.constant(mask)), want)
    if dtype != "bool":
        np.testing.assert_array_equal(layer(x, mask=HOLES.astype(dtype) * 3), want)
    np.testing.assert_array_equal(layer(x, mask=HOLES.astype(dtype).tolist()), want)
    np.testing.assert_array_equal(layer(x, mask=[tf.constant(HOLES)]), want)


WRONG_MASKS = [
    (B, T - 1), (B, T + 1), (B - 1, T), (1, T), (B, 1), (T, B), (B,), (B, T, F), (B, T, H)
]  # fmt: skip


@both
@pytest.mark.parametrize("shape", WRONG_MASKS)
def test_wrong_masks_are_value_errors(name, shape):
    layer = CLASSES[name][1](H)
    x, mask = tf.constant(make_x(dtype="float32")), tf.ones(shape, "bool")
    layer(x)
    graph = tf.function(lambda x, m: layer(x, mask=m))
    known = keras.Input((T, F), batch_size=B)
    symbolic = keras.Input(shape[1:], batch_size=shape[0], dtype="bool")
    for call in (
        lambda: layer(x, mask=mask),
        lambda: graph(x, mask),
        lambda: layer(known, mask=symbolic),
    ):
        message = message_of(call, ValueError)
        assert "mask" in message and str(shape) in message and f"({B}, {T}" in message


@both
@pytest.mark.parametrize("shape", WRONG_MASKS)
def test_wrong_masks_of_unknown_shape_fail_in_the_run(name, shape):
    layer = CLASSES[name][1](H)
    x, mask = make_x(dtype="float32"), np.ones(shape, bool)
    layer(x)
    for known in ([None] * len(shape), None):
        signature = [tf.TensorSpec([None, None, F]), tf.TensorSpec(known, "bool")]
        call = tf.function(lambda x, m: layer(x, mask=m), input_signature=signature)
        message = message_of(lambda: call(x, mask), ValueError, tf.errors.InvalidArgumentError)
        assert "mask" in message


@both
@pytest.mark.parametrize("shape", [None, [None, None], [None, None, None], [None, None, 1]])
def test_masks_of_unknown_shape(name, shape):
    _, layer = make_pair(name, F, units=H)
    signature = [tf.TensorSpec([None, None, F]), tf.TensorSpec(shape, "bool")]
    call = tf.function(lambda x, m: layer(x, mask=m), input_signature=signature)
    x = make_x(dtype="float32")
    mask = HOLES if shape is None or len(shape) == 2 else HOLES[..., None]
    np.testing.assert_array_equal(call(x, mask), layer(x, mask=HOLES))


@both
def test_masks_of_no_number_are_value_errors(name):
    layer = CLASSES[name][1](H)
    x = make_x(dtype="float32")
    assert "mask" in message_of(lambda: layer(x, mask=tf.fill([B, T], "a")), ValueError)
    assert "mask" in message_of(lambda: layer(x, mask=[[1, 0], [1]]), ValueError)


@both
def test_masking_and_embedding(name):
    x = make_x(dtype="float32")
    x[~HOLES] = -1.0
    _, layer = make_pair(name, F, units=H, return_sequences=True)
    masked = keras.Sequential([keras.Input((None, F)), keras.layers.Masking(-1.0), layer])
    want = layer(x, mask=HOLES)
    np.testing.assert_array_equal(masked(x), want)
    np.testing.assert_array_equal(masked.predict(x, verbose=0), want)
    np.testing.assert_array_equal(masked(x)._keras_mask, HOLES)

    ids = np.where(HOLES, 3, 0)
    embedding = keras.layers.Embedding(5, F, mask_zero=True)
    model = keras.Sequential([keras.Input((None,)), embedding, layer])
    np.testing.assert_array_equal(model(ids), layer(tf.constant(embedding(ids)), mask=HOLES))


@both
def test_stacked_layers_hand_the_mask_on(name):
    x = make_x(dtype="float64")
    x[~HOLES] = 0.0
    models = []
    for kind in CLASSES[name]:
        layers = [
            keras.layers.Masking(),
            kind(H, return_sequences=True),
            kind(4, return_sequences=True, go_backwards=True),
            keras.layers.TimeDistributed(keras.layers.Dense(3)),
            kind(2),
        ]
        model = keras.Sequential([keras.Input((None, F)), *layers])
        models.append(shake(model))
    check_equal(models[1](x), models[0](x), 1e-6)
    check_equal(models[1].predict(x, verbose=0), models[0].predict(x, verbose=0), 1e-6)


@both
def test_masked_loss_is_the_mean_over_real_steps(name):
    x, y = make_x(dtype="float32"), make_x(5, (B, T, H), "float32")
    x[~HOLES] = 0.0
    model = keras.Sequential([keras.layers.Masking(), CLASSES[name][1](H, return_sequences=True)])
    model.compile("sgd", "mse", metrics=["mse"])
    loss, metric = model.evaluate(x, y, verbose=0, batch_size=B)
    want = ((model.predict(x, verbose=0) - y) ** 2).mean(-1)[HOLES].mean()
    np.testing.assert_allclose([loss, metric], want, rtol=1e-5)


@both
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(name, mode, sequences):
    x = make_x()
    pair = [
        keras.layers.Bidirectional(
            kind(H, return_sequences=sequences, return_state=True, dtype="float64"),
            merge_mode=mode,
            dtype="float64",
        )
        for kind in CLASSES[name]
    ]
    for layer in pair:
        layer.build((None, None, F))
        shake(layer)
    assert type(pair[1].forward_layer) is type(pair[1].backward_layer) is CLASSES[name][1]
    for mask in MASKS.values() if mode == "concat" else [HOLES]:
        want, got = (results_and_gradients(layer, x, mask=mask) for layer in pair)
        check_equal(got[0] + got[1], want[0] + want[1])
    states = 2 * make_states(name)
    want, got = (layer(x, initial_state=states, mask=HOLES) for layer in pair)
    check_equal(keras.tree.flatten(got), keras.tree.flatten(want))


@both
@pytest.mark.parametrize("time", [3, None])
def test_time_distributed(name, time):
    x = make_x(shape=(B, 3, T, F), dtype="float32")
    mask = np.random.default_rng(0).random((B, 3, T)) > 0.4
    x[~mask] = 0.0
    models = []
    for kind in CLASSES[name]:
        inputs = keras.Input((time, T, F))
        masked = keras.layers.Masking()(inputs)
        outputs = keras.layers.TimeDistributed(kind(H))(masked)
        models.append(shake(keras.Model(inputs, outputs)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow says that it uses a while loop
        check_equal(models[1](x), models[0](x), 1e-6)


# --- sequence_length -----------------------------------------------------------------------

LENGTHS = np.array([6, 3, 0, 1])


@both
def test_sequence_length_is_the_mask_of_the_lengths(name):
    _, layer = make_pair(name, F, units=H, return_sequences=True)
    x = make_x(dtype="float32")
    want = layer(x, mask=lengths_mask(LENGTHS))
    graph = tf.function(
        lambda x, n: layer(x, sequence_length=n),
        input_signature=[tf.TensorSpec([None, None, F]), tf.TensorSpec([None], "int32")],
    )
    for got in (
        layer(x, sequence_length=LENGTHS),
        layer(x, sequence_length=LENGTHS.tolist()),
        layer(tf.constant(x), sequence_length=tf.constant(LENGTHS, "int32")),
        layer(x, sequence_length=LENGTHS.astype("uint8")),
        layer.call(tf.constant(x), sequence_length=LENGTHS),
        graph(x, LENGTHS.astype("int32")),
    ):
        np.testing.assert_array_equal(got, want)
    got = layer(x, sequence_length=LENGTHS)
    np.testing.assert_array_equal(got._keras_mask, lengths_mask(LENGTHS))


@both
def test_sequence_length_with_a_carried_mask(name):
    _, layer = make_pair(name, F, units=H, return_sequences=True)
    x = make_x(dtype="float32")
    x[~HOLES] = 0.0
    effective = HOLES & lengths_mask(LENGTHS)
    masked = keras.layers.Masking()(x)
    got = layer(masked, sequence_length=tf.constant(LENGTHS))
    np.testing.assert_array_equal(got, layer(x, mask=effective))
    np.testing.assert_array_equal(got._keras_mask, effective)
    # A list is no tensor to Keras, which then fills in the carried mask itself.
    np.testing.assert_array_equal(layer(masked, sequence_length=LENGTHS.tolist()), got)


@both
def test_sequence_length_in_a_functional_model(name, tmp_path):
    inputs, lengths = keras.Input((None, F)), keras.Input((), dtype="int32")
    masked = keras.layers.Masking()(inputs)
    layer = CLASSES[name][1](H, return_sequences=True)
    hidden = layer(masked, sequence_length=lengths)
    second = CLASSES[name][1](3)
    model = keras.Model([inputs, lengths], second(hidden))
    shake(model)
    x, n = make_x(dtype="float32"), LENGTHS.astype("int32")
    x[~HOLES] = 0.0
    effective = HOLES & lengths_mask(LENGTHS)
    want = second(tf.constant(layer(x, mask=effective)), mask=effective)
    check_equal(model([x, n]), want, 1e-6)
    check_equal(model.predict([x, n], verbose=0), want, 1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    check_equal(loaded.predict([x, n], verbose=0), want, 1e-6)

    model = keras.Model([inputs, lengths], hidden)
    model.compile("sgd", "mse")
    y = make_x(5, (B, T, H), "float32")
    error = ((model.predict([x, n], verbose=0) - y) ** 2).mean(-1)[effective].mean()
    np.testing.assert_allclose(model.evaluate([x, n], y, verbose=0), error, rtol=1e-5)


@both
@pytest.mark.parametrize(
    "lengths",
    [[7, 1, 1, 1], [-1, 1, 1, 1], [1, 1, 1], [[1, 1, 1, 1]], [1.0, 1, 1, 1], 3, ["a"] * 4],
    ids=str,
)
def test_wrong_lengths(name, lengths):
    layer = CLASSES[name][1](H)
    x = make_x(dtype="float32")
    assert "sequence_length" in message_of(lambda: layer(x, sequence_length=lengths), ValueError)


@both
@pytest.mark.parametrize("lengths", [[7, 1, 1, 1], [-1, 1, 1, 1], [1, 1, 1], [1]], ids=str)
def test_wrong_lengths_fail_in_the_run(name, lengths):
    layer = CLASSES[name][1](H)
    call = tf.function(
        lambda x, n: layer(x, sequence_length=n),
        input_signature=[tf.TensorSpec([None, None, F]), tf.TensorSpec([None], "int32")],
    )
    message = message_of(
        lambda: call(make_x(dtype="float32"), lengths), tf.errors.InvalidArgumentError
    )
    assert "sequence_length" in message


@both
def test_mask_and_lengths_together(name):
    layer = CLASSES[name][1](H)
    x = tf.constant(make_x(dtype="float32"))
    for call in (
        lambda: layer(x, mask=HOLES, sequence_length=LENGTHS),
        lambda: layer(x, None, tf.constant(HOLES), sequence_length=LENGTHS),
        lambda: layer.call(x, mask=HOLES, sequence_length=LENGTHS),
    ):
        message = message_of(call, ValueError)
        assert "mask" in message and "sequence_length" in message


# --- initial state -------------------------------------------------------------------------


@both
def test_forms_of_initial_state(name):
    _, layer = make_pair(name, F, units=H)
    x, states = make_x(dtype="float32"), make_states(name, dtype="float32")
    want = layer(x, initial_state=[tf.constant(s) for s in states])
    forms = [
        states,
        tuple(states),
        [s.tolist() for s in states],
        [s.astype("float64") for s in states],
        [keras.Variable(s) for s in states],
    ]
    if name == "GRU":
        forms += [states[0], tf.constant(states[0]), states[0].tolist()]
    for form in forms:
        check_equal(layer(x, initial_state=form), want, 1e-6)


@both
@pytest.mark.parametrize("shape", [(B, H - 1), (B - 1, H), (1, H), (H,), (B, 1), (B, H, 1)])
def test_wrong_initial_states(name, shape):
    layer = CLASSES[name][1](H)
    x = make_x(dtype="float32")
    states = make_states(name, shape=shape, dtype="float32")
    graph = tf.function(lambda: layer(x, initial_state=states))
    known = keras.Input((T, F), batch_size=B)
    symbolic = [keras.Input(shape[1:], batch_size=shape[0]) for _ in states]
    for call in (
        lambda: layer(x, initial_state=states),
        graph,
        lambda: layer(known, initial_state=symbolic),
    ):
        message = message_of(call, ValueError)
        assert "initial_state" in message and str(shape) in message and str((B, H)) in message


@both
def test_wrong_number_of_initial_states(name):
    layer = CLASSES[name][1](H)
    x, states = make_x(dtype="float32"), make_states(name, dtype="float32")
    assert "initial_state" in message_of(
        lambda: layer(x, initial_state=[*states, states[0]]), ValueError
    )
    if name == "LSTM":
        assert "initial_state" in message_of(
            lambda: layer(x, initial_state=states[0]), ValueError
        )


@both
def test_initial_state_of_unknown_batch_fails_in_the_run(name):
    layer = CLASSES[name][1](H)
    layer(make_x(dtype="float32"))

    def call(x, *states):
        return layer(x, initial_state=list(states))

    states = [tf.TensorSpec([None, H])] * STATES[name]
    call = tf.function(call, input_signature=[tf.TensorSpec([None, None, F]), *states])
    message = message_of(
        lambda: call(make_x(dtype="float32"), *make_states(name, shape=(1, H), dtype="float32")),
        tf.errors.InvalidArgumentError,
    )
    assert "initial_" in message


@both
def test_dropped_mask_is_keras_number_and_a_warning(name):
    x = make_x()
    x[~HOLES] = 0.0
    keras_layer, layer = make_pair(name, F, units=H, dtype="float64")
    masked = keras.layers.Masking(dtype="float64")(x)
    states = make_states(name)
    states = states if name == "LSTM" else states[0]
    with pytest.warns(UserWarning, match="mask="):
        got = layer(masked, initial_state=states)
    check_equal(got, keras_layer(masked, initial_state=states))
    layer(masked, initial_state=states)  # once a layer: warnings are errors in these tests

    inputs = keras.Input((T, F))
    symbolic = [keras.Input((H,)) for _ in range(STATES[name])]
    layer = CLASSES[name][1](H)
    with pytest.warns(UserWarning, match="mask="):
        layer(keras.layers.Masking()(inputs), initial_state=symbolic)


# --- stateful ------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("policy", ["float64", "float32"])
def test_stateful_equals_keras(name, policy):
    x, tolerance = make_x(), 1e-11 if policy == "float64" else 1e-6
    pair = []
    for kind in CLASSES[name]:
        layer = kind(H, stateful=True, return_sequences=True, dtype=policy)
        layer.build((B, T, F))
        pair.append(shake(layer))
    for mask in (HOLES, None, MASKS["left"]):
        want, got = (layer(x, mask=mask) for layer in pair)
        check_equal(got, want, tolerance)
        check_equal(pair[1].states, pair[0].states, tolerance)
    for layer in pair:
        layer.reset_state()
        assert not np.any(to_numpy(layer.states[0]))
    assert "batch size" in message_of(lambda: pair[1](x[:2]), ValueError)


@both
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_stateful_in_mixed_precision(name, policy):
    model = keras.Sequential(
        [keras.Input((T, F), batch_size=B), CLASSES[name][1](H, stateful=True, dtype=policy)]
    )
    model.compile("sgd", "mse")
    model.fit(make_x(dtype="float32"), np.zeros((B, H)), batch_size=B, verbose=0)
    layer = model.layers[-1]
    assert {v.dtype for v in layer.states} == {"float32"}
    assert np.any(to_numpy(layer.states[0]))
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    assert model(make_x(dtype="float32")).dtype == layer.compute_dtype


# --- nothing to do -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("sequences", [False, True])
def test_no_time_steps(name, sequences):
    layer = CLASSES[name][1](H, return_sequences=sequences, return_state=True, dropout=0.3)
    layer.build((None, None, F))
    states = make_states(name, dtype="float32")
    given = states if name == "LSTM" else states[0]
    x = np.zeros((B, 0, F), "float32")
    unknown = [tf.TensorSpec([None, None, F])]
    for mask in (None, np.zeros((B, 0), bool)):
        for call in (
            layer,
            tf.function(lambda x, **kw: layer(x, **kw)),
            tf.function(
                lambda x, **kw: layer(x, **kw), input_signature=unknown, reduce_retracing=True
            ),
        ):
            output, *after = call(x, initial_state=given, mask=mask) if call is layer else (
                tf.function(lambda x: layer(x, initial_state=given, mask=mask))(x)
            )
            assert output.shape == ((B, 0, H) if sequences else (B, H))
            assert not np.any(output)
            for a, b in zip(after, states):
                np.testing.assert_array_equal(a, b)
    call = tf.function(lambda x: layer(x), input_signature=unknown)
    assert not np.any(call(x)[-1])


@both
@pytest.mark.parametrize("sequences", [False, True])
def test_empty_batch(name, sequences):
    layer = CLASSES[name][1](H, return_sequences=sequences, return_state=True)
    x = np.zeros((0, T, F), "float32")
    unknown = tf.function(layer, input_signature=[tf.TensorSpec([None, None, F])])
    for call in (layer, tf.function(layer), unknown):
        results = call(tf.constant(x))
        assert results[0].shape == ((0, T, H) if sequences else (0, H))
        assert results[1].shape == (0, H)
    results, gradients = results_and_gradients(layer, x, mask=np.zeros((0, T), bool))
    assert not any(g.any() for g in gradients)


@both
def test_fully_masked_rows(name):
    keras_layer, layer = make_pair(
        name, F, units=H, return_sequences=True, return_state=True, dtype="float64"
    )
    states = make_states(name)
    got = results_and_gradients(layer, make_x(), states, mask=np.zeros((B, T), bool))
    assert not got[0][0].any()
    check_equal(got[0][1:], states, 0)
    want = results_and_gradients(keras_layer, make_x(), states, mask=np.zeros((B, T), bool))
    check_equal(got[1], want[1])


# --- training and symbolic use -------------------------------------------------------------


@both
def test_fit_equals_keras(name):
    x, y = make_x(shape=(12, T, F), dtype="float32"), make_x(3, (12, 1), "float32")
    x[np.random.default_rng(0).random((12, T)) < 0.4] = 0.0
    losses = []
    for kind in CLASSES[name]:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((None, F)),
                keras.layers.Masking(),
                kind(H, dropout=0.2, recurrent_dropout=0.2),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
        losses.append(model.fit(x, y, epochs=3, batch_size=4, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@both
def test_inside_a_layer_that_keras_traces(name):
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.rnn = CLASSES[name][1](H, dropout=0.1, return_sequences=True)

        def call(self, x, mask=None):
            return keras.ops.sum(self.rnn(x, mask=mask), axis=1)

        def compute_mask(self, x, mask=None):
            return None

    inputs = keras.Input((None, F))
    model = keras.Model(inputs, Outer()(keras.layers.Masking()(inputs)))
    assert model.output_shape == (None, H)
    assert model.predict(make_x(), verbose=0).shape == (B, H)


@both
def test_outputs_know_their_shapes(name):
    layer = CLASSES[name][1](H, return_sequences=True, return_state=True)

    @tf.function(input_signature=[tf.TensorSpec([None, None, F])])
    def call(x):
        outputs, *states = layer(x)
        assert outputs.shape.as_list() == [None, None, H]
        assert all(s.shape.as_list() == [None, H] for s in states)
        return outputs

    call(make_x(dtype="float32"))
    outputs = layer(keras.Input((T, F), batch_size=B))
    assert [tuple(o.shape) for o in outputs] == [(B, T, H)] + [(B, H)] * STATES[name]


@both
def test_stateless_call(name):
    keras_layer, layer = make_pair(name, F, units=H, dtype="float64")
    x, weights = tf.constant(make_x()), [2 * w.value for w in layer.trainable_weights]
    got, _ = layer.stateless_call(weights, layer.non_trainable_variables, x, mask=HOLES)
    for variable in keras_layer.trainable_weights:
        variable.assign(2 * variable)
    check_equal(got, keras_layer(x, mask=HOLES))


@both
def test_rematerialization(name):
    keras_layer, _ = make_pair(name, F, units=H, return_sequences=True, dtype="float64")
    with keras.RematScope(mode="full"):
        _, layer = make_pair(name, F, units=H, return_sequences=True, dtype="float64")
    want = results_and_gradients(keras_layer, make_x(), mask=HOLES)
    got = results_and_gradients(layer, make_x(), mask=HOLES)
    check_equal(got[0] + got[1], want[0] + want[1])
