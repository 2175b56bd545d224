"""A user's table as it comes: what can be modelled is found, what is left out is told."""

__all__ = ["as_float32", "check_finite", "load_table", "moments", "read_npy", "table_file"]

import csv
import gzip
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.data.names import TableOptions
from pythae_fif.data.source import Request, Source
from pythae_fif.data.splits import MIN_IMAGES, SPLIT_NAMES, Columns, Splits, shuffled_split, sizes
from pythae_fif.errors import ConfigError, DataError, did_you_mean, one_line

if TYPE_CHECKING:
    from pandas import DataFrame, Series

LINES = 100
"""So many first lines tell separator, names and decimal sign."""

_UNREADABLE = (OSError, ValueError, EOFError, ImportError, zlib.error, csv.Error, MemoryError)


def table_file(request: Request) -> Source:
    """A user's table in a file."""
    path = request.path
    files = [path.name] if path.is_file() else []
    return Source(request, path.parent, files, lambda: _load(path, request.options.of_table))


def load_table(table: "str | Path | DataFrame", **options: Any) -> Splits:
    """A user's table: cleaned, shuffled, cut 80/10/10, standardised by its training rows.

    Left out, and told in ``notes``, are columns of text, constant ones, counters (0, 1, 2, ...) and
    those of which more than half is missing. Separator, decimal commas and whether the first line
    has the names are found; without names columns are c1, c2, ...

    Args:
        table: A DataFrame, or a file: separated values (perhaps in .gz), a .npy of numbers (N, D),
            or a .parquet.
        options: See :class:`~pythae_fif.data.names.TableOptions`.

    Returns:
        Rows as float32 (N, D), with ``columns`` as the way back to original units.

    Raises:
        ConfigError: An unknown option or column.
        DataError: No such file, no table, too few rows or columns, or a column that was asked for
            and cannot be modelled.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame(np.random.rand(200, 2), columns=["a", "b"]).assign(kind="x")
        >>> splits = load_table(frame)
        >>> splits.input_dim, splits.notes
        ((2,), ('columns left out: kind (text)',))
    """
    return _load(table, TableOptions(**options))


def _load(table: "str | Path | DataFrame", options: TableOptions) -> Splits:
    if isinstance(table, str | Path):
        where = Path(table).expanduser().name
        frame, notes = _read(Path(table).expanduser())
    else:
        where, frame, notes = "DataFrame", table, []
    frame = frame.reset_index(drop=True).rename(columns=str)
    frame, classes = _chosen(frame, options, where)
    numbers, left_out = _numbers(frame, judge=options.columns is None)
    check_finite(numbers.fillna(0).to_numpy(), where)
    rows = numbers.dropna() if options.missing == "drop" else numbers
    if gaps := int(numbers.isna().to_numpy().sum()):
        lost = f"{len(numbers) - len(rows):,} of {len(numbers):,} rows with missing values left out"
        filled = f"{gaps:,} missing values are their column's mean in training rows"
        notes.append(lost if options.missing == "drop" else filled)
    if classes is not None:
        if classless := int(classes[rows.index].isna().sum()):
            notes.append(f"{classless:,} rows without a class left out")
        rows = rows[classes[rows.index].notna()]
    if len(rows) < 10 * MIN_IMAGES:
        raise DataError(f"{where}: {len(rows)} rows, at least {10 * MIN_IMAGES} are needed")
    index = shuffled_split(len(rows))
    train = rows.iloc[index["train"]]
    varies = train.max() > train.min()
    left_out |= dict.fromkeys(rows.columns[~varies], "constant")
    rows = rows.loc[:, varies]
    listed = [f"{name} ({reason})" for name, reason in left_out.items()]
    shown = ", ".join(listed[:12]) + ", ..." * (len(listed) > 12)
    if rows.shape[1] < 2 or (options.columns is not None and left_out):
        raise DataError(
            f"{where}: {rows.shape[1]} columns can be modelled, not these: {shown or 'no others'}; "
            "at least 2 are needed, and all that are asked for"
        )
    notes = [f"columns left out: {shown}"] * bool(left_out) + notes
    values = np.ascontiguousarray(rows.to_numpy())
    parts = {split: values[of_split] for split, of_split in index.items()}
    mean, std = moments(np.ma.masked_invalid(parts["train"]), where)
    scaled = {split: np.nan_to_num((of - mean) / std, nan=0.0) for split, of in parts.items()}
    labels = None
    if classes is not None:
        of_row, known = classes[rows.index].factorize(sort=True)
        labels = {split: of_row[of_split].astype(np.int64) for split, of_split in index.items()}
        notes.append(f"{len(known)} classes by column {classes.name}")
    arrays = as_float32(scaled, where)
    source = f"{where}, {rows.shape[1]} columns, standardised by training rows, shuffled 80/10/10 "
    source += f"with seed 0, {sizes(arrays)}"
    columns = Columns(list(rows.columns), mean.tolist(), std.tolist())
    how: dict[str, Any] = {"labels": labels, "columns": columns, "notes": tuple(notes)}
    return Splits("csv", **arrays, source=source, **how)


# ---------------------------------------------------------------- columns


