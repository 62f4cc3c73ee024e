"""Every row of the library's kernel table, without TensorFlow: numbers, masks, invariances.

`KERNELS` is what the built library says it has on this machine: each cell, element type and
instruction set.  Numbers come from `masked_rnn.reference` (float64), from PyTorch's packed
sequences and from ONNX Runtime's sequence_lens.
"""

import concurrent.futures
import dataclasses
import functools
import os

import numpy as np
import pytest

from masked_rnn import _core

from . import cases
from .cases import BACKWARD_RESULTS, DTYPES, FORWARD_RESULTS, Case

KERNELS = [(k["cell"], k["dtype"], k["isa"]) for k in _core.kernels()]
every_kernel = pytest.mark.parametrize(
    "cell, dtype, isa", KERNELS, ids=["-".join(k) for k in KERNELS]
)
WORST_ISA = KERNELS[0][2]  # vectors of any machine
float32_kernels = pytest.mark.parametrize(
    "cell, isa", [(c, i) for c, d, i in KERNELS if d == "float32"]
)


def forward(cell, arguments, isa="", threads=0, keep_reserve=False):
    """-> ({name: result}, reserve)"""
    *results, reserve = _core.forward(
        cell, *arguments.values(), keep_reserve, isa=isa, threads=threads
    )
    return dict(zip(FORWARD_RESULTS, results)), reserve


def backward(cell, arguments, gradients, reserve, isa="", threads=0):
    """-> {name: gradient}"""
    results = _core.backward(
        cell, *arguments.values(), reserve, *gradients.values(), isa=isa, threads=threads
    )
    return dict(zip(BACKWARD_RESULTS, results))


def run(cell, arguments, gradients, isa="", threads=0):
    """Forward and backward: {name: array or None}."""
    results, reserve = forward(cell, arguments, isa, threads, keep_reserve=True)
    return results | backward(cell, arguments, gradients, reserve, isa, threads)


def check_same_bits(got, want, names=None):
    for name in names or want:
        if want[name] is None:
            assert got[name] is None, name
        else:
            assert got[name].shape == want[name].shape, name
            assert got[name].tobytes() == want[name].tobytes(), f"{name}: bits differ"


def take_rows(arguments, rows):
    """The same call for some rows of the batch (also of d_* dicts)."""

    def take(name, value):
        if name in ("inputs", "mask", "initial_h", "initial_c", *INCOMING):
            return np.ascontiguousarray(value[rows])
        if name in ("input_dropout", "recurrent_dropout"):
            return np.ascontiguousarray(value[:, rows])
        return value

    return {n: v if v is None else take(n, v) for n, v in arguments.items()}


INCOMING = ("d_outputs", "d_state_h", "d_state_c")
PER_ROW = (*FORWARD_RESULTS, "d_inputs", "d_initial_h", "d_initial_c")


def rows_of(results, rows):
    return {n: None if results[n] is None else results[n][rows] for n in PER_ROW}


# --- numbers -------------------------------------------------------------------------------


def test_table_has_every_cell_and_dtype_on_every_isa():
    isas = {isa for _, _, isa in KERNELS}
    assert isas & {"generic", "neon"} and _core.isa() in isas
    # A set with products of bfloat16 has rows for that dtype only, but AMX multiplies float32 too.
    assert set(KERNELS) == {
        (c, d, i)
        for c in cases.CELLS
        for d in DTYPES
        for i in isas
        if d == "bfloat16" or i not in cases.BFLOAT16_PRODUCTS or (d, i) == ("float32", "amx")
    }
    assert set(_core.activations()) == set(cases.ACTIVATIONS)


@every_kernel
@pytest.mark.parametrize("case", cases.TABLE, ids=str)
def test_agrees_with_reference(case, cell, dtype, isa):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got, want = run(cell, arguments, gradients, isa), cases.expected(case, cell, dtype)
    cases.check_close(got, want, dtype, cases.tolerance_of(dtype, isa))


def _probe(activation):
    """Pre-activations: kinks, both tails, and what lies between."""
    kinks = [-6, -3, -1, -0.5, -0.0, 0, 0.5, 1, 3, 6]
    tails = [-1e4, -88, -40, -20, 20, 40, 88, 1e4]
    if activation == "exponential":  # exp(11) still is a float16
        tails = [x for x in tails if x < 0]
    return np.concatenate([kinks, np.linspace(-11, 11, 441), tails])


