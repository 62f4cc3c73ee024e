"""Registers ops and layers as soon as this package, TensorFlow and Keras are all imported.

A saved model names its ops and layers; to load it they must be registered, though nobody has
asked for a name of this package. What is imported already is seen at once, what comes later by a
finder on `sys.meta_path`, which runs a function after the module has been executed.
"""

import importlib
import importlib.abc
import os
import sys

_WATCHED = ("tensorflow", "keras")
_WITH_LAYERS = ("layers", "rnn", "bidirectional")
OLDEST_KERAS = (3, 8)  # the first that draws a dropout mask per gate


def once_imported():
    """Registers now what can be registered, and the rest when it is imported."""
    if not _ready("tensorflow") or not _ready("keras"):
        sys.meta_path.insert(0, _Finder())
    _register()


def require_tensorflow():
    """Raises an ImportError that says what to do unless the names built on TensorFlow can work."""
    # Asked first, as importing Keras with another backend would take its time for nothing.
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        backend = _keras_backend(sys.modules["keras"])
    if backend != "tensorflow":
        raise ImportError(_other_backend(backend))
    from masked_rnn import library

    library.check_tensorflow()
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            f"masked_rnn's layers need Keras {_dotted(OLDEST_KERAS)} or newer, which cannot be "
            f"imported ({error}): pip install --upgrade keras."
        ) from error
    version = getattr(keras, "__version__", "0.0")
    if tuple(int(n) if n.isdigit() else 0 for n in version.split(".")[:2]) < OLDEST_KERAS:
        raise ImportError(
            f"masked_rnn needs Keras {_dotted(OLDEST_KERAS)} or newer, this is {version}: "
            "pip install --upgrade keras."
        )
    backend = _keras_backend(keras)
    if backend != "tensorflow":
        raise ImportError(_other_backend(backend))


def _other_backend(backend):
    return (
        f"masked_rnn's layers and ops need Keras's TensorFlow backend, this process uses "
        f"{backend!r}: set the environment variable KERAS_BACKEND=tensorflow (or \"backend\" in "
        "~/.keras/keras.json) before Keras is imported; masked_rnn.numpy needs no backend."
    )


def _dotted(version):
    return ".".join(str(n) for n in version)


def _keras_backend(keras):
    try:
        return keras.config.backend()
    except AttributeError:  # Keras is still being imported, or is a Keras 2
        return "tensorflow"


def _register():
    """Imports what registers itself. TensorFlow and Keras import each other: each is used only
    when its own import is over."""
    try:
        if _ready("tensorflow"):
            importlib.import_module("masked_rnn.ops")
            if _ready("keras") and _keras_backend(sys.modules["keras"]) == "tensorflow":
                require_tensorflow()
                for name in _WITH_LAYERS:
                    importlib.import_module(f"masked_rnn.{name}")
    except Exception:  # noqa: BLE001
        # Not here: `import tensorflow` must not fail because of this package. The first use of
        # a name says what is wrong.
        pass


def _ready(name):
    module = sys.modules.get(name)
    if module is None or name in _Finder.being_imported:
        return False
    spec = getattr(module, "__spec__", None)
    finished = name in _Finder.finished
    return finished or not getattr(spec, "_initializing", False)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: has the other finders' loader call `_register` at the end."""

    being_imported = set()
    finished = set()

    def find_spec(self, name, path=None, target=None):
        if name not in _WATCHED or name in self.being_imported:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    self._follow(name, spec.loader)
                return spec
        return None

    def _follow(self, name, loader):
        exec_module = loader.exec_module

        def exec_module_and_register(module):
            del loader.exec_module  # the instance's, which hides its class's
            self.being_imported.add(name)
            try:
                exec_module(module)
            finally:
                self.being_imported.discard(name)
            self.finished.add(name)
            _register()
            if all(n in self.finished for n in _WATCHED) and self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = exec_module_and_register
