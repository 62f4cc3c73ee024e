"""Programs in processes of their own, which find this package."""

import os
import subprocess
import sys
import textwrap

import masked_rnn

PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))


def start(code, *paths, **environment):
    """A new process, its output in pipes.

    Args:
        code: indented as one likes.
        paths: folders whose modules are found first.
        environment: variables in place of this process's; None removes one.
    """
    full = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    full["PYTHONPATH"] = os.pathsep.join([*map(str, paths), PACKAGE_FOLDER])
    full.update(environment)
    full = {name: value for name, value in full.items() if value is not None}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=full, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(code, *paths, timeout=120, **environment):
    """Output of a process that `start` starts. After `timeout` seconds it hangs, and is ended."""
    with start(code, *paths, **environment) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, f"exit status {process.returncode}: {errors[-3000:]}"
    return output
