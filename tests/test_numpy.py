"""masked_rnn.numpy: the functions on NumPy and DLPack arrays, and their errors."""

import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import masked_rnn.numpy as rnn
from masked_rnn import _core

from . import cases
from .cases import Case

FUNCTIONS = {"gru": rnn.gru, "gru_reset_before": rnn.gru, "lstm": rnn.lstm}
VJPS = {"gru": rnn.gru_vjp, "gru_reset_before": rnn.gru_vjp, "lstm": rnn.lstm_vjp}
every_cell = pytest.mark.parametrize("cell", FUNCTIONS)
B, T, I, H = 5, 7, 3, 17


def public_call(cell, arguments):
    """The arguments of the core, as the public functions take them."""
    call = dict(arguments)
    h, c = call.pop("initial_h"), call.pop("initial_c")
    for name in ("input_dropout", "recurrent_dropout", "return_sequences"):
        call.pop(name)
    if h is not None:
        call["initial_state"] = (h, c) if cell == "lstm" else h
    if cell != "lstm":
        call["reset_after"] = cell == "gru"
    return call


def incoming(cell, gradients):
    d_h, d_c = gradients["d_state_h"], gradients["d_state_c"]
    return {"d_outputs": gradients["d_outputs"], "d_state": (d_h, d_c) if cell == "lstm" else d_h}


def flat(outputs, state):
    """-> {name: array} under the core's names."""
    state = state if isinstance(state, tuple) else (state, None)
    return {"outputs": outputs, "state_h": state[0], "state_c": state[1]}


def flat_gradients(gradients):
    state = gradients.initial_state
    state = state if isinstance(state, tuple) else (state, None)
    values = (*gradients[:4], *state)
    return dict(zip(cases.BACKWARD_RESULTS, values))


def bits(value):
    return None if value is None else value.tobytes()


def check_equal(got, want):
    assert {n: bits(v) for n, v in got.items()} == {n: bits(v) for n, v in want.items()}


@pytest.fixture
def call():
    """A plain float32 GRU call, to be changed by a test."""
    return public_call("gru", cases.make_arrays(Case(), "gru", "float32")[0])


@pytest.mark.parametrize("dtype", cases.DTYPES)
@every_cell
@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(mask="none", initial_state=False, bias=False),
        Case(mask="left_padded", go_backwards=True, zero_output_for_mask=True),
        Case(mask="one_row_empty", activation="relu", recurrent_activation="hard_sigmoid"),
        Case(mask="all_zero"),
        Case(batch=0),
        Case(time=0),
    ],
    ids=str,
)
def test_agrees_with_reference(case, cell, dtype):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    want, tolerance = cases.expected(case, cell, dtype), cases.tolerance_of(dtype, _core.isa())
    call = public_call(cell, arguments)
    cases.check_close(flat(*FUNCTIONS[cell](**call)), want, dtype, tolerance)
    got = flat_gradients(VJPS[cell](**call, **incoming(cell, gradients)))
    if not case.initial_state:
        want = dict(want, d_initial_h=None, d_initial_c=None)
    cases.check_close(got, want, dtype, tolerance)


@every_cell
def test_sequence_length_is_a_right_padded_mask(cell):
    arguments, _ = cases.make_arrays(Case(mask="none"), cell, "float32")
    call = public_call(cell, arguments)
    lengths = [0, 7, 3, 1, 6]
    del call["mask"]
    want = FUNCTIONS[cell](**call, mask=np.arange(T) < np.array(lengths)[:, None])
    for given in (lengths, np.array(lengths, np.uint8), np.array(lengths * 2)[:5], tuple(lengths)):
        check_equal(flat(*FUNCTIONS[cell](**call, sequence_length=given)), flat(*want))
    assert FUNCTIONS[cell](**dict(call, inputs=call["inputs"][:0], initial_state=None),
                           sequence_length=[])[0].shape == (0, T, H)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[:, :, None],
        lambda m: m.astype(np.int64) * 3,
        lambda m: m.astype(np.float32) * 0.5,
        lambda m: m.astype(ml_dtypes.bfloat16),
        lambda m: m.astype(np.float16) * -1,
        lambda m: m.tolist(),
        lambda m: np.asfortranarray(m),
        lambda m: np.repeat(m, 2, axis=1)[:, ::2],
    ],
    ids=["rank3", "int64", "float32", "bfloat16", "float16", "list", "fortran", "strided"],
)
def test_masks_of_any_dtype_and_layout(call, change):
    want = flat(*rnn.gru(**call))
    check_equal(flat(*rnn.gru(**dict(call, mask=change(call["mask"])))), want)


