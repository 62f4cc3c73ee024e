"""The kernels of clusters (csrc/core/cuda/kernels/cluster.cuh) on the CPU shim: the table of cases
where they can do it, forced; a reason where they cannot."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from . import cases, test_cuda
from .cases import MATRIX_TOLERANCE, Case
from .test_core import check_same_bits
from .test_cuda import FOLDER, forward, pytestmark, setting

__all__ = ["pytestmark", "setting"]

ROOT = Path(__file__).resolve().parents[1]

TABLE = tuple(
    case for case in cases.TABLE
    if case.recurrent_dropout != "per_gate" and case.units <= 64
    and not cases.has_kinks(case)
)  # fmt: skip

SETTINGS = tuple(
    {"CUSIM_ORDER": order, "CUSIM_CHUNK_ROWS": chunk}
    for order, chunk in itertools.product(("fifo", "lifo", "7"), ("0", "12"))
)

every_cell = pytest.mark.parametrize("cell", ["gru", "lstm", "simple_rnn"])
every_dtype = pytest.mark.parametrize("dtype", MATRIX_TOLERANCE)


@pytest.fixture(autouse=True)
def clusters(setting):
    setting(CUSIM_KERNEL="cluster", CUSIM_TF32="1")


def check(case, cell, dtype):
    test_cuda.check(case, cell, dtype, MATRIX_TOLERANCE[dtype])


@every_cell
@pytest.mark.parametrize("number, case", list(enumerate(TABLE)), ids=lambda v: str(v))
def test_cases(number, case, cell, setting):
    """Each case in one of the dtypes, under one of the settings, in turn."""
    setting(**SETTINGS[number // len(MATRIX_TOLERANCE) % len(SETTINGS)])
    check(case, cell, list(MATRIX_TOLERANCE)[number % len(MATRIX_TOLERANCE)])


@every_cell
@every_dtype
def test_large_clusters(dtype, cell, setting):
    """Of eight blocks; in float32 of four, whose weights are partly in shared memory."""
    setting(CUSIM_ORDER="3")
    check(Case(9, 3, 3, 200, mask="mixed", recurrent_dropout="shared"), cell, dtype)


@every_cell
@every_dtype
def test_bits_do_not_depend_on_the_order_of_threads(dtype, cell, setting):
    case = Case(17, 9, 5, 35, mask="mixed", input_dropout="per_gate", recurrent_dropout="shared")
    test_cuda.check_orders_of_threads(case, cell, dtype, setting)


@every_cell
@every_dtype
def test_a_row_is_the_same_in_any_batch(dtype, cell, setting):
    setting(CUSIM_DETERMINISTIC="1")
    test_cuda.check_any_batch(19, cell, dtype, setting)


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


# --- the choice ----------------------------------------------------------------------------


REFUSED = {
    "dtype is float64, needed: bfloat16": {"dtype": "float64"},
    "dtype is float32, needed: bfloat16, .*TF32": {"dtype": "float32", "CUSIM_TF32": "0"},
    "compute capability is 8.0, needed: 9.0": {"CUSIM_CAPABILITY": "80"},
    "cell is gru_reset_before": {"cell": "gru_reset_before"},
    "recurrent_dropout has a mask for each gate": {"case": Case(recurrent_dropout="per_gate")},
    "300 units does not fit a cluster": {
        "case": Case(1, 1, 1, 300), "CUSIM_MULTIPROCESSORS": "132",
    },  # fmt: skip
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_where_forced_and_another_kernel_otherwise(reason, setting):
    how = {"cell": "lstm", "dtype": "bfloat16", "case": Case()} | REFUSED[reason]
    setting(**{name: value for name, value in how.items() if name.startswith("CUSIM")})
    arguments, _ = cases.make_arrays(how["case"], how["cell"], how["dtype"])
    with pytest.raises(ValueError, match=f"kernel is 'cluster', but .*{reason}"):
        forward(how["cell"], arguments)
    results = {}
    for kernel in ("", "general", "resident"):
        setting(CUSIM_KERNEL=kernel)
        results[kernel] = forward(how["cell"], arguments)[0]["outputs"].tobytes()
    assert results[""] in (results["general"], results["resident"])


@every_dtype
def test_chosen_where_they_can_be_had(dtype, setting):
    # The resident kernel rounds what these round, and differs by the order in which it adds up: its
    # blocks have few units here. Of outputs in 16 bits nothing is left of that.
    setting(CUSIM_UNITS="8")
    arguments, _ = cases.make_arrays(Case(units=64), "lstm", dtype)
    want, _ = forward("lstm", arguments)
    for another in ("general", "resident") if dtype == "float32" else ("general",):
        setting(CUSIM_KERNEL=another)
        assert forward("lstm", arguments)[0]["outputs"].tobytes() != want["outputs"].tobytes()
    setting(CUSIM_KERNEL="")
    check_same_bits(forward("lstm", arguments)[0], want)
    setting(CUSIM_KERNEL="general")
    general, _ = forward("lstm", arguments)
    setting(CUSIM_KERNEL="", MASKED_RNN_CUDA_KERNEL="general")
    check_same_bits(forward("lstm", arguments)[0], general)
    setting(MASKED_RNN_CUDA_KERNEL="another")
    with pytest.raises(ValueError, match="'another', needed: general, resident or cluster"):
        forward("lstm", arguments)


# --- faults --------------------------------------------------------------------------------


@pytest.mark.skipif(not (FOLDER / "libcusim.a").exists(), reason="no libcusim.a: make cusim")
@pytest.mark.parametrize("fault", ["", "MISSING_WAIT", "EARLY_PHASE", "MISSING_BARRIER"])
def test_planted_faults_are_found(fault, tmp_path):
    program = tmp_path / "check_cluster"
    includes = [f"-I{ROOT / folder}" for folder in ("csrc", "csrc/core")]
    define = [f"-DFAULT_{fault}"] if fault else []
    source = ROOT / "tests/cuda/check_cluster.cc"
    subprocess.run(["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-pthread", *includes, *define,
                    "-o", program, source, FOLDER / "libcusim.a"], check=True)  # fmt: skip
    passed = []
    for order in ("fifo", "lifo", "1", "2"):
        done = subprocess.run([program], env={**os.environ, "CUSIM_ORDER": order},
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        passed.append(done.stdout == "PASS\n")
    assert not all(passed) if fault else all(passed), passed
