"""The functions `gru` and `lstm`, the op's gradients of first and higher order, and that a
reserve is kept where a gradient is taken and nowhere else."""

import numpy as np
import pytest

from masked_rnn import activations, differentiable, ops

from .pairs import check_equal, keras, make_pair, masked_rnn, message_of, tf, to_numpy

B, T, F, H = 3, 5, 4, 3
MASK = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)
CELLS = ("gru", "gru_reset_before", "lstm")
GATES = differentiable.GATES

every_cell = pytest.mark.parametrize("cell", CELLS)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# An older Keras does not have all of them.
NAMES = [n for n in activations.NAMES if hasattr(keras.activations, n)]


def make_arguments(cell, seed=0, dtype="float64", dropout=False):
    """Every tensor argument of `ops.rnn` by name."""
    rng = np.random.default_rng(seed)
    width = GATES[cell] * H

    def normal(*shape):
        return tf.constant(0.6 * rng.standard_normal(shape), dtype)

    arguments = {
        "inputs": normal(B, T, F),
        "kernel": normal(F, width),
        "recurrent_kernel": normal(H, width),
        "bias": normal(2, width) if cell == "gru" else normal(width),
        "mask": tf.constant(MASK),
        "initial_h": normal(B, H),
        "initial_c": normal(B, H) if cell == "lstm" else None,
    }
    if dropout:
        kept = rng.random((GATES[cell], B, F)) < 0.7
        arguments["input_dropout"] = tf.constant(kept / 0.7, dtype)
        kept = rng.random((GATES[cell], B, H)) < 0.7
        arguments["recurrent_dropout"] = tf.constant(kept / 0.7, dtype)
    return arguments


def call(cell, arguments, **options):
    function = masked_rnn.lstm if cell == "lstm" else masked_rnn.gru
    arguments = dict(arguments)
    h, c = arguments.pop("initial_h"), arguments.pop("initial_c")
    state = h if c is None else (h, c)
    if cell != "lstm":
        options["reset_after"] = cell == "gru"
    outputs, state = function(**arguments, initial_state=state, **options)
    return [outputs, *(state if cell == "lstm" else [state])]


# --- the functions -------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("back, zero", [(False, False), (True, True)])
def test_functions_equal_keras(cell, back, zero):
    name = "LSTM" if cell == "lstm" else "GRU"
    options = {} if cell == "lstm" else {"reset_after": cell == "gru"}
    keras_layer, _ = make_pair(
        name, F, units=H, return_sequences=True, return_state=True, go_backwards=back,
        zero_output_for_mask=zero, activation="elu", recurrent_activation="hard_sigmoid",
        dtype="float64", **options,
    )  # fmt: skip
    arguments = make_arguments(cell)
    names = ("kernel", "recurrent_kernel", "bias")
    keras_layer.set_weights([to_numpy(arguments[n]) for n in names])
    state = [arguments[n] for n in ("initial_h", "initial_c") if arguments[n] is not None]
    want = keras_layer(
        arguments["inputs"], mask=MASK, initial_state=state if len(state) > 1 else state[0]
    )
    got = call(
        cell, arguments, activation="elu", recurrent_activation=tf.keras.activations.hard_sigmoid,
        go_backwards=back, zero_output_for_mask=zero,
    )  # fmt: skip
    check_equal(got, list(want))


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_functions_take_every_dtype(cell, dtype):
    got = call(cell, make_arguments(cell, dtype=dtype))
    assert all(y.dtype == dtype for y in got)
    tolerance = {"float64": 0, "float32": 1e-6, "float16": 3e-3, "bfloat16": 3e-2}[dtype]
    check_equal(got, call(cell, make_arguments(cell)), tolerance)


@every_cell
def test_functions_take_arrays_lists_and_variables(cell):
    arguments = make_arguments(cell, dtype="float32")
    want = call(cell, arguments)

    def each(convert):
        return {n: v if v is None else convert(v.numpy()) for n, v in arguments.items()}

    for convert in (np.asarray, lambda a: a.tolist(), tf.Variable, tf.constant):
        check_equal(call(cell, each(convert)), want, 1e-6)
    check_equal(call(cell, {**arguments, "bias": keras.Variable(arguments["bias"])}), want, 0)
    for mask in (MASK.astype("float32"), MASK[..., None], MASK.astype(int).tolist()):
        check_equal(call(cell, {**arguments, "mask": mask}), want, 0)


