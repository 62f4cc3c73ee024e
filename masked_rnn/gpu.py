"""What TensorFlow's GPUs need of us: its settings, NVIDIA's libraries, its stream."""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import warnings
from pathlib import Path

import tensorflow as tf

from masked_rnn import compiled, cuda, gpu_offsets, library

try:  # Not public, but the only way to ask.
    from tensorflow.python.framework.config import is_op_determinism_enabled as deterministic
except ImportError:  # pragma: no cover

    def deterministic() -> bool:
        return False


_SOURCE = Path(__file__).with_name("gpu_stream.cc")
_SECONDS = 120  # a compiler needs ten


def tf32() -> bool:
    """Whether products of float32 may be rounded to TF32, by TensorFlow's switch."""
    return tf.config.experimental.tensor_float_32_execution_enabled()


def reason_against():
    """Why the op cannot run on the GPU that TensorFlow sees, or None; None where it sees none."""
    return cuda.unusable_because() if _has_gpu() else None


@functools.cache
def _has_gpu():
    return tf.test.is_built_with_cuda() and bool(tf.config.list_physical_devices("GPU"))


def use_tensorflows_stream():
    """Lets the op queue its work on TensorFlow's stream, where there is a GPU.

    Which stream that is only TensorFlow's C++ API says. For the builds of `gpu_offsets` the op
    library knows where to look; for any other a file of ten lines is compiled, once, and kept in
    the cache. Where that fails the op waits for the device before and after its work: right, but
    slower, and said once.
    """
    if not _has_gpu() or cuda.unusable_because() is not None:
        return
    try:
        ops = ctypes.CDLL(library.path())
        if not hasattr(ops, "masked_rnn_set_stream_of"):
            return  # MASKED_RNN_LIBRARY names one that has no kernels for GPUs
        offsets = gpu_offsets.OFFSETS.get(build())
        if offsets is not None:
            function = stream_by_offsets(ops, offsets)
        else:
            function = loaded_shim().masked_rnn_stream_of
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            "masked_rnn cannot queue its work on TensorFlow's GPU stream and waits for the GPU "
            f"at every call, which is slower: {_reason(error)}. A C++ compiler is needed once: "
            "apt install g++.",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    ops.masked_rnn_set_stream_of.argtypes = [ctypes.c_void_p]
    ops.masked_rnn_set_stream_of.restype = None
    ops.masked_rnn_set_stream_of(ctypes.cast(function, ctypes.c_void_p))


def build() -> gpu_offsets.Build:
    """Which build of TensorFlow this is."""
    # 2.22 does not say its version of CUDA.
    cuda_version = "unknown" if tf.test.is_built_with_cuda() else "none"
    return gpu_offsets.Build(
        tf.version.VERSION,
        tf.version.GIT_VERSION,
        tf.version.COMPILER_VERSION,
        " ".join(_flags()),
        tf.sysconfig.get_build_info().get("cuda_version", cuda_version),
        platform.machine(),
    )


def stream_by_offsets(ops: ctypes.CDLL, offsets: gpu_offsets.Offsets):
    """The op library's function from contexts to streams, by these offsets from now on."""
    ops.masked_rnn_set_stream_offsets.restype = None
    ops.masked_rnn_set_stream_offsets((ctypes.c_int64 * len(offsets))(*offsets))
    return ops.masked_rnn_stream_by_offsets


def loaded_shim() -> ctypes.CDLL:
    """`gpu_stream.cc`, compiled for exactly this TensorFlow, from the cache if it is there.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    return compiled.load(f"gpu_stream_{_stamp()}_tensorflow_{tf.__version__}.so", _compile)


def _stamp():
    """Of all that the compiled file depends on: two builds of one version may differ."""
    parts = _SOURCE.read_text(), tf.version.GIT_VERSION, tf.version.COMPILER_VERSION, *_flags()
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _flags():
    """Without folders."""
    return [f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")]


def _compile(target):
    compiler = os.environ.get("CXX", "").split() or ["g++"]
    command = [*compiler, "-O2", "-fPIC", "-shared", "-w", str(_SOURCE)]
    command += [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
    subprocess.run(
        [*command, "-o", str(target)], check=True, capture_output=True, text=True, timeout=_SECONDS
    )


def _reason(error):
    said = getattr(error, "stderr", None)
    return said.strip().splitlines()[0] if said and said.strip() else str(error)
