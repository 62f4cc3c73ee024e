"""Arrays on an NVIDIA GPU, taken from and given to other libraries by DLPack."""

import functools
import importlib.util
from pathlib import Path

from . import _core

_GPU = (2, 13)  # DLPack's numbers of CUDA memory and CUDA managed memory
_DEFAULT_STREAM = 1  # of the driver, and of DLPack


def is_on_gpu(array):
    """Whether an array says, by DLPack, that it is in CUDA memory."""
    device = getattr(array, "__dlpack_device__", None)
    return device is not None and device()[0] in _GPU


def arrays(names, values, stream):
    """`_core.CudaArray`s that share the values' memory; None stays None.

    What other streams still write to the arrays is waited for, on the GPU, by `stream`.

    Raises:
        ValueError: an array that is not on a GPU, not C-contiguous, or of a dtype not taken.
    """
    number = _number(stream)
    return [None if v is None else _array(n, v, number) for n, v in zip(names, values)]


def forward(cell, arguments, keep_reserve, stream, **options):
    """`_core.forward` on what `arrays` gave.

    Options: tf32 and deterministic (bool), kernel ("general", "resident" or "cluster").

    Raises:
        RuntimeError: the driver or a library of NVIDIA's is missing or has failed.
    """
    find_libraries()
    return _core.cuda_forward(
        (cell, *arguments), keep_reserve, stream, _number(stream), **options
    )


def backward(cell, arguments, reserve, incoming, stream, **options):
    """`_core.backward` on what `arrays` and `forward` gave; options and errors as there."""
    return _core.cuda_backward(
        (cell, *arguments), reserve, *incoming, stream, _number(stream), **options
    )


@functools.cache
def find_libraries():
    """Tells the core where Python's packages have put NVIDIA's libraries."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec is not None else ()
    folders = [str(folder) for root in roots or () for folder in sorted(Path(root).glob("*/lib"))]
    _core.set_cuda_library_folders(folders)


def unusable_because():
    """None where a GPU can be used, else the sentence that says what is missing."""
    find_libraries()
    return _core.cuda_unusable_because() or None


def cache_folder():
    """Where compiled code is kept; "" where none is (MASKED_RNN_CACHE=off)."""
    return _core.cuda_cache_folder()


def _array(name, value, stream):
    if not is_on_gpu(value):
        raise ValueError(
            f"{name} is not in the memory of a GPU, needed: all arrays on the device of inputs"
        )
    detached = value.detach() if getattr(value, "requires_grad", False) else value
    try:
        capsule = detached.__dlpack__(stream=stream)
    except Exception as error:  # whatever the other library raises
        raise ValueError(
            f"{name} is a {type(value).__name__} that cannot be exported ({error}), needed: an "
            "array with __dlpack__"
        ) from error
    return _core.CudaArray.from_capsule(name, capsule)


def _number(stream):
    """The number of a stream of CUDA's, CuPy's, PyTorch's or any with `__cuda_stream__`."""
    if stream is None:
        return _DEFAULT_STREAM
    if hasattr(stream, "__cuda_stream__"):
        stream = stream.__cuda_stream__()[1]
    else:
        for attribute in ("cuda_stream", "ptr"):
            stream = getattr(stream, attribute, stream)
    if not isinstance(stream, int) or isinstance(stream, bool) or stream < 0:
        raise ValueError(f"stream is {stream!r}, needed: None, a CUDA stream or its number")
    return stream or _DEFAULT_STREAM