@every_cell
def test_functions_need_no_optional_argument(cell):
    arguments = make_arguments(cell)
    function = masked_rnn.lstm if cell == "lstm" else masked_rnn.gru
    options = {} if cell == "lstm" else {"reset_after": cell == "gru"}
    bare = [arguments[n] for n in ("inputs", "kernel", "recurrent_kernel")]
    outputs, state = function(*bare, **options)
    zeros = {n: v if v is None else tf.zeros_like(v) for n, v in arguments.items()}
    given = {**zeros, **dict(zip(("inputs", "kernel", "recurrent_kernel"), bare)), "mask": None}
    check_equal([outputs, *tf.nest.flatten(state)], call(cell, given))
    full = function(*bare, sequence_length=[T] * B, **options)[0]
    np.testing.assert_array_equal(full, outputs)
    lengths = [3, 0, 5]
    want = call(cell, {**arguments, "mask": np.arange(T) < np.array(lengths)[:, None]})
    got = call(cell, {**arguments, "mask": None}, sequence_length=np.array(lengths, "int8"))
    check_equal(got, want, 0)


WRONG = {
    "inputs": [np.zeros((B, T)), np.zeros((B, T, F), int), "text", np.zeros((B, T, F + 1))],
    "kernel": [np.zeros((F, H)), np.zeros((F + 1, 4 * H)), np.zeros(3), np.zeros((F, 5), "f")],
    "recurrent_kernel": [np.zeros((H, H)), np.zeros((H + 1, 4 * H)), np.zeros((H, 4 * H), "f")],
    "bias": [np.zeros(H), np.zeros((3, 3 * H)), np.zeros((1, 1)), np.zeros(4 * H, "f"), 1.0],
    "mask": [np.ones((B, T + 1)), np.ones((1, T)), np.ones((B, T, F)), np.ones(T), [["a"] * T] * B],
    "sequence_length": [[1, 2], [[1], [2], [3]], [0, 1, T + 1], [-1, 1, 1], [1.0, 1, 1], 2],
    "initial_state": [
        np.zeros((B, H + 1)), np.zeros((1, H)), [np.zeros((B, H))] * 3, np.zeros((B, H), "f"), []
    ],
    "activation": ["softmax", "nonsense", lambda x: x, 3, keras.ops.gelu],
    "recurrent_activation": ["Tanh", tf.nn.softmax],
}  # fmt: skip


@every_cell
@pytest.mark.parametrize(
    "argument, value", [(a, v) for a, values in WRONG.items() for v in values], ids=str
)
def test_wrong_arguments_are_value_errors_that_name_them(cell, argument, value):
    arguments = make_arguments(cell)
    if argument == "initial_state":
        state = value if cell != "lstm" or isinstance(value, list) else (value, value)
        del arguments["initial_h"], arguments["initial_c"]
        arguments["initial_state"] = state
    else:
        state = [arguments.pop("initial_h"), arguments.pop("initial_c")]
        arguments["initial_state"] = state if cell == "lstm" else state[0]
        if argument == "sequence_length":
            del arguments["mask"]
        arguments[argument] = value
    # Where two disagree, either may be the one that is named.
    named = "kernel" if argument in ("inputs", "recurrent_kernel") else argument
    named = ("inputs", named) if argument == "inputs" else (named,)
    function = masked_rnn.lstm if cell == "lstm" else masked_rnn.gru
    if cell != "lstm":
        arguments["reset_after"] = cell == "gru"
    message = message_of(lambda: function(**arguments), ValueError)
    assert any(name in message for name in named)


def test_mask_and_lengths_together():
    message = message_of(
        lambda: call("gru", make_arguments("gru"), sequence_length=[1, 1, 1]), ValueError
    )
    assert "mask" in message and "sequence_length" in message


