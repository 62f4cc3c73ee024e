"""TensorFlow in a forked process: an error that says what to do, where TensorFlow would hang.

A child of fork() has none of its parent's threads. If TensorFlow was running in the parent, its
runtime in the child gives work to threads that are not there, and waits for ever.
"""

import os
import weakref
from typing import Any

try:  # Not public, but the only way to ask whether TensorFlow's runtime has started.
    from tensorflow.python.eager.context import context_safe
except ImportError:  # pragma: no cover

    def context_safe():
        return None


_tensorflow_is_lost = False
_models: weakref.WeakSet = weakref.WeakSet()


def check() -> None:
    """Raises RuntimeError in a child of fork() whose parent had used TensorFlow."""
    if _tensorflow_is_lost:
        raise RuntimeError(
            "TensorFlow was used before this process was forked, and hangs in it. Start the "
            'process with multiprocessing.get_context("spawn"), or fork before TensorFlow is first '
            "used (importing it is no use). masked_rnn.numpy works in this process too."
        )


def remember(model: Any) -> None:
    """Has `model` trace its functions anew in such a child, so that `fit` too comes to `check`."""
    _models.add(model)


def _look():
    global _tensorflow_is_lost
    context = context_safe()
    if context is None or not context._initialized:
        return
    _tensorflow_is_lost = True
    for model in list(_models):
        for function in ("train_function", "test_function", "predict_function"):
            if getattr(model, function, None) is not None:
                setattr(model, function, None)


os.register_at_fork(after_in_child=_look)
