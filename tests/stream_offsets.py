"""Where the TensorFlow that is installed keeps an op's CUDA stream.

    python -m tests.stream_offsets

prints its row for masked_rnn/gpu_offsets.py, and fails where the table says otherwise of this
version. gpu_stream.cc is compiled with TensorFlow's headers (this needs g++) and called on memory
that stands for an op's context; what TF_GetStream reads there shows that the library agrees.
"""

import ctypes
import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from masked_rnn import gpu, gpu_offsets
from masked_rnn.gpu_offsets import Offsets

WORDS = 64  # of an object, and functions of a class: more than anything has that is read
BYTES = ctypes.sizeof(ctypes.c_void_p)
HANDLES = 0x5EED0, 0x1230
METHOD = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def probe() -> Offsets:
    """The offsets that gpu_stream.cc goes by.

    Raises:
        AssertionError: it goes another way, or the library reads something else.
    """
    shim = finder(gpu.loaded_shim().masked_rnn_stream_of)
    found = _read_by(shim)
    assert found.handle, "the stream was not asked for its handle, or not as a pointer is"
    check(shim, found)
    library = ctypes.CDLL(str(Path(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2")))
    library.TF_NewStatus.restype = ctypes.c_void_p
    status = ctypes.c_void_p(library.TF_NewStatus())
    in_library = _read_by(lambda context: finder(library.TF_GetStream)(context, status))
    library.TF_DeleteStatus(status)
    assert in_library == found._replace(implementation=0, handle=0), (in_library, found)
    return found


def check(find, offsets: Offsets) -> None:
    """Sees that `find` finds a stream that lies at these offsets, and null where there is none."""
    for by_device in (False, True):
        for handle in (*HANDLES, None):
            assert Context(offsets, handle, by_device).stream(find) == handle
    assert Context(offsets, None, None).stream(find) is None


def finder(function):
    """The C function from contexts to streams, with its types."""
    function.restype = ctypes.c_void_p
    return lambda context, *more: function(ctypes.c_void_p(context), *more)


class Context:
    """An op's context with a stream at these offsets; all else in it is null.

    The device context is the op's own or, `by_device`, the device's; None: there is none.
    """

    def __init__(self, offsets, handle, by_device):
        self._kept = []
        stream = None
        if handle is not None:
            stream = self._make({}, offsets.handle, handle)
            if offsets.implementation:
                stream = self._make({offsets.implementation: stream})
        context = self._make({}, offsets.stream, stream)
        info = self._make({offsets.default_context: context}) if by_device else None
        params = {offsets.device: self._make({}, offsets.device_info, info)}
        if by_device is False:
            params[offsets.op_device_context] = context
        self._address = self._make({offsets.params: self._make(params)})

    def stream(self, find):
        """What `find` finds here."""
        return find(self._address)

    def _make(self, pointers, function=None, result=None):
        """The address of an object with these pointers, and with a virtual function."""
        words = np.zeros(WORDS, np.uintp)
        for offset, pointer in pointers.items():
            words[offset // BYTES] = pointer
        if function is not None:
            method = METHOD(lambda this: result)
            table = np.zeros(WORDS, np.uintp)
            table[function // BYTES] = _address(method)
            words[0] = table.ctypes.data
            self._kept += [method, table]
        self._kept.append(words)
        return words.ctypes.data


class Maze:
    """Memory that can be read as an op's context wherever things lie, and notes the calls.

    Each word of the context points to Params of its own, each word of those to an object of its
    own, and so on, and all objects have the same functions. So the object on which a function is
    called says which words led there.
    """

    def __init__(self, null_in_params=None):
        """With a null where an op has its device context, the device is asked for one."""
        self._kept, self._calls, self._offsets = [], {}, {}
        self._methods = [METHOD(functools.partial(self._called, n)) for n in range(WORDS)]
        self._table = np.array([_address(method) for method in self._methods], np.uintp)
        params = self._objects("params", WORDS, WORDS)  # devices, or device contexts
        self._info = self._objects("info", WORDS)  # device contexts
        implementations = self._objects("stream", WORDS)
        # TF_GetStream takes its address for a bool too, so the low byte must not be zero.
        words = np.zeros(WORDS + 1, np.uintp)
        self._stream = words[words.ctypes.data % 256 == 0 :][:WORDS]
        self._stream[:] = implementations
        self._stream[0] = self._table.ctypes.data  # it may have the last function itself
        self._offsets[self._stream.ctypes.data] = "stream", 0
        self._asks_device = null_in_params is not None
        if self._asks_device:
            params[:, null_in_params // BYTES] = 0
        self._context = _addresses(params)
        self._kept.append(params)

    def calls(self, find):
        """{what was read last: [(offset of the function, *offsets that led to its object)]}"""
        self._calls.clear()
        find(self._context.ctypes.data)
        return self._calls

    def _objects(self, name, *shape):
        """Addresses of objects, in the shape of the words that point to them."""
        objects = np.full((*shape, WORDS), self._table.ctypes.data, np.uintp)
        self._kept.append(objects)
        found = _addresses(objects)
        for index, address in np.ndenumerate(found):
            self._offsets[int(address)] = name, *(BYTES * n for n in index)
        return found

    def _called(self, number, address):
        name, *offsets = self._offsets[address]
        self._calls.setdefault(name, []).append((BYTES * number, *offsets))
        if name == "stream":
            return HANDLES[0]
        return (self._info if name == "params" and self._asks_device else self._stream).ctypes.data


def _read_by(find):
    """The offsets that `find` goes by; zeros for those of the handle if it asks for none."""
    calls = Maze().calls(find)
    stream, params, op_device_context = calls["params"][-1]
    handle, implementation = calls["stream"][-1] if "stream" in calls else (0, 0)
    asking = Maze(null_in_params=op_device_context).calls(find)
    device_info, params_again, device = asking["params"][0]
    stream_again, default_context = asking["info"][-1]
    assert (params_again, stream_again) == (params, stream)
    return Offsets(
        params, op_device_context, device, device_info, default_context, stream, implementation,
        handle,
    )  # fmt: skip


def _addresses(objects):
    """Of the objects in an array whose last axis is an object's words."""
    numbers = np.arange(objects[..., 0].size, dtype=np.uintp).reshape(objects.shape[:-1])
    return np.uintp(objects.ctypes.data) + numbers * np.uintp(objects.shape[-1] * BYTES)


def _address(method):
    return ctypes.cast(method, ctypes.c_void_p).value


def others_in_table(build, found):
    """What the table says otherwise of this version, of whichever build: none should differ."""
    return [
        offsets
        for row, offsets in gpu_offsets.OFFSETS.items()
        if (row.version, row.machine) == (build.version, build.machine) and offsets != found
    ]


def main():
    build, found = gpu.build(), probe()
    print("    Build(", *(f'        "{value}",' for value in build), sep="\n")
    print(f"    ): Offsets{tuple(found)},")
    if others := others_in_table(build, found):
        sys.exit(f"masked_rnn/gpu_offsets.py says of this version: {others}")
    print("in the table" if build in gpu_offsets.OFFSETS else "not in the table")


if __name__ == "__main__":
    main()
