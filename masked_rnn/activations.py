"""Which activations the fused kernels know, by name and by the callables people pass.

A kernel evaluates an activation element by element inside its time loop, so it must know the
function beforehand: every elementwise function of `keras.activations`, at its default arguments.
The same function also goes by other names, `tf.nn.relu` or `keras.ops.tanh`; those are fused too.
What is not in the table is custom: a lambda, a partial, a softmax (it mixes units), or an alias
whose default differs (`keras.ops.gelu` approximates, `keras.activations.gelu` does not).
"""

import functools
import sys
from typing import Any, Callable, Optional, Union

# The names that the kernels understand, all defined as in `keras.activations`.
NAMES = (
    "tanh",
    "sigmoid",
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "softplus",
    "softsign",
    "silu",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "exponential",
    "mish",
    "log_sigmoid",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "tanh_shrink",
    "soft_shrink",
    "hard_shrink",
)

_OTHER_NAMES = {"swish": "silu", "hard_swish": "hard_silu"}

# Path below `tensorflow` -> name. Their defaults are those of keras.activations.
_TENSORFLOW = {
    "identity": "linear",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "exp": "exponential",
    "nn.tanh": "tanh",
    "nn.sigmoid": "sigmoid",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.leaky_relu": "leaky_relu",
    "nn.elu": "elu",
    "nn.selu": "selu",
    "nn.gelu": "gelu",
    "nn.softplus": "softplus",
    "nn.softsign": "softsign",
    "nn.silu": "silu",
    "nn.swish": "silu",
    "math.tanh": "tanh",
    "math.sigmoid": "sigmoid",
    "math.exp": "exponential",
    "math.softplus": "softplus",
    "math.log_sigmoid": "log_sigmoid",
}

# Name below `keras.ops` -> name.
_KERAS_OPS = {
    name: name for name in NAMES if name not in ("gelu", "linear", "exponential", "mish")
}
_KERAS_OPS.update(exp="exponential", swish="silu", hard_swish="hard_silu")


def fused_name(activation: Union[None, str, Callable[..., Any]]) -> Optional[str]:
    """The kernels' name of `activation`, or None where they do not have it.

    Args:
        activation: None (linear), a name, or a callable.
    """
    if activation is None:
        return "linear"
    if isinstance(activation, str):
        name = _OTHER_NAMES.get(activation, activation)
        return name if name in NAMES else None
    try:
        return _callables("keras" in sys.modules).get(activation)
    except TypeError:  # a callable without a hash
        return None


@functools.lru_cache(maxsize=2)
def _callables(with_keras):
    """Callable -> name. Keras is left out until somebody has imported it."""
    import tensorflow as tf

    table = {}

    def add(root, paths):
        for path, name in paths.items():
            found = root
            for part in path.split("."):
                found = getattr(found, part, None)
            if found is not None:
                table[found] = name

    add(tf, _TENSORFLOW)
    if with_keras:
        import keras

        add(keras.activations, {name: name for name in NAMES})
        add(keras.activations, _OTHER_NAMES)
        add(keras.ops, _KERAS_OPS)
    return table
