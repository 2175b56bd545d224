"""A user's table of numbers from a file, checked; wrong files give one line."""

__all__ = ["check_finite", "read_npy", "read_table"]

import csv
from pathlib import Path

import numpy as np

from pythae_fif.errors import ConfigError, DataError


def read_table(path: Path) -> np.ndarray:
    """A user's table, by the suffix of its file.

    Args:
        path: A .csv of comma-separated numbers below one line of names, a .npy of numbers
            (N, D), or a .parquet of number columns, from which the index of pandas is left out.

    Returns:
        float64 rows (N, D), all finite.

    Raises:
        DataError: No such file, or not such a table; the message names line and column.
        ConfigError: A .parquet where pyarrow is not installed.
    """
    readers = {".csv": _read_csv, ".npy": read_npy, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: needs a table as {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = reader(path)
    check_finite(rows, path)
    return rows


def read_npy(path: Path) -> np.ndarray:
    """float64 rows (N, D) of a .npy file, all finite; see :func:`read_table`."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{path}: not a readable .npy file of numbers") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise DataError(f"{path}: needs an array of numbers, rows x columns")
    rows = rows.astype(np.float64)
    check_finite(rows, path)
    return rows


def _read_csv(path: Path) -> np.ndarray:
    """Comma-separated numbers below one line of names."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            _check_header(header, path)
            rows = [_numbers(row, header, f"{path}, line {lines.line_num}") for row in lines if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a text file of comma-separated values") from error
    return np.array(rows, dtype=np.float64).reshape(-1, len(header))


def _check_header(header: list[str], path: Path) -> None:
    if len(header) < 2:
        other = next((d for d in (";", "\t", "|", " ") if d in "".join(header)), None)
        found = f"; it looks separated by {other!r}" if other else ""
        raise DataError(f"{path}: {len(header)} columns when separated by ','{found}")
    for number, name in enumerate(header, 1):
        if not name.strip():
            index = ": an index that pandas wrote? write the file with index=False"
            raise DataError(f"{path}: column {number} has no name{index if number == 1 else ''}")
    try:
        [float(name) for name in header]
    except ValueError:
        return
    raise DataError(f"{path}: the first line is numbers, needs the columns' names")


def _numbers(row: list[str], header: list[str], where: str) -> list[float]:
    if len(row) != len(header):
        missing = f", column {header[len(row)]!r} is missing" if len(row) < len(header) else ""
        raise DataError(f"{where}: {len(row)} values for {len(header)} columns{missing}")
    values = []
    for name, text in zip(header, row, strict=True):
        try:
            value = float(text)
        except ValueError as error:
            raise DataError(f"{where}, column {name!r}: {text!r} is not a number") from error
        if not np.isfinite(value):
            raise DataError(f"{where}, column {name!r}: {text!r} is not a finite number")
        values.append(value)
    return values


def _read_parquet(path: Path) -> np.ndarray:
    try:
        from pyarrow import ArrowException, parquet, types
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: .parquet needs pyarrow (pip install pyarrow)") from error
    numbers = types.is_integer, types.is_floating, types.is_decimal
    try:
        table = parquet.read_table(path)
        index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable table of numbers ({reason})") from error
    columns = []
    for field, column in zip(table.schema, table.itercolumns(), strict=True):
        if field.name in index:  # row labels of pandas, which are no data
            continue
        if not any(is_kind(field.type) for is_kind in numbers):
            raise DataError(
                f"{path}: column {field.name!r} is {field.type}, needs integers, floats or decimals"
            )
        columns.append(column.cast("float64", safe=False).to_numpy())  # its nulls are NaN
    if not columns:
        raise DataError(f"{path}: has no columns of numbers")
    return np.stack(columns, axis=1)


def check_finite(rows: np.ndarray, where: str | Path) -> None:
    """Raises a DataError that names the first value of rows (N, D) that is not finite."""
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{where}: {len(bad)} NaN or infinite values, the first in row {row + 1}, column "
            f"{column + 1}"
        )