@every_cell
def test_what_only_the_run_knows_is_an_invalid_argument(cell):
    arguments = {n: v for n, v in make_arguments(cell).items() if v is not None}
    unknown = {n: tf.TensorSpec([None] * v.shape.rank, v.dtype) for n, v in arguments.items()}

    @tf.function(input_signature=[unknown])
    def graph(arguments):
        return call(cell, {"initial_c": None, **arguments})

    check_equal(graph(arguments), call(cell, {"initial_c": None, **arguments}))
    for argument, size, named in (
        ("inputs", [B, T, F - 1], "kernel"),
        ("mask", [B, T - 1], "mask"),
        ("initial_h", [1, H], "initial_state"),
        ("bias", [1] * arguments["bias"].shape.rank, "bias"),
    ):
        wrong = {**arguments, argument: tf.zeros(size, arguments[argument].dtype)}
        message = message_of(lambda: graph(wrong), tf.errors.InvalidArgumentError)
        assert named in message and "needed" in message


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_knows_keras_activations(name):
    x = np.linspace(-8, 8, 321)
    got = np.asarray(differentiable.ACTIVATIONS[name](tf.constant(x)))
    want = np.asarray(keras.activations.get(name)(tf.constant(x)))
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)
    # 1 unit, 1 step, z = 0: the output is activation(x).
    kernel = tf.constant([[0.0, 0.0, 1.0]], "float64")
    outputs, _ = masked_rnn.gru(
        x[:, None, None], kernel, tf.zeros([1, 3], "float64"), activation=name,
        recurrent_activation="linear",
    )  # fmt: skip
    np.testing.assert_allclose(np.asarray(outputs)[:, 0, 0], want, rtol=1e-6, atol=1e-7)


def test_aliases_are_the_functions_they_stand_for():
    x = tf.constant(np.linspace(-4, 4, 101))
    seen = set()
    for alias, name in activations._callables(True).items():
        want = np.asarray(differentiable.ACTIVATIONS[name](x))
        np.testing.assert_allclose(np.asarray(alias(x)), want, rtol=1e-6, atol=1e-7)
        seen.add(name)
    assert seen >= set(NAMES)
    for alias, name in (
        (tf.nn.relu, "relu"), (tf.tanh, "tanh"), (tf.math.sigmoid, "sigmoid"),
        (keras.ops.tanh, "tanh"), (keras.ops.nn.relu, "relu"), (tf.keras.activations.relu, "relu"),
        (keras.activations.get(None), "linear"), (None, "linear"), ("swish", "silu"),
        (tf.identity, "linear"), (keras.ops.exp, "exponential"), (tf.nn.swish, "silu"),
    ):  # fmt: skip
        assert activations.fused_name(alias) == name
    import functools

    for custom in (
        lambda x: x, keras.activations.softmax, tf.nn.softmax, functools.partial(tf.nn.relu),
        keras.ops.gelu, keras.activations.glu, keras.activations.sparsemax, "softmax", np.tanh,
        keras.activations.threshold, keras.activations.log_softmax, keras.layers.LeakyReLU(),
    ):  # fmt: skip
        assert activations.fused_name(custom) is None


# --- first order ---------------------------------------------------------------------------


def differences(function, arrays, rng, step=1e-6):
    """Directional derivative of a scalar function by central differences, and its direction."""
    directions = [rng.standard_normal(a.shape) for a in arrays]
    ahead = function([a + step * d for a, d in zip(arrays, directions)])
    behind = function([a - step * d for a, d in zip(arrays, directions)])
    return (ahead - behind) / (2 * step), directions


def split(cell, dropout=False):
    """Arguments with a gradient by name, and the others."""
    arguments = make_arguments(cell, dropout=dropout)
    names = [n for n in differentiable.WITH_GRADIENT if arguments[n] is not None]
    return {n: arguments.pop(n) for n in names}, arguments


@every_cell
@pytest.mark.parametrize("sequences", [True, False])
def test_gradients_equal_the_plain_ops(cell, sequences):
    named, rest = split(cell, dropout=True)
    options = differentiable.Options(cell, "silu", "sigmoid", True, False, sequences)

    def of(forward):
        with tf.GradientTape() as tape:
            tape.watch(list(named.values()))
            results = [y for y in forward() if y is not None and y.shape.rank > 1]
            loss = sum(tf.reduce_sum(tf.sin(y * (i + 1))) for i, y in enumerate(results))
        return [*results, *tape.gradient(loss, list(named.values()))]

    tensors = differentiable.Tensors(**named, **rest, **({} if cell == "lstm" else {}))
    want = of(lambda: differentiable.forward(tensors, options))
    attributes = {n: v for n, v in options._asdict().items() if n != "cell"}
    check_equal(of(lambda: ops.rnn(cell, **named, **rest, **attributes)), want)


