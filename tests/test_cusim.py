"""The CPU shim that runs CUDA kernels (csrc/cusim): it computes what a GPU would, in any order of
the threads, and it finds the faults that it is there to find."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLANG = next(filter(shutil.which, ("clang++", "clang++-19", "clang++-18")), None)
ROOT = Path(__file__).resolve().parents[1]
SHIM = [ROOT / "csrc/cusim" / f"{name}.cc" for name in ("context", "grid", "device")]
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-pthread",
         *(f"-I{ROOT / folder}" for folder in ("csrc", "csrc/core", "tests/cuda"))]  # fmt: skip
# name -> compiler, its flags
SANITIZERS = {
    "": ("g++", []),
    "asan": ("g++", ["-fsanitize=address,undefined"]),
    "tsan": (CLANG, ["-fsanitize=thread"]),  # g++'s is ten times slower
}
ORDERS = ("fifo", "lifo", "1", "2")
KERNELS = ("grid_rnn", "cluster_ring", "matrix_products", "warp_words")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def compile_to(output, sources, sanitizer, *flags):
    compiler, _ = SANITIZERS[sanitizer]
    subprocess.run([compiler, *FLAGS, *flags, "-o", output, *sources], check=True)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """-> function(fault, sanitizer) that gives the program with a planted fault, built once."""
    folder = tmp_path_factory.mktemp("cusim")
    built = {}

    def shim(sanitizer):
        # The scheduler is not instrumented: it says itself what the sanitizer has to know.
        define = [f"-DCUSIM_{sanitizer.upper()}", "-fno-builtin"] if sanitizer else []
        for source in SHIM:
            target = folder / f"{source.stem}{sanitizer}.o"
            if not target.exists():
                compile_to(target, [source], sanitizer, "-c", *define)
            yield target

    def program(fault="", sanitizer=""):
        if SANITIZERS[sanitizer][0] is None:
            pytest.skip("needs clang")
        key = fault + sanitizer
        if key not in built:
            built[key] = folder / f"check{key}"
            fault_flag = [f"-DFAULT_{fault}"] if fault else []
            compile_to(built[key], [ROOT / "tests/cuda/check_cusim.cc", *shim(sanitizer)],
                       sanitizer, *SANITIZERS[sanitizer][1], *fault_flag)  # fmt: skip
        return built[key]

    return program


def run(program, kernel, order="fifo"):
    environment = {**os.environ, "CUSIM_ORDER": order, "ASAN_OPTIONS": "detect_leaks=0"}
    # ThreadSanitizer wants its addresses where it expects them.
    still = ["setarch", "-R"] if "tsan" in program.name and shutil.which("setarch") else []
    done = subprocess.run([*still, program, kernel], capture_output=True, text=True, env=environment,
                          timeout=60)  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_correct_kernels_pass_in_every_order(build, kernel, sanitizer):
    for order in ORDERS[-1:] if sanitizer else ORDERS:
        assert run(build("", sanitizer), kernel, order) == "PASS\n", order


# fault -> the kernel it is in, and what the shim says of it
FAULTS = {
    "SHARED_INDEX": ("grid_rnn", "wrote past the end of its shared memory"),
    "MISSING_BARRIER": ("grid_rnn", "wrong numbers"),
    "DIVERGENT_BARRIER": ("grid_rnn", "deadlock"),
    "MISSING_GRID_BARRIER": ("grid_rnn", "wrong numbers"),
    "MISSING_WAIT": ("cluster_ring", "FAIL"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(build, fault):
    kernel, report = FAULTS[fault]
    found = [run(build(fault), kernel, order) for order in ORDERS]
    assert any(report in text for text in found), found


def test_address_sanitizer_sees_shared_memory(build):
    report = run(build("SHARED_INDEX", "asan"), "grid_rnn")
    assert "heap-buffer-overflow" in report and "check_kernels.cuh" in report, report


@pytest.mark.parametrize("fault", ["MISSING_BARRIER", "MISSING_GRID_BARRIER"])
def test_thread_sanitizer_sees_missing_barriers(build, fault):
    report = run(build(fault, "tsan"), "grid_rnn")
    assert "data race" in report and "check_kernels.cuh" in report, report
