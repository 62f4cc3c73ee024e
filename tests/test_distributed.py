"""The examples of docs/migration.md on many devices, each in processes of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

import masked_rnn

EXAMPLES = pathlib.Path(__file__).parent.parent / "docs" / "examples"


@pytest.mark.parametrize(
    "example, says",
    [
        ("mirrored.py", "2 replicas have learned what one device learns."),
        ("multi_worker.py", "2 workers have learned what one process learns."),
    ],
)
def test_example(example, says, tmp_path):
    folder = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))
    environment = {
        **os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": folder,
    }  # fmt: skip
    environment.pop("TF_CONFIG", None)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example)], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(says)
