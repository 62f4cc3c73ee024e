"""masked_rnn.numpy and benchmarks/gpu.py on a GPU that is the CPU shim (csrc/cusim/driver.cc).

`make cusim-module` builds its driver (build/cusim/driver); MASKED_RNN_CUSIM_MODULE names another
folder than build/cusim. In processes of their own, as the driver stays loaded.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import masked_rnn

ROOT = Path(__file__).resolve().parents[1]
DRIVER = Path(os.environ.get("MASKED_RNN_CUSIM_MODULE") or ROOT / "build/cusim") / "driver"

pytestmark = pytest.mark.skipif(
    not (DRIVER / "libcuda.so.1").exists(), reason=f"no driver in {DRIVER}: make cusim-module"
)


def run(*command):
    package = Path(masked_rnn.__file__).parents[1]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(DRIVER), "MASKED_RNN_CACHE": "off",
                   "PYTHONPATH": str(package)}  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip


def test_numpy_functions_on_an_emulated_gpu():
    answer = run(ROOT / "tests/cuda/numpy_emulated.py")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_gpu_benchmark_passes_on_the_shim(tmp_path):
    answer = run(ROOT / "benchmarks/gpu.py", "--emulated", "--folder", DRIVER, "--every", "7",
                 "--json", tmp_path / "all.json")  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.splitlines()[-1] == "PASS" and not answer.stderr
    record = json.loads((tmp_path / "all.json").read_text())
    ran = [outcome for outcome in record["numbers"] if not outcome["skipped"]]
    assert {outcome["check"]["precision"] for outcome in ran} == {
        "float32", "tf32", "bfloat16", "float16", "float64"
    }  # fmt: skip
    assert all(outcome["error"] <= 1 and outcome["repeats"] for outcome in ran)
    assert [exchange["right"] for exchange in record["exchange"]] == [True] * 3
    timings = record["speed"]
    assert [timing["precision"] for timing in timings] == ["tf32"] * 2 + ["bfloat16"] * 2
    assert all(timing["us_per_step"]["ours"] > 0 and timing["share"] < 1 for timing in timings)
    peers = {"torch packed", "torch padded"}  # which run on the CPU here, where they are installed
    for timing in timings:
        assert peers <= set(timing["errors"]) or peers <= set(timing["skipped"])


def test_the_gpu_benchmark_keeps_to_its_time():
    answer = run(ROOT / "benchmarks/gpu.py", "--emulated", "--folder", DRIVER, "--minutes", "0.05")
    assert "checks were not reached in the time" in answer.stdout
    assert "4 cases were not reached in the time" in answer.stdout


def test_the_gpu_benchmark_without_a_gpu_fails_in_a_sentence():
    answer = run(ROOT / "benchmarks/gpu.py")
    assert answer.returncode == 1 and answer.stdout.startswith("FAIL: no GPU can be used (")
