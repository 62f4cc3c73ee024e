"""The resident CUDA kernels on the CPU shim: what their barriers are for, and when they are not used.
Their numbers over the table of cases are checked by test_cuda.py and test_cuda_resident.py."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCHEDULER = ("cusim/context.cc", "cusim/grid.cc")
HOST = ("check.cc", "names.cc", "cuda/choose.cc", "cuda/cluster.cc", "cuda/general.cc",
        "cuda/instances.cc", "cuda/memory.cc", "cuda/queue.cc", "cuda/resident.cc", "cuda/rnn.cc")  # fmt: skip
CLANG = next(filter(shutil.which, ("clang++", "clang++-19", "clang++-18")), None)
ORDERS = ("fifo", "lifo", "1", "2")
# fault -> (file, what stands there, what takes its place, what the shim says of it)
FAULTS = {
    "blocks do not wait": ("resident.cuh", "wait_for(arrived_, expected_);", "__syncthreads();",
                           "wrong numbers"),
    "blocks do not arrive": ("resident.cuh", "cuda::arrive(arrived_);", ";", "spins on memory"),
    "sums are read too early": (
        "resident.cuh", "sum[c][r];\n      }\n    }\n    __syncthreads();", "sum[c][r];\n      }\n    }\n",
        "wrong numbers",
    ),
    "matrix sums are read too early": (
        "resident_matrix.cuh", "multiply<kFirst, kGates>(rows, copies);\n    __syncthreads();",
        "multiply<kFirst, kGates>(rows, copies);", "wrong numbers",
    ),
    "matrix operands are read too early": (
        "resident_matrix.cuh", "                   });\n    }\n    __syncthreads();",
        "                   });\n    }", "wrong numbers",
    ),
    "matrix operands are not cleared": ("resident_matrix.cuh", "operand_[e] = {};", ";",
                                        "wrong numbers"),
}  # fmt: skip
# ThreadSanitizer tells 256 threads apart, so that it looks at blocks of 64.
FEW_THREADS = ("tiles.h", "kResidentThreads = 256;", "kResidentThreads = 64;")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """-> function(fault, thread_sanitizer) that gives the program, built once."""
    folder = tmp_path_factory.mktemp("resident")
    built = {}

    def compile_to(name, sources, thread, *flags):
        if name not in built:
            built[name] = folder / name
            compiler = [CLANG, "-fsanitize=thread"] if thread else ["g++"]
            subprocess.run([*compiler, "-std=c++20", "-g", "-ffp-contract=off", "-pthread", *flags,
                            f"-I{ROOT}/csrc", "-o", built[name], *sources], check=True)  # fmt: skip
        return built[name]

    def altered(name, replacements):
        """A copy of csrc/core in which some text is another."""
        core = folder / name / "core"
        if not core.exists():
            shutil.copytree(ROOT / "csrc/core", core)
            for file, right, wrong in replacements:
                text = (core / "cuda/kernels" / file).read_text()
                assert text.count(right) == 1, right
                (core / "cuda/kernels" / file).write_text(text.replace(right, wrong))
        return core

    def program(fault=None, thread=False):
        if thread and CLANG is None:
            pytest.skip("needs clang")
        suffix = "_thread" if thread else ""
        replacements = [FAULTS[fault][:3]] if fault else []
        if thread:
            replacements.append(FEW_THREADS)
        name = (fault or "right").replace(" ", "_") + suffix
        core = altered(name, replacements) if replacements else ROOT / "csrc/core"
        include = [f"-I{core.parent}", f"-I{core}"]
        objects = []
        for source in SCHEDULER:  # not instrumented: it tells the sanitizer what that has to know
            flags = ["-DCUSIM_TSAN", "-fno-builtin", "-fno-sanitize=all"] if thread else []
            objects.append(compile_to(Path(source).stem + suffix, [ROOT / "csrc" / source], thread,
                                      "-c", *include, *flags))  # fmt: skip
        host = [ROOT / "csrc/cusim/device.cc", *(core / source for source in HOST)]
        for source in host:
            objects.append(compile_to(source.stem + suffix, [source], thread, "-c", *include))
        check = ROOT / "tests/cuda/check_resident.cc"
        return compile_to(f"check_{name}", [check, *objects], thread, *include)

    return program


def run(program, *arguments, order="fifo"):
    still = ["setarch", "-R"] if "thread" in program.name and shutil.which("setarch") else []
    done = subprocess.run([*still, program, *arguments], capture_output=True, text=True,
                          env={**os.environ, "CUSIM_ORDER": order}, timeout=60)  # fmt: skip
    return done.stdout + done.stderr


def test_it_agrees_with_the_general_kernel(build):
    for order in ORDERS:
        assert run(build(), order=order) == "PASS\n", order


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(build, fault):
    found = [run(build(fault), order=order) for order in ORDERS]
    assert any(FAULTS[fault][3] in text for text in found), found


def test_without_room_for_all_blocks_the_general_kernel_takes_over(build):
    assert run(build(), "few") == "PASS\n"


def test_thread_sanitizer(build):
    assert run(build(thread=True)) == "PASS\n"
    report = run(build("blocks do not wait", thread=True))
    assert "data race" in report and "resident.cuh" in report, report
