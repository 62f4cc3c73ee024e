"""The table of cases that every kernel row runs through, and the arrays of a case.

To add a case, append a `Case` to `TABLE`; every cell, element type and instruction set runs it,
forward and backward, against `masked_rnn.reference`.  Arrays are drawn from a generator seeded
by the case's own text, so a case has the same numbers on every machine and in any order.
"""

import dataclasses
import functools
import itertools
import zlib

import ml_dtypes
import numpy as np

from masked_rnn import reference

# Largest error allowed, relative to the largest magnitude in the array: the one place where
# tolerances stand.  float32 and float64 pay for a few roundings a step.  The two 16-bit types
# compute in float32 and pay for rounding what they store, once: 2^-8 and 2^-11, and that is all.
TOLERANCE = {"float64": 1e-14, "float32": 4e-6, "bfloat16": 4e-3, "float16": 5e-4}

# Where the machine multiplies bfloat16 values, the state, the gates' gradients and what dropout made
# of an operand are rounded to 2^-8 for each product, as Keras rounds them; over the steps that adds up.
BFLOAT16_PRODUCTS = ("avx512bf16", "amx")
TOLERANCE_OF_BFLOAT16_PRODUCTS = 3e-2

# Where a GPU's tensor cores multiply, the state and in backward the gates' gradients are rounded for
# a product: to 2^-9 of their size in bfloat16, to 2^-12 in float16 and TF32.  So each step adds to a
# row's errors, as it does in Keras, which computes in the 16-bit types throughout.
MATRIX_TOLERANCE = {"bfloat16": 1.2e-2, "float16": 2e-3, "float32": 2e-3}


def tolerance_of(dtype, isa):
    if dtype == "bfloat16" and isa in BFLOAT16_PRODUCTS:
        return TOLERANCE_OF_BFLOAT16_PRODUCTS
    return TOLERANCE[dtype]


DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
CELLS = ("gru", "gru_reset_before", "lstm", "simple_rnn")
GATES = {"gru": 3, "gru_reset_before": 3, "lstm": 4, "simple_rnn": 1}
ACTIVATIONS = tuple(reference.ACTIVATIONS)


# --- masks ---------------------------------------------------------------------------------


def _lengths(batch, time, rng):
    """A length for each row, at least one step, the first row full."""
    lengths = rng.integers(1, time + 1, batch) if time else np.zeros(batch, int)
    lengths[:1] = time
    return lengths


def _right_padded(batch, time, rng):
    return np.arange(time) < _lengths(batch, time, rng)[:, None]


def _both_padded(batch, time, rng):
    start, stop = np.sort(rng.integers(0, time + 1, (2, batch)), axis=0)
    steps = np.arange(time)
    return (steps >= start[:, None]) & (steps < stop[:, None])


def _single_step(batch, time, rng):
    return np.arange(time) == rng.integers(0, max(time, 1), batch)[:, None]


def _holes(batch, time, rng):
    return rng.random((batch, time)) < 0.5


