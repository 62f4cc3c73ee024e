"""`masked_rnn.dynamic_rnn` against the deprecated functions of TensorFlow themselves."""

import numpy as np
import pytest

from .pairs import check_equal, keras, masked_rnn, message_of, shake, tf

L = keras.layers
B, T, F = 4, 6, 3
LENGTHS = np.array([6, 0, 3, 1], "int32")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*dynamic_rnn:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
CELLS = {
    "gru": lambda: L.GRUCell(5, dtype="float64"),
    "gru before": lambda: L.GRUCell(5, reset_after=False, dtype="float64"),
    "lstm": lambda: L.LSTMCell(5, dtype="float64"),
    "simple": lambda: L.SimpleRNNCell(5, dtype="float64"),
    "stack": lambda: L.StackedRNNCells(
        [L.LSTMCell(4, dtype="float64"), L.LSTMCell(5, dtype="float64")], dtype="float64"
    ),
}
every_cell = pytest.mark.parametrize("kind", CELLS)


def make_x(seed=0):
    return np.random.default_rng(seed).standard_normal((B, T, F))


def made(kind, seed=0):
    cell = CELLS[kind]()
    cell.build((None, F))
    return shake(cell, seed=seed)


def states(cell, seed=1):
    rng = np.random.default_rng(seed)

    def one(units):
        return tf.constant(rng.standard_normal((B, units)))

    return keras.tree.map_structure(one, cell.state_size)


def layout(structure):
    """How tensors nest, whatever kind of list they nest in."""
    return [layout(s) for s in structure] if isinstance(structure, (list, tuple)) else "tensor"


class AsTensorFlowWants:
    """A Keras cell as the deprecated functions call one: one state of a GRU, not a list."""

    def __init__(self, cell):
        self.cell, self.state_size = cell, cell.state_size
        self.output_size = getattr(cell, "output_size", None)

    def __call__(self, x, state):
        given = state if isinstance(state, list) else [state]
        y, new = self.cell(x, given)
        return y, new if isinstance(state, list) else new[0]

    def get_initial_state(self, inputs=None, batch_size=None, dtype=None):
        return keras.tree.map_structure(
            lambda units: tf.zeros([batch_size, units], dtype), self.cell.state_size
        )

    zero_state = None


@every_cell
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("time_major", [False, True])
def test_equals_tensorflow(kind, lengths, time_major):
    cell = made(kind)
    x = make_x()
    x = x.transpose(1, 0, 2) if time_major else x
    for state in (None, states(cell)):
        call = {
            "sequence_length": lengths, "initial_state": state, "dtype": tf.float64,
            "time_major": time_major,
        }  # fmt: skip
        want, want_state = tf.compat.v1.nn.dynamic_rnn(
            AsTensorFlowWants(cell), tf.constant(x), **call
        )
        got, got_state = masked_rnn.dynamic_rnn(cell, x, **call)
        assert layout(got_state) == layout(want_state)
        check_equal(got, want, 1e-10)
        check_equal(keras.tree.flatten(got_state), keras.tree.flatten(want_state), 1e-10)


@every_cell
@pytest.mark.parametrize("time_major", [False, True])
def test_bidirectional_equals_tensorflow(kind, time_major):
    cells = made(kind), made(kind, seed=1)
    x = make_x()
    x = x.transpose(1, 0, 2) if time_major else x
    call = {
        "sequence_length": LENGTHS, "initial_state_fw": states(cells[0]),
        "initial_state_bw": states(cells[1], 5), "time_major": time_major,
    }  # fmt: skip
    want = tf.compat.v1.nn.bidirectional_dynamic_rnn(
        *map(AsTensorFlowWants, cells), tf.constant(x), **call
    )
    got = masked_rnn.bidirectional_dynamic_rnn(*cells, x, **call)
    assert layout(got[1]) == layout(want[1])
    check_equal(keras.tree.flatten(got), keras.tree.flatten(want), 1e-10)


@every_cell
def test_fused_and_differentiable_in_a_graph(kind, monkeypatch):
    monkeypatch.setenv("MASKED_RNN_FALLBACK", "error")
    cell = made(kind)
    x = make_x()
    x[np.arange(T) >= LENGTHS[:, None]] = np.nan

    @tf.function(input_signature=[tf.TensorSpec([None, None, F], "float64"),
                                  tf.TensorSpec([None], "int32")])  # fmt: skip
    def step(x, n):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs, state = masked_rnn.dynamic_rnn(cell, x, n)
            loss = tf.reduce_sum(outputs**2)
        return tape.gradient(loss, [x, *[w.value for w in cell.trainable_weights]])

    assert all(np.isfinite(g).all() for g in step(x, LENGTHS))


def test_cell_is_built_once_and_lists_are_stacks():
    cells = [L.GRUCell(4), L.GRUCell(2)]
    x = make_x().astype("float32")
    first, state = masked_rnn.dynamic_rnn(cells, x, LENGTHS.tolist(), parallel_iterations=8,
                                          swap_memory=True, scope="rnn")  # fmt: skip
    again, _ = masked_rnn.dynamic_rnn(cells, x, LENGTHS)
    np.testing.assert_array_equal(first, again)
    assert [s.shape for s in state] == [(B, 4), (B, 2)]
    half, state = masked_rnn.dynamic_rnn(cells, x, dtype=tf.float16)
    assert half.dtype == tf.float16 and {s.dtype for s in state} == {tf.float16}


def test_ragged():
    cells = made("lstm"), made("lstm", seed=1)
    x = make_x()
    sequences = tf.RaggedTensor.from_tensor(x, lengths=LENGTHS)
    want = masked_rnn.bidirectional_dynamic_rnn(*cells, x, LENGTHS)
    got = masked_rnn.bidirectional_dynamic_rnn(*cells, sequences)
    for a, b in zip(got[0], want[0]):
        assert isinstance(a, tf.RaggedTensor)
        check_equal(a.to_tensor(), b)
    check_equal(keras.tree.flatten(got[1]), keras.tree.flatten(want[1]))


def test_in_a_functional_model():
    inputs, lengths = keras.Input((T, F)), keras.Input((), dtype="int32")
    outputs, (h, c) = masked_rnn.dynamic_rnn(L.LSTMCell(4), inputs, lengths)
    model = keras.Model([inputs, lengths], [outputs, h])
    outputs, h = model([make_x(), LENGTHS])
    assert not np.any(outputs[1]) and not np.any(h[1])


def test_wrong_arguments():
    x = make_x()
    for given, word in (
        (("gru", x), "cell"),
        ((L.GRUCell(4), x, [7, 0, 1, 1]), "sequence_length"),
        ((L.GRUCell(4), x, None, np.zeros((B, 3))), "initial_state"),
    ):
        assert word in message_of(lambda given=given: masked_rnn.dynamic_rnn(*given), ValueError)
    cell = L.GRUCell(4)
    assert "two" in message_of(
        lambda: masked_rnn.bidirectional_dynamic_rnn(cell, cell, x), ValueError
    )
    sequences = tf.RaggedTensor.from_tensor(x, lengths=LENGTHS)
    assert "ragged" in message_of(
        lambda: masked_rnn.dynamic_rnn(cell, sequences, LENGTHS), ValueError
    )
