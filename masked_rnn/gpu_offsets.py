"""Where TensorFlow's published GPU builds keep an op's CUDA stream.

A row holds for the one build that it names. `python -m tests.stream_offsets` prints the row of the
TensorFlow that is installed.
"""

from typing import Dict, NamedTuple


class Build(NamedTuple):
    """A build of TensorFlow: all that the layout of its classes depends on."""

    version: str  # of tf.version
    git_version: str
    compiler_version: str
    flags: str  # of tf.sysconfig, for what is compiled against it
    cuda: str  # which CUDA it was built with
    machine: str


class Offsets(NamedTuple):
    """In bytes, in the order of `Offsets` in csrc/tensorflow/stream.cc."""

    params: int  # a pointer to its Params, in OpKernelContext
    op_device_context: int  # in Params, may be null
    device: int  # in Params
    device_info: int  # DeviceBase::tensorflow_accelerator_device_info, in the table of functions
    default_context: int  # in AcceleratorDeviceInfo
    stream: int  # DeviceContext::stream, in the table of functions
    implementation: int  # in Stream, of what has the next function; 0: the stream itself has it
    handle: int  # platform_specific_handle, in the table of functions


OFFSETS: Dict[Build, Offsets] = {}
