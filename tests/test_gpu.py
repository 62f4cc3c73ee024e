"""What TensorFlow's GPUs need, as far as it can be seen without one."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import masked_rnn
from masked_rnn import cuda, fallback, gpu, gpu_offsets, library, ops
from masked_rnn.gpu_offsets import Offsets

from . import stream_offsets

NOWHERE = Offsets(*range(96, 32, -8))  # of no TensorFlow
needs_no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU"
)


def weights():
    return [np.ones(shape, np.float32) for shape in ((2, 3, 4), (4, 15), (5, 15))]


def forward_node(function):
    graph = function.get_concrete_function().graph
    return next(node for node in graph.as_graph_def().node if node.op == "MaskedRnn")


@needs_no_gpu
def test_without_a_gpu_nothing_is_asked_and_nothing_stands_against_the_op():
    assert gpu.reason_against() is None


def test_the_op_is_registered_for_gpus_with_all_memory_there():
    from tensorflow.python.framework import kernels

    for name in ("MaskedRnn", "MaskedRnnLast", "MaskedRnnGrad"):
        found = kernels.get_registered_kernels_for_op(name).kernel
        assert sorted(k.device_type for k in found) == ["CPU"] * 4 + ["GPU"] * 4
        assert not any(k.host_memory_arg for k in found)


@needs_no_gpu
def test_a_gpu_that_is_not_there_is_tensorflows_usual_error():
    arrays = [tf.constant(array) for array in weights()]
    placement = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        with pytest.raises(tf.errors.InvalidArgumentError, match="GPU:0"):
            with tf.device("/GPU:0"):
                ops.gru(*arrays)
    finally:
        tf.config.set_soft_device_placement(placement)


def test_tensorflows_settings_become_attributes_at_trace_time():
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        for allowed in (False, True):
            tf.config.experimental.enable_tensor_float_32_execution(allowed)
            node = forward_node(tf.function(lambda: ops.gru(*map(tf.constant, weights()))))
            assert node.attr["tf32"].b is allowed
            assert node.attr["deterministic"].b is False
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_the_gradient_takes_the_settings_of_its_forward_op(monkeypatch):
    monkeypatch.setattr(gpu, "deterministic", lambda: True)

    @tf.function
    def gradient():
        x, *more = map(tf.constant, weights())
        return tf.gradients(ops.gru(x, *more)[0], x)

    nodes = gradient.get_concrete_function().graph.as_graph_def().node
    (node,) = [node for node in nodes if node.op == "MaskedRnnGrad"]
    assert node.attr["deterministic"].b is True


def test_a_gpu_without_nvidias_libraries_means_kerass_loop_and_one_sentence(monkeypatch):
    monkeypatch.setattr(gpu, "_has_gpu", lambda: True)
    sentence = "CUDA: cuBLAS is missing; pip install nvidia-cublas-cu12 (not found)"
    monkeypatch.setattr(cuda, "unusable_because", lambda: sentence)
    layer = masked_rnn.GRU(5)
    with pytest.warns(fallback.FallbackWarning, match="cuBLAS is missing; pip install"):
        layer(weights()[0])
    layer(weights()[0])  # warned once
    (row,) = masked_rnn.explain(layer).rows
    assert row.path == "Keras loop" and row.why == sentence


def test_the_shim_compiles_once_for_this_tensorflow_and_loads(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKED_RNN_CACHE", str(tmp_path))
    assert gpu.loaded_shim().masked_rnn_stream_of
    (file,) = tmp_path.iterdir()
    assert tf.__version__ in file.name
    monkeypatch.setattr(gpu, "_compile", pytest.fail)
    assert gpu.loaded_shim().masked_rnn_stream_of
    monkeypatch.setattr(gpu, "_compile", lambda target: target.write_text("another"))
    monkeypatch.setattr(tf.version, "GIT_VERSION", "another build of this version")
    with pytest.raises(OSError, match="invalid ELF header|file too short"):
        gpu.loaded_shim()


@pytest.fixture(scope="module")
def offsets(tmp_path_factory):
    """Found anew, with a shim compiled for that; it is compared with the library's own reading."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MASKED_RNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return stream_offsets.probe()


