"""The GPU as PyTorch or CuPy gives it, or the CPU shim in its place: arrays there and back, time.

`peers_on` is the device of PyTorch's that its layers run on to be compared with, or None.
"""

import ctypes
import importlib.util
import time

import numpy as np


class Impossible(Exception):
    """Why a kernel, or a library for arrays, cannot do a call."""


class Torch:
    """The current GPU of PyTorch."""

    library = "torch"

    def __init__(self):
        import torch

        self.torch = torch
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self.ordinal = torch.cuda.current_device()
        self.peers_on = f"cuda:{self.ordinal}"

    @property
    def stream(self):
        return self.torch.cuda.current_stream()

    def put(self, array):
        """The NumPy array, bfloat16 too, in the GPU's memory."""
        if array.dtype.name == "bfloat16":
            tensor = self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        else:
            tensor = self.torch.from_numpy(array)
        return tensor.to(self.peers_on)

    def get(self, array):
        """A float64 NumPy array of the values of an array with `__dlpack__`."""
        return self.torch.from_dlpack(array).double().cpu().numpy()

    def seconds(self, call, times):
        """Seconds of a call on the GPU, the mean of `times` calls in a row."""
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times


class Cupy:
    """The current GPU of CuPy. It has no cuDNN to compare with."""

    library = "cupy"
    peers_on = None

    def __init__(self):
        import cupy

        self.cupy = cupy
        self.ordinal = cupy.cuda.Device().id  # raises without a GPU

    @property
    def stream(self):
        return self.cupy.cuda.get_current_stream()

    def put(self, array):
        if array.dtype.name == "bfloat16" and int(self.cupy.__version__.split(".")[0]) < 14:
            raise Impossible("CuPy before 14 has no bfloat16")
        return self.cupy.asarray(array)

    def get(self, array):
        return self.cupy.from_dlpack(array).get().astype(np.float64)

    def seconds(self, call, times):
        start, end = (self.cupy.cuda.Event() for _ in range(2))
        start.record(self.stream)
        for _ in range(times):
            call()
        end.record(self.stream)
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3 / times


class Emulated:
    """The CPU shim: right numbers, meaningless times; PyTorch runs on the CPU itself."""

    library = "numpy"
    peers_on = "cpu" if importlib.util.find_spec("torch") else None
    ordinal = 0
    stream = None

    def __init__(self, folder=None):
        from benchmarks.on_gpu import emulated

        emulated.load(folder)
        self.put = emulated.OnGpu
        self._get = emulated.to_numpy

    def get(self, array):
        return self._get(array).astype(np.float64)

    def seconds(self, call, times):
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times


def find():
    """The GPU, by PyTorch or else by CuPy. Raises RuntimeError that says why there is none."""
    reasons = []
    for kind in (Torch, Cupy):
        try:
            return kind()
        except Exception as error:  # noqa: BLE001 - a library without its GPU raises anything
            reasons.append(f"{kind.library}: {error}")
    raise RuntimeError("no GPU can be used (" + "; ".join(reasons) + ")")


# CUdevice_attribute, in cuda.h
ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "memory_khz": 36,
    "bus_bits": 37,
    "capability_major": 75,
    "capability_minor": 76,
    "shared_bytes": 81,  # of a multiprocessor
    "registers": 82,  # of a multiprocessor, 32 bits each
}


def attributes(ordinal):
    """{name: int} of ATTRIBUTES and "name", from NVIDIA's driver."""
    driver = ctypes.CDLL("libcuda.so.1")

    def check(result):
        if result:
            raise RuntimeError(f"NVIDIA's driver says {result}")

    check(driver.cuInit(0))
    device, value = ctypes.c_int(), ctypes.c_int()
    check(driver.cuDeviceGet(ctypes.byref(device), ordinal))
    name = ctypes.create_string_buffer(256)
    check(driver.cuDeviceGetName(name, 255, device))
    found = {"name": name.value.decode()}
    for key, number in ATTRIBUTES.items():
        check(driver.cuDeviceGetAttribute(ctypes.byref(value), number, device))
        found[key] = value.value
    return found
