"""Finds libmasked_rnn_tf.so, loads it into TensorFlow once, and says what to do when it cannot."""

import os
import threading

FILE_NAME = "libmasked_rnn_tf.so"
OLDEST_TENSORFLOW = (2, 16)

_lock = threading.Lock()
_library = None


def load():
    """The module of generated op functions: `masked_rnn` and `masked_rnn_grad`.

    The file lies next to this one; the environment variable MASKED_RNN_LIBRARY names another.

    Raises:
        ImportError: the library cannot be loaded; the sentence says what to do.
    """
    global _library
    if _library is None:
        with _lock:
            # A second load would register the ops twice, which ends the process.
            if _library is None:
                _library = _load()
    return _library


def path():
    """Where the library is looked for."""
    folder = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get("MASKED_RNN_LIBRARY") or os.path.join(folder, FILE_NAME)


def check_tensorflow():
    """Imports TensorFlow, and raises an ImportError that says what to do if that fails."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "masked_rnn's layers and ops need TensorFlow "
            f"{_dotted(OLDEST_TENSORFLOW)} or newer, which cannot be imported ({error}): "
            "pip install 'masked_rnn[cpu]' or 'masked_rnn[gpu]'."
        ) from error
    version = getattr(tf, "__version__", "0.0")
    numbers = tuple(int(n) if n.isdigit() else 0 for n in version.split(".")[:2])
    if numbers < OLDEST_TENSORFLOW:
        raise ImportError(
            f"masked_rnn needs TensorFlow {_dotted(OLDEST_TENSORFLOW)} or newer, this is "
            f"{version}: pip install --upgrade tensorflow-cpu (or tensorflow[and-cuda])."
        )
    return tf


def _load():
    tf = check_tensorflow()
    file = path()
    if os.environ.get("MASKED_RNN_LIBRARY"):
        origin = "MASKED_RNN_LIBRARY names a file that is"
        remedy = "correct the variable or unset it"
    else:
        origin = "masked_rnn's TensorFlow library is"
        remedy = "build it with 'make build' in a clone, or reinstall with 'pip install .'"
    if not os.path.isfile(file):
        raise ImportError(f"{origin} missing ({file}): {remedy}.")
    try:
        return tf.load_op_library(file)
    except Exception as error:  # NotFoundError, OSError, or what a later TensorFlow may raise
        raise ImportError(
            f"{origin} not loadable by TensorFlow {tf.__version__} on this machine ({file}: "
            f"{str(error).strip()}): it was built for another platform or TensorFlow, so build "
            "it here with 'pip install --no-cache-dir --force-reinstall --no-deps .' in a clone."
        ) from error


def _dotted(version):
    return ".".join(str(n) for n in version)
