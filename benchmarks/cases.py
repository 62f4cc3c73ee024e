"""A case: cell, sizes, mask, dtype and pass; its arrays; what it must cost at least."""

import dataclasses
import functools

import numpy as np

GATES = {"gru": 3, "gru_reset_before": 3, "lstm": 4}
TITLES = {"gru": "GRU", "gru_reset_before": "GRU reset before", "lstm": "LSTM"}
MASKS = ("dense", "right", "left", "holes")
DTYPES = ("float32", "float64", "bfloat16", "float16")
PASSES = ("forward", "training")


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of a table.

    Attributes:
        cell: "gru", "gru_reset_before" or "lstm".
        batch, time, features, units: the sizes B, T, I, H.
        mask: "dense" (none), "right" or "left" (the side of the padding) or "holes".
        real: the share of steps that is real, about; the rows' lengths are spread evenly.
        dtype: one of DTYPES; for the 16-bit ones Keras's mixed policy of that name.
        training: forward and gradients, else forward.
    """

    cell: str = "gru"
    batch: int = 32
    time: int = 128
    features: int = 64
    units: int = 128
    mask: str = "dense"
    real: float = 0.5
    dtype: str = "float32"
    training: bool = False

    def __str__(self):
        return f"{TITLES[self.cell]} {self.batch},{self.time},{self.features},{self.units}"

    @property
    def gates(self):
        return GATES[self.cell]

    @property
    def masked(self):
        return self.mask != "dense"

    @property
    def pass_name(self):
        return PASSES[self.training]

    def lengths(self):
        """Real steps of each row, [B] int64, at least 1: evenly spread and then shuffled."""
        batch, time = self.batch, self.time
        if not self.masked:
            return np.full(batch, time)
        shortest = max(1, round((2 * self.real - 1) * time))
        longest = max(shortest, min(time, round(2 * self.real * time)))
        if batch == 1:
            return np.array([max(1, round(self.real * time))])
        lengths = np.linspace(shortest, longest, batch).round().astype(np.int64)
        return np.random.default_rng(3).permutation(lengths)

    def real_steps(self):
        """How many steps are real, over all rows."""
        return int(self.lengths().sum())

    def flops(self):
        """Multiply-adds of the products on real steps, counted as two each."""
        forward = 2 * self.real_steps() * (self.features + self.units) * self.gates * self.units
        return 3 * forward if self.training else forward

    def traffic(self):
        """Bytes that must move if caches were endless: every array once, each pass."""
        item = np_dtype(self.dtype).itemsize
        real, units = self.real_steps(), self.units
        read = real * self.features
        written = self.batch * self.time * units
        weights = (self.features + units) * self.gates * units
        if self.training:
            # Forward and backward read inputs and weights and write their gradients; the gates
            # and the states of real steps are kept between the two.
            kept = real * (self.gates + 1) * units
            return item * (3 * read + 2 * written + 3 * weights + 2 * kept)
        return item * (read + written + weights)

    def problem(self):
        """Its arrays, the same in every run."""
        return Problem(self)


class Problem:
    """A case's arrays, C-contiguous, in the case's dtype.

    Attributes:
        inputs [B,T,I]; mask bool [B,T] or None; lengths int64 [B].
        kernel [I,G*H], recurrent_kernel [H,G*H], bias as Keras has it: Keras's gate order.
        d_outputs [B,T,H]: the gradient of the outputs in training, zero at masked steps.
    """

    def __init__(self, case):
        self.case = case
        rng = np.random.default_rng(4)
        b, t, i, h, g = case.batch, case.time, case.features, case.units, case.gates
        dtype = np_dtype(case.dtype)

        def normal(*shape):
            return rng.standard_normal(shape, np.float32).astype(dtype)

        def weights(*shape):
            return rng.uniform(-(h**-0.5), h**-0.5, shape).astype(dtype)

        self.inputs = normal(b, t, i)
        self.kernel, self.recurrent_kernel = weights(i, g * h), weights(h, g * h)
        self.bias = weights(2, g * h) if case.cell == "gru" else weights(g * h)
        self.lengths = case.lengths()
        self.mask = _mask(case, self.lengths) if case.masked else None
        self.d_outputs = normal(b, t, h) if case.training else None
        if case.training and case.masked:
            self.d_outputs[~self.mask] = 0

    @property
    def weights(self):
        """[kernel, recurrent_kernel, bias]"""
        return [self.kernel, self.recurrent_kernel, self.bias]

    @functools.cached_property
    def where_real(self):
        """bool [B,T]"""
        return np.ones((self.case.batch, self.case.time), bool) if self.mask is None else self.mask


def np_dtype(name):
    """The NumPy dtype of that name, bfloat16 too."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _mask(case, lengths):
    steps = np.tile(np.arange(case.time), (case.batch, 1))
    if case.mask == "left":
        steps = steps[:, ::-1]
    elif case.mask == "holes":
        steps = np.random.default_rng(5).permuted(steps, axis=1)
    return np.ascontiguousarray(steps < lengths[:, None])
