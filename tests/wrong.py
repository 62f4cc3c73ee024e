"""Values that an argument should not have, or may have in a form that few people use.

`spoiled` draws one in place of a right array. What a call may do with it: give the result that
the plain array of the same numbers gives, or raise.
"""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

HUGE = 2**40

_DTYPES = (
    "bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64",
    "longdouble", "complex64", "complex128", "object", "U8", "S8", "M8[s]", "m8[s]", "V8",
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, [("x", "f4"), ("y", "i4")],
)  # fmt: skip


class Raises:
    """An array to every protocol, until it is read."""

    shape = (2, 2)
    dtype = np.dtype("float32")

    def __array__(self, *_, **__):
        raise TypeError("no array today")

    def __dlpack__(self, *_, **__):
        raise BufferError("no DLPack today")

    def __dlpack_device__(self):
        return (2, 0)  # a GPU


def _deep(depth=70):
    nested = [1.0]
    for _ in range(depth):
        nested = [nested]
    return nested


_OBJECTS = (
    None, "", "mask", "\0", "\udcff", b"\xff", 0, 1, -1, 2.5, float("nan"), 3j, True, 2**70, HUGE,
    -HUGE, [], (), {}, {"a": 1}, {1, 2}, [None], [[1.0, 2.0], [3.0]], ["a"], [object()], _deep(),
    object(), Ellipsis, slice(None), range(3), iter([1.0]), abs, np.ndarray, Raises(), Raises,
    np.float32(1), np.int64(3), np.bool_(True), np.datetime64("2020-01-01"), memoryview(b"abcd"),
    np.zeros(0, np.float32), np.array(None), np.array("text"), np.random.default_rng(0),
)  # fmt: skip


def cast(array, dtype):
    """`array` in a dtype, where its numbers say nothing to it just an array of its shape."""
    try:
        with np.errstate(all="ignore"):
            return array.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(array.shape, dtype)


def misaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)
    moved = room[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def _every_second(array):
    room = np.empty(tuple(2 * n for n in array.shape), array.dtype)
    view = room[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _reversed(array):
    backwards = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[backwards])[backwards]


def _read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _window(array):
    """A view whose rows overlap in memory."""
    flat = np.zeros(array.size + 8, array.dtype)
    return np.lib.stride_tricks.as_strided(flat, array.shape, (flat.itemsize,) * array.ndim)


# The same numbers (but for _window and stride 0), laid out otherwise.
LAYOUTS = {
    "fortran": np.asfortranarray,
    "negative strides": _reversed,
    "every second": _every_second,
    "read-only": _read_only,
    "misaligned": misaligned,
    "overlapping": _window,
    "stride 0": lambda a: np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim), a.shape)
    if a.size else a,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "matrix": lambda a: np.ascontiguousarray(a.reshape(-1, a.shape[-1] if a.ndim else 1)).view(
        np.matrix
    ) if a.size else a,
    "recarray": lambda a: a.view(np.recarray),
    "masked array": np.ma.masked_array,
    "nested lists": lambda a: a.tolist(),
    "tuple of arrays": tuple,
}  # fmt: skip

# Of another shape.
SHAPES = {
    "one axis less": lambda a: a[0],
    "no axis": lambda a: a.ravel()[0] if a.size else a,
    "an axis before": lambda a: a[None],
    "an axis behind": lambda a: a[..., None],
    "flat": np.ravel,
    "transposed": lambda a: a.T,
    "first longer": lambda a: np.concatenate([a, a[:1]]),
    "first shorter": lambda a: a[1:],
    "first is one": lambda a: a[:1],
    "first is zero": lambda a: a[:0],
    "last longer": lambda a: np.concatenate([a, a[..., :1]], -1),
    "last is one": lambda a: a[..., :1],
    "last is zero": lambda a: a[..., :0],
    "middle is one": lambda a: a[:, :1],
    "middle is zero": lambda a: a[:, :0],
    "twice": lambda a: np.concatenate([a, a], -1),
    "huge": lambda a: np.broadcast_to(np.zeros((), a.dtype), (HUGE, *a.shape[1:])),
    "huge and empty": lambda a: np.empty((HUGE, 0, *a.shape[2:]), a.dtype),
}

# Of other numbers.
NUMBERS = {
    "nan": lambda a: np.full(a.shape, np.nan, a.dtype if a.dtype.kind not in "biu" else "f4"),
    "infinite": lambda a: np.full(a.shape, np.inf, a.dtype if a.dtype.kind not in "biu" else "f4"),
    "negative": lambda a: cast(-1 - np.abs(cast(a, "f8")), a.dtype),
    "two": lambda a: np.full(a.shape, 2, np.int8),
    "half": lambda a: np.full(a.shape, 0.5, np.float16),
    "more than 2^31": lambda a: np.full(a.shape, 2**31 + 1, np.int64),
    "most uint64": lambda a: np.full(a.shape, 2**64 - 1, np.uint64),
}


def spoiled(right):
    """A strategy of things in place of the array `right`."""

    def applied(change):
        try:
            return change(right)
        except (IndexError, ValueError, TypeError):  # the change needs another rank or size
            return right[None]

    changes = [*LAYOUTS.values(), *SHAPES.values(), *NUMBERS.values()]
    return st.one_of(
        st.sampled_from(changes).map(applied),
        st.sampled_from(_DTYPES).map(lambda dtype: cast(right, dtype)),
        st.sampled_from(_OBJECTS),
    )


FLAGS = st.sampled_from(
    (True, False, 0, 1, 2, -1, None, "no", "", b"", 0.5, [], [1, 2], (), {}, np.bool_(True),
     np.array([True, False]), np.array(True), object(), float("nan"), "\0")
)  # fmt: skip
NAMES = st.sampled_from(
    ("tanh", "relu", None, "", "Tanh", " tanh", "tanh\0", "tanh\0x", "softmax", "\udcff", "ü", b"tanh", 3,
     2.5, [], ["tanh"], {}, {"a": 1}, abs, object(), np.str_("tanh"), "x" * 100000, True)
)  # fmt: skip
