"""Reads the numbers out of a pickled pandas data frame, without pandas and without running it.

A pickle is a program: it names functions and has them called, and even NumPy's own constructors
follow pointers that the file chose. Here records stand in for all that it names: nothing of it is
imported or called, and an array is made of bytes whose type and size were checked.
"""

__all__ = ["read_frame_pickle"]

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.errors import DataError, one_line

_NUMPY = {"_reconstruct", "ndarray", "dtype"}
_PYTHON = {"builtins.slice", "__builtin__.slice", "_codecs.encode"}
_PANDAS = {"BlockManager", "DataFrame", "Index", "Int64Index", "RangeIndex", "_new_Index"}
_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, EOFError,
    pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What a damaged pickle raises: its texts and numbers may be none, its stack empty."""


class _Record:
    """Stands in for a class or function that the file names; keeps what it is called with."""

    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> "_Record":
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def name(self) -> str:
        return type(self).__name__


class _Unpickler(pickle._Unpickler):  # the one in C allocates for any index that a file names
    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        known = (package == "numpy" and name in _NUMPY) or (package == "pandas" and name in _PANDAS)
        if not known and f"{module}.{name}" not in _PYTHON:
            raise DataError(
                f"names {module}.{name}, which the published table does not need: not read"
            )
        return type(name, (_Record,), {})


def read_frame_pickle(path: Path) -> dict[str, np.ndarray]:
    """The columns of a pickled data frame of numbers, as pandas wrote it before 1.1.

    Args:
        path: The file. It may have been written by Python 2, as the public archive's was.

    Returns:
        Column name -> float64 values (N,), in the frame's order.

    Raises:
        DataError: No such file, no pickle, a pickle of something else, or one that names anything
            but what a data frame is made of; nothing that it carries is run.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        frame = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: the pickle {error}") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: not a readable pickle ({one_line(error)})") from error
    try:
        return _columns(frame, len(content))
    except _DAMAGE as error:
        raise DataError(
            f"{path}: a pickle of something else than a data frame of numbers of pandas before 1.1"
        ) from error


def _columns(frame: Any, most: int) -> dict[str, np.ndarray]:
    """Columns from the blocks of equal type that pandas keeps a frame in, of `most` values."""
    whole = frame.state["_data"].state[3]["0.14.1"]
    names = _labels(whole["axes"][0])
    columns: dict[int, np.ndarray] = {}
    for block in whole["blocks"]:
        values, places = _array(block["values"]), block["mgr_locs"]
        most -= values.size
        if most < 0:
            raise ValueError("one block stands for many")
        at = slice(*places.args) if places.name == "slice" else _array(places)
        where = np.arange(len(names))[at]
        rows = values.astype(np.float64, copy=False).reshape(len(where), -1)
        columns |= dict(zip(where.tolist(), rows, strict=True))
    return {name: columns[i] for i, name in enumerate(names)}


def _array(record: Any) -> np.ndarray:
    """The numbers of an array, from bytes of as many as its type and shape need."""
    _, shape, kind, fortran, content = _state_of(record)
    if isinstance(content, _Record):  # how protocol 2 of Python 3 writes bytes
        content = content.args[0]
    if isinstance(content, str):
        content = content.encode("latin1")
    dtype = _dtype(kind)
    sides = [int(side) for side in _typed(shape, tuple)]
    if min(sides, default=0) < 0 or dtype.itemsize * math.prod(sides) != len(content):
        raise ValueError("an array of another size")
    return np.frombuffer(content, dtype).reshape(sides, order="F" if fortran else "C")


def _state_of(record: Any) -> tuple[Any, ...]:
    if record.name != "_reconstruct":
        raise TypeError(f"{record.name} is no array")
    return _typed(record.state, tuple)  # type: ignore[no-any-return]


def _dtype(record: Any) -> np.dtype[Any]:
    """Of integers and floats alone; the order of bytes stands in the state."""
    if record.name != "dtype" or record.args[0][0] not in "iuf":
        raise TypeError("no type of numbers")
    order: Any = record.state[1] if record.state else "="
    kind: np.dtype[Any] = np.dtype(_typed(record.args[0], str))
    return kind.newbyteorder(order)


def _labels(index: Any) -> list[str]:
    """The names of an Index, ``_new_Index(cls, {"data": ...})``."""
    data = index.args[1]["data"]
    names = _state_of(data)[4]
    if isinstance(names, list):
        return [_typed(name, str) for name in names]
    return [str(name) for name in _array(data).ravel()]


def _typed(value: Any, wanted: Any) -> Any:
    if not isinstance(value, wanted):
        raise TypeError(f"a {type(value).__name__} stands where another type belongs")
    return value