def _one_row_empty(batch, time, rng):
    mask = _right_padded(batch, time, rng)
    mask[batch // 2] = False
    return mask


def _mixed(batch, time, rng):
    """Every other kind, row by row."""
    kinds = [k for k in MASKS.values() if k not in (_mixed, MASKS["none"])]
    masks = [kind(batch, time, rng) for kind in kinds]
    return np.stack([masks[row % len(masks)][row] for row in range(batch)])


# name -> function(batch, time, rng) -> bool [batch, time], True = real step
MASKS = {
    "none": lambda batch, time, rng: None,
    "all_ones": lambda batch, time, rng: np.ones((batch, time), bool),
    "all_zero": lambda batch, time, rng: np.zeros((batch, time), bool),
    "right_padded": _right_padded,
    "left_padded": lambda batch, time, rng: _right_padded(batch, time, rng)[:, ::-1].copy(),
    "both_padded": _both_padded,
    "holes": _holes,
    "alternating": lambda batch, time, rng: np.indices((batch, time)).sum(axis=0) % 2 == 0,
    "single_step": _single_step,
    "sparse": lambda batch, time, rng: rng.random((batch, time)) < 0.1,
    "one_row_empty": _one_row_empty,
    "mixed": _mixed,
}


# --- the table -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    batch: int = 5
    time: int = 7
    features: int = 3
    units: int = 17
    mask: str = "holes"
    bias: bool = True
    initial_state: bool = True
    input_dropout: str = ""  # "", "shared" (D = 1) or "per_gate" (D = G)
    recurrent_dropout: str = ""
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    return_sequences: bool = True

    def __str__(self):
        """The sizes, and what differs from a plain case: the test's id."""
        words = [f"B{self.batch}T{self.time}I{self.features}H{self.units}", self.mask]
        for field in dataclasses.fields(self)[5:]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(f"{field.name}={value}" if isinstance(value, str) else
                             field.name if value else f"no_{field.name}")
        return "-".join(words)


def _sizes():
    """1, 3, 17, 129 and 151 in every dimension, and pairs that meet in the tiles' edges."""
    for batch, units in itertools.product((1, 3, 17), (1, 3, 17, 129)):
        yield Case(batch=batch, time=3, features=3, units=units)
    for batch, time, features, units in (
        (129, 1, 3, 17), (151, 1, 17, 3), (129, 3, 1, 1), (151, 3, 3, 3),
        (1, 129, 3, 17), (1, 151, 17, 3), (3, 129, 1, 1), (3, 151, 3, 17),
        (3, 3, 129, 17), (3, 3, 151, 3), (17, 1, 129, 129), (1, 3, 151, 151),
        (3, 3, 17, 151), (17, 3, 151, 151), (17, 17, 17, 17), (1, 1, 1, 1),
        (2, 4, 8, 16), (4, 8, 16, 32), (8, 5, 64, 64),
        # around 16 and 32 rows; odd and even numbers of blocks of units and of features
        (15, 4, 33, 33), (16, 4, 32, 40), (31, 3, 17, 48), (32, 3, 3, 33), (33, 4, 65, 64),
        (49, 3, 31, 80),
    ):  # fmt: skip
        yield Case(batch, time, features, units)


def _masks():
    for mask, go_backwards, zero_output in itertools.product(MASKS, (False, True), (False, True)):
        yield Case(mask=mask, go_backwards=go_backwards, zero_output_for_mask=zero_output)


def _options():
    for mask, initial_state, go_backwards, zero_output in itertools.product(
        ("none", "left_padded", "holes"), (False, True), (False, True), (False, True)
    ):
        yield Case(
            units=3,
            mask=mask,
            initial_state=initial_state,
            go_backwards=go_backwards,
            zero_output_for_mask=zero_output,
            return_sequences=False,
        )
    for mask in ("none", "mixed"):
        yield Case(mask=mask, initial_state=False)
        yield Case(mask=mask, bias=False)
        yield Case(mask=mask, bias=False, initial_state=False, return_sequences=False)
    for of_inputs, of_state in itertools.product(("", "shared", "per_gate"), repeat=2):
        if of_inputs or of_state:
            dropout = {"input_dropout": of_inputs, "recurrent_dropout": of_state}
            yield Case(**dropout)
            yield Case(mask="none", units=3, features=17, bias=False, **dropout)
    # Operands of their own for each gate: tiles take two blocks of units, and cut rows elsewhere.
    for sizes in ((16, 4, 32, 33), (33, 3, 65, 48), (5, 3, 17, 129), (1, 9, 129, 16), (40, 2, 3, 5)):
        for of_inputs, of_state in (("per_gate", "per_gate"), ("", "per_gate"), ("per_gate", "")):
            yield Case(*sizes, input_dropout=of_inputs, recurrent_dropout=of_state)


def _activations():
    short = {"batch": 3, "time": 4, "features": 3, "units": 17}
    for name in ACTIVATIONS:
        yield Case(**short, activation=name)
        yield Case(**short, recurrent_activation=name)
    yield Case(**short, activation="linear", recurrent_activation="linear")
    yield Case(**short, activation="relu", recurrent_activation="hard_sigmoid", bias=False)
    yield Case(**short, activation="sigmoid", recurrent_activation="tanh")


TABLE = tuple(dict.fromkeys((*_sizes(), *_masks(), *_options(), *_activations())))


def has_kinks(case):
    """Whether a slope jumps, which takes the other value where rounding passes the kink."""
    return bool(
        {"hard_tanh", "hard_shrink", "soft_shrink"} & {case.activation, case.recurrent_activation}
    )


# --- arrays --------------------------------------------------------------------------------


def make_mask(kind, batch, time, seed=0):
    """A mask of a named kind: bool [batch, time], or None."""
    return MASKS[kind](batch, time, np.random.default_rng((seed, batch, time)))


# Factor on the weights; 0.5 for the other, unbounded ones.
GAIN = {"exponential": 0.1} | dict.fromkeys(
    ("tanh", "sigmoid", "softsign", "hard_sigmoid", "hard_tanh", "sparse_sigmoid"), 1.0
)


def _draw(case, cell, dtype):
    rng = np.random.default_rng(zlib.crc32(f"{cell} {case}".encode()))
    gates, width = GATES[cell], GATES[cell] * case.units
    # Unbounded activations in both places would overflow float16 unless the weights are small.
    gain = min(GAIN.get(name, 0.5) for name in (case.activation, case.recurrent_activation))

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(DTYPES[dtype])

    def dropout(kind, size):
        if not kind:
            return None
        factors = (rng.random((gates if kind == "per_gate" else 1, case.batch, size)) < 0.75) / 0.75
        return factors.astype(DTYPES[dtype])

    state = (case.batch, case.units)
    is_lstm = cell == "lstm"
    arguments = {
        "inputs": normal(case.batch, case.time, case.features),
        "kernel": normal(case.features, width, scale=gain * max(case.features, 1) ** -0.5),
        "recurrent_kernel": normal(case.units, width, scale=gain * case.units**-0.5),
        "bias": normal(*((2, width) if cell == "gru" else (width,)), scale=0.5 * gain)
        if case.bias else None,
        "mask": make_mask(case.mask, case.batch, case.time, seed=int(rng.integers(2**31))),
        "initial_h": normal(*state) if case.initial_state else None,
        "initial_c": normal(*state) if case.initial_state and is_lstm else None,
        "input_dropout": dropout(case.input_dropout, case.features),
        "recurrent_dropout": dropout(case.recurrent_dropout, case.units),
        "activation": case.activation,
        "recurrent_activation": case.recurrent_activation,
        "go_backwards": case.go_backwards,
        "zero_output_for_mask": case.zero_output_for_mask,
        "return_sequences": case.return_sequences,
    }
    outputs = (case.batch, case.time, case.units) if case.return_sequences else state
    gradients = {
        "d_outputs": normal(*outputs),
        "d_state_h": normal(*state),
        "d_state_c": normal(*state) if is_lstm else None,
    }
    return arguments, gradients


@functools.lru_cache(maxsize=8)
def make_arrays(case, cell, dtype):
    """-> (arguments of forward, incoming gradients of its results), each a dict by name.

    Arrays are read-only: a caller that changes one copies it first.
    """
    arguments, gradients = _draw(case, cell, dtype)
    for value in (*arguments.values(), *gradients.values()):
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return arguments, gradients


FORWARD_RESULTS = ("outputs", "state_h", "state_c")
BACKWARD_RESULTS = (
    "d_inputs", "d_kernel", "d_recurrent_kernel", "d_bias", "d_initial_h", "d_initial_c",
)  # fmt: skip


@functools.lru_cache(maxsize=None)  # each instruction set asks again
def expected(case, cell, dtype):
    """What the reference says for the arrays of a case: {name: float64 array or None}."""
    arguments, gradients = make_arrays(case, cell, dtype)
    results = reference.forward(cell, **arguments)
    d_results = reference.backward(cell, **arguments, **gradients)
    return dict(zip(FORWARD_RESULTS + BACKWARD_RESULTS, results + d_results))


def error_of(got, want):
    """Largest error relative to the largest magnitude; infinite where a zero is not a zero."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error = np.max(np.abs(got - want), initial=0.0)
    scale = np.max(np.abs(want), initial=0.0)
    return error / scale if scale else (0.0 if error == 0 else np.inf)


def check_close(got, want, dtype, tolerance=None):
    """Every named result within the dtype's tolerance, with its shape and dtype."""
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    for name, value in got.items():
        if want[name] is None:
            assert value is None, f"{name}: given, should be absent"
            continue
        assert value.shape == want[name].shape, f"{name}: {value.shape}, not {want[name].shape}"
        assert value.dtype == DTYPES[dtype], f"{name}: {value.dtype}"
        error = error_of(value, want[name])
        assert error <= tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"