@every_cell
def test_no_gradient_for_what_is_absent(cell):
    arguments = make_arguments(cell)
    bare = [arguments[n] for n in ("inputs", "kernel", "recurrent_kernel")]
    for graph in (False, True):
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch([*bare, arguments["initial_h"]])
                y = ops.rnn(cell, *bare)[0]
            return tape.gradient(y, [*bare, arguments["initial_h"]])

        got = (tf.function(gradient) if graph else gradient)()
        assert got[3] is None and all(g is not None for g in got[:3])


@every_cell
@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_of_one_result_alone(cell, which):
    """Each result alone, so that the others' incoming gradients are missing."""
    if which == 2 and cell != "lstm":
        pytest.skip("a GRU has two results")
    named, rest = split(cell)

    def gradient(rnn):
        with tf.GradientTape() as tape:
            tape.watch(list(named.values()))
            loss = tf.reduce_sum(rnn()[which] ** 2)
        return tape.gradient(loss, list(named.values()), unconnected_gradients="zero")

    rest = {"initial_c": None, "input_dropout": None, "recurrent_dropout": None, **rest}
    rest = {n: v for n, v in rest.items() if n not in named}
    options = differentiable.Options(cell, "tanh", "sigmoid", False, False, True)
    tensors = differentiable.Tensors(**named, **rest)
    want = gradient(lambda: differentiable.forward(tensors, options))
    check_equal(gradient(lambda: ops.rnn(cell, **named, **rest)), want)
    in_graph = tf.function(lambda: gradient(lambda: ops.rnn(cell, **named, **rest)))
    check_equal(in_graph(), want)


# --- second order and above ----------------------------------------------------------------


def penalty_of(cell, names, rest, **options):
    """Squared norm of the gradients of a loss: what a gradient penalty adds."""

    def penalty(arrays):
        arrays = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            results = ops.rnn(cell, **dict(zip(names, arrays)), **rest, **options)
            loss = sum(tf.reduce_sum(tf.sin((i + 1) * y)) for i, y in enumerate(results))
        return sum(tf.reduce_sum(g**2) for g in tape.gradient(loss, arrays))

    return penalty


def with_gradient(function, arrays):
    arrays = [tf.convert_to_tensor(a) for a in arrays]
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        value = function(arrays)
    return value, tape.gradient(value, arrays, unconnected_gradients="zero")


BACKWARDS = {"go_backwards": True, "zero_output_for_mask": True, "return_sequences": False}


@every_cell
@pytest.mark.parametrize(
    "mode, options",
    [
        ("eager", {}),
        ("eager", BACKWARDS),
        ("eager", {"activation": "softsign", "recurrent_activation": "silu"}),
        ("graph", BACKWARDS),
        ("unknown sizes", {}),
    ],
    ids=str,
)
def test_second_order_equals_finite_differences(cell, mode, options):
    named, rest = split(cell, dropout=mode == "graph")
    arrays = [a.numpy() for a in named.values()]
    penalty = penalty_of(cell, list(named), rest, **options)
    if mode != "eager":
        signature = None
        if mode == "unknown sizes":
            signature = [[tf.TensorSpec([None] * a.ndim, "float64") for a in arrays]]
        compute = tf.function(lambda a: with_gradient(penalty, a), input_signature=signature)
        _, got = compute([tf.constant(a) for a in arrays])
    else:
        _, got = with_gradient(penalty, arrays)
    want, directions = differences(penalty, arrays, np.random.default_rng(1))
    got = sum(np.sum(np.asarray(g) * d) for g, d in zip(got, directions))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_second_order_of_every_activation(name):
    named, rest = split("lstm")
    arrays = [a.numpy() for a in named.values()]
    penalty = penalty_of("lstm", list(named), rest, activation=name)
    _, got = with_gradient(penalty, arrays)
    want, directions = differences(penalty, arrays, np.random.default_rng(1))
    got = sum(np.sum(np.asarray(g) * d) for g, d in zip(got, directions))
    loose = name in ("leaky_relu", "gelu")  # TensorFlow rounds a constant to float32
    np.testing.assert_allclose(got, want, rtol=1e-5 if loose else 2e-6)


