"""benchmarks/cuda_report.py on what ptxas and nvdisasm print."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/cuda_report.py"
NAMES = [  # masked_rnn::cuda::resident_step of float and of double
    "_ZN10masked_rnn4cuda13resident_stepIfEEvNS0_11ForwardStepE",
    "_ZN10masked_rnn4cuda13resident_stepIdEEvNS0_11ForwardStepE",
]
pytestmark = pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt")
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{0}' for 'sm_90a'
ptxas info    : Function properties for {0}
    24 bytes stack frame, {stored} bytes spill stores, {loaded} bytes spill loads
ptxas info    : Used 65 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function '{1}' for 'sm_90a'
ptxas info    : Function properties for {1}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 208 registers, used 1 barriers
"""
CODE = """\
\t.section\t.text.{0},"ax",@progbits
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0030*/               @P1 STL [R1], R4 ;
\t.section\t.text.{1},"ax",@progbits
        /*0000*/                   HFMA2.MMA R4, -RZ, RZ, 0, 0 ;
        /*0010*/                   STAS.128 [R2.64], R8 ;
"""


@pytest.fixture
def report(tmp_path):
    def run(*options, spilled=(8, 4), names=NAMES):
        stored, loaded = spilled
        text = REPORT.format(*names, stored=stored, loaded=loaded)
        (tmp_path / "sm_90a.txt").write_text(text)
        (tmp_path / "code").write_text(CODE.format(*names))
        program = tmp_path / "nvdisasm"
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/code\n")
        program.chmod(0o755)
        command = [sys.executable, SCRIPT, tmp_path, "--nvdisasm", program, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        rows = [line for line in done.stdout.splitlines() if line.startswith("| resident")]
        return done.returncode, [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]

    return run


def test_a_row_has_the_largest_of_its_instances(report):
    assert report() == (1, [["resident_step", "2", "208", "512", "12", "2", "1", "1"]])


def test_every_instance_has_a_row(report):
    assert report("--every-instance")[1] == [
        ["resident_step<double>", "1", "208", "0", "0", "0", "0", "1"],
        ["resident_step<float>", "1", "65", "512", "12", "2", "1", "0"],
    ]


def test_a_kernel_without_its_matrix_instructions(report):
    names = [name.replace("13resident_step", "11matrix_step") for name in NAMES]
    assert report(spilled=(0, 0), names=names)[0] == 0  # it should have none
    names = [name.replace("13resident_step", "11step_matrix") for name in NAMES]
    assert report(spilled=(0, 0), names=names)[0] == 1  # that of double has none


def test_kernels_are_picked_by_name(report):
    assert report("--kernels", "general") == (0, [])


CHECKED = SCRIPT.parents[1] / "build/cusim/cuda"


@pytest.mark.skipif(not list(CHECKED.glob("sm_*.txt")), reason="make cuda-check has not run")
def test_no_kernel_spills():
    command = [sys.executable, SCRIPT, "--nvdisasm", ""]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