@every_kernel
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_activation_value_and_slope(activation, cell, dtype, isa):
    """One step from a zero state in which the activation can be read off the output.

    Rows are single values x.  GRU: z = linear(0) = 0, so h = act(x).  LSTM, as the recurrent
    activation: f = act(0), i = act(x) on a candidate of 1 goes to c = i, and o = act(0) only
    scales h, so c is read.
    """
    x = _probe(activation).astype(DTYPES[dtype])[:, None, None]
    gates, size = cases.GATES[cell], len(x)
    read = gates - 1 if cell != "lstm" else 0
    kernel, bias = np.zeros((1, gates)), np.zeros((2, gates) if cell == "gru" else gates)
    kernel[0, read] = 1
    if cell == "lstm":
        bias[2] = 1
    pair = ("linear", activation) if cell == "lstm" else (activation, "linear")
    arguments = dict(
        inputs=x, kernel=kernel.astype(x.dtype), recurrent_kernel=np.zeros((1, gates), x.dtype),
        bias=bias.astype(x.dtype), mask=None, initial_h=None, initial_c=None,
        input_dropout=None, recurrent_dropout=None, activation=pair[0],
        recurrent_activation=pair[1], go_backwards=False, zero_output_for_mask=False,
        return_sequences=False,
    )  # fmt: skip
    state = "state_c" if cell == "lstm" else "state_h"
    gradients = {"d_outputs": None, "d_state_h": None, "d_state_c": None}
    gradients["d_" + state] = np.ones((size, 1), x.dtype)
    got = run(cell, arguments, gradients, isa)
    value, slope = cases.reference.ACTIVATIONS[activation](x[:, 0].astype(np.float64))
    # Relative to the size of what is added: near a zero of x + tanh(x), say, that is x.
    tolerance = {"float64": 4e-15, "float32": 1e-6, "bfloat16": 4e-3, "float16": 1e-3}[dtype]
    scale = np.maximum(1, np.abs(x[:, 0].astype(np.float64)))
    np.testing.assert_array_less(
        np.abs(got[state].astype(np.float64) - value), tolerance * np.maximum(scale, value)
    )
    np.testing.assert_array_less(
        np.abs(got["d_inputs"][:, 0].astype(np.float64) - slope),
        tolerance * np.maximum(scale, slope),
    )


@functools.lru_cache(maxsize=2)  # both signs of one cell
def long_sums(cell, positive):
    """A call with B*T = 64000; its gradients in float64; NumPy's float32 products for the same.

    kernel is 1/4 of the identity, so that d_inputs is exactly 1/4 of the gradient of the gates'
    pre-activations, the operand that NumPy needs for the same sums.
    """
    units, gates = 8, cases.GATES[cell]
    case = Case(64, 1000, gates * units, units, mask="none", initial_state=False)
    arguments, gradients = cases.make_arrays(case, cell, "float32")
    arguments = dict(arguments, kernel=np.eye(gates * units, dtype=np.float32) / 4)
    if positive:
        arguments["inputs"] = np.abs(arguments["inputs"])
        gradients = dict(gradients, d_outputs=np.abs(gradients["d_outputs"]))

    def double(arrays):
        return {n: v.astype(np.float64) if hasattr(v, "dtype") else v for n, v in arrays.items()}

    def rows(array):
        return array.reshape(-1, array.shape[-1]).astype(np.float32)

    exact = run(cell, double(arguments), double(gradients))
    previous_h = np.pad(exact["outputs"][:, :-1], [(0, 0), (1, 0), (0, 0)])
    d_a = 4 * rows(exact["d_inputs"])
    products = {"d_kernel": rows(arguments["inputs"]).T @ d_a}
    products["d_recurrent_kernel"] = rows(previous_h).T @ d_a
    return arguments, gradients, exact, products


