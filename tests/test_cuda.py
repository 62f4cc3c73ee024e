"""The CUDA part over the table of cases, its kernels run on the CPU shim: the same numbers as the
reference, whatever order the threads run in, with the own product and with a library's.

`make cusim` builds the module (build/cusim); MASKED_RNN_CUSIM_MODULE names another folder.
"""

import importlib.machinery
import importlib.util
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from . import cases
from .cases import BACKWARD_RESULTS, CELLS, DTYPES, FORWARD_RESULTS, Case
from .test_core import check_same_bits, rows_of, take_rows

FOLDER = Path(
    os.environ.get("MASKED_RNN_CUSIM_MODULE")
    or Path(__file__).resolve().parents[1] / "build/cusim"
)


def _load():
    for file in sorted(FOLDER.glob("_cusim*.so")):
        loader = importlib.machinery.ExtensionFileLoader("_cusim", str(file))
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_file_location("_cusim", file, loader=loader)
        )
        loader.exec_module(module)
        return module
    return None


_cusim = _load()
pytestmark = pytest.mark.skipif(_cusim is None, reason=f"no _cusim in {FOLDER}: make cusim")

every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# A GPU's threads run in any order; products come from a library or not; chunks of steps are short
# where a case is small.  Each case runs under one of these, in turn.
SETTINGS = tuple(
    {"CUSIM_ORDER": order, "CUSIM_LIBRARY": library, "CUSIM_CHUNK_ROWS": chunk}
    for order, library, chunk in itertools.product(("fifo", "lifo", "7"), ("0", "1"), ("0", "12"))
)