def test_activation_names_and_aliases(call):
    def outputs(**names):
        return rnn.gru(**dict(call, **names))[0].tobytes()

    assert outputs(activation=None) == outputs(activation="linear")
    assert outputs(recurrent_activation=None) == outputs(recurrent_activation="linear")
    assert outputs(activation="swish") == outputs(activation="silu")
    assert outputs(activation="hard_swish") == outputs(activation="hard_silu")


# --- kinds of array ------------------------------------------------------------------------


def relaid(array, how):
    """The same numbers in another layout."""
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if how == "reversed":
        return array[::-1].copy()[::-1]
    if how == "misaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)
        view = raw[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    if how == "big_endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "subclass":
        return array.view(type("Sub", (np.ndarray,), {}))
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["fortran", "strided", "reversed", "misaligned", "big_endian", "subclass"]
)
@every_cell
def test_layouts(cell, how):
    arguments, gradients = cases.make_arrays(Case(), cell, "float32")
    want = flat(*FUNCTIONS[cell](**public_call(cell, arguments)))
    want_gradients = VJPS[cell](**public_call(cell, arguments), **incoming(cell, gradients))

    def change(arrays):
        return {n: relaid(v, how) if isinstance(v, np.ndarray) and v.dtype != bool else v
                for n, v in arrays.items()}  # fmt: skip

    call = public_call(cell, change(arguments))
    got = FUNCTIONS[cell](**call)
    assert all(v is None or type(v) is np.ndarray for v in flat(*got).values())
    check_equal(flat(*got), want)
    got = VJPS[cell](**call, **incoming(cell, change(gradients)))
    check_equal(flat_gradients(got), flat_gradients(want_gradients))


def as_lists(value):
    if isinstance(value, tuple):
        return tuple(map(as_lists, value))
    return value.tolist() if isinstance(value, np.ndarray) else value


@every_cell
def test_lists_take_the_dtype_of_the_arrays(cell):
    arguments, gradients = cases.make_arrays(Case(), cell, "float32")
    call = public_call(cell, arguments)
    want = FUNCTIONS[cell](**call)
    for kept in ("inputs", "kernel", "bias"):
        lists = {n: v if n == kept else as_lists(v) for n, v in call.items()}
        check_equal(flat(*FUNCTIONS[cell](**lists)), flat(*want))
    d_lists = {n: as_lists(v) for n, v in incoming(cell, gradients).items()}
    check_equal(
        flat_gradients(VJPS[cell](**lists, **d_lists)),
        flat_gradients(VJPS[cell](**call, **incoming(cell, gradients))),
    )


def test_lists_alone_are_float64():
    """The classic example: linear GRU of one unit, kernel ones, recurrent kernel zeros."""
    pad = [0.37, 0.37]
    rows = [[[1, 1], [2, 2], [1, 1], pad, pad], [pad, [1, 1], [2, 2], [1, 1], pad]]
    for reset_after, last in ((False, -156), (True, -745)):
        outputs, state = rnn.gru(
            rows,
            kernel=[[1, 1, 1], [1, 1, 1]],
            recurrent_kernel=[[0, 0, 0]],
            bias=[[1, 1, 1], [1, 1, 1]] if reset_after else [1, 1, 1],
            mask=[[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]],
            activation=None,
            recurrent_activation=None,
            reset_after=reset_after,
        )
        assert outputs.dtype == np.float64
        assert outputs[:, -1, 0].tolist() == state[:, 0].tolist() == [last, last]
        assert outputs[1, 0, 0] == 0