@pytest.mark.parametrize("positive", [False, True], ids=["mixed", "positive"])
@float32_kernels
def test_weight_gradients_do_not_lose_accuracy_with_length(cell, isa, positive):
    """Sums over 64000 steps are as good as NumPy's float32 matrix product.

    Operands of one sign are what makes a long sum lose digits.
    """
    arguments, gradients, exact, products = long_sums(cell, positive)
    got = run(cell, arguments, gradients, isa)
    for name, product in products.items():
        # A GRU's candidate has other gradients for its two products.
        columns = slice(None) if name == "d_kernel" or cell == "lstm" else slice(16)
        want = exact[name][:, columns]

        def errors(array):  # root mean square, and largest
            error = array[:, columns] - want
            return np.std(error) / np.std(want), cases.error_of(array[:, columns], want)

        # Which of the two is smaller is a matter of luck, with so few roundings in either.
        for own, numpy in zip(errors(got[name]), errors(product)):
            assert own <= 2 * numpy, (name, own, numpy)


@pytest.mark.skipif(
    ("gru", "float32", "amx") not in KERNELS or os.environ.get("MASKED_RNN_ISA"),
    reason="needs AMX, and no instruction set forced",
)
@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize(
    "features, units, isa",
    [
        (96, 86, "amx"),
        (256, 32, "amx"),
        (95, 151, "avx512"),
        (96, 85, "avx512"),
        (300, 31, "avx512"),
    ],
)
def test_float32_goes_to_matrix_registers_by_size_alone(features, units, isa, batch):
    case = Case(batch, 3, features, units, mask="none")
    arguments, gradients = cases.make_arrays(case, "gru", "float32")
    other = "avx512" if isa == "amx" else "amx"
    usual, named, otherwise = (run("gru", arguments, gradients, i) for i in ("", isa, other))
    check_same_bits(usual, named)
    assert usual["outputs"].tobytes() != otherwise["outputs"].tobytes()


@float32_kernels
def test_is_as_close_to_float64_as_vectors_are(cell, isa):
    """Also where float32 is multiplied as bfloat16: sums over 300 inputs and over 600 steps."""
    case = Case(20, 30, 300, 151, mask="none")
    arguments, gradients = cases.make_arrays(case, cell, "float32")
    want = cases.expected(case, cell, "float32")
    own, vectors = (run(cell, arguments, gradients, i) for i in (isa, WORST_ISA))
    for name, value in want.items():
        if value is not None:
            bound = 1.5 * cases.error_of(vectors[name], value) + 1e-7
            assert cases.error_of(own[name], value) <= bound, name


@float32_kernels
def test_not_finite_inputs_of_real_steps(cell, isa):
    """Inf and the largest floats saturate gates as they do in float64; NaN stays in its row."""
    case = Case(23, 6, 40, 17, mask="none")
    arguments, _ = cases.make_arrays(case, cell, "float32")
    inputs = arguments["inputs"].copy()
    arguments = dict(arguments, inputs=inputs)
    largest = np.finfo("f4").max
    with np.errstate(invalid="ignore"):
        for row, value in enumerate([np.inf, -np.inf, largest, -largest, 3.396e38, np.nan]):
            inputs[row, 2, 3 * row] = value
        inputs[6, 1, 5], inputs[6, 1, 9] = np.inf, -np.inf
        got, _ = forward(cell, arguments, isa)
        wide = {n: a.astype("f8") if getattr(a, "dtype", None) == "f4" else a
                for n, a in arguments.items()}  # fmt: skip
        want, _ = forward(cell, wide, WORST_ISA)
    for name, value in want.items():
        if value is not None:
            np.testing.assert_array_equal(np.isnan(got[name]), np.isnan(value), name)
            np.testing.assert_allclose(got[name], value, 1e-4, 1e-5, err_msg=name)
    assert np.isnan(want["outputs"][5, 2:]).all() and not np.isnan(want["outputs"][:5]).any()


# --- what must not change a bit ------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("mask", [m for m in cases.MASKS if m not in ("none", "all_ones")])
def test_masked_steps_are_never_read(mask, zero_output_for_mask, cell, dtype, isa):
    case = Case(mask=mask, zero_output_for_mask=zero_output_for_mask, go_backwards=mask == "holes")
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    want = run(cell, arguments, gradients, isa)
    masked = ~arguments["mask"]
    assert not want["d_inputs"][masked].any()
    for poison in (np.nan, np.inf, -np.inf, 0):
        poisoned = dict(arguments, inputs=arguments["inputs"].copy())
        poisoned["inputs"][masked] = poison
        check_same_bits(run(cell, poisoned, gradients, isa), want)
    if zero_output_for_mask:  # nor does the gradient of an output that is a constant zero count
        order = masked[:, ::-1] if case.go_backwards else masked
        poisoned = dict(gradients, d_outputs=gradients["d_outputs"].copy())
        poisoned["d_outputs"][order] = np.nan
        check_same_bits(run(cell, arguments, poisoned, isa), want)


