"""Reads the numbers out of a pickled pandas data frame, without pandas and without running it.

A pickle can name any function and have it called. Here NumPy's three constructors are the only
ones that are real; pandas' classes become inert records, and every other name is refused.
"""

__all__ = ["read_frame_pickle"]

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.errors import DataError


class _Record:
    """Stands in for an object of pandas: keeps what it was made of and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Record":  # protocol 2 calls no __init__
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "utf-8")


_NUMPY = {
    ("multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_PYTHON = {
    ("builtins", "slice"): slice,
    ("__builtin__", "slice"): slice,
    ("_codecs", "encode"): _encode,  # how protocol 2 writes bytes
}
_PANDAS = (
    "BlockManager", "DataFrame", "Index", "Int64Index", "RangeIndex", "_new_Index",
    "_unpickle_block", "new_block", "StringArray", "StringDtype",
    "__pyx_unpickle_NDArrayBacked",
)  # fmt: skip


class _RestrictedUnpickler(pickle.Unpickler):
    """Finds NumPy's constructors and records; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        package, _, rest = module.partition(".")
        last = rest.rpartition(".")[2] or package
        if package == "numpy" and (last, name) in _NUMPY:
            return _NUMPY[last, name]
        if package == "pandas" and name in _PANDAS:
            return type(name, (_Record,), {})
        if (module, name) in _PYTHON:
            return _PYTHON[module, name]
        raise DataError(f"names {module}.{name}, which no table of numbers needs: not read")


def read_frame_pickle(path: Path) -> dict[str, np.ndarray]:
    """The columns of a pickled data frame of numbers, written by pandas 0.14 or later.

    Args:
        path: The file. It may have been written by Python 2, as the public archive's was.

    Returns:
        Column name -> float64 values (N,), in the frame's order.

    Raises:
        DataError: No such file, no pickle, a pickle of something else, or one that names anything
            but what a data frame is made of; nothing that it carries is run.
    """
    try:
        with open(path, "rb") as file:
            frame = _RestrictedUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except DataError as error:
        raise DataError(f"{path}: the pickle {error}") from error
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable pickle ({reason})") from error
    try:
        return _columns(frame)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: a pickle of something else than a data frame of numbers"
        ) from error


def _columns(frame: _Record) -> dict[str, np.ndarray]:
    """Columns from the blocks of equal type that pandas keeps a frame in."""
    manager = next(frame.state[key] for key in ("_mgr", "_data") if key in frame.state)
    if manager.state is not None:  # pandas 0.14 to 1.2: axes, values, items, and all that again
        whole = manager.state[3]["0.14.1"]
        axes = whole["axes"]
        blocks = [(block["values"], block["mgr_locs"]) for block in whole["blocks"]]
    else:
        records, axes = manager.args
        blocks = [record.args[:2] for record in records]
    names = [str(name) for name in _labels(axes[0])]
    columns: dict[int, np.ndarray] = {}
    for values, places in blocks:
        where = np.arange(len(names))[places]
        rows = np.asarray(values, dtype=np.float64).reshape(len(where), -1)
        columns |= dict(zip(where.tolist(), rows, strict=True))
    return {name: columns[i] for i, name in enumerate(names)}


def _labels(index: _Record) -> np.ndarray:
    """The names of an Index, ``_new_Index(cls, {"data": ...})``; of text in pandas 3."""
    data = index.args[1]["data"]
    if isinstance(data, _Record):
        data = next(item for item in data.state if isinstance(item, np.ndarray))
    return np.asarray(data).ravel()
