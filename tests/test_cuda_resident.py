"""The resident kernels by matrix products (csrc/core/cuda/kernels/resident_matrix.cuh) on the CPU
shim: the table of cases, forced, in every type that they round to.  test_cuda.py has the exact
ones."""

import itertools

import pytest

from . import cases, test_cuda
from .cases import CELLS, MATRIX_TOLERANCE, Case
from .test_core import check_same_bits
from .test_cuda import OPTIONS, REST, forward, pytestmark, run, setting

__all__ = ["pytestmark", "setting"]

DTYPES = list(MATRIX_TOLERANCE)
TABLE = tuple(case for case in (*OPTIONS, *REST) if not cases.has_kinks(case))
SIZES = tuple(Case(batch, 3, 3, units, mask="mixed", recurrent_dropout=dropout)
              for batch, units in itertools.product((1, 3, 17), (1, 3, 17, 129, 151))
              for dropout in ("", "per_gate"))  # fmt: skip

# Blocks have all units, or so few that gates share a tile, or that they fill tiles; warps run in
# any order; chunks of steps are short where a case is small.
SETTINGS = tuple(
    {"CUSIM_UNITS": units, "CUSIM_ORDER": order, "CUSIM_CHUNK_ROWS": chunk}
    for order, units, chunk in itertools.product(
        ("fifo", "lifo", "7"), ("1000", "4", "8", "16"), ("0", "12")
    )
)

every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def matrix(setting):
    setting(CUSIM_KERNEL="resident", CUSIM_TF32="1", CUSIM_MULTIPROCESSORS="40")


def block_units(number, case):
    """Those of the setting in turn; of a large case so few that shared memory holds their weights."""
    return "32" if case.units > 100 else SETTINGS[number % len(SETTINGS)]["CUSIM_UNITS"]


def check(case, cell, dtype):
    test_cuda.check(case, cell, dtype, MATRIX_TOLERANCE[dtype])


@every_cell
@pytest.mark.parametrize("number, case", list(enumerate(TABLE)), ids=lambda v: str(v))
def test_cases(number, case, cell, setting):
    """Each case in one of the dtypes, under one of the settings, in turn."""
    number += CELLS.index(cell)
    setting(**{**SETTINGS[number % len(SETTINGS)], "CUSIM_UNITS": block_units(number, case)})
    check(case, cell, DTYPES[number % len(DTYPES)])


@every_cell
@every_dtype
@pytest.mark.parametrize("number, case", list(enumerate(SIZES)), ids=lambda v: str(v))
def test_sizes(number, case, dtype, cell, setting):
    setting(CUSIM_ORDER=str(number), CUSIM_UNITS=block_units(number, case))
    check(case, cell, dtype)


@every_cell
@every_dtype
@pytest.mark.parametrize("dropout", ["", "per_gate"])
def test_many_rows(dropout, dtype, cell, setting):
    """A group's rows are worked on in several turns, and a turn's in several tiles."""
    setting(CUSIM_UNITS="16", CUSIM_MULTIPROCESSORS="3")
    check(Case(77, 3, 3, 35, mask="mixed", recurrent_dropout=dropout), cell, dtype)


@every_cell
@every_dtype
def test_bits_do_not_depend_on_the_order_of_threads(dtype, cell, setting):
    setting(CUSIM_UNITS="8")
    case = Case(17, 9, 5, 35, mask="mixed", input_dropout="per_gate", recurrent_dropout="per_gate")
    test_cuda.check_orders_of_threads(case, cell, dtype, setting)


@every_cell
@every_dtype
@pytest.mark.parametrize("units", ["0", "8"])
def test_a_row_is_the_same_in_any_batch(units, dtype, cell, setting):
    setting(CUSIM_DETERMINISTIC="1", CUSIM_UNITS=units, CUSIM_MULTIPROCESSORS="8")
    test_cuda.check_any_batch(35, cell, dtype, setting)


@every_cell
def test_nan_at_a_real_step_stays_in_its_row(cell):
    test_cuda.check_nan_stays_in_its_row(cell)


@every_cell
def test_incoming_gradients_may_be_absent(cell):
    test_cuda.check_absent_gradients(cell, "bfloat16")


@every_cell
@pytest.mark.parametrize("sizes", [(0, 7), (5, 0), (0, 0)], ids=["B0", "T0", "B0T0"])
def test_empty_batch_and_no_time_steps(sizes, cell):
    test_cuda.check_no_steps(Case(*sizes, mask="all_ones"), cell, "bfloat16")


@every_cell
def test_float32_is_rounded_where_tf32_is_allowed_only(cell, setting):
    """Without, the same call is exact; in the 16-bit types TF32 means nothing."""
    for dtype in DTYPES:
        arguments, gradients = cases.make_arrays(Case(), cell, dtype)
        setting(CUSIM_TF32="1")
        allowed = run(cell, arguments, gradients)
        setting(CUSIM_TF32="0")
        exact = run(cell, arguments, gradients)
        if dtype == "float32":
            cases.check_close(exact, cases.expected(Case(), cell, dtype), dtype)
            for name in ("outputs", "d_inputs"):
                assert allowed[name].tobytes() != exact[name].tobytes(), name
        else:
            check_same_bits(allowed, exact)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_take_half_the_room(dtype, setting):
    """In float32 these do not fit; all units would in 16 bits."""
    setting(CUSIM_MULTIPROCESSORS="1", CUSIM_KERNEL="resident")
    for size, fits in (("float32", False), (dtype, True)):
        arguments, _ = cases.make_arrays(Case(1, 1, 1, 150), "lstm", size)
        if fits:
            forward("lstm", arguments)
        else:
            with pytest.raises(ValueError, match="kernel is 'resident', needed"):
                forward("lstm", arguments)
