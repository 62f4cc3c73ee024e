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
    cuda: str  # the version it was built with, unknown, or none
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


OFFSETS: Dict[Build, Offsets] = {
    Build(
        "2.16.1",
        "v2.16.1-0-g5bc9d26649c",
        "Ubuntu Clang 17.0.6 (++20231208085846+6009708b4367-1~exp1~20231208085949.74)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.3",
        "x86_64",
    ): Offsets(16, 208, 40, 24, 8, 24, 8, 40),
    Build(
        "2.16.2",
        "v2.16.1-19-g810f233968c",
        "Ubuntu Clang 17.0.6 (++20231208085846+6009708b4367-1~exp1~20231208085949.74)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.3",
        "x86_64",
    ): Offsets(16, 208, 40, 24, 8, 24, 8, 40),
    Build(
        "2.17.0",
        "v2.17.0-rc1-2-gad6d8cc177d",
        "Ubuntu Clang 17.0.6 (++20231208085846+6009708b4367-1~exp1~20231208085949.74)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.3",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.17.1",
        "v2.17.0-18-g3c92ac03cab",
        "Ubuntu Clang 17.0.6 (++20231208085846+6009708b4367-1~exp1~20231208085949.74)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.3",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.18.0",
        "v2.18.0-rc2-4-g6550e4bd802",
        "Ubuntu Clang 18.1.8 (++20240615103753+3b5b5c1ec4a3-1~exp1~20240615223858.136)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.18.1",
        "v2.18.0-14-gcb64295ec73",
        "Ubuntu Clang 18.1.8 (++20240615103753+3b5b5c1ec4a3-1~exp1~20240615223858.136)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.19.0",
        "v2.19.0-rc0-6-ge36baa30292",
        "Ubuntu Clang 18.1.8 (++20240731024944+3b5b5c1ec4a3-1~exp1~20240731145000.144)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.19.1",
        "v2.19.0-10-gf4247ebb6f9",
        "Ubuntu Clang 18.1.8 (++20240731024944+3b5b5c1ec4a3-1~exp1~20240731145000.144)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(16, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.20.0",
        "v2.20.0-rc0-4-g72fbba3d20f",
        "Ubuntu Clang 18.1.8 (++20240731024944+3b5b5c1ec4a3-1~exp1~20240731145000.144)",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(24, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.21.0",
        "v2.21.0-rc1-5-ga481b10260d",
        "Clang 18.1.8",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "12.5.1",
        "x86_64",
    ): Offsets(24, 216, 40, 24, 8, 24, 0, 16),
    Build(
        "2.22.0-rc0",
        "v1.12.1-145034-g160ece53b82",
        "Clang 18.1.8",
        "-D_GLIBCXX_USE_CXX11_ABI=1 --std=c++17 -DEIGEN_MAX_ALIGN_BYTES=64",
        "unknown",
        "x86_64",
    ): Offsets(24, 216, 40, 24, 8, 24, 0, 16),
}
