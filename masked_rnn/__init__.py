"""GRU and LSTM for Keras 3 and TensorFlow that run the real steps of a masked sequence only.

`GRU` and `LSTM` take the place of `keras.layers.GRU` and `keras.layers.LSTM`; `gru` and `lstm`
are the same as functions; `masked_rnn.numpy` has them without TensorFlow.

Importing this package succeeds everywhere and imports neither TensorFlow nor Keras: a name is
looked up when it is first used, and one that needs TensorFlow raises an ImportError that says
what to do. Once both this package and TensorFlow are imported, in either order, the ops are
registered, and with Keras the layers, so that saved models load.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any, List

from masked_rnn import _register
from masked_rnn._version import __version__

if TYPE_CHECKING:
    from masked_rnn import numpy, reference
    from masked_rnn.fallback import FallbackWarning, explain
    from masked_rnn.layers import GRU, LSTM
    from masked_rnn.ops import gru, lstm

__all__ = [
    "GRU",
    "LSTM",
    "FallbackWarning",
    "__version__",
    "explain",
    "gru",
    "lstm",
    "numpy",
]

_HOME = {
    "GRU": "layers",
    "LSTM": "layers",
    "gru": "ops",
    "lstm": "ops",
    "explain": "fallback",
    "FallbackWarning": "fallback",
}
_SUBMODULES = ("numpy", "reference", "layers", "ops", "fallback")
_NEED_TENSORFLOW = ("layers", "ops")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        module, found = name, None
    elif name in _HOME:
        module, found = _HOME[name], name
    else:
        raise AttributeError(f"module 'masked_rnn' has no attribute {name!r}")
    if module in _NEED_TENSORFLOW:
        _register.require_tensorflow()
    value = importlib.import_module(f"masked_rnn.{module}")
    if found is not None:
        value = getattr(value, found)
        setattr(sys.modules[__name__], name, value)  # found at once the next time
    return value


def __dir__() -> List[str]:
    return sorted({*__all__, *_SUBMODULES})


_register.once_imported()
