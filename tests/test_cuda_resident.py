"""The resident kernels by matrix products (csrc/core/cuda/kernels/resident_matrix.cuh) on the CPU
shim: the table of cases, forced, in every type that they round to.  test_cuda.py has the exact
ones."""

import itertools

import numpy as np
import pytest

from . import cases
from .cases import CELLS, FORWARD_RESULTS, MATRIX_TOLERANCE, Case
from .test_core import check_same_bits, rows_of, take_rows
from .test_cuda import (
    OPTIONS, PER_ROW, REST, backward, forward, poison_masked, pytestmark, run, setting,
)  # fmt: skip

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


def check(case, cell, dtype):
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    got = run(cell, poison_masked(arguments), gradients)
    cases.check_close(got, cases.expected(case, cell, dtype), dtype, MATRIX_TOLERANCE[dtype])
    plain, _ = forward(cell, poison_masked(arguments))
    check_same_bits(plain, {name: got[name] for name in FORWARD_RESULTS})


@every_cell
@pytest.mark.parametrize("number, case", list(enumerate(TABLE)), ids=lambda v: str(v))
def test_cases(number, case, cell, setting):
    """Each case in one of the dtypes, under one of the settings, in turn."""
    number += CELLS.index(cell)
    setting(**SETTINGS[number % len(SETTINGS)])
    check(case, cell, DTYPES[number % len(DTYPES)])


@every_cell
@every_dtype
@pytest.mark.parametrize("number, case", list(enumerate(SIZES)), ids=lambda v: str(v))
def test_sizes(number, case, dtype, cell, setting):
    units = "32" if case.units > 100 else SETTINGS[number % len(SETTINGS)]["CUSIM_UNITS"]
    setting(CUSIM_ORDER=str(number), CUSIM_UNITS=units)
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
    arguments, gradients = cases.make_arrays(case, cell, dtype)
    want = run(cell, arguments, gradients)
    for order in ("lifo", "1", "2", "fifo"):
        setting(CUSIM_ORDER=order)
        check_same_bits(run(cell, arguments, gradients), want)


@every_cell
@every_dtype
@pytest.mark.parametrize("units", ["0", "8"])
def test_a_row_is_the_same_in_any_batch(units, dtype, cell, setting):
    setting(CUSIM_DETERMINISTIC="1", CUSIM_UNITS=units, CUSIM_MULTIPROCESSORS="8")
    arguments, gradients = cases.make_arrays(Case(35, 6, 5, 35, mask="mixed"), cell, dtype)
    everything = run(cell, arguments, gradients)
    for rows in ([3], [34, 0, 7], list(range(34, -1, -1))):
        alone = run(cell, take_rows(arguments, rows), take_rows(gradients, rows))
        check_same_bits(rows_of(alone, slice(None)), rows_of(everything, rows))
    setting(CUSIM_CHUNK_ROWS="20")
    check_same_bits(run(cell, arguments, gradients), everything, PER_ROW)


@every_cell
def test_nan_at_a_real_step_stays_in_its_row(cell):
    arguments, _ = cases.make_arrays(Case(17, 6, 3, 35, mask="none"), cell, "float32")
    want, _ = forward(cell, arguments)
    poisoned = dict(arguments, inputs=arguments["inputs"].copy())
    poisoned["inputs"][5, 2, 1] = np.nan
    got, _ = forward(cell, poisoned)
    assert np.isnan(got["outputs"][5, 2:]).all() and np.isnan(got["state_h"][5]).all()
    others = np.arange(17) != 5
    for name in FORWARD_RESULTS[: 3 if cell == "lstm" else 2]:
        assert got[name][others].tobytes() == want[name][others].tobytes()


@every_cell
def test_incoming_gradients_may_be_absent(cell):
    arguments, gradients = cases.make_arrays(Case(), cell, "bfloat16")
    _, reserve = forward(cell, arguments, keep_reserve=True)
    for name in (name for name, given in gradients.items() if given is not None):
        zero = dict(gradients, **{name: np.zeros_like(gradients[name])})
        absent = dict(gradients, **{name: None})
        check_same_bits(
            backward(cell, arguments, absent, reserve), backward(cell, arguments, zero, reserve)
        )


@every_cell
@pytest.mark.parametrize("sizes", [(0, 7), (5, 0), (0, 0)], ids=["B0", "T0", "B0T0"])
def test_empty_batch_and_no_time_steps(sizes, cell):
    case = Case(*sizes, mask="all_ones")
    arguments, gradients = cases.make_arrays(case, cell, "bfloat16")
    got = run(cell, arguments, gradients)
    cases.check_close(got, cases.expected(case, cell, "bfloat16"), "bfloat16", tolerance=0)


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