@pytest.fixture(scope="module")
def op_library():
    opened = ctypes.CDLL(library.path())
    yield opened
    opened.masked_rnn_set_stream_of(None)


def test_the_table_says_what_the_probe_finds(offsets):
    assert not stream_offsets.others_in_table(gpu.build(), offsets)


def test_the_op_library_finds_the_stream_by_offsets(offsets, op_library):
    for these in (offsets, NOWHERE, NOWHERE._replace(implementation=0)):
        find = stream_offsets.finder(gpu.stream_by_offsets(op_library, these))
        stream_offsets.check(find, these)


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18), reason="its streams are other classes"
)
def test_the_shim_and_the_op_library_find_the_stream_of_a_context(
    monkeypatch, tmp_path, offsets, op_library
):
    """On contexts made with this TensorFlow's headers, as its GPU device makes them."""
    source = Path(__file__).parent / "cuda/stream_of_test.cc"
    monkeypatch.setattr(gpu, "_SOURCE", source)
    gpu._compile(tmp_path / "stream_of.so")
    compiled = ctypes.CDLL(str(tmp_path / "stream_of.so"))
    stream_of = compiled.stream_of_context
    stream_of.restype = ctypes.c_void_p
    for find in (compiled.masked_rnn_stream_of, gpu.stream_by_offsets(op_library, offsets)):
        found = [stream_of(kind, ctypes.c_void_p(0x1230), find) for kind in range(4)]
        assert found == [None, None, 0x1230, 0x1230]


@pytest.fixture
def with_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "_has_gpu", lambda: True)
    monkeypatch.setattr(cuda, "unusable_because", lambda: None)
    monkeypatch.setenv("MASKED_RNN_CACHE", "off")


def test_a_known_build_needs_no_compiler(monkeypatch, with_a_gpu, op_library):
    monkeypatch.setattr(gpu_offsets, "OFFSETS", {gpu.build(): NOWHERE})
    monkeypatch.setattr(gpu, "loaded_shim", pytest.fail)
    gpu.use_tensorflows_stream()
    stream_offsets.check(stream_offsets.finder(op_library.masked_rnn_stream_by_offsets), NOWHERE)


def test_a_build_that_differs_in_any_respect_is_not_known(monkeypatch, with_a_gpu, offsets):
    def compiled():
        raise OSError("compiled")

    build = gpu.build()
    others = [build._replace(**{field: "another"}) for field in build._fields]
    monkeypatch.setattr(gpu_offsets, "OFFSETS", dict.fromkeys(others, offsets))
    monkeypatch.setattr(gpu, "loaded_shim", compiled)
    with pytest.warns(RuntimeWarning, match="compiled"):
        gpu.use_tensorflows_stream()


def test_every_row_of_the_table_is_a_published_gpu_build():
    for build, offsets in gpu_offsets.OFFSETS.items():
        assert build.git_version.startswith("v") and build.compiler_version and build.flags
        assert re.fullmatch(r"\d+\.[\d.]+|unknown", build.cuda) and build.machine == "x86_64"
        assert all(0 <= offset < 512 and offset % 8 == 0 for offset in offsets)


def test_a_shim_that_cannot_be_made_is_said_once_and_is_no_error(monkeypatch, with_a_gpu):
    def fail(target):
        raise subprocess.CalledProcessError(1, "g++", stderr="error: no headers\nmore")

    monkeypatch.setattr(gpu_offsets, "OFFSETS", {})
    monkeypatch.setattr(gpu, "_compile", fail)
    with pytest.warns(RuntimeWarning, match="waits for the GPU .*: error: no headers. A C"):
        gpu.use_tensorflows_stream()
