"""Run by tests/test_cuda_device.py in a process whose libcuda pretends: CPU memory is the GPU's."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

import masked_rnn.numpy as rnn

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.on_gpu.emulated import OnGpu

B, T, I, H = 3, 5, 4, 6
fake = ctypes.CDLL("libcuda.so.1")
fake.fake_log.restype = ctypes.c_char_p


def log():
    return fake.fake_log().decode().splitlines()


def problem(dtype=np.float32, gates=3):
    shapes = [(B, T, I), (I, gates * H), (H, gates * H)]
    return [OnGpu(np.ones(shape, dtype)) for shape in shapes]


def test_forward_queues_kernels_and_returns_arrays_of_the_gpu():
    arrays = problem()
    mask = OnGpu(np.ones((B, T, 1), bool))
    before = fake.fake_allocations()
    outputs, state = rnn.gru(*arrays, mask=mask, stream=0x30)
    assert outputs.shape == (B, T, H) and state.shape == (B, H)
    assert outputs.dtype == "float32" and outputs.__dlpack_device__() == (2, 0)
    assert [a.streams for a in (*arrays, mask)] == [[0x30]] * 4
    launches = [line for line in log() if line.startswith("launch")]
    assert len(launches) > 5 and all(line.endswith("stream 0x30") for line in launches)
    # Workspace is back; the two results are not.
    assert fake.fake_allocations() == before + 2
    interface = outputs.__cuda_array_interface__
    assert interface["shape"] == (B, T, H) and interface["typestr"] == "<f4"
    assert interface["stream"] == 0x30
    del outputs, state
    assert fake.fake_allocations() == before


def test_another_stream_waits_for_the_results():
    outputs, _ = rnn.gru(*problem(), stream=0x30)
    waits = log().count("stream 0x40 waits")
    capsule = outputs.__dlpack__(stream=0x40)
    assert log().count("stream 0x40 waits") == waits + 1
    outputs.__dlpack__(stream=-1)
    outputs.__dlpack__(stream=0x30)
    assert log().count("stream 0x40 waits") == waits + 1
    kept = fake.fake_allocations()
    del outputs
    assert fake.fake_allocations() == kept  # the capsule keeps it
    del capsule
    assert fake.fake_allocations() == kept - 1
    with pytest.raises(BufferError):
        rnn.gru(*problem())[0].__dlpack__(copy=True)


@pytest.mark.parametrize("cell, gates", [("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_gradients(cell, gates, dtype):
    arrays = problem(dtype, gates)
    bias = OnGpu(np.ones((2, 3 * H) if cell == "gru" else (4 * H), dtype))
    h = OnGpu(np.zeros((B, H), dtype))
    state = h if cell == "gru" else (h, h)
    before = fake.fake_allocations()
    gradients = getattr(rnn, f"{cell}_vjp")(
        *arrays, bias, initial_state=state, d_outputs=OnGpu(np.ones((B, T, H), dtype))
    )
    assert gradients.inputs.shape == (B, T, I) and gradients.inputs.dtype == dtype.__name__
    assert gradients.kernel.shape == (I, gates * H)
    assert gradients.bias.shape == bias.array.shape
    part = gradients.initial_state if cell == "gru" else gradients.initial_state[1]
    assert part.shape == (B, H)
    del gradients, part
    assert fake.fake_allocations() == before


class Stream:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Protocol:
    def __cuda_stream__(self):
        return 0, 0x77


@pytest.mark.parametrize(
    "stream, number",
    [(None, "0x1"), (0, "0x1"), (2, "0x2"), (Stream(ptr=0x55), "0x55"),
     (Stream(cuda_stream=0x66), "0x66"), (Protocol(), "0x77")],
)  # fmt: skip
def test_streams(stream, number):
    rnn.gru(*problem(), stream=stream)
    assert log()[-2].endswith(f"stream {number}") or log()[-1].endswith(f"stream {number}")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(kernel=np.ones((I, 3 * H), np.float32)), "kernel is not in the memory of a GPU"),
        (dict(kernel=OnGpu(np.ones((I, 3 * H)))), "kernel has dtype float64, needed: float32"),
        (dict(kernel=OnGpu(np.ones((I, 3 * H), np.float32), 1)),
         "kernel is on CUDA device 1, needed: 0, the device of inputs"),
        (dict(kernel=OnGpu(np.ones((3 * H, I), np.float32).T)), "kernel is not C-contiguous"),
        (dict(kernel=OnGpu(np.ones((I, 4 * H), np.float32))), "kernel"),
        (dict(mask=OnGpu(np.ones((B, T), np.float32))), "mask has dtype float32, needed: bool"),
        (dict(mask=OnGpu(np.ones((B, T), np.int32))), "mask has a dtype of 32 bits"),
        (dict(mask=OnGpu(np.ones((T, B), bool))), "mask"),
        (dict(sequence_length=[1, 2]), r"sequence_length has shape \[2\], needed: \[batch\] = \[3\]"),
        (dict(sequence_length=[1, 6, 3]), r"sequence_length\[1\] is 6, needed: 0 to 5"),
        (dict(sequence_length=[1.0, 2, 3]), "sequence_length has dtype float64, needed: integers"),
        (dict(sequence_length=OnGpu(np.ones(B, np.int32))), "sequence_length .*in CPU memory"),
        (dict(sequence_length=[1, 2, 3], mask=OnGpu(np.ones((B, T), bool))), "both given"),
        (dict(stream="fast"), "stream is 'fast'"),
    ],
)  # fmt: skip
def test_errors(change, message):
    arguments = dict(zip(("inputs", "kernel", "recurrent_kernel"), problem()), **change)
    with pytest.raises(ValueError, match=message):
        rnn.gru(**arguments)


def test_memory_that_runs_out_is_an_error_that_leaves_nothing_behind():
    before = fake.fake_allocations()
    fake.fake_fail(b"cuMemAllocFromPoolAsync", 2)
    with pytest.raises(MemoryError, match="allocating 360 bytes on Fake GPU: out of memory"):
        rnn.gru(*problem())
    fake.fake_fail(b"cuLaunchKernelEx", 719)
    with pytest.raises(RuntimeError, match="CUDA: launching"):
        rnn.gru(*problem())
    assert fake.fake_allocations() == before


def test_stream_with_arrays_of_the_cpu():
    arrays = [a.array for a in problem()]
    with pytest.raises(ValueError, match="stream is given with arrays in CPU memory"):
        rnn.gru(*arrays, stream=1)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", "--noconftest", *sys.argv[1:]]))
