"""Whether an implementation computes the same numbers; what does not is not worth timing."""

import numpy as np

# Largest difference allowed, relative to the largest magnitude in the array. Two right
# implementations differ by the rounding of their summations, and in 16 bits by what each keeps in
# float32: these are far above that, and far below what a swapped gate or a lost bias makes.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
# Gradients of weights are sums over all steps.
TRAINING_FACTOR = 4


def tolerance(case):
    """The largest `difference` that passes."""
    return TOLERANCE[case.dtype] * (TRAINING_FACTOR if case.training else 1)


def difference(problem, got, want):
    """The largest difference between two results, relative to each array's largest magnitude.

    Args:
        problem: outputs are compared at its real steps only, as each library has its own idea
            of what stands at the others.
        got, want: {name: array}; "outputs" [B,T,H], the others are gradients.
    """
    if set(got) != set(want):
        raise ValueError(f"results are {sorted(got)}, needed: {sorted(want)}")
    worst = 0.0
    for name, array in want.items():
        other = got[name]
        if other.shape != array.shape:
            raise ValueError(f"{name} has shape {other.shape}, needed: {array.shape}")
        if name == "outputs":
            array, other = array[problem.where_real], other[problem.where_real]
        error = np.abs(other - array).max() / max(np.abs(array).max(), np.finfo(np.float64).tiny)
        worst = max(worst, float(error) if np.isfinite(error) else np.inf)
    return worst