@every_kernel
@pytest.mark.parametrize(
    "dropout", [("shared", "shared"), ("per_gate", "shared"), ("per_gate", "per_gate")], ids=str
)
@pytest.mark.parametrize("units", [3, 17, 151])
def test_a_row_depends_on_nothing_but_itself(units, dropout, cell, dtype, isa):
    of_inputs, of_state = dropout
    case = Case(13, 6, 17, units, mask="mixed", input_dropout=of_inputs,
                recurrent_dropout=of_state)  # fmt: skip
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    everything = run(cell, arguments, gradients, isa)

    def check(rows, arguments=arguments, threads=0):
        part = run(cell, take_rows(arguments, rows), take_rows(gradients, rows), isa, threads)
        check_same_bits(rows_of(part, slice(None)), rows_of(everything, rows))

    for row in range(case.batch):
        check([row], threads=1 + row % 3)
    shuffled = np.random.default_rng(0).permutation(case.batch)
    check(shuffled)
    for count in (2, 3, 4, 5, 8, 9):
        check(shuffled[:count])
    check(np.tile(shuffled, 3))
    # beside other masks: two rows keep theirs, the others get every kind in turn
    for kind in ("all_ones", "all_zero", "left_padded", "sparse"):
        mask = cases.make_mask(kind, case.batch, case.time)
        mask[[2, 7]] = arguments["mask"][[2, 7]]
        beside = run(cell, dict(arguments, mask=mask), gradients, isa)
        check_same_bits(rows_of(beside, [2, 7]), rows_of(everything, [2, 7]))


@every_kernel
@pytest.mark.parametrize(
    # the last: more recurrent weights than a core keeps, shared out by units
    "size", [(1, 9, 3, 151), (2, 5, 17, 64), (17, 9, 3, 17), (65, 4, 3, 3), (18, 2, 3, 530)], ids=str
)
def test_threads_and_repetition(size, cell, dtype, isa):
    arguments, gradients = cases.make_arrays(Case(*size), cell, dtype)
    want = run(cell, arguments, gradients, isa, threads=1)
    for threads in (2, 3, 0):
        first = run(cell, arguments, gradients, isa, threads)
        check_same_bits(first, want, PER_ROW)
        # weight gradients may be summed in another order
        cases.check_close(first, want, dtype, tolerance=2 * cases.tolerance_of(dtype, isa))
        check_same_bits(run(cell, arguments, gradients, isa, threads), first)


@every_kernel
def test_reserve_changes_no_output(cell, dtype, isa):
    for case in (Case(), Case(mask="none", units=151), Case(return_sequences=False)):
        arguments, _ = cases.make_arrays(case, cell, dtype)
        plain, nothing = forward(cell, arguments, isa)
        kept, reserve = forward(cell, arguments, isa, keep_reserve=True)
        check_same_bits(kept, plain)
        assert nothing is None
        assert reserve.dtype == np.uint8 and reserve.ndim == 1


@every_kernel
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [(0, 3), (3, 17), (17, 151), (129, 64), (151, 129)], ids=str)
@pytest.mark.parametrize("batch, time", [(1, 1), (1, 3), (3, 1), (7, 2), (17, 1), (40, 1)])
def test_few_steps_have_the_same_bits_beside_many(batch, time, sizes, threads, cell, dtype, isa):
    """A call of few steps multiplies weights as they are given, one of more packs them first."""
    dropout = {"input_dropout": "per_gate", "recurrent_dropout": "shared"} if batch == 3 else {}
    case = Case(batch, time, *sizes, mask="none", **dropout)
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, arguments, gradients, isa, threads)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype, cases.tolerance_of(dtype, isa))

    # The same rows, padded, between rows of 40 steps.
    rows = np.repeat(np.arange(batch), 2)
    longer = take_rows(arguments, rows)
    tail = [longer["inputs"][:, :1]] * (40 - time)
    real = np.ones((2 * batch, 40), bool)
    real[::2, time:] = False
    longer |= {"inputs": np.concatenate([longer["inputs"], *tail], axis=1), "mask": real}
    beside, _ = forward(cell, longer, isa, threads)
    assert got["outputs"].tobytes() == beside["outputs"][::2, :time].tobytes()


