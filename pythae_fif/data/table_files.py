"""Reads tables from files, converts formatted numbers, and describes unusual columns."""

import csv
import gzip
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.errors import DataError, format_error, requires_extra
from pythae_fif.files import check_regular_file

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SNIFFED_LINES = 100
"""Lines from which the form of the file is detected."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

NEAR_CONSTANT_SHARE = 0.99
"""Share of equal values above which a column is nearly constant."""
OUTLIER_RATIO = 1e4
"""A value is an outlier if it is so many interquartile ranges away from the median."""
UNIX_SECONDS = (1e9, 2e9)
"""Range of times in seconds since 1970, from 2001 to 2033."""
MAX_KEPT_NAMES = 20
ROWS_FOR_RELATIONS = 2_000
"""Rows by which linear relations of columns are found."""
RELATION_TOLERANCE = 1e-7
"""A column is a linear function of others if it differs from one by a smaller share."""


def read_table_file(path: Path) -> "tuple[DataFrame, list[str]]":
    """Reads the table of a text file, which may be compressed as .gz.

    Args:
        path: The file.

    Returns:
        The table, and notes on how it was read.

    Raises:
        DataError: The file cannot be read, or is not a table.
    """
    path = path.expanduser()
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise DataError(
            f"{path}: spreadsheets cannot be read: save the sheet as CSV, or pass "
            "pandas.read_excel(...) to load_table"
        )

    with requires_extra("benchmark", "reading a table from a file"):
        import pandas as pd
    open_file: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        check_regular_file(path)
        with open_file(path, "rb") as file:
            encoding = "utf-16" if file.read(2) in UTF16_MARKS else "utf-8-sig"
        with open_file(path, "rt", newline="", encoding=encoding, errors="replace") as file:
            separator, lines = _sniff_separator([*itertools.islice(file, SNIFFED_LINES)])
            has_header = _is_header(lines[0])
            if has_header and len(lines) == 1:
                raise ValueError("it has a line of names, and no rows")
            decimal = _sniff_decimal_sign(lines, separator)
            file.seek(0)
            frame = pd.read_csv(
                file,
                sep=r"\s+" if separator == " " else separator,
                header=0 if has_header else None,
                decimal=decimal,
                index_col=False,
                skipinitialspace=True,
                na_values=["?"],
                float_precision="round_trip",
                low_memory=False,
            )
    except Exception as error:  # the file, its compression, its encoding or its form is wrong
        ragged_line = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if ragged_line:
            length, line, found = ragged_line.groups()
            raise DataError(f"{path}: line {line} has {found} values, needs {length}") from error
        raise DataError(f"{path}: not a readable table ({format_error(error)})") from error

    notes = []
    if decimal == ",":
        notes.append("commas are read as decimal signs")
    if not has_header:
        frame = frame.rename(columns=lambda number: f"c{number + 1}")
        notes.append("the first line is read as data")
    elif "0" in frame:
        notes.append("the first line is read as names")
    return frame, notes


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets the csv module read fields of any length in the block. Its limit is a global setting."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _sniff_separator(text_lines: Sequence[str]) -> tuple[str, list[list[str]]]:
    """Returns the first separator that gives every line the same number of cells, and its lines."""
    ragged_line = ""
    with _long_fields():
        for separator in "\t;|, ":
            reader = csv.reader(text_lines, delimiter=separator, skipinitialspace=True)
            numbered_rows = [(reader.line_num, row) for row in reader if row]
            lines = [row for _, row in numbered_rows]
            lengths = {len(row) for row in lines}
            if len(lengths) == 1 and lengths.pop() >= 2:
                return separator, lines

            if not ragged_line and lines and len(lines[0]) >= 2:
                ragged_line = _describe_ragged_line(numbered_rows)

    raise ValueError(
        "it needs the same number of values in each line, at least two, separated by commas, "
        "semicolons or tabs" + ragged_line
    )


def _describe_ragged_line(numbered_rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Describes the first line whose number of values differs from the first line's."""
    _, first_row = numbered_rows[0]
    for line, row in numbered_rows:
        if len(row) != len(first_row):
            return f"; line {line} has {len(row)}, the first line has {len(first_row)}"
    return ""


def _sniff_decimal_sign(lines: Sequence[Sequence[str]], separator: str) -> str:
    """Returns a comma if some cell has a decimal comma and none has a decimal point."""
    cells = [cell for row in lines for cell in row]
    has_comma = any(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in cells)
    has_point = any(re.fullmatch(r"[+-]?\d+\.\d+", cell) for cell in cells)
    return "," if has_comma and not has_point and separator != "," else "."


