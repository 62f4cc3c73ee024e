"""The CUDA device without a GPU: NVIDIA's real compiler, a driver and a cuBLAS that pretend."""

import importlib.util
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import masked_rnn

PACKAGE = Path(masked_rnn.__file__).parent
ROOT = Path(__file__).parents[1]
CORE = PACKAGE / "libmasked_rnn_core.so"

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


def nvidia_folders(kind):
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in spec.submodule_search_locations] if spec else []
    return [folder for root in roots for folder in root.glob(f"*/{kind}")]


NVRTC = sorted(library for folder in nvidia_folders("lib") for library in
               folder.glob("libnvrtc.so.1[23]"))
needs_nvrtc = pytest.mark.skipif(not NVRTC, reason="nvidia-cuda-nvrtc-cu12 is not installed")


def compile_cpp(target, source, *options):
    command = ["g++", "-std=c++20", "-O1", "-Wall", "-Werror", f"-I{ROOT}/csrc",
               f"-I{ROOT}/csrc/core", str(ROOT / "tests/cuda" / source), *options]
    subprocess.run([*command, "-o", str(target)], check=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the program, and each fake library in a folder of its own."""
    folder = tmp_path_factory.mktemp("cuda")
    for library, source in (("libcuda.so.1", "fake_driver.cc"),
                            ("libcublas.so.12", "fake_cublas.cc")):
        (folder / source).mkdir()
        compile_cpp(folder / source / library, source, "-fPIC", "-shared",
                    f"-Wl,-soname,{library}")
    compile_cpp(folder / "check_device", "check_device.cc", str(CORE), f"-Wl,-rpath,{PACKAGE}",
                "-ldl", "-pthread")
    return folder


def command_and_environment(built, cache, subject, *more, fakes=("driver", "cublas"), **variables):
    fake_folders = [str(built / f"fake_{fake}.cc") for fake in fakes]
    folders = ":".join(str(library.parent) for library in NVRTC)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(fake_folders),
        "MASKED_RNN_CACHE": str(cache),
        **variables,
    }
    return [str(built / "check_device"), folders, subject, *more], environment


def run(built, cache, subject, *more, **options):
    command, environment = command_and_environment(built, cache, subject, *more, **options)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


# --- declarations ------------------------------------------------------------------------------


def header_folders():
    toolkit = Path("/usr/local/cuda/include")
    return [f for f in [*nvidia_folders("include"), toolkit] if f.is_dir()]


@pytest.mark.parametrize("folder", header_folders(), ids=str)
def test_declarations_are_those_of_nvidia(folder):
    options = ["-isystem", str(folder), "-isystem", "/usr/local/cuda/include", "-fsyntax-only"]
    source = str(ROOT / "tests/cuda/headers_test.cc")
    subprocess.run(["g++", "-std=c++20", f"-I{ROOT}/csrc", *options, source], check=True)


# --- what is missing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fakes, variables, sentence",
    [
        (["cublas"], {}, "there is no NVIDIA driver on this machine; install NVIDIA's driver"),
        (["driver", "cublas"], {"FAKE_CUDA_INIT": "100"}, "no CUDA-capable device is detected"),
        pytest.param(["driver"], {}, "cuBLAS is missing; pip install nvidia-cublas-cu12",
                     marks=needs_nvrtc),
    ],
)
def test_a_missing_library_is_named(built, fakes, variables, sentence):
    lines = run(built, "off", "missing", fakes=fakes, **variables)
    assert len(lines) == 1 and sentence in lines[0]


def test_a_missing_compiler_is_named(built):
    command, environment = command_and_environment(built, "off", "missing")
    command[1] = "/nowhere"
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "NVRTC is missing; pip install nvidia-cuda-nvrtc-cu12" in answer.stdout


@needs_nvrtc
def test_nothing_is_missing(built):
    assert run(built, "off", "missing") == [""]


# --- launches ----------------------------------------------------------------------------------


@needs_nvrtc
def test_launches_reach_the_driver_as_asked(built, tmp_path):
    lines = run(built, tmp_path / "cache", "launches")
    assert lines[:3] == ["Fake GPU 90 132 232448", "resident 7", "resident 2112"]
    assert re.match(r"ResourceExhausted CUDA: launching scale<Twice, 8> \(grid 6x2x1, block "
                    r"128x1x1, 100000 bytes of shared memory, cooperative\): ", lines[3])
    assert lines[4].startswith("DeviceError CUDA: launching scale<Twice, 8> (grid 6x2x1")
    name = "_ZN10masked_rnn4cuda5scaleINS_5TwiceELi8EEEvxPf"
    assert lines[5:] == [
        "load cubin",
        "attribute 8 232448",
        "attribute 14 1",
        f"launch {name} grid 1,1,1 block 1,1,1 shared 0 cluster 1 cooperative 0 stream 0x20",
        "argument 5",
        f"launch {name} grid 6,2,1 block 128,1,1 shared 100000 cluster 2 cooperative 0 stream 0x20",
        "argument 5",
        f"occupancy {name} grid 6,2,1 block 128,1,1 shared 100000 cluster 2 cooperative 0 "
        "stream (nil)",
        f"launch {name} grid 6,2,1 block 128,1,1 shared 100000 cluster 1 cooperative 1 stream 0x20",
        "argument 5",
    ]


@needs_nvrtc
def test_a_kernel_is_loaded_once_by_many_threads(built, tmp_path):
    lines = run(built, tmp_path, "threads")
    assert lines.count("load cubin") == 1
    assert sum(line.startswith("launch ") for line in lines) == 8


@needs_nvrtc
def test_a_device_that_the_compiler_does_not_know_gets_ptx(built):
    assert "load PTX" in run(built, "off", "launches", FAKE_CUDA_CAPABILITY="119")


@needs_nvrtc
def test_a_compile_error_shows_the_log(built):
    lines = run(built, "off", "compile error")
    assert "compiling wrong<Twice> for sm_90a failed" in lines[0] and "scale.cuh(7)" in lines[0]


@needs_nvrtc
def test_architecture_for_each_device(built):
    assert run(built, "off", "targets") == [
        "70 none", "75 sm_75", "80 sm_80", "86 sm_86", "89 sm_86", "90 sm_90a", "100 sm_100",
        "103 sm_103", "110 compute_103", "121 sm_120",
    ]  # fmt: skip


def test_products(built):
    worst, *rest = run(built, "off", "products")
    worst_float, worst_double = map(float, worst.split())
    assert worst_float <= 1e-6 and worst_double <= 1e-15
    assert rest == ["too large 0", "no rows 1"]


def test_cublas_without_memory(built):
    lines = run(built, "off", "products", FAKE_CUBLAS_FULL="1")
    assert lines == ["error: CUDA: starting cuBLAS: libcublas.so.12 says 3"]


# --- the library's own kernels -----------------------------------------------------------------

NAMES = [
    "count_steps", "multiply<float>", "gather_inputs<BFloat16>",
    "forward_step<Gru, TanhSigmoid, float>", "backward_step<Lstm, AnyActivations, Float16>",
    "resident_forward<Lstm, TanhSigmoid, float>", "resident_backward<Gru, TanhSigmoid, double>",
]  # fmt: skip
# And how many matrix instructions they have at least: for one, two and four tiles of rows two
# products each, four in TF32.
MATRIX_NAMES = {
    "resident_forward_matrix<Lstm, TanhSigmoid, float>": 28,
    "resident_forward_matrix<Gru, AnyActivations, Float16>": 14,
    "resident_backward_matrix<Gru, TanhSigmoid, BFloat16>": 14,
}
# Of the largest sizes, which need nearly all registers, from 9.0 on; and how many products a warp
# makes in a step.
CLUSTER_NAMES = {
    "forward_cluster<Lstm, TanhSigmoid, BFloat16, 512, 16>": 32,
    "backward_cluster<Lstm, TanhSigmoid, BFloat16, 512, 16>": 32,
    "forward_cluster<Gru, TanhSigmoid, float, 512, 16>": 64,
    "backward_cluster<Gru, TanhSigmoid, float, 512, 16>": 48,
}


def compile_kernels(built, library, capability, names, **variables):
    version = library.suffix[1:] + "000"
    command, environment = command_and_environment(
        built, "off", "embedded", capability, *names, FAKE_CUDA_VERSION=version,
        LD_LIBRARY_PATH=f"{built}/fake_driver.cc:{library.parent}", **variables,
    )  # fmt: skip
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    sizes = [int(line.split("\t")[1]) for line in answer.stdout.splitlines()]
    assert len(sizes) == len(names) and min(sizes) > 1000, answer.stdout


@pytest.mark.parametrize("library", NVRTC, ids=lambda library: library.name)
@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_kernels_compile(built, library, capability):
    compile_kernels(built, library, capability, NAMES)


DISASSEMBLER = next((str(file) for folder in nvidia_folders("bin")
                     for file in folder.glob("nvdisasm")), None) or shutil.which("nvdisasm")


def instructions(built, folder, library, capability, names):
    """{name: {instruction: how many}} of compiled kernels."""
    compile_kernels(built, library, capability, names, IMAGES=str(folder))
    counts = {}
    for number, name in enumerate(names, 1):
        command = [DISASSEMBLER, "-c", str(folder / str(number))]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        counts[name] = {word: len(re.findall(rf"\b{word}\b", text)) for word in
                        ("HMMA", "STAS", "LDL", "STL")}  # fmt: skip
    return counts


needs_disassembler = pytest.mark.skipif(
    not DISASSEMBLER, reason="nvidia-cuda-nvdisasm is not installed"
)
newest = pytest.mark.parametrize("library", NVRTC[-1:], ids=lambda library: library.name)


@needs_disassembler
@newest
@pytest.mark.parametrize("capability", ["90", "100"])
def test_clusters_multiply_from_registers(built, tmp_path, library, capability):
    """Matrix instructions and asynchronous stores, and no register that is spilled."""
    counts = instructions(built, tmp_path, library, capability, CLUSTER_NAMES)
    for name, count in counts.items():
        assert count["HMMA"] >= CLUSTER_NAMES[name] and count["STAS"] > 0, (name, count)
        assert count["LDL"] == count["STL"] == 0, (name, count)


@needs_disassembler
@newest
@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_resident_kernels_multiply_by_matrix_instructions(built, tmp_path, library, capability):
    counts = instructions(built, tmp_path, library, capability, MATRIX_NAMES)
    for name, count in counts.items():
        assert count["HMMA"] >= MATRIX_NAMES[name], (name, count)
        assert count["LDL"] == count["STL"] == 0, (name, count)


# --- the cache ---------------------------------------------------------------------------------


def test_the_folder_of_the_cache(built, tmp_path):
    lines = run(built, tmp_path / "a" / "b", "cache")
    assert lines == [f"folder {tmp_path}/a/b", "value none", "mode 700"]
    for off in ("", "off"):
        assert run(built, off, "cache") == ["folder ", "nothing none"]
    command, environment = command_and_environment(built, "", "cache", HOME=str(tmp_path))
    del environment["MASKED_RNN_CACHE"]
    environment.pop("XDG_CACHE_HOME", None)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"folder {tmp_path}/.cache/masked_rnn\nvalue none\n")


def test_a_folder_that_others_can_write_to_is_not_used(built, tmp_path):
    tmp_path.chmod(0o777)
    assert run(built, tmp_path, "cache")[1] == "nothing none"
    assert list(tmp_path.iterdir()) == []


def test_the_cache_stays_small(built, tmp_path):
    folder = tmp_path / ".masked_rnn"  # named like its files
    folder.mkdir()
    (folder / "of somebody else").write_bytes(bytes(2000))
    kept = int(run(built, folder, "small cache")[0].split()[0])
    assert 0 < kept < 20
    (folder / "of somebody else").unlink()  # is still there
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1000


@needs_nvrtc
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_written_anew(built, tmp_path, damage):
    expected = run(built, tmp_path, "launches")
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    changed = bytearray(good)
    changed[-100] ^= 1
    file.write_bytes({"cut": good[:-10], "flip": bytes(changed), "empty": b""}[damage])
    assert run(built, tmp_path, "launches") == expected
    assert file.read_bytes() == good


@needs_nvrtc
def test_the_key_tells_drivers_and_devices_apart(built, tmp_path):
    for variables in ({}, {"FAKE_CUDA_CAPABILITY": "80"}, {"FAKE_CUDA_VERSION": "12050"}, {}):
        run(built, tmp_path, "launches", **variables)
    assert len(list(tmp_path.iterdir())) == 3


def test_writers_at_once_and_killed(built, tmp_path):
    command, environment = command_and_environment(built, tmp_path, "hammer")
    writers = [subprocess.Popen(command, env=environment) for _ in range(3)]
    time.sleep(0.6)
    for writer in writers:
        assert writer.poll() is None, "read a damaged value"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    sizes = {p.stat().st_size for p in tmp_path.iterdir() if p.suffix == ".masked_rnn"}
    assert sizes == {200000 + i + 5 + 51 for i in range(3)}


@needs_nvrtc
def test_processes_that_fill_the_cache_at_once(built, tmp_path):
    expected = run(built, "off", "launches")
    command, environment = command_and_environment(built, tmp_path, "launches")
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        assert process.communicate(timeout=60)[0].splitlines() == expected
    assert [p.suffix for p in tmp_path.iterdir()] == [".masked_rnn"]


@needs_nvrtc
def test_a_writer_killed_in_the_middle_of_a_file(built, tmp_path):
    def end_it_after_4096_bytes():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command, environment = command_and_environment(built, tmp_path, "launches")
    killed = subprocess.run(command, env=environment, preexec_fn=end_it_after_4096_bytes)
    assert killed.returncode == -signal.SIGXFSZ
    (leftover,) = tmp_path.iterdir()
    assert leftover.stat().st_size == 4096
    expected = run(built, "off", "launches")
    assert run(built, tmp_path, "launches") == expected
    assert leftover.exists() and len(list(tmp_path.iterdir())) == 2  # it may still be written to
    two_hours_ago = time.time() - 7200
    os.utime(leftover, (two_hours_ago, two_hours_ago))
    run(built, tmp_path, "cache")
    assert {p.suffix for p in tmp_path.iterdir()} == {".masked_rnn"}


# --- forks -------------------------------------------------------------------------------------


def test_a_forked_child_is_told_that_it_cannot_use_cuda(built):
    lines = run(built, "off", "forks")
    assert lines == [
        "child before use: Fake GPU", "parent: Fake GPU",
        "child: CUDA: this process was forked from one that uses CUDA, and cannot use it; start it "
        'with multiprocessing.get_context("spawn")',
        "parent: Fake GPU",
    ]  # fmt: skip


# --- masked_rnn.numpy on GPU arrays ------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("pools", ["1", "0"])
def test_numpy_functions_on_gpu_arrays(built, tmp_path_factory, pools):
    cache = tmp_path_factory.getbasetemp() / "numpy_cache"  # shared: compiled once
    _, environment = command_and_environment(
        built, cache, "", FAKE_CUDA_POOLS=pools, PYTHONPATH=str(PACKAGE.parent)
    )
    unless_pools = [] if pools == "1" else ["-k", "not runs_out"]
    command = [sys.executable, str(ROOT / "tests/cuda/numpy_on_gpu.py"), *unless_pools]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# --- every kernel that nvcc compiles, by NVRTC: minutes, so only when asked for ------------------

AT_ONCE = 12  # kernels of one process


@pytest.mark.skipif(not os.environ.get("MASKED_RNN_EVERY_KERNEL"), reason="takes minutes")
@pytest.mark.parametrize("library", NVRTC, ids=lambda library: library.name)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100"])
def test_every_kernel_compiles(built, library, architecture):
    """MASKED_RNN_EVERY_KERNEL=1, after `make cuda-check`, whose kernels these are."""
    script = ROOT / "benchmarks/cuda_report.py"
    listed = subprocess.run(
        [sys.executable, script, "--names", architecture], check=True, capture_output=True, text=True
    )
    names = listed.stdout.splitlines()
    version = library.suffix[1:] + "000"

    def compiled(names):
        command, environment = command_and_environment(
            built, "off", "embedded", re.search(r"\d+", architecture)[0], *names,
            FAKE_CUDA_VERSION=version, LD_LIBRARY_PATH=f"{built}/fake_driver.cc:{library.parent}",
        )
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert "error: " not in done.stdout, done.stdout
        return [int(line.split("\t")[1]) for line in done.stdout.splitlines()]

    groups = [names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = [size for group in pool.map(compiled, groups) for size in group]
    assert len(sizes) == len(names) > 140 and min(sizes) > 1000
