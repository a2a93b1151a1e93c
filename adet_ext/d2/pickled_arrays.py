"""Read numpy's arrays and numbers from a pickle without numpy's unpickling, which malformed states crash.

A pickle makes an object in two steps, creation and state. Stand-ins record both; :func:`as_arrays` then replaces
them by arrays.
"""

import pickle
import re
from typing import Any

import numpy as np

__all__ = ["NUMPY", "as_arrays", "encode_latin1"]


class _Dtype:
    """numpy.dtype of plain numbers."""

    def __init__(self, code: str = "", *flags: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def __call__(self) -> np.dtype:
        code = self.code.decode("latin1") if isinstance(self.code, bytes) else self.code
        if not re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|[?bBhHiIlLqQefd])", code) or self.order not in (
            "<",
            ">",
            "|",
            "=",
        ):
            raise pickle.UnpicklingError(f"arrays of {code!r:.40} are not loaded")
        return np.dtype(code).newbyteorder(self.order)


class _Array:
    """numpy.ndarray."""

    array: np.ndarray | None = None

    def __init__(self, *arguments: Any):
        pass  # numpy makes an empty one first

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's strings
        if not isinstance(dtype, _Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("the state of an array is malformed")
        flat = np.frombuffer(bytearray(data), dtype())
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind: Any, *arguments: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("only plain arrays are loaded")
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> np.generic:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("the state of a number is malformed")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype(), count=1)[0]


def encode_latin1(text: str, encoding: str) -> bytes:
    """Return the bytes of a string of Python 2, whose pickles also have arrays as strings."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """Return b"", as the oldest protocols write it."""
    if arguments:
        raise pickle.UnpicklingError("bytes of something are not loaded")
    return b""


NUMPY = {
    ("__builtin__", "bytes"): _empty_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (module, name): function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}


def as_arrays(tree: Any, _seen: dict[int, Any] | None = None) -> Any:
    """Replace the stand-ins in dictionaries, lists and tuples by arrays, and return the whole."""
    seen = {} if _seen is None else _seen
    if isinstance(tree, _Array):
        return tree.array
    if not isinstance(tree, (dict, list, tuple)):
        return tree
    if id(tree) in seen:
        return seen[id(tree)]
    seen[id(tree)] = tree
    if isinstance(tree, tuple):
        items = [as_arrays(item, seen) for item in tree]
        return tuple(items) if type(tree) is tuple else tree
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        tree[key] = as_arrays(value, seen)
    return tree