@every_kernel
def test_incoming_gradients_may_be_absent(cell, dtype, isa):
    case = Case()
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    _, reserve = forward(cell, arguments, isa, keep_reserve=True)
    for name, given in gradients.items():
        if given is None:
            continue
        zero = dict(gradients, **{name: np.zeros_like(given)})
        absent = dict(gradients, **{name: None})
        check_same_bits(
            backward(cell, arguments, absent, reserve, isa),
            backward(cell, arguments, zero, reserve, isa),
        )


def test_calls_at_once_from_several_threads():
    size = Case(17, 9, 17, 151)
    calls = [(c, *cases.make_arrays(size, c, "float32")) for c in cases.CELLS]
    want = [run(*call) for call in calls]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda i: run(*calls[i % len(calls)]), range(15 * len(calls)))
        for got, expected in zip(results, want * 15):
            check_same_bits(got, expected)


@every_kernel
def test_nan_at_a_real_step_stays_in_its_row(cell, dtype, isa):
    arguments, _ = cases.make_arrays(Case(17, 6, 3, 17, mask="none"), cell, dtype)
    want, _ = forward(cell, arguments, isa)
    poisoned = dict(arguments, inputs=arguments["inputs"].copy())
    poisoned["inputs"][5, 2, 1] = np.nan
    got, _ = forward(cell, poisoned, isa)
    assert np.isnan(got["outputs"][5, 2:].astype(np.float64)).all()
    assert np.isnan(got["state_h"][5].astype(np.float64)).all()
    others = np.arange(17) != 5
    for name in FORWARD_RESULTS[: 3 if cell == "lstm" else 2]:
        assert got[name][others].tobytes() == want[name][others].tobytes()
    assert got["outputs"][5, :2].tobytes() == want["outputs"][5, :2].tobytes()


# --- edges ---------------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("mask", ["none", "all_zero", "all_ones"])
@pytest.mark.parametrize("sizes", [(0, 7), (5, 0), (0, 0)], ids=["B0", "T0", "B0T0"])
def test_empty_batch_and_no_time_steps(sizes, mask, return_sequences, cell, dtype, isa):
    case = Case(*sizes, mask=mask, return_sequences=return_sequences)
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, arguments, gradients, isa)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype, tolerance=0)
    check_same_bits(got, {"state_h": arguments["initial_h"], "state_c": arguments["initial_c"]})


@every_kernel
@pytest.mark.parametrize("initial_state", [False, True])
def test_fully_masked(initial_state, cell, dtype, isa):
    """Zeros come out, the initial state is handed on, and its gradient passes straight through."""
    case = Case(mask="all_zero", initial_state=initial_state)
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, arguments, gradients, isa)
    assert not got["outputs"].any()
    for h in ("h", "c")[: 2 if cell == "lstm" else 1]:
        initial = arguments[f"initial_{h}"]
        initial = initial if initial_state else np.zeros_like(got[f"state_{h}"])
        check_same_bits(
            {"state": got[f"state_{h}"], "gradient": got[f"d_initial_{h}"]},
            {"state": initial, "gradient": gradients[f"d_state_{h}"]},
        )
    for name in ("d_inputs", "d_kernel", "d_recurrent_kernel", "d_bias"):
        assert not got[name].any(), name


@every_kernel
def test_arguments_are_not_written_to(cell, dtype, isa):
    arguments, gradients = cases.make_arrays(Case(mask="mixed"), cell, dtype)  # read-only arrays
    before = [v.tobytes() for v in arguments.values() if hasattr(v, "tobytes")]
    run(cell, arguments, gradients, isa)
    assert before == [v.tobytes() for v in arguments.values() if hasattr(v, "tobytes")]


