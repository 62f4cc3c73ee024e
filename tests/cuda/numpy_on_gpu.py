"""Run by tests/test_cuda_device.py in a process whose libcuda pretends: CPU memory is the GPU's."""

import ctypes
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import masked_rnn.numpy as rnn

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.on_gpu import emulated
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


# --- CuPy, which needs a GPU: what its 13 and 14 ask for and give -------------------------------


class LikeCupy(OnGpu):
    """`cupy.ndarray` as a producer: strides are always there, and mean nothing along extents of 1;
    the consumer's stream waits for CuPy's current one."""

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        assert max_version is None  # else the capsule is another one, dltensor_versioned
        assert dl_device is None or dl_device == self.__dlpack_device__()
        assert copy is not True
        assert isinstance(stream, int) and stream >= -1
        assert stream != 0  # a warning of CuPy's: no stream has this number in DLPack
        capsule = super().__dlpack__(stream)
        strides = [n // self.array.itemsize if extent != 1 else 7
                   for n, extent in zip(self.array.strides, self.array.shape)]  # fmt: skip
        self.strides = (ctypes.c_int64 * len(strides))(*strides)
        emulated.tensor_of(capsule).strides = self.strides
        return capsule


class CupyStream:
    """`cupy.cuda.Stream`: from CuPy 14 on with `__cuda_stream__`, 0 where it is the default one."""

    def __init__(self, ptr, has_protocol):
        self.ptr = ptr
        if has_protocol:
            self.__cuda_stream__ = lambda: (0, ptr)


class TakenByCupy:
    """`cupy.from_dlpack` as a consumer, with CuPy's current stream."""

    USED = b"used_dltensor"  # as long as the capsule, which keeps the pointer

    def __init__(self, array, current=0):
        kind, self.ordinal = array.__dlpack_device__()
        assert kind in (2, 13)
        capsule = array.__dlpack__(stream=current or 1, max_version=(1, 0), copy=None)
        self.tensor = emulated.tensor_of(capsule)
        rename = ctypes.pythonapi.PyCapsule_SetName
        rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
        rename(capsule, self.USED)
        tensor = self.tensor
        assert tuple(tensor.device) == (2, self.ordinal) and tensor.lanes == 1
        assert not tensor.strides  # C-contiguous
        self.shape = tuple(tensor.shape[: tensor.dimensions])
        self.dtype = {(2, 16): "float16", (2, 32): "float32", (2, 64): "float64",
                      (4, 16): "bfloat16"}[tensor.code, tensor.bits]  # fmt: skip

    def __del__(self):
        self.tensor.deleter(ctypes.addressof(self.tensor))


@pytest.mark.parametrize("has_protocol", [False, True])
@pytest.mark.parametrize("ptr, number", [(0, 1), (1, 1), (2, 2), (0x30, 0x30)])
def test_cupy_gives_arrays(ptr, number, has_protocol):
    arrays = [LikeCupy(a.array) for a in problem()]
    arrays.append(LikeCupy(np.ones((1, T, I), np.float32)))
    masks = [LikeCupy(np.ones((B, T), kind)) for kind in (bool, np.uint8)]
    stream = CupyStream(ptr, has_protocol)
    for mask in masks:
        rnn.gru(*arrays[:3], mask=mask, stream=stream)
    rnn.gru(arrays[3], *arrays[1:3], stream=stream)
    launches = [line for line in log() if line.startswith("launch")]
    assert launches[-1].endswith(f"stream {number:#x}")
    assert all(set(a.streams) == {number} for a in (*arrays, *masks))
    with pytest.raises(ValueError, match="kernel is not C-contiguous"):
        rnn.gru(arrays[0], LikeCupy(np.ones((3 * H, I), np.float32).T), arrays[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("current", [0, 1, 2, 0x40])
def test_cupy_takes_results(current, dtype):
    before = fake.fake_allocations()
    outputs, state = rnn.gru(*problem(dtype), stream=0x30)
    number = current or 1
    waits = log().count(f"stream {number:#x} waits")
    taken = TakenByCupy(outputs, current)
    assert log().count(f"stream {number:#x} waits") == waits + 1
    assert taken.shape == (B, T, H) and taken.dtype == np.dtype(dtype).name
    del outputs, state
    assert fake.fake_allocations() == before + 1
    del taken
    assert fake.fake_allocations() == before


def test_cupy_itself_takes_results():
    cupy = pytest.importorskip("cupy")
    outputs, _ = rnn.gru(*problem(), stream=0x30)
    taken = cupy.from_dlpack(outputs.__dlpack__(stream=1, max_version=(1, 0), copy=None))
    assert taken.shape == (B, T, H) and taken.dtype == np.float32
    assert taken.data.ptr == outputs.__cuda_array_interface__["data"][0]


# --- streams and errors --------------------------------------------------------------------------


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
