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


@pytest.fixture
def setting(monkeypatch):
    def choose(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return choose


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


def check(case, cell, dtype):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, poison_masked(arguments), gradients)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype)
    # an inference call keeps nothing, and gives the same bits
    plain, reserve = forward(cell, poison_masked(arguments))
    check_same_bits(plain, {name: got[name] for name in FORWARD_RESULTS})
    assert reserve is None


# All that the options and masks can do, on every cell; sizes and activations in float32, and some
# of each in the other types: the storage type only enters where arrays are read and written.
OPTIONS = tuple(dict.fromkeys((*cases._masks(), *cases._options())))
REST = tuple(case for case in cases.TABLE if case not in OPTIONS and case.units * case.time < 3000)


@every_cell
@pytest.mark.parametrize("number, case", list(enumerate(OPTIONS)), ids=lambda v: str(v))
def test_options(number, case, cell, setting):
    setting(**SETTINGS[number % len(SETTINGS)])
    check(case, cell, "float32")


@every_cell
@pytest.mark.parametrize("number, case", list(enumerate(REST)), ids=lambda v: str(v))
def test_sizes_and_activations(number, case, cell, setting):
    setting(**SETTINGS[number % len(SETTINGS)])
    check(case, cell, "float32")


@every_cell
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("number, case", list(enumerate(cases.TABLE))[5::23], ids=lambda v: str(v))
def test_types(number, case, dtype, cell, setting):
    setting(**SETTINGS[number % len(SETTINGS)])
    check(case, cell, dtype)
