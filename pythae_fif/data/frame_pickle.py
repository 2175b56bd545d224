"""Reads the numbers of a pickled pandas data frame without running the pickle.

A pickle is a program. Here placeholders replace all classes and functions that it names: none of
them is imported or called. Arrays are made from bytes after their type was checked.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.errors import DataError, format_error


class _Record:
    """Placeholder for a class or function that the file names; stores its arguments and state."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> "_Record":
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """Unpickler that makes a placeholder of every class and function.

    The standard one, in C, would allocate memory for any index that a file names.
    """

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Record,), {})


def read_frame_pickle(path: Path) -> dict[str, np.ndarray]:
    """Reads the columns of a data frame of numbers that pandas before 1.1 has pickled.

    Returns:
        Name -> float64 values, (N,).

    Raises:
        DataError: The file is not such a data frame.
    """
    try:
        with path.open("rb") as file:
            frame: Any = _Unpickler(file, encoding="latin1").load()
        return _read_columns(frame)
    except Exception as error:  # a wrong file breaks the reading anywhere, with any error
        raise DataError(
            f"{path}: not a pickled data frame of numbers ({format_error(error)})"
        ) from error


def _read_columns(frame: Any) -> dict[str, np.ndarray]:
    """Returns the columns of a data frame's placeholder; any error if the file is different."""
    content = frame.state["_data"].state[3]["0.14.1"]
    names = content["axes"][0].args[1]["data"].state[4]
    columns: dict[int, np.ndarray] = {}
    for block in content["blocks"]:  # columns of equal type
        locations = block["mgr_locs"]
        is_slice = type(locations).__name__ == "slice"
        selection = slice(*locations.args) if is_slice else _read_array(locations)
        indices = np.arange(len(names))[selection]
        columns_of_block = _read_array(block["values"]).astype(np.float64, copy=False)
        columns |= dict(zip(indices.tolist(), columns_of_block, strict=True))
    return {name: columns[index] for index, name in enumerate(names)}


def _read_array(record: Any) -> np.ndarray:
    """Returns an array of numbers; any error if its type and shape do not fit the bytes."""
    _, shape, dtype_record, is_fortran, content = record.state
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin1")

    code = dtype_record.args[0]
    if code[0] not in "iuf":
        raise TypeError("the array does not hold numbers")

    dtype: np.dtype[Any] = np.dtype(code).newbyteorder(dtype_record.state[1])
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