def _is_header(cells: Sequence[str]) -> bool:
    """Returns True if the cells are names.

    A header has no numbers, unless they are pandas' default names 0, 1, 2, ...
    """
    number = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)
    numbers = [cell for cell in cells if number.fullmatch(cell)]
    return numbers == [str(index) for index in range(len(numbers))]


def describe_unusual_columns(numbers: "DataFrame", kept: Sequence[str]) -> list[str]:
    """Describes the columns of numbers that look unusual, and lists the columns that are modelled.

    Args:
        numbers: The columns of numbers that are modelled.
        kept: Names of all columns that are modelled.

    Returns:
        Notes, which may be empty.
    """
    complete = numbers.dropna()
    notes = [note for name, column in complete.items() if (note := _describe(str(name), column))]
    notes += _describe_linear_columns(complete)

    if notes:
        more = ", ..." if len(kept) > MAX_KEPT_NAMES else ""
        notes.append(f"columns kept: {', '.join(kept[:MAX_KEPT_NAMES])}{more}")
    return notes


def _describe(name: str, column: "Series") -> str:
    """Describes what is unusual about a column; empty if nothing is."""
    levels = np.unique(column)
    description = _describe_numbers(column, len(levels))
    hint = "leave it out by `drop` if it is not a feature"
    if not description and len(levels) == 2:
        description = f"has two values, {levels[0]:g} and {levels[1]:g}"
        hint = "name it in `categories` to model these"
    return f"column {name} {description}: {hint}" if description else ""


def _describe_numbers(column: "Series", level_count: int) -> str:
    """Describes what is unusual about numbers, of which so many are different."""
    values = column.to_numpy()
    is_whole = bool((values == np.round(values)).all())
    if is_whole and _is_time(values):
        return "looks like a time in seconds or milliseconds"
    if is_whole and level_count == len(values):
        return "has a different whole number in each row, like an identifier"

    share = column.value_counts(normalize=True).iloc[0]
    if share > NEAR_CONSTANT_SHARE:
        return f"has one value in {share:.1%} of the rows"

    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    distances = np.abs(values - median)
    outliers = int((distances > OUTLIER_RATIO * (high - low)).sum())
    if high > low and outliers:
        return f"has values of up to {np.abs(values).max():.2g}, far from all others"
    return ""


def _is_time(values: np.ndarray) -> bool:
    """Returns whether all values are plausible times in seconds or milliseconds since 1970."""
    first, last = UNIX_SECONDS
    return any(
        first * unit <= values.min() and values.max() <= last * unit for unit in (1.0, 1000.0)
    )


def _describe_linear_columns(numbers: "DataFrame") -> list[str]:
    """Returns a note for each column that is a linear function of earlier ones.

    A few rows suffice: columns that agree in them are linearly related almost surely.
    """
    rows = numbers.to_numpy()[:: max(1, len(numbers) // ROWS_FOR_RELATIONS)]
    centred = rows - rows.mean(0)
    lengths = np.linalg.norm(centred, axis=0)
    units = centred / np.where(lengths > 0, lengths, 1)

    notes = []
    independent: list[int] = []
    basis = np.empty((len(rows), 0))
    for index, name in enumerate(numbers):
        unit = units[:, index]
        residual = unit - basis @ (basis.T @ unit)
        residual -= basis @ (basis.T @ residual)  # once more, against rounding
        length = np.linalg.norm(residual)
        if length > RELATION_TOLERANCE and 2 * len(independent) < len(rows):
            basis = np.column_stack([basis, residual / length])
            independent.append(index)
        elif length <= RELATION_TOLERANCE:
            weights = np.linalg.lstsq(units[:, independent], unit, rcond=None)[0]
            used = np.flatnonzero(np.abs(weights) > 1e3 * RELATION_TOLERANCE)
            others = [str(numbers.columns[independent[number]]) for number in used]
            notes.append(_describe_relation(numbers, str(name), others))
    return notes


def _describe_relation(numbers: "DataFrame", name: str, others: Sequence[str]) -> str:
    """Returns the note on a column that is a linear function of others."""
    if len(others) == 1 and (numbers[name] == numbers[others[0]]).all():
        relation = f"a copy of {others[0]}"
    elif len(others) == 1:
        relation = f"{others[0]} in another unit"
    else:
        relation = f"a sum of multiples of {', '.join(others)}"
    return f"column {name} is {relation}: leave one of them out"
