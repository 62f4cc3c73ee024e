"""Runs CMake where setuptools would compile an extension. Everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find(program):
    """Path of a program installed beside this Python, or anywhere on PATH."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return shutil.which(program, path=path)


def demand(present, missing, remedy):
    if not present:
        sys.exit(f"masked_rnn cannot be built: {missing}; {remedy}")


class CMakeBuild(build_ext):
    """Builds the two libraries and the module, and puts all three into the package's folder."""

    def run(self):
        compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
        demand(any(map(find, compiler)), "there is no C++ compiler", "apt install g++")
        header = Path(sysconfig.get_path("include"), "Python.h")
        demand(header.exists(), f"{header} is missing", "apt install python3-dev")
        cmake, ninja = find("cmake"), find("ninja")
        demand(cmake, "there is no cmake", "pip install cmake")
        try:
            from pybind11 import get_cmake_dir
        except ImportError:
            demand(False, "there is no pybind11", "pip install pybind11")

        tree = ROOT / "build" / sys.implementation.cache_tag  # of `pip install .` and of `-e .`
        # This folder too: a Python started here imports the package from here, installed or not.
        prefixes = {ROOT} if self.inplace else {Path(self.build_lib).resolve(), ROOT}
        # The objects of an earlier build are good; the cache names the isolated environment that
        # pip has removed since.
        (tree / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={get_cmake_dir()}",
                     "-DMASKED_RNN_PYTHON=ON", *os.environ.get("CMAKE_ARGS", "").split()]
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
        for arguments in (["-S", str(ROOT), "-B", str(tree), *configure],
                          ["--build", str(tree), "--parallel", jobs],
                          *(["--install", str(tree), "--prefix", str(p)] for p in prefixes)):
            if subprocess.run([cmake, *arguments]).returncode:
                sys.exit("masked_rnn cannot be built: cmake failed, its output above says why")

    def get_outputs(self):
        folder = ROOT if self.inplace else Path(self.build_lib)
        return [str(path) for path in sorted((folder / "masked_rnn").glob("*.so"))]

    def get_output_mapping(self):
        return {}  # in place, nothing is copied: CMake installs into the source folder

    def get_source_files(self):
        return []  # MANIFEST.in says what an sdist holds


setup(ext_modules=[Extension("masked_rnn._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
