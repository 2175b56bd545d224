"""Tables: a user's own, as it comes, and the four of Papamakarios et al. 2017."""

import csv
import gzip
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.splits import MIN_IMAGES, Columns, Splits, shuffled_split, sizes
from pythae_fif.errors import ConfigError, DataError, did_you_mean, format_error
from pythae_fif.names import DATA_VARIABLE, data_home

if TYPE_CHECKING:
    from pandas import DataFrame, Series

CleanedTable = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
"""Split -> rows (N, D), and mean and standard deviation of each column, (D,)."""


def load_table(
    table: "str | Path | DataFrame",
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
) -> Splits:
    """A user's table: cleaned, shuffled, cut 80/10/10, standardised by its training rows.

    Left out, and told in ``notes``, are rows with missing values, columns of text, constant ones,
    counters (0, 1, 2, ...) and those of which more than half is missing. Separator, decimal commas
    and whether the first line has the names are found; without names columns are c1, c2, ...

    Args:
        table: A DataFrame, or a file of separated values, perhaps in .gz.
        columns: The columns to model; None for all that can be.
        drop: Columns to leave out.
        label: The column that holds the class of a row.

    Returns:
        Rows as float32 (N, D), with ``columns`` as the way back to original units.

    Raises:
        ConfigError: An unknown column.
        DataError: No table, or too few rows or columns that can be modelled.
    """
    where = Path(table).name if isinstance(table, str | Path) else "DataFrame"
    frame, notes = _read(Path(table)) if isinstance(table, str | Path) else (table, [])
    frame = frame.reset_index(drop=True).rename(columns=lambda name: str(name).strip())
    known, out = list(frame.columns), [*(drop or []), *([] if label is None else [label])]
    if twice := [name for name in dict.fromkeys(known) if known.count(name) > 1]:
        raise DataError(f"{where} has several columns {twice[0]!r}: give each a name of its own")
    for name in [*out, *(columns or [])]:
        if name not in known:
            raise ConfigError(f"{where} has no column {name!r}: {did_you_mean(name, known)}")
    if label is not None and label in (columns or []):
        raise ConfigError(f"{where}: column {label!r} is asked for, and the label")
    chosen = [name for name in columns or known if name not in out]
    rows, left_out = _numbers(frame[chosen], judge=columns is None)
    lacks = rows.isna().any(axis=1)
    if label is not None:
        lacks |= frame[label].isna()
    if gaps := int(lacks.sum()):
        notes.append(f"{gaps:,} of {len(rows):,} rows with missing values left out")
    rows = rows[~lacks]
    if gaps and len(rows) < 10 * MIN_IMAGES:
        raise DataError(f"{where}: {notes[-1]}: {10 * MIN_IMAGES} are needed, drop other columns")
    index = shuffled_split(len(rows))
    train = rows.iloc[index["train"]]
    varies = train.max() > train.min()
    left_out |= dict.fromkeys(rows.columns[~varies], "constant")
    rows = rows.loc[:, varies]
    listed = [f"{name} ({reason})" for name, reason in left_out.items()]
    shown = ", ".join(listed[:12]) + ", ..." * (len(listed) > 12)
    if rows.shape[1] < 2 or (columns is not None and left_out):
        raise DataError(
            f"{where}: {rows.shape[1]} columns can be modelled, not these: {shown or 'no others'}; "
            "at least 2 are needed, and all that are asked for"
        )
    notes = [f"columns left out: {shown}"] * bool(left_out) + notes
    values = np.ascontiguousarray(rows.to_numpy())
    with np.errstate(invalid="ignore"):  # what is infinite is told below
        mean, std = values[index["train"]].mean(0), values[index["train"]].std(0)
    parts = {split: values[of_split] for split, of_split in index.items()}
    arrays, labels = _standardize(parts, mean, std, where), None
    if label is not None:
        of_row, _ = frame[label][rows.index].factorize(sort=True)
        labels = {split: of_row[of_split].astype(np.int64) for split, of_split in index.items()}
    source = f"{where}, {rows.shape[1]} columns, standardised by training rows, {sizes(arrays)}"
    how: Any = {"columns": Columns(list(rows.columns), mean.tolist(), std.tolist())}
    return Splits("csv", **arrays, labels=labels, source=source, notes=tuple(notes), **how)


