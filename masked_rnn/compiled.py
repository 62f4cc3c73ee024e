"""A library that is compiled on the machine where it is used: once, and kept in the cache."""

import ctypes
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Callable

from masked_rnn import cuda

_UNFINISHED = ".unfinished."
_HOUR = 3600  # older than this, what is unfinished was left by a process that was killed
_DIGEST_BYTES = hashlib.sha256().digest_size


def load(name: str, compile_to: Callable[[Path], None]) -> ctypes.CDLL:
    """The library `name` from the cache, made first where it is not there, or not whole.

    Several processes may do this at once, and be killed at any moment: a file appears whole, by
    renaming, and carries a checksum behind what the loader reads, so that one which was damaged
    later is made anew.

    Args:
        name: the file's name, with all in it that the library depends on.
        compile_to: makes the library at the path that it is given.

    Raises:
        OSError: it cannot be written or loaded. What `compile_to` raises passes through.
    """
    folder = _folder()
    if folder is not None:
        if not _is_whole(folder / name):
            _remove_leftovers(folder)
            _make(folder / name, compile_to)
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory(prefix="masked_rnn_") as temporary:
        made = Path(temporary, name)
        compile_to(made)
        return ctypes.CDLL(str(made))  # what is loaded needs no file any more


def _folder():
    """The folder of the kernels' cache, None where there is none or others can write to it."""
    name = cuda.cache_folder()
    if not name:
        return None
    folder = Path(name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _make(target, compile_to):
    with tempfile.TemporaryDirectory(prefix=f"{target.name}{_UNFINISHED}", dir=target.parent) as own:
        made = Path(own, target.name)
        compile_to(made)
        with made.open("ab") as file:
            file.write(hashlib.sha256(made.read_bytes()).digest())
        os.replace(made, target)


def _is_whole(library):
    try:
        content = library.read_bytes()
    except OSError:
        return False
    library_itself, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return hashlib.sha256(library_itself).digest() == digest


def _remove_leftovers(folder):
    for path in folder.glob(f"*.so{_UNFINISHED}*"):
        try:
            if path.stat().st_mtime < time.time() - _HOUR:
                shutil.rmtree(path)
        except OSError:
            pass  # another process removes it too
