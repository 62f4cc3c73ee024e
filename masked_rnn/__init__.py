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
    from masked_rnn import convert, numpy, reference
    from masked_rnn.acceleration import accelerate, to_keras
    from masked_rnn.bidirectional import Bidirectional
    from masked_rnn.dynamic import bidirectional_dynamic_rnn, dynamic_rnn
    from masked_rnn.fallback import FallbackWarning, explain
    from masked_rnn.layers import GRU, LSTM, SimpleRNN
    from masked_rnn.ops import gru, lstm
    from masked_rnn.rnn import RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "FallbackWarning",
    "SimpleRNN",
    "__version__",
    "accelerate",
    "bidirectional_dynamic_rnn",
    "convert",
    "dynamic_rnn",
    "explain",
    "gru",
    "lstm",
    "numpy",
    "to_keras",
]

# A module must not be called as a name in it: importing it would hide the name.
_HOME = {
    "GRU": "layers",
    "LSTM": "layers",
    "SimpleRNN": "layers",
    "RNN": "rnn",
    "Bidirectional": "bidirectional",
    "accelerate": "acceleration",
    "dynamic_rnn": "dynamic",
    "bidirectional_dynamic_rnn": "dynamic",
    "to_keras": "acceleration",
    "gru": "ops",
    "lstm": "ops",
    "explain": "fallback",
    "FallbackWarning": "fallback",
}
_SUBMODULES = (
    "numpy", "reference", "convert", "layers", "rnn", "bidirectional", "ops", "fallback"
)  # fmt: skip
_NEED_TENSORFLOW = ("layers", "rnn", "bidirectional", "acceleration", "dynamic", "ops")


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
