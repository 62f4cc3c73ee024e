"""Keras's own tests of its recurrent layers, with our classes in their place."""

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import pytest

import masked_rnn

FILES = (
    "gru_test.py",
    "lstm_test.py",
    "simple_rnn_test.py",
    "bidirectional_test.py",
    "rnn_test.py",
    "stacked_rnn_cells_test.py",
    "time_distributed_test.py",
)

PLUGIN = """
    import keras
    import masked_rnn
    from keras.src import layers

    for name in ("GRU", "LSTM", "SimpleRNN", "RNN"):
        for module in (keras.layers, layers):
            setattr(module, name, getattr(masked_rnn, name))


    def pytest_collection_finish(session):
        from keras.src import layers
        assert layers.GRU is masked_rnn.GRU


    def pytest_configure(config):
        config.addinivalue_line("markers", "requires_trainable_backend: one that trains")
"""


def test_keras_tests_pass_with_our_layers(tmp_path):
    folder = pathlib.Path(keras.__file__).parent / "src" / "layers" / "rnn"
    files = [folder / name for name in FILES]
    if not all(file.exists() for file in files):
        pytest.skip("this Keras comes without its tests")
    (tmp_path / "with_ours.py").write_text(textwrap.dedent(PLUGIN))
    package = pathlib.Path(masked_rnn.__file__).parent.parent
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(package)]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "with_ours", "-p", "no:cacheprovider",
         "-W", "ignore", "--rootdir", str(tmp_path), "-c", os.devnull, *map(str, files)],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-5000:]
    passed = int(summary.split(" passed")[0].split()[-1])
    assert passed >= 50 and "failed" not in summary, summary