def _numbers(frame: "DataFrame", judge: bool) -> "tuple[DataFrame, dict[str, str]]":
    """Columns of numbers as float64, NaN where they are missing; others with what they are. If
    `judge`, what can be modelled and should not is left out, too."""
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
        elif judge and numbers.nunique() == 1:
            left_out[name] = "constant"
        elif judge and (name == "Unnamed: 0" or (np.diff(numbers) == 1).all()):
            left_out[name] = "a counter"
        else:
            found[name] = numbers
    return pd.DataFrame(found, index=frame.index), left_out


def _read(path: Path) -> "tuple[DataFrame, list[str]]":
    """The table of a text file, and notes on how it was read; a DataError if it is none."""
    import pandas as pd

    opened, path = gzip.open if path.suffix.lower() == ".gz" else open, path.expanduser()
    try:
        with opened(path, "rt", newline="", encoding="utf-8-sig", errors="replace") as file:
            separator, named, decimal = _sniff_dialect([*itertools.islice(file, 100)])
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
    except Exception as error:  # of the file, its compression, its encoding and its form
        raise DataError(f"{path}: not a readable table ({format_error(error)})") from error
    notes = ["commas are read as decimal signs"] * (decimal == ",")
    if named:
        return frame, [*notes, *["the first line is read as names"] * ("0" in frame)]
    frame = frame.rename(columns=lambda number: f"c{number + 1}")
    return frame, [*notes, "the first line is read as data"]


def _sniff_dialect(lines: Sequence[str]) -> tuple[str, bool, str]:
    """The separator, as often in each line; whether the first has names; the decimal sign."""
    for separator in "\t;|, ":
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows = [row for row in reader if row]
        if rows and {len(row) for row in rows} == {max(2, len(rows[0]))}:
            break
    else:
        raise ValueError("needs as many values in each line, between commas, semicolons or tabs")
    cells = [cell for row in rows for cell in row]
    comma, point = (any(re.fullmatch(rf"[+-]?\d+{s}\d+", of) for of in cells) for s in (",", r"\."))
    decimal = "," if comma and not point and separator != "," else "."
    number = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)
    numbers = [cell for cell in rows[0] if number.fullmatch(cell)]  # as names stand above numbers
    named = numbers == [str(i) for i in range(len(numbers))]  # none, or pandas' own names
    return separator, named, decimal


def _standardize(
    parts: Mapping[str, np.ndarray], mean: np.ndarray, std: np.ndarray, where: str
) -> dict[str, Any]:
    """Split -> (rows - mean) / std as float32; raises a DataError if one is not finite."""
    with np.errstate(all="ignore"):  # what comes of it is found below
        arrays = {split: ((of - mean) / std).astype(np.float32) for split, of in parts.items()}
    finite = np.all([np.isfinite(of).all(0) for of in (*arrays.values(), [mean, std])], axis=0)
    if bad := [*(np.flatnonzero(~finite) + 1)[:5]]:
        columns = f"in modelled column{'s' * (len(bad) > 1)} {', '.join(map(str, bad))}"
        raise DataError(f"{where}: values are NaN or infinite, or so once standardised, {columns}")
    return arrays


def _split_80_10_10_in_order(rows: np.ndarray) -> CleanedTable:
    """Test rows are the last tenth, validation rows that of the rest, which gives mean and std."""
    rest, test = np.split(rows, [len(rows) - int(0.1 * len(rows))])
    train, val = np.split(rest, [len(rest) - int(0.1 * len(rest))])
    return {"train": train, "val": val, "test": test}, rest.mean(axis=0), rest.std(axis=0)


def _load_power(path: Path) -> CleanedTable:
    """Drops reactive power and intensity; adds uniform noise of each column's resolution."""
    rows = np.load(path).astype(np.float64)
    draws = np.random.RandomState(42)
    draws.shuffle(rows)
    rows = rows[:, [0, 2, 4, 5, 6, 7]]
    voltage = 0.01 * draws.rand(len(rows), 1)  # in the archive's order of draws
    power = 0.001 * draws.rand(len(rows), 1)
    metering = draws.rand(len(rows), 3)
    return _split_80_10_10_in_order(
        rows + np.hstack([power, voltage, metering, np.zeros((len(rows), 1))])
    )


