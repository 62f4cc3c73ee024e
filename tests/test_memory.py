"""The kernels write where they should: results between guard bytes, for every kernel row."""

import numpy as np
import pytest

from masked_rnn import _core

from . import cases

GUARD = 256  # bytes on either side
FILL = 0xA5


class Guarded:
    """An array in the middle of guard bytes, which starts and ends off any vector boundary."""

    def __init__(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        self.bytes = np.full(GUARD + size + GUARD + dtype.itemsize, FILL, np.uint8)
        start = GUARD + dtype.itemsize
        self.array = self.bytes[start : start + size].view(dtype).reshape(shape)
        self.around = (slice(0, start), slice(start + size, None))

    def check(self, what):
        for part in self.around:
            assert (self.bytes[part] == FILL).all(), f"{what}: written outside of it"


ROWS = _core.kernels()


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['isa']}-{r['cell']}-{r['dtype']}")
@pytest.mark.parametrize("sizes", [(1, 3, 1, 1), (3, 5, 17, 17), (9, 4, 33, 31)])
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_outside_the_results_is_written(row, sizes, threads):
    cell, dtype = row["cell"], cases.DTYPES[row["dtype"]]
    batch, time, features, units = sizes
    gates = cases.GATES[cell]
    rng = np.random.default_rng(0)

    def make(*shape):
        return rng.standard_normal(shape).astype(dtype)

    inputs, kernel = make(batch, time, features), make(features, gates * units)
    recurrent_kernel = make(units, gates * units)
    bias = make(2, gates * units) if cell == "gru" else make(gates * units)
    mask = rng.random((batch, time)) < 0.6
    state = make(batch, units)
    for sequences in (True, False):
        arguments = (
            cell, inputs, kernel, recurrent_kernel, bias, mask, state,
            state if cell == "lstm" else None, None, None, "tanh", "sigmoid", False, False, sequences,
        )
        shape = (batch, time, units) if sequences else (batch, units)
        results = [Guarded(s, dtype) for s in (shape, state.shape, state.shape)]
        plain = _core.forward(*arguments, True, isa=row["isa"], threads=threads)
        written = _core.forward(
            *arguments, True, isa=row["isa"], threads=threads, out=tuple(r.array for r in results)
        )
        for name, result, a, b in zip(("outputs", "state_h", "state_c"), results, written, plain):
            result.check(name)
            assert a is b is None or a.tobytes() == b.tobytes()

        gradients = [
            Guarded(a.shape, dtype)
            for a in (inputs, kernel, recurrent_kernel, bias, state, state)
        ]
        _core.backward(
            *arguments, plain[3], make(*shape), state, state if cell == "lstm" else None,
            isa=row["isa"], threads=threads, out=tuple(g.array for g in gradients),
        )
        names = ("d_inputs", "d_kernel", "d_recurrent_kernel", "d_bias", "d_initial_h", "d_initial_c")
        for name, gradient in zip(names, gradients):
            gradient.check(name)
            if name != "d_initial_c" or cell == "lstm":
                untouched = gradient.array.view(np.uint8) == FILL
                assert not untouched.all(), f"{name}: not written"


def test_wrong_results_are_refused():
    x = np.zeros((2, 3, 4), "f")
    arguments = (
        "gru", x, np.zeros((4, 6), "f"), np.zeros((2, 6), "f"), None, None, None, None, None, None,
        "tanh", "sigmoid", False, False, True, False,
    )
    good = [np.zeros((2, 3, 2), "f"), np.zeros((2, 2), "f"), np.zeros((2, 2), "f")]
    with pytest.raises(ValueError, match="out has 1 arrays, needed: 3"):
        _core.forward(*arguments, out=(good[0],))
    with pytest.raises(ValueError, match=r"out\[0\]"):
        _core.forward(*arguments, out=(np.zeros((2, 2, 2), "f"), *good[1:]))
    read_only = good[1].copy()
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match=r"out\[1\]"):
        _core.forward(*arguments, out=(good[0], read_only, good[2]))