ZEROS = {n: np.zeros(s, np.float32) for n, s in {
    "short": (1, 2), "inputs2": (5, 7), "kernel": (4, 51), "width": (3, 50), "state": (5, 16),
}.items()}  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": ZEROS["inputs2"]}, r"inputs has shape \[5,7\]"),
        ({"kernel": ZEROS["kernel"]}, r"kernel has shape \[4,51\].*\[3,51\]"),
        ({"kernel": ZEROS["width"]}, r"kernel has shape \[3,50\].*\[3,51\]"),
        ({"recurrent_kernel": np.zeros((17, 50), np.float32)}, r"recurrent_kernel .*\[17,50\]"),
        ({"bias": np.zeros(51, np.float32)}, r"bias has shape \[51\].*\[2,51\]"),
        ({"mask": np.ones((5, 6), bool)}, r"mask has shape \[5,6\].*\[5,7\]"),
        ({"mask": np.ones((5, 7, 1), bool)}, r"mask has shape \[5,7,1\].*\[5,7\]"),
        ({"mask": np.ones((5, 7), np.float32)}, r"mask"),
        ({"initial_h": ZEROS["state"]}, r"initial_state \(h\) has shape \[5,16\].*\[5,17\]"),
        ({"initial_c": np.zeros((5, 17), np.float32)}, r"initial_state \(c\)"),
        ({"input_dropout": np.ones((2, 5, 3), np.float32)}, r"input_dropout .*\[2,5,3\]"),
        ({"recurrent_dropout": np.ones((1, 5, 3), np.float32)}, r"recurrent_dropout .*\[1,5,3\]"),
        ({"kernel": np.zeros((3, 51))}, r"kernel.*float64.*float32"),
        ({"inputs": np.zeros((5, 7, 3), np.int32)}, r"inputs.*int32"),
        ({"activation": "softmax"}, r"activation.*softmax"),
        ({"recurrent_activation": ""}, r"recurrent_activation"),
    ],
    ids=lambda v: "".join(v) if isinstance(v, dict) else "",
)
def test_errors_name_the_argument(change, message):
    arguments, _ = cases.make_arrays(Case(), "gru", "float32")
    with pytest.raises(ValueError, match=message):
        forward("gru", dict(arguments, **change))


def test_errors_of_other_arguments():
    arguments, gradients = cases.make_arrays(Case(), "gru", "float32")
    with pytest.raises(ValueError, match="cell.*peephole"):
        forward("peephole", arguments)
    with pytest.raises(ValueError, match="isa.*sse9"):
        forward("gru", arguments, isa="sse9")
    with pytest.raises(ValueError, match="threads.*-1"):
        forward("gru", arguments, threads=-1)
    _, reserve = forward("gru", arguments, keep_reserve=True)
    with pytest.raises(ValueError, match="reserve"):
        backward("gru", arguments, gradients, reserve[:-1].copy())
    with pytest.raises(ValueError, match=r"d_outputs has shape \[5,7\]"):
        backward("gru", arguments, dict(gradients, d_outputs=ZEROS["inputs2"]), reserve)
    with pytest.raises(ValueError, match=r"d_state \(h\) has shape \[5,16\]"):
        backward("gru", arguments, dict(gradients, d_state_h=ZEROS["state"]), reserve)


# --- oracles -------------------------------------------------------------------------------

ORACLE_ERROR = 2e-6
ORACLE_CASE = Case(17, 40, 24, 48, mask="right_padded", zero_output_for_mask=True)


