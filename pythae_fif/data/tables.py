"""A user's table of numbers from a file, checked; wrong files give one line."""

__all__ = ["Table", "check_finite", "read_npy", "read_table"]

import csv
import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pythae_fif.data.names import AS_USUAL, TableOptions
from pythae_fif.errors import DataError, importing, one_line

MISSING_TEXTS = ("", "na", "n/a", "nan", "null", "none", "?")
"""Texts of missing values, in small letters."""


class Table(NamedTuple):
    """The names of D columns, and float64 rows (N, D), in which NaN is a missing value."""

    names: list[str]
    rows: np.ndarray


def read_table(path: Path, options: TableOptions = AS_USUAL) -> Table:
    """A user's table, by the suffix of its file.

    Args:
        path: A .csv or .tsv of numbers below one line of names, perhaps in .gz, a .npy of numbers
            (N, D), or a .parquet of number columns, from which the index of pandas is left out.
        options: How it is read.

    Returns:
        Names and rows, all finite but where missing values are allowed.

    Raises:
        DataError: No such file, or not such a table; the message names line and column.
        ConfigError: A .parquet where pyarrow is not installed.
    """
    kind = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]).lower()
    if kind not in (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".npy", ".parquet"):
        raise DataError(f"{path}: needs a table as .csv, .tsv (or .gz of them), .npy, .parquet")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if kind == ".parquet":
        table = _read_parquet(path)
    elif kind == ".npy":
        rows = read_npy(path)
        table = Table(_numbered(rows.shape[1]), rows)
    else:
        table = _read_csv(path, options, "\t" if kind.startswith(".tsv") else ",")
    if len(table.names) < 2:
        raise DataError(f"{path}: {len(table.names)} columns of numbers, at least 2 are needed")
    if again := [name for name in table.names if table.names.count(name) > 1]:
        raise DataError(f"{path}: two columns are named {again[0]!r}")
    if options.missing is None:
        check_finite(table.rows, path, "; --missing drop or --missing impute of `run` takes NaN")
    else:
        check_finite(np.nan_to_num(table.rows, nan=0, posinf=np.inf, neginf=-np.inf), path)
    return table


def read_npy(path: Path) -> np.ndarray:
    """float64 rows (N, D) of a .npy file; see :func:`read_table`."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{path}: not a readable .npy file of numbers") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise DataError(f"{path}: needs an array of numbers, rows x columns")
    return rows.astype(np.float64)


def _read_csv(path: Path, options: TableOptions, usual: str) -> Table:
    """Separated numbers below one line of names, or without it."""
    separator = (options.separator or usual).replace("\\t", "\t")
    if len(separator) != 1 or separator in '"\r\n':
        raise DataError(f"--separator {separator!r}: a single character is needed, no quote")
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=separator)
            header = first = next(lines, [])
            _check_width(header, path, separator)
            rows = []
            if options.no_header:
                header = _numbered(len(first))
                rows.append(_numbers(first, header, f"{path}, line 1", options))
            _check_names(header, path)
            rows += [
                _numbers(row, header, f"{path}, line {lines.line_num}", options)
                for row in lines
                if row
            ]
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a text file of separated values") from error
    names = [name.strip() for name in header]
    return Table(names, np.array(rows, dtype=np.float64).reshape(-1, len(header)))


def _numbered(count: int) -> list[str]:
    return [f"c{column + 1}" for column in range(count)]


def _check_width(header: list[str], path: Path, separator: str) -> None:
    if len(header) < 2:
        other = next((d for d in (",", ";", "\t", "|", " ") if d in "".join(header)), None)
        found = f"; it looks separated by {other!r} (--separator of `run`)" if other else ""
        raise DataError(f"{path}: {len(header)} columns when separated by {separator!r}{found}")


def _check_names(header: list[str], path: Path) -> None:
    for number, name in enumerate(header, 1):
        if not name.strip():
            index = ": an index that pandas wrote? write the file with index=False"
            raise DataError(f"{path}: column {number} has no name{index if number == 1 else ''}")
    known = [name for name in header if name.strip().lower() not in MISSING_TEXTS]
    try:
        [_number(name) for name in known]
    except ValueError:
        return
    if not known:  # a column may be called "na"
        return
    raise DataError(
        f"{path}: the first line is numbers, needs the columns' names, or --no-header of `run`"
    )


def _numbers(row: list[str], header: list[str], where: str, options: TableOptions) -> list[float]:
    if len(row) != len(header):
        missing = f", column {header[len(row)]!r} is missing" if len(row) < len(header) else ""
        raise DataError(f"{where}: {len(row)} values for {len(header)} columns{missing}")
    values = []
    for name, text in zip(header, row, strict=True):
        if text.strip().lower() in MISSING_TEXTS:
            if options.missing is None:
                raise DataError(
                    f"{where}, column {name!r}: {text!r} is not a number; --missing drop of "
                    "`run` leaves such rows out, --missing impute takes the column's mean"
                )
            values.append(np.nan)
            continue
        try:
            value = _number(text)
        except ValueError as error:
            raise DataError(f"{where}, column {name!r}: {text!r} is not a number") from error
        if not np.isfinite(value):
            raise DataError(f"{where}, column {name!r}: {text!r} is not a finite number")
        values.append(value)
    return values


def _number(text: str) -> float:
    if "_" in text:  # of a code such as 2024_01; Python would read 202401
        raise ValueError
    return float(text)


def _read_parquet(path: Path) -> Table:
    with importing("parquet", f"{path}: .parquet"):
        from pyarrow import ArrowException, parquet, types

    numbers = types.is_integer, types.is_floating, types.is_decimal
    try:
        table = parquet.read_table(path)
        index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    except (ArrowException, OSError, ValueError) as error:
        line = one_line(error)
        raise DataError(f"{path}: not a readable table of numbers ({line})") from error
    columns: dict[str, np.ndarray] = {}
    for field, column in zip(table.schema, table.itercolumns(), strict=True):
        if field.name in index:  # row labels of pandas, which are no data
            continue
        if not any(is_kind(field.type) for is_kind in numbers):
            raise DataError(
                f"{path}: column {field.name!r} is {field.type}, needs integers, floats or decimals"
            )
        columns[field.name] = column.cast("float64", safe=False).to_numpy()  # its nulls are NaN
    if not columns:
        raise DataError(f"{path}: has no columns of numbers")
    return Table(list(columns), np.stack(list(columns.values()), axis=1))


def check_finite(rows: np.ndarray, where: str | Path, remedy: str = "") -> None:
    """Raises a DataError that names the first value of rows (N, D) that is not finite."""
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{where}: {len(bad)} NaN or infinite values, the first in row {row + 1}, column "
            f"{column + 1}{remedy}"
        )
