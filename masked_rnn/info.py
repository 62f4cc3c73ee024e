"""What `python -m masked_rnn info` says."""

import importlib
import platform
from typing import Any, Dict

from masked_rnn._version import __version__


def collect() -> Dict[str, Any]:
    """Versions, libraries and devices as plain data; never raises over what is missing."""
    found: Dict[str, Any] = {
        "masked_rnn": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("numpy", "tensorflow", "keras"):
        found[name] = _version(name)
    found["core"] = _core()
    found["library"] = _library()
    found["gpu"] = _gpu()
    found["cache"] = _cache()
    found["usable"] = found["library"]["error"] is None and found["core"]["error"] is None
    return found


def shown(found: Dict[str, Any]) -> str:
    """`collect`'s answer as lines for people."""
    core, library, gpu = found["core"], found["library"], found["gpu"]
    lines = [
        ("masked_rnn", found["masked_rnn"]),
        ("Python", f"{found['python']} on {found['machine']}"),
        ("NumPy", found["numpy"] or "missing"),
        ("TensorFlow", found["tensorflow"] or "missing"),
        ("Keras", found["keras"] or "missing"),
        ("core", core["error"] or f"{core['isa']}, {core['threads']} threads"),
        ("library", library["error"] or library["path"]),
        ("GPU", ", ".join(gpu["devices"]) if gpu["devices"] else "none seen by TensorFlow"),
        ("", gpu["use"]),
        ("cache", found["cache"] or "none: nothing that is compiled for a GPU is kept"),
        ("", "The layers can be used." if found["usable"] else "The layers cannot be used."),
    ]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title.ljust(width)}  {text}".rstrip() for title, text in lines if text)


def _version(name):
    try:
        return getattr(importlib.import_module(name), "__version__", "unknown")
    except Exception:  # noqa: BLE001
        # A broken installation raises anything; `_library` says why.
        return None


def _core():
    try:
        from masked_rnn import _core

        return {"isa": _core.isa(), "threads": _core.threads(), "error": None}
    except Exception as error:  # noqa: BLE001
        return {"isa": None, "threads": None, "error": str(error)}


def _library():
    from masked_rnn import _register, library

    path = library.path()
    try:
        _register.require_tensorflow()
        library.load()
    except Exception as error:  # noqa: BLE001
        return {"path": path, "error": str(error)}
    return {"path": path, "error": None}


def _cache():
    try:
        from masked_rnn import cuda

        return cuda.cache_folder() or None
    except Exception:  # noqa: BLE001
        return None  # `_core` says why


def _gpu():
    try:
        import tensorflow as tf

        from masked_rnn import cuda

        devices = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(d) for d in devices]
        reason = cuda.unusable_because()
    except Exception:  # noqa: BLE001
        return {"devices": [], "use": "not used"}
    if not devices:
        use = "not used: the layers compute on the CPU"
    else:
        use = f"not used: {reason}" if reason else "used by the layers"
    return {"devices": [d.get("device_name", "GPU") for d in details], "use": use}