def gate_blocks(weights, order, units):
    """[..., G*H] in Keras's gate order -> [G*H, ...] with the gates in another order."""
    blocks = np.split(np.asarray(weights), weights.shape[-1] // units, axis=-1)
    return np.concatenate([blocks[g] for g in order], axis=-1).T


@pytest.mark.parametrize(
    "cell, isa", [(c, i) for c, d, i in KERNELS if d == "float32" and c in ("gru", "lstm")]
)
def test_torch_packed_sequences(cell, isa):
    torch = pytest.importorskip("torch")
    case = ORACLE_CASE
    arguments, gradients = cases.make_arrays(case, cell, "float32")
    order = (1, 0, 2) if cell == "gru" else (0, 1, 2, 3)  # torch: r z n; i f g o
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](
        case.features, case.units, batch_first=True
    )
    bias = arguments["bias"]
    both = bias if cell == "gru" else (bias, np.zeros_like(bias))
    weights = {"weight_ih_l0": arguments["kernel"], "weight_hh_l0": arguments["recurrent_kernel"],
               "bias_ih_l0": both[0], "bias_hh_l0": both[1]}  # fmt: skip
    with torch.no_grad():
        for name, value in weights.items():
            block = np.ascontiguousarray(gate_blocks(value, order, case.units))
            getattr(module, name).copy_(torch.from_numpy(block))
    names = ("inputs", "initial_h", "initial_c")[: 3 if cell == "lstm" else 2]
    tensors = {n: torch.tensor(arguments[n], requires_grad=True) for n in names}
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tensors["inputs"], arguments["mask"].sum(1), batch_first=True, enforce_sorted=False
    )
    states = tuple(tensors[n][None] for n in names[1:])
    outputs, last = module(packed, states if cell == "lstm" else states[0])
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(
        outputs, batch_first=True, total_length=case.time
    )
    last = last if cell == "lstm" else (last,)
    incoming = [torch.tensor(d) for d in gradients.values() if d is not None]
    results = (outputs, *(s[0] for s in last))
    sum((r * d).sum() for r, d in zip(results, incoming)).backward()

    def gradient(name):  # back to Keras's layout; the order (1, 0, 2) is its own inverse
        return gate_blocks(getattr(module, name).grad.numpy().T, order, case.units).T

    want = dict(zip(FORWARD_RESULTS, (r.detach().numpy() for r in results)))
    want |= {f"d_{n}": t.grad.numpy() for n, t in tensors.items()}
    want |= {"d_kernel": gradient("weight_ih_l0"), "d_recurrent_kernel": gradient("weight_hh_l0")}
    d_bias = gradient("bias_ih_l0")
    want["d_bias"] = np.stack([d_bias, gradient("bias_hh_l0")]) if cell == "gru" else d_bias
    got = run(cell, arguments, gradients, isa)
    for name, value in want.items():
        error = cases.error_of(got[name], value)
        assert error < ORACLE_ERROR, f"{name}: {error:.2e}"


@pytest.mark.parametrize(
    "cell, isa", [(c, i) for c, d, i in KERNELS if d == "float32" and c != "simple_rnn"]
)
def test_onnx_runtime_sequence_lens(cell, isa):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    case = ORACLE_CASE
    arguments, _ = cases.make_arrays(case, cell, "float32")
    is_lstm = cell == "lstm"
    order = (0, 3, 1, 2) if is_lstm else (0, 1, 2)  # ONNX: i o f c; z r h
    bias = arguments["bias"]
    both = bias if cell == "gru" else (bias, np.zeros_like(bias))
    feeds = {
        "X": arguments["inputs"].transpose(1, 0, 2),
        "W": gate_blocks(arguments["kernel"], order, case.units)[None],
        "R": gate_blocks(arguments["recurrent_kernel"], order, case.units)[None],
        "B": np.concatenate([gate_blocks(b, order, case.units) for b in both])[None],
        "sequence_lens": arguments["mask"].sum(1).astype(np.int32),
        "initial_h": arguments["initial_h"][None],
    }
    if is_lstm:
        feeds["initial_c"] = arguments["initial_c"][None]
    attributes = {} if is_lstm else {"linear_before_reset": int(cell == "gru")}
    results = ["Y", "Y_h", "Y_c"][: 3 if is_lstm else 2]
    helper, types = onnx.helper, {"sequence_lens": onnx.TensorProto.INT32}
    graph = helper.make_graph(
        [helper.make_node("LSTM" if is_lstm else "GRU", list(feeds), results,
                          hidden_size=case.units, **attributes)],
        "rnn",
        [helper.make_tensor_value_info(n, types.get(n, onnx.TensorProto.FLOAT), v.shape)
         for n, v in feeds.items()],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in results],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {n: np.ascontiguousarray(v) for n, v in feeds.items()}
    outputs, *states = session.run(None, feeds)
    want = dict(zip(FORWARD_RESULTS, (outputs[:, 0].transpose(1, 0, 2), *(s[0] for s in states))))
    got, _ = forward(cell, arguments, isa)
    for name, value in want.items():
        error = cases.error_of(got[name], value)
        assert error < ORACLE_ERROR, f"{name}: {error:.2e}"


def test_cases_have_distinct_names():
    names = [str(case) for case in cases.TABLE]
    assert len(set(names)) == len(names)
    assert {f.name for f in dataclasses.fields(Case)} > {"batch", "mask", "activation"}