KERNELS = ("general", "resident")
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def settings_of(kernel, number):
    """The environment of a case; the resident kernel's blocks have all units, or in every second
    case 8, and meet at each step."""
    blocks = {"CUSIM_UNITS": "8", "CUSIM_MULTIPROCESSORS": "20"} if number % 2 else {}
    return {**SETTINGS[number // 2 % len(SETTINGS)], "CUSIM_KERNEL": kernel, **blocks}


@pytest.fixture
def setting(monkeypatch):
    def choose(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return choose


@pytest.fixture(autouse=True)
def general(setting):
    """The general kernels; test_cuda_cluster.py has those of clusters, test_cuda_resident.py the
    resident ones that round."""
    setting(CUSIM_KERNEL="general")


def forward(cell, arguments, keep_reserve=False):
    *results, reserve = _cusim.forward(cell, *arguments.values(), keep_reserve)
    return dict(zip(FORWARD_RESULTS, results)), reserve


def backward(cell, arguments, gradients, reserve):
    results = _cusim.backward(cell, *arguments.values(), reserve, *gradients.values())
    return dict(zip(BACKWARD_RESULTS, results))


def run(cell, arguments, gradients):
    results, reserve = forward(cell, arguments, keep_reserve=True)
    return results | backward(cell, arguments, gradients, reserve)


def poison_masked(arguments):
    """Inf and NaN at every masked step."""
    inputs = arguments["inputs"].copy()
    if arguments["mask"] is not None:
        inputs[~arguments["mask"]] = np.inf
        inputs[~arguments["mask"], ::2] = np.nan
    return dict(arguments, inputs=inputs)


def check(case, cell, dtype, tolerance=None):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, poison_masked(arguments), gradients)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype, tolerance)
    # an inference call keeps nothing, and gives the same bits
    plain, reserve = forward(cell, poison_masked(arguments))
    check_same_bits(plain, {name: got[name] for name in FORWARD_RESULTS})
    assert reserve is None


# All that the options and masks can do, on every cell; sizes and activations in float32, and some
# of each in the other types: the storage type only enters where arrays are read and written.
OPTIONS = tuple(dict.fromkeys((*cases._masks(), *cases._options())))
REST = tuple(case for case in cases.TABLE if case not in OPTIONS and case.units * case.time < 3000)


@every_cell
@every_kernel
@pytest.mark.parametrize("number, case", list(enumerate(OPTIONS)), ids=lambda v: str(v))
def test_options(number, case, kernel, cell, setting):
    setting(**settings_of(kernel, number))
    check(case, cell, "float32")


@every_cell
@every_kernel
@pytest.mark.parametrize("number, case", list(enumerate(REST)), ids=lambda v: str(v))
def test_sizes_and_activations(number, case, kernel, cell, setting):
    setting(**settings_of(kernel, number))
    check(case, cell, "float32")


@every_cell
@pytest.mark.parametrize(
    "dtype, kernel",
    # The resident kernel multiplies 16-bit types as tensor cores do: test_cuda_resident.py.
    [
        ("float64", "general"),
        ("float64", "resident"),
        ("bfloat16", "general"),
        ("float16", "general"),
    ],
)
@pytest.mark.parametrize("number, case", list(enumerate(cases.TABLE))[5::23], ids=lambda v: str(v))
def test_types(number, case, kernel, dtype, cell, setting):
    setting(**settings_of(kernel, number))
    check(case, cell, dtype)


# --- what holds beside the numbers ---------------------------------------------------------


PER_ROW = (*FORWARD_RESULTS, "d_inputs", "d_initial_h", "d_initial_c")


def check_orders_of_threads(case, cell, dtype, setting):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    want = run(cell, arguments, gradients)
    for order in ("lifo", "1", "2", "fifo"):
        setting(CUSIM_ORDER=order)
        check_same_bits(run(cell, arguments, gradients), want)


def check_any_batch(batch, cell, dtype, setting):
    """A row has the same bits in any batch; chunks of steps do not matter to it either."""
    arguments, gradients = cases.make_arrays(Case(batch, 6, 5, 35, mask="mixed"), cell, dtype)
    everything = run(cell, arguments, gradients)
    for rows in ([3], [batch - 1, 0, 7], list(range(batch - 1, -1, -1))):
        alone = run(cell, take_rows(arguments, rows), take_rows(gradients, rows))
        check_same_bits(rows_of(alone, slice(None)), rows_of(everything, rows))
    setting(CUSIM_CHUNK_ROWS="20")
    check_same_bits(run(cell, arguments, gradients), everything, PER_ROW)


def check_nan_stays_in_its_row(cell):
    arguments, _ = cases.make_arrays(Case(17, 6, 3, 35, mask="none"), cell, "float32")
    want, _ = forward(cell, arguments)
    poisoned = dict(arguments, inputs=arguments["inputs"].copy())
    poisoned["inputs"][5, 2, 1] = np.nan
    got, _ = forward(cell, poisoned)
    assert np.isnan(got["outputs"][5, 2:]).all() and np.isnan(got["state_h"][5]).all()
    others = np.arange(17) != 5
    for name in FORWARD_RESULTS[: 3 if cell == "lstm" else 2]:
        assert got[name][others].tobytes() == want[name][others].tobytes()


def check_absent_gradients(cell, dtype):
    """They count as zeros."""
    arguments, gradients = cases.make_arrays(Case(), cell, dtype)
    _, reserve = forward(cell, arguments, keep_reserve=True)
    for name in (name for name, given in gradients.items() if given is not None):
        zero = dict(gradients, **{name: np.zeros_like(gradients[name])})
        absent = dict(gradients, **{name: None})
        check_same_bits(
            backward(cell, arguments, absent, reserve), backward(cell, arguments, zero, reserve)
        )


def check_no_steps(case, cell, dtype):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, arguments, gradients)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype, tolerance=0)
    check_same_bits(got, {"state_h": arguments["initial_h"], "state_c": arguments["initial_c"]})


@every_cell
@every_kernel
@pytest.mark.parametrize("library", ["0", "1"])
def test_bits_do_not_depend_on_the_order_of_threads(library, kernel, cell, setting):
    setting(**settings_of(kernel, 1))
    case = Case(17, 9, 5, 35, mask="mixed", input_dropout="per_gate", recurrent_dropout="per_gate")
    setting(CUSIM_LIBRARY=library, CUSIM_ORDER="fifo")
    check_orders_of_threads(case, cell, "float32", setting)


