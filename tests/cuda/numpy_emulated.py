"""Run by tests/test_emulated_gpu.py in a process whose GPU is the CPU shim: masked_rnn.numpy on arrays
that say they are there, through the driver's device, as a user calls it."""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import masked_rnn.numpy as rnn
from masked_rnn import cuda

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.on_gpu import calls, devices, numbers
from benchmarks.on_gpu.emulated import OnGpu, to_numpy

B, T, I, H = 7, 6, 5, 9
device = devices.Emulated()


def arrays(dtype=np.float32, gates=3):
    random = np.random.default_rng(0)
    shapes = [(B, T, I), (I, gates * H), (H, gates * H), (2, gates * H) if gates == 3 else gates * H]
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_gpu_gives_what_the_cpu_gives(cell, dtype):
    given = arrays(dtype, 3 if cell == "gru" else 4)
    on_cpu, state_on_cpu = getattr(rnn, cell)(*given, sequence_length=[0, 1, 6, 3, 2, 4, 5])
    outputs, state = getattr(rnn, cell)(*map(OnGpu, given), sequence_length=[0, 1, 6, 3, 2, 4, 5])
    pairs = [(outputs, on_cpu), *zip(*((s,) if cell == "gru" else s for s in (state, state_on_cpu)))]
    for got, want in pairs:
        got = to_numpy(got)
        assert got.dtype == want.dtype and got.shape == want.shape
        tolerance = {2: 1e-2, 4: 2e-6, 8: 1e-14}[got.dtype.itemsize]
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("kind", [np.int64, np.uint8, list])
def test_sequence_length_is_a_mask_of_that_length(kind):
    """More rows than the arguments of one launch hold, and lengths of 0 and T."""
    random = np.random.default_rng(1)
    lengths = random.integers(0, 5, 600)
    lengths[:2] = 0, 4
    given = [OnGpu(a) for a in (random.standard_normal((600, 4, 2), np.float32), *(
        random.standard_normal(shape, np.float32) for shape in ((2, 9), (3, 9))))]  # fmt: skip
    mask = OnGpu(np.arange(4) < lengths[:, None])
    passed = lengths.tolist() if kind is list else lengths.astype(kind)
    for by_length, by_mask in zip(
        rnn.gru(*given, sequence_length=passed), rnn.gru(*given, mask=mask)
    ):
        assert to_numpy(by_length).tobytes() == to_numpy(by_mask).tobytes()
    d_state = OnGpu(np.ones((600, 3), np.float32))
    by_length = rnn.gru_vjp(*given, sequence_length=passed, d_state=d_state)
    by_mask = rnn.gru_vjp(*given, mask=mask, d_state=d_state)
    for got, want in zip(by_length[:3], by_mask[:3]):
        assert to_numpy(got).tobytes() == to_numpy(want).tobytes()


def test_sequence_length_of_empty_batches_and_no_steps():
    for batch, time in ((0, 4), (3, 0)):
        given = [OnGpu(np.ones(s, np.float32)) for s in ((batch, time, 2), (2, 9), (3, 9))]
        outputs, state = rnn.gru(*given, sequence_length=[0] * batch)
        assert outputs.shape == (batch, time, 3) and state.shape == (batch, 3)


def test_options_hold_inside_their_block():
    given = list(map(OnGpu, arrays()))
    plain = to_numpy(rnn.gru(*given)[0])
    with cuda.options(kernel="no such"):
        with cuda.options(kernel="general", deterministic=True):
            assert np.allclose(to_numpy(rnn.gru(*given)[0]), plain, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="kernel is 'no such'"):
            rnn.gru(*given)
    assert to_numpy(rnn.gru(*given)[0]).tobytes() == plain.tobytes()


def test_the_benchmark_calls_a_wrong_number_wrong(monkeypatch):
    check = numbers.Check("general", "float32", "holes", "lstm", (B, T, I, H))
    (outcome,), missed = numbers.run(device, [check], 60, print)
    assert outcome.passed and not missed and outcome.error < 1
    plain = calls.Call.numbers
    monkeypatch.setattr(
        calls.Call, "numbers", lambda call: {n: 1.001 * a for n, a in plain(call).items()}
    )
    (outcome,), _ = numbers.run(device, [check], 60, print)
    assert not outcome.passed and outcome.error > 1


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", "--noconftest", *sys.argv[1:]]))
