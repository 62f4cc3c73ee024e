"""A GPU that is the CPU shim: NumPy arrays say that they are in CUDA memory, and the driver, NVRTC
and cuBLAS are those of `make cusim-module` (build/cusim/driver)."""

import ctypes
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "build/cusim/driver"
LIBRARIES = ("libcuda.so.1", "libnvrtc.so.12", "libcublas.so.12")

_CPU, _CUDA = 1, 2  # DLPack's numbers of devices
_BFLOAT16 = 4  # and of a type that NumPy's DLPack lacks

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Tensor(ctypes.Structure):
    """DLPack's DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]


def tensor_of(capsule):
    """What an unused capsule points to."""
    return _Tensor.from_address(_pointer(capsule, b"dltensor"))


class OnGpu:
    """A NumPy array, `array`, that says it is on a GPU; `streams` are those it was asked for by."""

    def __init__(self, array, ordinal=0, device=_CUDA):
        self.array, self.ordinal, self.device = array, ordinal, device
        self.streams = []

    def __dlpack_device__(self):
        return self.device, self.ordinal

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        is_bfloat16 = self.array.dtype.name == "bfloat16"
        capsule = (self.array.view(np.uint16) if is_bfloat16 else self.array).__dlpack__()
        tensor = tensor_of(capsule)
        tensor.device[:] = self.device, self.ordinal
        if is_bfloat16:
            tensor.code = _BFLOAT16
        return capsule


class _Exported:
    """What NumPy takes, from a capsule that says it is on a GPU."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack_device__(self):
        return _CPU, 0

    def __dlpack__(self, **_):
        return self.capsule


def to_numpy(array):
    """A NumPy array from one of masked_rnn's, whose memory is the host's here."""
    capsule = array.__dlpack__(stream=-1)
    tensor = tensor_of(capsule)
    tensor.device[:] = _CPU, 0
    is_bfloat16 = tensor.code == _BFLOAT16
    if is_bfloat16:
        tensor.code = 1  # unsigned
    taken = np.from_dlpack(_Exported(capsule))
    if is_bfloat16:
        import ml_dtypes

        taken = taken.view(ml_dtypes.bfloat16)
    return taken


def load(folder=None):
    """Loads the emulated driver before the package looks for one: it takes what is loaded."""
    for name in LIBRARIES:
        ctypes.CDLL(str(Path(folder or FOLDER) / name))