def _load_gas(path: Path) -> CleanedTable:
    """Drops concentrations and time, then columns of correlation above 0.98 with another; all rows
    give the mean and (unbiased) standard deviation, as in the original."""
    columns = read_frame_pickle(path).items()
    rows = np.stack([of for name, of in columns if name not in ("Meth", "Eth", "Time")], axis=1)
    while (related := (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1) > 1).any():
        rows = np.delete(rows, int(related.argmax()), axis=1)
    return _split_80_10_10_in_order(rows)[0], rows.mean(axis=0), rows.std(axis=0, ddof=1)


def _load_hepmass(train_path: Path, test_path: Path) -> CleanedTable:
    """Keeps the signal class; drops columns whose smallest value occurs more than five times."""
    train, test = (
        np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(28), ndmin=2)
        for path in (train_path, test_path)  # the header of the latter has a name too many
    )
    train, test = (rows[rows[:, 0] == 1, 1:] for rows in (train, test))
    mean, std = train.mean(axis=0), train.std(axis=0, ddof=1)
    # The original takes the first count in order of value for the largest one: kept as it is.
    scaled = (train - mean) / std
    kept = (scaled == scaled.min(axis=0)).sum(axis=0) <= 5
    train, test = train[:, kept], test[:, kept]
    cut = len(train) - int(0.1 * len(train))
    return {"train": train[:cut], "val": train[cut:], "test": test}, mean[kept], std[kept]


ARCHIVE = "https://zenodo.org/record/1161203/files/data.tar.gz"
ARCHIVED: dict[str, tuple[Callable[..., CleanedTable], int, list[str]]] = {
    "power": (_load_power, 2_049_280, ["power/data.npy"]),
    "gas": (_load_gas, 1_052_065, ["gas/ethylene_CO.pickle"]),
    "hepmass": (_load_hepmass, 525_123, ["hepmass/1000_train.csv", "hepmass/1000_test.csv"]),
    "miniboone": (
        lambda path: _split_80_10_10_in_order(np.load(path)),
        36_488,
        ["miniboone/data.npy"],
    ),
}
"""Table -> what cleans it, the number of its rows once that is done, and its files: household
electricity (6 columns), gas sensors (8), particle collisions (21) and neutrino events (43)."""


def load_tabular(
    name: str, data_root: str | Path | None = None, *, data: str | Path | None = None
) -> Splits:
    """A table of a study, cleaned and split exactly as by Papamakarios et al. 2017.

    Args:
        name: A key of ``ARCHIVED``, or ``csv``.
        data_root: The folder of the archive's files; None for ``PYTHAE_FIF_DATA``.
        data: Your file, for ``csv`` and that only, see :func:`~pythae_fif.data.load_table`.

    Raises:
        ConfigError: An unknown name, or an argument that does not fit the data set.
        DataError: A file is missing or not what its name promises.
    """
    known = name in ARCHIVED if data is None else name == "csv"
    if not known:
        valid = ", ".join(ARCHIVED)
        raise ConfigError(f"table {name!r} with --data {data}: needs {valid}, or csv and a path")
    if data is not None:  # without columns, which the hash of a study's data leaves out
        return replace(load_table(data), columns=None)
    clean, rows, files = ARCHIVED[name]
    paths = [data_home(data_root) / file for file in files]
    try:
        parts, mean, std = clean(*paths)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"no {name} data in {paths[0]} ({format_error(error)}): unpack {ARCHIVE} there, or set "
            f"--data-root or {DATA_VARIABLE}"
        ) from error
    arrays = _standardize(parts, mean, std, f"{name} data")
    source = f"{name.upper()}, {len(mean)} columns, {sizes(arrays)} of {rows:,} rows"
    partial = sum(map(len, arrays.values())) < rows
    return Splits(name, **arrays, labels=None, source=source, partial=partial)
