"""The cache of what is compiled on the user's machine, as several processes use it, one of which may
be killed."""

import os
import shutil
import subprocess
import time

import pytest

from masked_rnn import compiled

from .programs import run, start

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
NAME = "answer.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library with `int answer() { return 42; }`."""
    path = tmp_path_factory.mktemp("library") / "made.so"
    source = 'extern "C" int answer() { return 42; }'
    subprocess.run(["g++", "-shared", "-fPIC", "-xc++", "-", "-o", path], input=source, text=True,
                   check=True)  # fmt: skip
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "a" / "cache"
    monkeypatch.setenv("MASKED_RNN_CACHE", str(folder))
    return folder


class Copy:
    """Stands for a compiler: copies a library, and counts."""

    def __init__(self, library):
        self.library = library
        self.times = 0

    def __call__(self, target):
        self.times += 1
        shutil.copyfile(self.library, target)


def test_it_is_made_once(library, cache):
    make = Copy(library)
    for _ in range(3):
        assert compiled.load(NAME, make).answer() == 42
    assert make.times == 1 and [p.name for p in cache.iterdir()] == [NAME]
    assert os.stat(cache).st_mode & 0o777 == 0o700


def test_without_a_cache_nothing_is_left(library, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("MASKED_RNN_CACHE", "off")
    make = Copy(library)
    assert compiled.load(NAME, make).answer() == 42
    tmp_path.chmod(0o777)
    monkeypatch.setenv("MASKED_RNN_CACHE", str(tmp_path))  # others may write there
    assert compiled.load(NAME, make).answer() == 42
    assert make.times == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "cut short", "flip", "empty", "unsealed"])
def test_a_damaged_file_is_made_anew(library, cache, damage):
    make = Copy(library)
    compiled.load(NAME, make)
    file = cache / NAME
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bad = {"cut": good[:-1], "cut short": good[: len(good) // 3], "flip": bytes(flipped),
           "empty": b"", "unsealed": library.read_bytes()}[damage]  # fmt: skip
    file.unlink()  # what is loaded must not change
    file.write_bytes(bad)
    assert compiled.load(NAME, make).answer() == 42
    assert make.times == 2 and file.read_bytes() == good


def test_a_compiler_that_fails_leaves_nothing(cache):
    def fail(target):
        target.write_bytes(b"half")
        raise subprocess.CalledProcessError(1, "g++")

    with pytest.raises(subprocess.CalledProcessError):
        compiled.load(NAME, fail)
    assert list(cache.iterdir()) == []


PROCESS = """
    import os, shutil, signal, sys, time
    from masked_rnn import compiled

    def make(target):
        content = open(os.environ["LIBRARY"], "rb").read()
        with open(target, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            if os.environ["THEN"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2)  # the others come to the same point
            file.write(content[len(content) // 2 :])
        print("made")

    assert compiled.load("answer.so", make).answer() == 42
"""


def test_a_writer_that_is_killed_does_no_harm(library, cache):
    with pytest.raises(AssertionError, match="exit status -9"):
        run(PROCESS, LIBRARY=str(library), THEN="die")
    (leftover,) = cache.iterdir()
    assert leftover.name != NAME
    make = Copy(library)
    assert compiled.load(NAME, make).answer() == 42
    assert leftover.exists()  # as far as this process knows, another one is at work there
    two_hours_ago = time.time() - 7200
    os.utime(leftover, (two_hours_ago, two_hours_ago))
    (cache / NAME).unlink()
    compiled.load(NAME, make)
    assert [p.name for p in cache.iterdir()] == [NAME]


def test_processes_that_make_it_at_once(library, cache):
    running = [start(PROCESS, LIBRARY=str(library), THEN="live") for _ in range(3)]
    said = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 3, said
    assert ("made\n", "") in said
    assert [p.name for p in cache.iterdir()] == [NAME]
    assert compiled.load(NAME, pytest.fail).answer() == 42
