"""The machine: confines the process to some cores, and measures what these can do at most."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from masked_rnn.quiet import quiet_unless_it_fails

LIBRARIES = ("masked_rnn", "tensorflow", "tensorflow-cpu", "keras", "numpy", "torch", "onnxruntime",
             "openvino")


def available_threads():
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def confine(threads):
    """Gives the process `threads` CPUs, and tells every library so.

    Must come before NumPy, TensorFlow and the peers are imported: they read it once.
    """
    os.sched_setaffinity(0, _cpus(threads))
    for name in ("OMP", "OPENBLAS", "MKL", "MASKED_RNN"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def start_tensorflow(threads):
    """Imports TensorFlow and Keras, quietly, and sets TensorFlow's threads."""
    with quiet_unless_it_fails():
        tf = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        # About retracing, which comes before the clock starts.
        tf.get_logger().setLevel("ERROR")
        tf.constant(0)  # the start-up of the runtime writes its notes as well


def describe():
    """{"cpu", "cores", "isa", "avx512_bf16", "python", "load", "versions"}, for the record."""
    from masked_rnn import _core

    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    import masked_rnn

    versions["masked_rnn"] = masked_rnn.__version__
    return {
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "isa": _core.isa(),
        "avx512_bf16": has_avx512_bf16(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def has_avx512_bf16():
    """Whether the CPU multiplies pairs of bfloat16."""
    return "avx512_bf16" in _cpu_info("flags").split()


class Peak:
    """The most FLOP/s that `threads` cores reach in float32, measured when asked.

    Attributes:
        is_fma: whether it is the peak of multiply-adds; shares of another are no goals.
        name: what is measured: multiply-adds in registers, or, where masked_rnn has no such
            loop, NumPy's product of two matrices, which is somewhat less.
    """

    def __init__(self, threads):
        from masked_rnn import _core

        loop = getattr(_core, "fma_peak", None)
        self.is_fma = loop is not None
        if self.is_fma:
            self.name = "FMA peak"
            self._measure = lambda: float(loop(threads))
        else:
            import numpy as np

            self.name = "float32 GEMM"
            n = 1024
            self._factors = np.random.default_rng(6).standard_normal((2, n, n), np.float32)
            self._product = np.empty((n, n), np.float32)
            self._flops = 2 * n**3
            self._measure = self._gemm

    def measure(self):
        """FLOP/s, from some tens of milliseconds."""
        return self._measure()

    def _gemm(self):
        import numpy as np

        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            np.matmul(*self._factors, out=self._product)
            best = min(best, time.perf_counter() - start)
        return self._flops / best


def memory_bandwidth(threads):
    """Bytes read and written a second when `threads` copy arrays that fit no cache."""
    import numpy as np

    size = 128 * 2**20
    sources = [np.ones(size, np.uint8) for _ in range(threads)]
    targets = [np.zeros(size, np.uint8) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):
            start = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = min(best, time.perf_counter() - start)
    return 2 * size * threads / best


def _cpus(threads):
    """`threads` CPUs of those allowed, on cores of their own as far as there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    taken, first, second = set(), [], []
    for cpu in allowed:
        core = _core_of(cpu)
        (second if core in taken else first).append(cpu)
        taken.add(core)
    return (first + second)[:threads]


def _core_of(cpu):
    """What CPUs that share a core have in common."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return tuple((topology / n).read_text() for n in ("physical_package_id", "core_id"))
    except OSError:
        return cpu


def _cpu_info(key):
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
