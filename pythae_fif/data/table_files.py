"""Reads a table from a text file: separator, header, decimal sign and encoding are detected."""

import csv
import gzip
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pythae_fif.errors import DataError, format_error, requires_extra

if TYPE_CHECKING:
    from pandas import DataFrame

SNIFFED_LINES = 100
"""Lines from which the form of the file is detected."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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
        with open_file(path, "rb") as file:
            encoding = "utf-16" if file.read(2) in UTF16_MARKS else "utf-8-sig"
        with open_file(path, "rt", newline="", encoding=encoding, errors="replace") as file:
            separator, rows = _sniff_separator([*itertools.islice(file, SNIFFED_LINES)])
            has_header = _is_header(rows[0])
            if has_header and len(rows) == 1:
                raise ValueError("it has a line of names, and no rows")
            decimal = _sniff_decimal_sign(rows, separator)
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
    """Lets the csv module read fields of any length within the block."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _sniff_separator(lines: Sequence[str]) -> tuple[str, list[list[str]]]:
    """Returns the first separator that gives every line the same number of cells, and the rows."""
    ragged_line = ""
    with _long_fields():
        for separator in "\t;|, ":
            reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
            numbered_rows = [(reader.line_num, row) for row in reader if row]
            rows = [row for _, row in numbered_rows]
            lengths = {len(row) for row in rows}
            if len(lengths) == 1 and lengths.pop() >= 2:
                return separator, rows

            if not ragged_line and rows and len(rows[0]) >= 2:
                ragged_line = _describe_ragged_line(numbered_rows)

    raise ValueError(
        "it needs the same number of values in each line, separated by commas, semicolons or tabs"
        + ragged_line
    )


def _describe_ragged_line(numbered_rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Describes the first line whose number of values differs from the first line's."""
    _, first_row = numbered_rows[0]
    for line, row in numbered_rows:
        if len(row) != len(first_row):
            return f"; line {line} has {len(row)}, the first line has {len(first_row)}"
    return ""


def _sniff_decimal_sign(rows: Sequence[Sequence[str]], separator: str) -> str:
    """Returns a comma if some cell has a decimal comma and none has a decimal point."""
    cells = [cell for row in rows for cell in row]
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
