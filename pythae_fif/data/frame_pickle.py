"""Reads the numbers out of a pickled pandas data frame, without running it.

A pickle is a program. Here records stand in for all that it names: nothing of it is imported or
called, and an array is made of bytes whose type and size were checked.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.errors import DataError, format_error


class _Record:
    """Stands in for a class or function that the file names; keeps what it is called with."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> "_Record":
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):  # the one in C allocates for any index that a file names
    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Record,), {})


def read_frame_pickle(path: Path) -> dict[str, np.ndarray]:
    """The columns (N,) of a data frame of numbers pickled by pandas before 1.1, or a DataError."""
    try:
        with path.open("rb") as file:
            frame: Any = _Unpickler(file, encoding="latin1").load()
        whole = frame.state["_data"].state[3]["0.14.1"]
        names = whole["axes"][0].args[1]["data"].state[4]
        columns: dict[int, np.ndarray] = {}
        for block in whole["blocks"]:  # columns of equal type
            places = block["mgr_locs"]
            at = slice(*places.args) if type(places).__name__ == "slice" else _array(places)
            where = np.arange(len(names))[at]
            rows = _array(block["values"]).astype(np.float64, copy=False)
            columns |= dict(zip(where.tolist(), rows, strict=True))
        return {name: columns[i] for i, name in enumerate(names)}
    except Exception as error:  # its texts and numbers may be none, its stack empty, and more
        raise DataError(
            f"{path}: no pickled data frame of numbers ({format_error(error)})"
        ) from error


def _array(record: Any) -> np.ndarray:
    """The numbers of an array, from bytes of as many as its type and shape need."""
    _, shape, kind, fortran, content = record.state
    if isinstance(content, _Record):  # how protocol 2 of Python 3 writes bytes
        content = content.args[0]
    content = content.encode("latin1") if isinstance(content, str) else content
    code, order = kind.args[0], kind.state[1]
    if not isinstance(code, str) or code[0] not in "iuf" or not isinstance(content, bytes):
        raise TypeError("an array of no numbers")
    dtype: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    if min(shape) < 0 or dtype.itemsize * math.prod(shape) != len(content):
        raise ValueError("an array of another size")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