@every_cell
def test_third_order_equals_finite_differences(cell):
    named, rest = split(cell)
    arrays = [a.numpy() for a in named.values()]
    penalty = penalty_of(cell, list(named), rest)

    def third(arrays):
        _, second = with_gradient(penalty, arrays)
        return sum(tf.reduce_sum(g**2) for g in second)

    _, got = with_gradient(third, arrays)
    want, directions = differences(third, arrays, np.random.default_rng(1))
    got = sum(np.sum(np.asarray(g) * d) for g, d in zip(got, directions))
    np.testing.assert_allclose(got, want, rtol=1e-5)


@every_cell
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_second_order_does_not_read_masked_steps(cell, bad):
    named, rest = split(cell)
    arrays = [a.numpy() for a in named.values()]
    penalty = penalty_of(cell, list(named), rest)
    arrays[0][~MASK] = 0
    want = with_gradient(penalty, arrays)
    arrays[0][~MASK] = bad
    got = with_gradient(penalty, arrays)
    check_equal([got[0], *got[1]], [want[0], *want[1]], 0)


@every_cell
@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_second_order_in_16_bits(cell, dtype, tolerance):
    named, rest = split(cell)
    penalty = penalty_of(cell, list(named), rest)
    _, want = with_gradient(penalty, list(named.values()))
    _, got = with_gradient(penalty, [tf.cast(a, dtype) for a in named.values()])
    assert all(g.dtype == dtype for g in got)
    check_equal(got, want, tolerance)


@every_cell
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jacobian_and_forward_mode(cell):
    named, rest = split(cell)
    x = named.pop("inputs")
    direction = tf.constant(np.random.default_rng(0).standard_normal(x.shape))

    def outputs(x):
        return ops.rnn(cell, x, **named, **rest)[0]

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = outputs(x)
    jacobian = tape.jacobian(y, x, experimental_use_pfor=False)
    want = tf.tensordot(jacobian, direction, 3)
    ahead, behind = outputs(x + 1e-6 * direction), outputs(x - 1e-6 * direction)
    check_equal(want, (ahead - behind) / 2e-6, 1e-8)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        check_equal(accumulator.jvp(outputs(x)), want)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        check_equal(accumulator.jvp(tf.function(outputs)(x)), want)

    @tf.function
    def inside(x):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            y = outputs(x)
        return accumulator.jvp(y)

    check_equal(inside(x), want)
    check_equal(tape.jacobian(y, x), jacobian)


# --- the reserve ---------------------------------------------------------------------------


@pytest.fixture
def reserves(monkeypatch):
    """The sizes of the reserves that eager calls have made, in order."""
    sizes = []

    class Spy:
        def __getattr__(self, name):
            op = getattr(ops.library.load(), name)
            if name not in ("masked_rnn", "masked_rnn_last"):
                return op

            def spied(*args, **kwargs):
                results = op(*args, **kwargs)
                sizes.append(results[3].shape[0])
                return results

            return spied

    monkeypatch.setattr(ops, "_lib", Spy())
    return sizes


def test_eager_keeps_a_reserve_only_for_a_tape(reserves):
    named, rest = split("gru")
    variable = tf.Variable(named["kernel"])

    def run(**changes):
        return ops.rnn("gru", **{**named, **changes}, **rest)

    run()
    with tf.GradientTape():
        run()  # watches none of these
    with tf.GradientTape() as tape:
        with tape.stop_recording():
            run(kernel=tf.convert_to_tensor(variable))
    assert reserves == [0, 0, 0]
    with tf.GradientTape():
        run(kernel=tf.convert_to_tensor(variable))
    assert reserves.pop() > 0
    with tf.GradientTape() as tape:
        tape.watch(named["initial_h"])
        run()
    assert reserves.pop() > 0


@every_cell
def test_eager_forward_runs_once_for_a_gradient(reserves, cell):
    named, rest = split(cell)
    with tf.GradientTape() as tape:
        tape.watch(list(named.values()))
        y = ops.rnn(cell, **named, **rest)[0]
    tape.gradient(y, list(named.values()))
    assert len(reserves) == 1