@every_cell
@every_dtype
@pytest.mark.parametrize("kernel", ["general", "resident", ""])
def test_a_row_is_the_same_in_any_batch(kernel, dtype, cell, setting):
    """Under op determinism no library is asked, and neither the batch nor the chunks matter."""
    setting(CUSIM_KERNEL=kernel, CUSIM_DETERMINISTIC="1", CUSIM_LIBRARY="1")
    check_any_batch(19, cell, dtype, setting)


@every_cell
def test_long_sums_are_split(cell, setting):
    """More than a thousand rows: the weight gradients' sums come in parts, over several chunks."""
    case = Case(17, 131, 3, 5, mask="holes")
    for chunk in ("0", "1100"):
        setting(CUSIM_CHUNK_ROWS=chunk)
        check(case, cell, "float32")


@every_cell
@every_kernel
def test_nan_at_a_real_step_stays_in_its_row(kernel, cell, setting):
    setting(**settings_of(kernel, 1))
    check_nan_stays_in_its_row(cell)


@every_cell
def test_incoming_gradients_may_be_absent(cell):
    check_absent_gradients(cell, "float32")


@every_cell
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("mask", ["none", "all_zero", "all_ones"])
@pytest.mark.parametrize("sizes", [(0, 7), (5, 0), (0, 0)], ids=["B0", "T0", "B0T0"])
def test_empty_batch_and_no_time_steps(sizes, mask, return_sequences, cell):
    case = Case(*sizes, mask=mask, return_sequences=return_sequences)
    check_no_steps(case, cell, "float32")


@every_cell
@every_dtype
def test_fully_masked(dtype, cell):
    """Zeros come out, the initial state is handed on, and its gradient passes straight through."""
    arguments, gradients = cases.make_arrays(Case(mask="all_zero"), cell, dtype)
    got = run(cell, poison_masked(arguments), gradients)
    for h in ("h", "c")[: 2 if cell == "lstm" else 1]:
        check_same_bits(
            {"state": got[f"state_{h}"], "gradient": got[f"d_initial_{h}"]},
            {"state": arguments[f"initial_{h}"], "gradient": gradients[f"d_state_{h}"]},
        )
    for name in ("outputs", "d_inputs", "d_kernel", "d_recurrent_kernel", "d_bias"):
        assert not got[name].any(), name


def test_errors(setting):
    arguments, gradients = cases.make_arrays(Case(), "gru", "float32")
    _, reserve = forward("gru", arguments, keep_reserve=True)
    with pytest.raises(ValueError, match="reserve"):
        backward("gru", arguments, gradients, reserve[:-1].copy())
    with pytest.raises(ValueError, match="reserve.*keep_reserve"):
        backward("gru", arguments, gradients, np.zeros(0, np.uint8))
    setting(CUSIM_KERNEL="persistent")
    with pytest.raises(ValueError, match="kernel is 'persistent'"):
        forward("gru", arguments)


def test_where_the_resident_kernel_cannot_be_had(setting):
    """Asked for, it is an error that says why; else the general kernels do the work."""
    arguments, _ = cases.make_arrays(Case(), "gru", "float32")
    large, _ = cases.make_arrays(Case(batch=1, time=2, units=600), "lstm", "float32")
    for cell, values, device in (
        ("gru", arguments, ("75", "132")),
        ("lstm", large, ("90", "20")),  # 5.8 MB of weights
    ):
        setting(CUSIM_CAPABILITY=device[0], CUSIM_MULTIPROCESSORS=device[1])
        want = forward(cell, values)[0]
        setting(CUSIM_KERNEL="resident")
        with pytest.raises(ValueError, match="kernel is 'resident', needed: .*cusim has compute"):
            forward(cell, values)
        setting(CUSIM_KERNEL="general")
        check_same_bits(forward(cell, values)[0], want)
        setting(CUSIM_KERNEL="")
