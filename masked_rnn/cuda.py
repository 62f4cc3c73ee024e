"""Arrays on an NVIDIA GPU, taken from and given to other libraries by DLPack."""

import contextlib
import contextvars
import functools
import importlib.util
from pathlib import Path

from . import _core

_GPU = (2, 13)  # DLPack's numbers of CUDA memory and CUDA managed memory
_DEFAULT_STREAM = 1  # of the driver, and of DLPack
_options = contextvars.ContextVar("masked_rnn.cuda.options", default={})


@contextlib.contextmanager
def options(*, tf32=False, deterministic=False, kernel=""):
    """How `masked_rnn.numpy` computes on a GPU, for calls inside a `with` block.

    The block holds for its thread (or asyncio task); an inner block takes the place of an outer.

    Args:
        tf32: products of float32 may round their operands to TF32, on tensor cores.
        deterministic: a row's bits do not depend on the batch; no product goes to cuBLAS.
            (They never depend on the run.)
        kernel: "general", "resident" or "cluster": that one, for tests and benchmarks; "": the
            best. A call that it cannot do is a ValueError.
    """
    token = _options.set({"tf32": tf32, "deterministic": deterministic, "kernel": kernel})
    try:
        yield
    finally:
        _options.reset(token)


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


def mask_of_lengths(lengths, time, like, stream):
    """The mask [B,T] of rows that have lengths[b] real steps (int [B], 0..T, in CPU memory).

    It is made on the GPU of `like`, a `_core.CudaArray`.
    """
    find_libraries()
    return _core.cuda_mask_of_lengths(
        lengths.astype("int32"), time, like.device, stream, _number(stream)
    )


def forward(cell, arguments, keep_reserve, stream):
    """`_core.forward` on what `arrays` gave.

    Raises:
        RuntimeError: the driver or a library of NVIDIA's is missing or has failed.
    """
    find_libraries()
    return _core.cuda_forward(
        (cell, *arguments), keep_reserve, stream, _number(stream), **_options.get()
    )


def backward(cell, arguments, reserve, incoming, stream):
    """`_core.backward` on what `arrays` and `forward` gave; errors as there."""
    return _core.cuda_backward(
        (cell, *arguments), reserve, *incoming, stream, _number(stream), **_options.get()
    )


def kernels(cell, arguments):
    """The names of the kernels that `forward` and `backward` of these arguments take."""
    find_libraries()
    return _core.cuda_kernels((cell, *arguments), **_options.get())


def exchange(blocks, cluster, threads, rounds, device, stream):
    """Queues `rounds` exchanges of a state between blocks, and nothing else, to be timed.

    Args:
        blocks, threads: of the grid, and of each block.
        cluster: blocks of a cluster, which pass 16 bytes a thread to each other; 1: all blocks
            meet at a barrier of the grid.
        device: the number of the GPU.

    Returns:
        A `_core.CudaArray`, float32 [blocks * threads]; all are `rounds` if the exchange works.

    Raises:
        MemoryError: the device cannot hold so many blocks at once.
    """
    find_libraries()
    return _core.cuda_exchange(blocks, cluster, threads, rounds, device, stream, _number(stream))


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
