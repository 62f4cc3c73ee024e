"""Whether every kernel computes what it should, and the same bits each time."""

import concurrent.futures
import dataclasses
import itertools
import os
import time

import numpy as np

from benchmarks import cases
from benchmarks.on_gpu import reference
from benchmarks.on_gpu.calls import KERNELS, PRECISIONS, STATES, Call, Impossible

CELLS = tuple(cases.GATES)
# Kind of mask -> options that its cases have besides.
MASKS = {
    "dense": {},
    "right": {},
    "left": {"go_backwards": True},
    "holes": {"zero_output_for_mask": True},
    "empty rows": {},
}
# B,T,I,H: the general kernels take all; what the others do not take is named.
SIZES = ((19, 13, 24, 64), (16, 12, 64, 256), (33, 11, 100, 130), (24, 9, 128, 512))
# Relative to the largest magnitude of an array; gradients may be four times as far off. Operands of
# products may be rounded to 8 bits in bfloat16, and to 11 in TF32 and float16.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "tf32": 4e-3, "bfloat16": 3e-2, "float16": 4e-3}
GRADIENT_FACTOR = 4


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison: forward and backward of one call, twice."""

    kernel: str
    precision: str
    mask: str
    cell: str
    sizes: tuple


@dataclasses.dataclass
class Outcome:
    """What a check has found.

    Attributes:
        error: the largest difference from float64 over what is tolerated; over 1 is wrong.
        worst: the array that has it.
        repeats: whether two calls gave the same bits.
        skipped: why the kernel cannot do it, or "".
        failed: what was raised, or "".
    """

    check: Check
    error: float = 0.0
    worst: str = ""
    repeats: bool = True
    skipped: str = ""
    failed: str = ""

    @property
    def passed(self):
        return not self.failed and self.repeats and self.error <= 1


def checks(kernels=KERNELS, precisions=tuple(PRECISIONS), masks=tuple(MASKS), cells=CELLS,
           sizes=SIZES):
    """Every combination; first each kernel at the first size."""
    for size, kernel, cell, precision, mask in itertools.product(
        sizes, kernels, cells, precisions, masks
    ):
        yield Check(kernel, precision, mask, cell, size)


def run(device, todo, seconds, say):
    """Runs checks until they are done or the time is up.

    Args:
        device: of devices.py.
        todo: `Check`s. Those that differ in the mask alone follow each other: the first compiles.
        seconds: for all.
        say: is told what is going on.

    Returns:
        [`Outcome`] and the number of checks that were not reached.
    """
    end = time.monotonic() + seconds
    families = [list(f) for _, f in itertools.groupby(todo, lambda c: dataclasses.replace(c, mask=""))]
    outcomes, missed = [], 0
    # Threads, as compilers take seconds for a kernel and one core each.
    workers = 1 if device.library == "numpy" else min(8, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in pool.map(lambda family: _run_family(device, family, end, say), families):
            outcomes += done[0]
            missed += done[1]
    return outcomes, missed


def _run_family(device, family, end, say):
    outcomes = []
    for number, check in enumerate(family):
        if time.monotonic() > end:
            return outcomes, len(family) - number
        if outcomes and outcomes[-1].skipped:  # no mask changes that
            outcomes.append(dataclasses.replace(outcomes[-1], check=check))
            continue
        say(f"{check.kernel} {check.cell} {check.precision} {check.sizes} {check.mask}")
        outcomes.append(_run(device, check))
    return outcomes, 0


def _run(device, check):
    arrays = _arrays(check)
    poisoned = dict(arrays)
    if arrays["mask"] is not None:
        poisoned["inputs"] = arrays["inputs"].copy()
        poisoned["inputs"][~arrays["mask"]] = np.nan
    try:
        call = Call(device, check.cell, check.precision, check.kernel, poisoned,
                    **MASKS[check.mask])  # fmt: skip
        got, again = call.numbers(), call.numbers()
    except Impossible as error:
        return Outcome(check, skipped=str(error))
    except (ValueError, RuntimeError, MemoryError) as error:
        return Outcome(check, failed=f"{type(error).__name__}: {error}")
    repeats = all(got[name].tobytes() == again[name].tobytes() for name in got)
    want = reference.expected(check.cell, arrays, **MASKS[check.mask])
    error, worst = max((_error(name, got[name], want[name], check.precision), name) for name in want)
    return Outcome(check, error, worst, repeats)


def _error(name, got, want, precision):
    """The largest difference, in units of what is tolerated."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    scale = max(float(np.abs(want).max(initial=0)), np.finfo(np.float32).tiny)
    difference = float(np.abs(got - want).max(initial=0)) / scale
    return difference / (TOLERANCES[precision] * (GRADIENT_FACTOR if name.startswith("d_") else 1))


def _arrays(check):
    """Of NumPy's, in the precision's dtype."""
    kind = "holes" if check.mask == "empty rows" else check.mask
    dtype = PRECISIONS[check.precision][0]
    case = cases.Case(check.cell, *check.sizes, mask=kind, dtype=dtype, training=True)
    problem = case.problem()
    if check.mask == "empty rows":
        problem.mask[::3] = False
    random = np.random.default_rng(8)
    arrays = dict(inputs=problem.inputs, kernel=problem.kernel, bias=problem.bias,
                  recurrent_kernel=problem.recurrent_kernel, mask=problem.mask)  # fmt: skip
    for name in ("initial", "d_state"):
        for state in STATES[check.cell]:
            drawn = random.standard_normal((case.batch, case.units), np.float32)
            arrays[f"{name}_{state}"] = (0.5 * drawn).astype(problem.inputs.dtype)
    # At masked steps too: their outputs repeat others, whose gradients they add to.
    shape = (case.batch, case.time, case.units)
    arrays["d_outputs"] = random.standard_normal(shape, np.float32).astype(problem.inputs.dtype)
    return arrays