def _chosen(
    frame: "DataFrame", options: TableOptions, where: str
) -> "tuple[DataFrame, Series | None]":
    """The columns that were asked for, and the one of the classes.

    Raises:
        ConfigError: A column is not there.
        DataError: Two have one name.
    """
    known = Counter(frame.columns)
    if again := [name for name, count in known.items() if count > 1]:
        raise DataError(f"{where}: two columns are named {again[0]!r}")
    out = [*(options.drop or []), *([] if options.label is None else [options.label])]
    for name in [*out, *(options.columns or [])]:
        if name not in known:
            raise ConfigError(f"{where} has no column {name!r}: {did_you_mean(name, known)}")
    classes = None if options.label is None else frame[options.label]
    return frame[[name for name in options.columns or known if name not in out]], classes


def _numbers(frame: "DataFrame", judge: bool) -> "tuple[DataFrame, dict[str, str]]":
    """Columns of numbers as float64, NaN where they are missing; others with what they are.

    Args:
        frame: The table.
        judge: Whether what can be modelled, and should not, is left out, too.
    """
    import pandas as pd

    left_out: dict[str, str] = {}
    found: dict[str, Series] = {}
    for name, column in frame.items():
        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        gaps = numbers.isna()
        if pd.api.types.is_datetime64_any_dtype(column) or (gaps & column.notna()).any():
            left_out[name] = "text"
        elif judge and gaps.mean() > 0.5:
            left_out[name] = "more than half missing"
        elif judge and len(numbers) > 1 and (np.diff(numbers) == 1).all():
            left_out[name] = "a counter"
        else:
            found[name] = numbers
    return pd.DataFrame(found, index=frame.index), left_out


# ---------------------------------------------------------------- files


def _read(path: Path) -> "tuple[DataFrame, list[str]]":
    """The table of a file, by its suffix, and notes.

    Raises:
        DataError: No such file, or no table.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() == ".npy":
        values = read_npy(path)
        return pd.DataFrame(values, columns=_numbered(values.shape[1])), []
    try:
        return (pd.read_parquet(path), []) if path.suffix == ".parquet" else _read_text(path)
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable table ({one_line(error)})") from error


def _read_text(path: Path) -> "tuple[DataFrame, list[str]]":
    import pandas as pd

    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8-sig", errors="replace") as file:
        separator, named, decimal = _form_of([*itertools.islice(file, LINES)])
        file.seek(0)
        frame = pd.read_csv(
            file,
            sep=r"\s+" if separator == " " else separator,
            header=0 if named else None,
            decimal=decimal,
            index_col=False,
            skipinitialspace=True,
            na_values=["?"],
            float_precision="round_trip",
            low_memory=False,
        )
    if named:
        return frame.rename(columns=str.strip), []
    note = f"the first line is a row: columns are c1 to c{frame.shape[1]}"
    return frame.set_axis(_numbered(frame.shape[1]), axis=1), [note]


def _form_of(lines: Sequence[str]) -> tuple[str, bool, str]:
    """The separator that is in all lines as often; whether the first has names; the decimal sign.

    Raises:
        ValueError: There is none.
    """
    for separator in "\t;|, ":
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows = [row for row in reader if row]
        if rows and {len(row) for row in rows} == {max(2, len(rows[0]))}:
            break
    else:
        raise ValueError("needs as many values in each line, between commas, semicolons or tabs")
    commas = any(re.fullmatch(r"[+-]?\d+,\d+", cell) for row in rows for cell in row)
    decimal = "," if commas and separator != "," else "."
    number = re.compile(r"[+-]?\d*[.,]?\d+(e[+-]?\d+)?\s*", re.IGNORECASE)
    named = not any(number.fullmatch(cell) for cell in rows[0])  # names stand above numbers
    return separator, named, decimal


def _numbered(count: int) -> list[str]:
    return [f"c{column + 1}" for column in range(count)]


def read_npy(path: Path) -> np.ndarray:
    """float64 rows (N, D) of a .npy file.

    Raises:
        DataError: It is none, or not such an array.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npy file of numbers") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise DataError(f"{path}: needs an array of numbers, rows x columns")
    return rows.astype(np.float64)


# ---------------------------------------------------------------- numbers


def check_finite(rows: np.ndarray, where: str | Path) -> None:
    """Raises a DataError that names the first value of rows (N, D) that is not finite."""
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{where}: {len(bad)} NaN or infinite values, the first in row {row + 1}, column "
            f"{column + 1}"
        )


def moments(rows: np.ndarray, where: str | Path, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, by which it can be standardised."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = (np.asarray(of) for of in (rows.mean(axis=0), rows.std(axis=0, ddof=ddof)))
    bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(std) & (std > 0)))
    if len(bad):
        raise DataError(
            f"{where}: column {bad[0] + 1} has mean {mean[bad[0]]:g} and standard deviation "
            f"{std[bad[0]]:g}, needs finite ones, the latter above 0: scale the column"
        )
    return mean, std


def as_float32(parts: Mapping[str, np.ndarray], where: str | Path) -> dict[str, Any]:
    """Split -> its standardised rows as float32."""
    with np.errstate(over="ignore"):  # is found below
        arrays = {split: parts[split].astype(np.float32) for split in SPLIT_NAMES}
    for split, of_split in arrays.items():
        check_finite(of_split, f"{where}, standardised {split} rows")
    return arrays