def test_a_gradient_that_nobody_foresaw_runs_the_forward_pass_again(monkeypatch, reserves):
    named, rest = split("gru")

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(list(named.values()))
            y = ops.rnn("gru", **named, **rest)[0]
        return tape.gradient(y, list(named.values()))

    want = gradient()
    monkeypatch.setattr(ops, "_gradient_follows", lambda tensors: False)
    del reserves[:]
    check_equal(gradient(), want, 0)
    assert len(reserves) == 2 and reserves[0] == 0 and reserves[1] > 0
    # TensorFlow without the module that tells: keep it always.
    monkeypatch.undo()
    monkeypatch.setattr(ops, "record", None)
    check_equal(gradient(), want, 0)


@every_cell
def test_an_empty_reserve_is_an_error_and_no_number(cell):
    named, rest = split(cell)
    tensors = [{**named, **rest}.get(n) for n in differentiable.Tensors._fields]
    none, no_mask = ops._absent(tf.float64)
    tensors = [none if t is None else t for t in tensors]
    with pytest.raises(tf.errors.InvalidArgumentError, match="reserve"):
        ops.library.load().masked_rnn_grad(
            *tensors, tf.zeros([0], "uint8"), tf.ones([B, T, H], "float64"), none, none, cell=cell
        )


# Ways to a gradient. Each takes loss(x) and x, and returns the gradient.


