"""Whether XLA compiles what is being traced: the op has no XLA kernel."""

import tensorflow as tf

try:
    # There is no public way.
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:  # pragma: no cover

    def GraphOrParentsInXlaContext(graph):
        return False


REASON = "it is being compiled by XLA (jit_compile=True), which has no kernel for it"


def compiles() -> bool:
    """Whether the function being traced has jit_compile=True, or one round it."""
    if tf.executing_eagerly():
        return False
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