class DLPackOnly:
    """An array that offers DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@every_cell
def test_dlpack(cell):
    arguments, gradients = cases.make_arrays(Case(), cell, "float32")

    def writeable(arrays):  # older NumPy does not export read-only arrays
        return {n: DLPackOnly(v.copy()) if isinstance(v, np.ndarray) else v
                for n, v in arrays.items()}  # fmt: skip

    call, given = public_call(cell, arguments), public_call(cell, writeable(arguments))
    check_equal(flat(*FUNCTIONS[cell](**given)), flat(*FUNCTIONS[cell](**call)))
    check_equal(
        flat_gradients(VJPS[cell](**given, **incoming(cell, writeable(gradients)))),
        flat_gradients(VJPS[cell](**call, **incoming(cell, gradients))),
    )


def test_torch_tensors(call):
    torch = pytest.importorskip("torch")
    want = flat(*rnn.gru(**call))
    tensors = {n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in call.items()}
    check_equal(flat(*rnn.gru(**tensors)), want)
    tensors["inputs"] = tensors["inputs"].transpose(0, 1).contiguous().transpose(0, 1)
    check_equal(flat(*rnn.gru(**tensors)), want)
    tensors["inputs"] = tensors["inputs"].requires_grad_()
    with pytest.raises(ValueError, match=r"inputs is a torch.Tensor that NumPy cannot read .*grad"):
        rnn.gru(**tensors)


def test_arguments_are_not_written_to(call):
    arrays = [v for v in call.values() if isinstance(v, np.ndarray)]
    assert not any(a.flags.writeable for a in arrays)
    before = [a.tobytes() for a in arrays]
    rnn.gru(**call)
    rnn.gru_vjp(**call, d_outputs=np.ones((B, T, H), np.float32))
    assert before == [a.tobytes() for a in arrays]


# --- gradients -----------------------------------------------------------------------------


@every_cell
def test_vjp_of_parts(cell):
    arguments, gradients = cases.make_arrays(Case(), cell, "float64")
    call, given = public_call(cell, arguments), incoming(cell, gradients)
    d_outputs, d_state = given["d_outputs"], given["d_state"]
    whole = VJPS[cell](**call, **given)
    parts = [VJPS[cell](**call, d_outputs=d_outputs), VJPS[cell](**call, d_state=d_state)]
    if cell == "lstm":
        parts[1:] = [
            VJPS[cell](**call, d_state=(d_state[0], None)),
            VJPS[cell](**call, d_state=(None, d_state[1])),
        ]
    for name, total in flat_gradients(whole).items():
        if total is not None:
            values = [flat_gradients(part)[name] for part in parts]
            np.testing.assert_allclose(sum(values), total, rtol=1e-12, atol=1e-12)


def test_what_is_none_in_gradients(call):
    d_outputs = np.ones((B, T, H), np.float32)
    gradients = rnn.gru_vjp(**call, d_outputs=d_outputs)
    assert gradients._fields == ("inputs", "kernel", "recurrent_kernel", "bias", "initial_state")
    assert all(g is not None for g in gradients)
    gradients = rnn.gru_vjp(**dict(call, bias=None, initial_state=None), d_outputs=d_outputs)
    assert gradients.bias is None and gradients.initial_state is None


# --- errors --------------------------------------------------------------------------------

f32 = np.float32


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": np.zeros((B, I), f32)}, r"inputs has shape \[5,3\], needed: \[batch,time,feat"),
        ({"inputs": np.zeros((B, I), f32), "mask": None}, r"inputs has shape \[5,3\], needed"),
        ({"kernel": np.zeros((4, 51), f32)}, r"kernel has shape \[4,51\], needed: .*\[3,51\]"),
        ({"kernel": 3.0}, r"kernel has shape \[\], needed"),
        ({"kernel": None}, r"kernel is None, needed: an array"),
        ({"recurrent_kernel": np.zeros((17, 50), f32)}, r"recurrent_kernel has shape \[17,50\]"),
        ({"recurrent_kernel": np.zeros((0, 0), f32)}, r"recurrent_kernel has shape \[0,0\]"),
        ({"bias": np.zeros(51, f32)}, r"bias has shape \[51\], needed: .*\[2,51\]"),
        ({"reset_after": False}, r"bias has shape \[2,51\], needed: .*\[51\]"),
        ({"initial_state": np.zeros((B, 16), f32)}, r"initial_state.* shape \[5,16\].*\[5,17\]"),
        ({"initial_state": np.zeros((1, B, H), f32)}, r"initial_state.* has shape \[1,5,17\]"),
        ({"mask": np.ones((B, 6), bool)}, r"mask has shape \[5,6\], needed: .*\[5,7\]"),
        ({"mask": np.ones((B, T, I), bool)}, r"mask has shape \[5,7,3\], needed: .*\[5,7\]"),
        ({"mask": np.ones((T,), bool)}, r"mask has shape \[7\], needed"),
        ({"mask": np.full((B, T), np.nan)}, r"mask holds NaN, needed"),
        ({"mask": np.full((B, T), np.nan, ml_dtypes.bfloat16)}, r"mask holds NaN, needed"),
        ({"mask": np.full((B, T), "x")}, r"mask has dtype <U1, needed"),
        ({"mask": [["x"] * T] * B}, r"mask is a list that NumPy cannot read"),
        ({"mask": object()}, r"mask is a object, needed"),
        ({"sequence_length": [1] * B}, r"mask and sequence_length are both given, needed"),
        ({"mask": None, "sequence_length": [1, 2, 8, 0, 9]}, r"sequence_length\[2\] is 8.*0 to 7"),
        ({"mask": None, "sequence_length": [1, -1, 3, 0, 4]}, r"sequence_length\[1\] is -1.*to 7"),
        ({"mask": None, "sequence_length": [1, 2]}, r"sequence_length has shape \[2\].*\[5\]"),
        ({"mask": None, "sequence_length": 3}, r"sequence_length has shape \[\], needed.*\[5\]"),
        ({"mask": None, "sequence_length": np.ones(B)}, r"sequence_length has dtype float64"),
        ({"mask": None, "sequence_length": [True] * B}, r"sequence_length has dtype bool"),
        ({"inputs": np.zeros((B, T, I), np.int64)}, r"inputs has dtype int64, needed: float32"),
        ({"kernel": np.zeros((I, 51))}, r"kernel has dtype float64, needed: float32, the dtype of"),
        ({"initial_state": np.zeros((B, H), np.float16)}, r"initial_state has dtype float16"),
        ({"bias": np.zeros((2, 51), complex)}, r"bias has dtype complex128, needed"),
        ({"inputs": [[1.0], [1.0, 2.0]]}, r"inputs is a list that NumPy cannot read"),
        ({"inputs": "text"}, r"inputs is a str, needed"),
        ({"inputs": {"a": 1}}, r"inputs is a dict, needed"),
        ({"inputs": np.ma.zeros((B, T, I), f32)}, r"inputs is a numpy.ma.MaskedArray, needed"),
        ({"activation": "softmax"}, r"activation is 'softmax', needed: None or one of .*tanh"),
        ({"recurrent_activation": np.tanh}, r"recurrent_activation is <ufunc 'tanh'>, needed"),
        ({"activation": []}, r"activation is \[\], needed"),
    ],
    ids=lambda v: "".join(v) if isinstance(v, dict) else "",
)
def test_errors_name_the_argument(call, change, message):
    with pytest.raises(ValueError, match="^" + message):
        rnn.gru(**dict(call, **change))


def test_errors_of_lstm_state_and_gradients():
    arguments, gradients = cases.make_arrays(Case(), "lstm", "float32")
    call = public_call("lstm", arguments)
    h = np.zeros((B, H), f32)

    def fails(message, function=rnn.lstm, **change):
        with pytest.raises(ValueError, match="^" + message):
            function(**dict(call, **change))

    fails("initial_state is a numpy.ndarray, needed: a pair", initial_state=h)
    fails("initial_state is of 3 parts, needed: a pair", initial_state=(h, h, h))
    fails("initial_state has a part that is None", initial_state=(h, None))
    fails(r"initial_state \(c\) has shape \[5,16\]", initial_state=(h, h[:, 1:]))
    fails(r"initial_state \(c\) has dtype float64", initial_state=(h, h.astype(float)))
    d_outputs = gradients["d_outputs"]
    fails("d_outputs and d_state are both None", rnn.lstm_vjp)
    fails("d_outputs and d_state are both None", rnn.lstm_vjp, d_state=(None, None))
    fails("d_state is of 1 parts, needed: a pair", rnn.lstm_vjp, d_state=(h,))
    fails(r"d_state \(c\) has shape \[5,16\]", rnn.lstm_vjp, d_state=(h, h[:, 1:]))
    fails(r"d_outputs has shape \[5,17\]", rnn.lstm_vjp, d_outputs=h)
    fails("d_outputs has dtype float64, needed: float32", rnn.lstm_vjp,
          d_outputs=d_outputs.astype(float))  # fmt: skip
    fails("d_outputs has dtype int64, needed", rnn.lstm_vjp, d_outputs=np.ones((B, T, H), int))


@pytest.mark.parametrize("installed", [True, False])
def test_tensorflow_and_keras_are_not_imported(installed):
    hide = "" if installed else "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    program = (
        "import sys\n" + hide + "import numpy as np, masked_rnn.numpy as rnn\n"
        "rnn.gru(np.ones((2, 3, 1)), np.ones((1, 3)), np.ones((1, 3)))\n"
        "names = ('tensorflow', 'keras', 'jax', 'torch')\n"
        "loaded = [name for name in names if sys.modules.get(name)]\n"
        "assert not loaded, loaded\n"
    )
    package = pathlib.Path(rnn.__file__).parents[1]
    environment = dict(os.environ, PYTHONPATH=str(package))
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)