def _plain(loss, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    return tape.gradient(value, x)


def _tape_in_function(loss, x):
    return tf.function(lambda x: _plain(loss, x))(x)


def _tape_round_function(loss, x):
    return _plain(tf.function(loss), x)


def _tape_round_function_that_ran_without(loss, x):
    function = tf.function(loss)
    function(x)
    gradient = _plain(function, x)
    function(x)
    return gradient


def _nested_functions(loss, x):
    inner = tf.function(loss)
    return tf.function(lambda x: _plain(tf.function(inner), x))(x)


def _nested_and_tape_outside(loss, x):
    inner = tf.function(loss)
    return _plain(tf.function(lambda x: inner(x)), x)


def _tf_gradients(loss, x):
    return tf.function(lambda x: tf.gradients(loss(x), x)[0])(x)


def _while_loop(loss, x):
    def once(x):
        _, total = tf.while_loop(
            lambda i, _: i < 1, lambda i, total: (i + 1, total + loss(x)),
            (0, tf.constant(0.0, x.dtype)),
        )  # fmt: skip
        return total

    return tf.function(lambda x: _plain(once, x))(x)


def _while_loop_and_tape_outside(loss, x):
    @tf.function
    def once(x):
        total = tf.constant(0.0, x.dtype)
        for _ in tf.range(1):
            total += loss(x)
        return total

    return _plain(once, x)


def _cond(loss, x):
    def maybe(x):
        return tf.cond(tf.reduce_sum(x) < 1e9, lambda: loss(x), lambda: tf.zeros((), x.dtype))

    return tf.function(lambda x: _plain(maybe, x))(x)


def _cond_and_tape_outside(loss, x):
    @tf.function
    def maybe(x):
        return tf.cond(tf.reduce_sum(x) < 1e9, lambda: loss(x), lambda: tf.zeros((), x.dtype))

    return _plain(maybe, x)


def _map_fn(loss, x):
    def mapped(x):
        stacked = tf.stack([x, tf.stop_gradient(x)])
        return tf.map_fn(loss, stacked, fn_output_signature=x.dtype)[0]

    return tf.function(lambda x: _plain(mapped, x))(x)


def _scan_in_function_in_cond(loss, x):
    inner = tf.function(loss)

    def scanned(x):
        return tf.scan(lambda a, _: a + inner(x), tf.range(1), tf.zeros((), x.dtype))[-1]

    def maybe(x):
        return tf.cond(tf.reduce_sum(x) < 1e9, lambda: scanned(x), lambda: tf.zeros((), x.dtype))

    return tf.function(lambda x: _plain(maybe, x))(x)


def _recompute(loss, x):
    return _plain(tf.recompute_grad(loss), x)


def _recompute_in_function(loss, x):
    return tf.function(lambda x: _plain(tf.recompute_grad(loss), x))(x)


def _custom_gradient(loss, x):
    @tf.custom_gradient
    def wrapped(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = loss(x)
        return y, lambda d: d * tape.gradient(y, x)

    return _plain(wrapped, x)


def _py_function(loss, x):
    return _plain(lambda x: tf.py_function(loss, [x], x.dtype), x)


def _switch_case(loss, x):
    def choose(x):
        return tf.switch_case(tf.size(x) * 0, [lambda: loss(x), lambda: loss(2 * x)])

    return tf.function(lambda x: _plain(choose, x))(x)


ROUTES = [
    _tape_in_function, _tape_round_function, _tape_round_function_that_ran_without,
    _nested_functions, _nested_and_tape_outside, _tf_gradients, _while_loop,
    _while_loop_and_tape_outside, _cond, _cond_and_tape_outside, _map_fn,
    _scan_in_function_in_cond, _recompute, _recompute_in_function, _custom_gradient, _py_function,
    _switch_case,
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.__name__.strip("_"))
@pytest.mark.parametrize("sequences", [True, False])
def test_every_way_to_a_gradient(route, sequences, monkeypatch):
    named, rest = split("gru")
    x = named.pop("inputs")

    def loss(x):
        results = ops.rnn("gru", x, **named, **rest, return_sequences=sequences)
        return sum(tf.reduce_sum(tf.sin((i + 1) * y)) for i, y in enumerate(results[:2]))

    def twice(op, options):
        raise AssertionError("the forward pass runs twice")

    monkeypatch.setattr(ops, "_run_again", twice)
    want = _plain(loss, x)
    got = route(loss, x)
    check_equal(got, want)
    # And the gradient of that gradient; the others take TensorFlow long, or it cannot.
    if sequences and route in (
        _tape_in_function, _tape_round_function, _while_loop, _cond, _nested_functions
    ):  # fmt: skip
        want = _plain(lambda x: tf.reduce_sum(_plain(loss, x) ** 2), x)
        check_equal(_plain(lambda x: tf.reduce_sum(route(loss, x) ** 2), x), want)


def test_graphs_keep_a_reserve_only_where_a_gradient_is_taken():
    named, rest = split("gru")
    x = named.pop("inputs")

    @tf.function
    def forward(x):
        return tf.reduce_sum(ops.rnn("gru", x, **named, **rest)[0])

    @tf.function
    def backward(x):
        return _plain(forward, x)

    @tf.function
    def both(x):
        # The second call is not differentiated.
        return _plain(lambda x: tf.reduce_sum(ops.rnn("gru", x, **named, **rest)[0]), x), forward(x)

    def kept(function, graph_def):
        """keep_reserve of the forward ops that running a function runs."""
        functions = {f.signature.name: f for f in graph_def.library.function}
        found, waiting = [], [function.function_def]
        while waiting:
            for node in waiting.pop().node_def:
                if node.op == "MaskedRnn":
                    found.append(node.attr["keep_reserve"].b)
                elif "f" in node.attr:
                    waiting.append(functions[node.attr["f"].func.name])
        return found

    for function, want in ((forward, [False]), (backward, [True]), (both, [False, True])):
        _plain(forward, x)  # a gradient of the same function elsewhere changes nothing here
        concrete = function.get_concrete_function(x)
        assert sorted(kept(concrete, concrete.graph.as_graph_def())) == want


def test_training_memory_is_not_used_at_inference():
    """What an executed graph allocates: the reserve's size, seen through the op's output."""
    named, rest = split("gru")
    x = named.pop("inputs")
    lib = ops.library.load()
    none, _ = ops._absent(tf.float64)

    @tf.function
    def forward(x, gradient):
        tensors = [x, *named.values()]
        tensors = [x, named["kernel"], named["recurrent_kernel"], named["bias"], rest["mask"],
                   named["initial_h"], none, none, none]  # fmt: skip
        y, _, _, reserve = lib.masked_rnn(*tensors, cell="gru")
        if gradient:
            return tf.gradients(y, x)[0], tf.size(reserve)
        return y, tf.size(reserve)

    assert forward(x, False)[1] == 0
    assert forward(x, True)[1] > 0
