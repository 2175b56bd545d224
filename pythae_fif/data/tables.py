"""Loads a user's table and the four tables of Papamakarios et al. 2017."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.columns import Columns, convert_formatted_numbers
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.splits import MIN_IMAGES, Splits, shuffled_split, sizes
from pythae_fif.data.table_files import describe_unusual_columns, read_table_file
from pythae_fif.errors import ConfigError, DataError, check_choice, format_error, pluralized
from pythae_fif.names import DATA_VARIABLE, data_home

if TYPE_CHECKING:
    from pandas import DataFrame, Series

CleanedTable = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
"""Split -> rows (N, D), and the mean and standard deviation of each column, (D,)."""


def load_table(
    table: "str | Path | DataFrame",
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
) -> Splits:
    """Loads a user's table: cleans and shuffles it, cuts it 80/10/10 and standardises it.

    Left out are rows with missing values, and columns that are text, constant, a counter (0, 1, 2,
    ...) or missing in more than half of the rows; ``notes`` lists them. The separator, decimal
    commas and a first line of names are detected. Columns without names are called c1, c2, ...

    Args:
        table: A DataFrame, or a file of separated values, which may be compressed as .gz.
        columns: The columns to model; None for all that can be modelled.
        drop: Columns to leave out.
        label: The column with the class of a row.

    Returns:
        Rows as float32 (N, D), standardised by the training rows, with ``columns`` for the
        conversion to original units.

    Raises:
        ConfigError: An unknown column.
        DataError: The table cannot be read, or has too few rows or columns that can be modelled.
    """
    place = "DataFrame"
    notes: list[str] = []
    if isinstance(table, str | Path):
        place = Path(table).name
        table, notes = read_table_file(Path(table))
    frame = table.reset_index(drop=True).rename(columns=lambda name: str(name).strip())
    names = _choose_columns(list(frame.columns), columns, drop, label, place)

    rows, left_out, value_notes = _numeric_columns(frame[names], judge=columns is None)
    complete = rows.notna().all(axis=1)
    if label is not None:
        complete &= frame[label].notna()
    rows, row_notes = _drop_incomplete_rows(rows, complete, place)

    indices = shuffled_split(len(rows))
    train = rows.iloc[indices["train"]]
    varies = train.max() > train.min()
    left_out |= dict.fromkeys(rows.columns[~varies], "constant")
    rows = rows.loc[:, varies]
    column_notes = _describe_left_out(rows, left_out, columns is not None, place)

    values = np.ascontiguousarray(rows.to_numpy())
    with np.errstate(invalid="ignore"):  # infinite values raise an error below
        mean = values[indices["train"]].mean(0)
        std = values[indices["train"]].std(0)
    parts = {split: values[split_rows] for split, split_rows in indices.items()}
    arrays = _standardize(parts, mean, std, place)

    labels = None
    class_names = None
    if label is not None:
        # A missing cell turns whole numbers into floats.
        classes, values_of_label = frame[label][rows.index].convert_dtypes().factorize(sort=True)
        class_names = tuple(map(str, values_of_label))
        labels = {
            split: classes[split_rows].astype(np.int64) for split, split_rows in indices.items()
        }

    return Splits(
        "csv",
        **arrays,
        labels=labels,
        source=f"{place}, {rows.shape[1]} columns, standardised by training rows, {sizes(arrays)}",
        columns=Columns(
            list(rows.columns),
            mean.tolist(),
            std.tolist(),
            dropped=[name for name in frame.columns if name not in rows.columns],
        ),
        example_ids={
            split: rows.index[split_rows].to_numpy() for split, split_rows in indices.items()
        },
        class_names=class_names,
        notes=(*column_notes, *notes, *value_notes, *row_notes, *describe_unusual_columns(rows)),
    )


def _choose_columns(
    names: list[str],
    columns: Sequence[str] | None,
    drop: Sequence[str] | None,
    label: str | None,
    place: str,
) -> list[str]:
    """Returns the names of the columns to model; ConfigError or DataError if a name is wrong."""
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            raise DataError(f"{place} has several columns {name!r}: rename all but one")

    excluded = list(drop or [])
    if label is not None:
        excluded.append(label)
    for name in [*excluded, *(columns or [])]:
        check_choice(name, names, f"{place} has no column {name!r}")
    if label is not None and label in (columns or []):
        raise ConfigError(f"{place}: column {label!r} is the label and cannot be modelled as well")

    return [name for name in columns or names if name not in excluded]


def _numeric_columns(
    frame: "DataFrame", judge: bool
) -> "tuple[DataFrame, dict[str, str], list[str]]":
    """Separates the columns that can be modelled from the others.

    Infinite values are missing values.

    Args:
        frame: All columns.
        judge: Also leaves out columns that can be modelled but should not.

    Returns:
        The columns that can be modelled, as float64, with NaN for missing values; the name of every
        other column -> why it is left out; lines on values that were converted.
    """
    import pandas as pd

    left_out: dict[str, str] = {}
    numeric: dict[str, Series] = {}
    notes = []
    for name, column in frame.items():
        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        is_date = pd.api.types.is_datetime64_any_dtype(column)
        if not is_date and (numbers.isna() & column.notna()).any():
            formatted = convert_formatted_numbers(column)
            if formatted is not None:
                numbers = formatted
                notes.append(f"{name}: texts such as {column.dropna().iloc[0]} are read as numbers")

        infinite_count = int(np.isinf(numbers).sum())
        if infinite_count:
            notes.append(f"{name}: infinite in {pluralized(infinite_count, 'row')}, left out")
            numbers = numbers.replace([np.inf, -np.inf], np.nan)

        gaps = numbers.isna()
        if is_date or (gaps & column.notna()).sum() > infinite_count:
            left_out[name] = "text"
        elif judge and gaps.mean() > 0.5:
            left_out[name] = "more than half missing"
        elif judge and numbers.nunique() == 1:
            left_out[name] = "constant"
        elif judge and (name == "Unnamed: 0" or (np.diff(numbers) == 1).all()):
            left_out[name] = "a counter"
        else:
            numeric[name] = numbers
    return pd.DataFrame(numeric, index=frame.index), left_out, notes


def _drop_incomplete_rows(
    rows: "DataFrame", complete: "Series", place: str
) -> "tuple[DataFrame, list[str]]":
    """Returns the complete rows and a note on the others; DataError if too few are left."""
    incomplete_count = int((~complete).sum())
    if not incomplete_count:
        return rows, []

    note = f"{incomplete_count:,} of {len(rows):,} rows with missing values left out"
    rows = rows[complete]
    if len(rows) < 10 * MIN_IMAGES:
        raise DataError(f"{place}: {note}: {10 * MIN_IMAGES} are needed, drop other columns")
    return rows, [note]


def _describe_left_out(
    rows: "DataFrame", left_out: Mapping[str, str], requested: bool, place: str
) -> list[str]:
    """Returns a note on the columns that are left out; DataError if that is not possible.

    At least two columns must be left, and all of them if the user has `requested` columns.
    """
    descriptions = [f"{name} ({reason})" for name, reason in left_out.items()]
    summary = ", ".join(descriptions[:12]) + (", ..." if len(descriptions) > 12 else "")
    if rows.shape[1] < 2 or (requested and left_out):
        raise DataError(
            f"{place}: {rows.shape[1]} columns can be modelled, not these: "
            f"{summary or 'no others'}; at least 2 are needed, and all requested ones"
        )
    return [f"columns left out: {summary}"] if left_out else []


def _standardize(
    parts: Mapping[str, np.ndarray], mean: np.ndarray, std: np.ndarray, place: str
) -> dict[str, Any]:
    """Returns split -> (rows - mean) / std as float32; DataError if a number is not finite."""
    with np.errstate(all="ignore"):  # NaN and infinity raise an error below
        arrays = {split: ((rows - mean) / std).astype(np.float32) for split, rows in parts.items()}

    is_finite = np.isfinite([mean, std]).all(0)
    for array in arrays.values():
        is_finite &= np.isfinite(array).all(0)
    bad_columns = [str(index + 1) for index in np.flatnonzero(~is_finite)[:5]]
    if bad_columns:
        plural = "s" if len(bad_columns) > 1 else ""
        raise DataError(
            f"{place}: values are NaN or infinite, or so once standardised, in modelled "
            f"column{plural} {', '.join(bad_columns)}"
        )
    return arrays


def _split_80_10_10_in_order(rows: np.ndarray) -> CleanedTable:
    """Takes the last tenth as test rows, and the last tenth of the others as validation rows.

    Mean and standard deviation are computed from the training and validation rows.
    """
    train_and_val, test = np.split(rows, [len(rows) - int(0.1 * len(rows))])
    cut = len(train_and_val) - int(0.1 * len(train_and_val))
    train, val = np.split(train_and_val, [cut])
    parts = {"train": train, "val": val, "test": test}
    return parts, train_and_val.mean(axis=0), train_and_val.std(axis=0)


def _load_power(path: Path) -> CleanedTable:
    """Drops reactive power and intensity; adds uniform noise of each column's resolution."""
    rows = np.load(path).astype(np.float64)
    rng = np.random.RandomState(42)
    rng.shuffle(rows)
    rows = rows[:, [0, 2, 4, 5, 6, 7]]
    voltage_noise = 0.01 * rng.rand(len(rows), 1)  # in the archive's order of draws
    power_noise = 0.001 * rng.rand(len(rows), 1)
    metering_noise = rng.rand(len(rows), 3)
    time_noise = np.zeros((len(rows), 1))
    noise = np.hstack([power_noise, voltage_noise, metering_noise, time_noise])
    return _split_80_10_10_in_order(rows + noise)


def _load_gas(path: Path) -> CleanedTable:
    """Drops concentrations and time, then columns with a correlation above 0.98 with another.

    Mean and (unbiased) standard deviation are computed from all rows, as in the original.
    """
    columns = read_frame_pickle(path)
    rows = np.stack(
        [columns[name] for name in columns if name not in ("Meth", "Eth", "Time")], axis=1
    )
    while True:
        related_counts = (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1)
        is_redundant = related_counts > 1  # every column is related to itself
        if not is_redundant.any():
            break
        rows = np.delete(rows, int(is_redundant.argmax()), axis=1)

    parts, *_ = _split_80_10_10_in_order(rows)
    return parts, rows.mean(axis=0), rows.std(axis=0, ddof=1)


def _load_hepmass(train_path: Path, test_path: Path) -> CleanedTable:
    """Keeps the signal class; drops columns with a smallest value that occurs over five times."""
    train = _read_signal_rows(train_path)
    test = _read_signal_rows(test_path)
    mean = train.mean(axis=0)
    std = train.std(axis=0, ddof=1)

    # The original counts the smallest value where it means the most frequent one: kept as it is.
    standardized = (train - mean) / std
    smallest_counts = (standardized == standardized.min(axis=0)).sum(axis=0)
    columns = smallest_counts <= 5
    train = train[:, columns]
    test = test[:, columns]

    cut = len(train) - int(0.1 * len(train))
    parts = {"train": train[:cut], "val": train[cut:], "test": test}
    return parts, mean[columns], std[columns]


def _read_signal_rows(path: Path) -> np.ndarray:
    """Reads the rows of HEPMASS' signal class, without the column of the class."""
    # The columns are given, as the header of the test file has a name too many.
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(28), ndmin=2)
    return rows[rows[:, 0] == 1, 1:]


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
"""Table -> the function that cleans it, its number of rows after cleaning, and its files.

The tables are household electricity (6 columns), gas sensors (8), particle collisions (21) and
neutrino events (43).
"""


def load_tabular(
    name: str, data_root: str | Path | None = None, *, data: str | Path | None = None
) -> Splits:
    """Loads a study's table, cleaned and split exactly as by Papamakarios et al. 2017.

    Args:
        name: A key of ``ARCHIVED``, or ``csv``.
        data_root: The folder of the archive's files; None for ``PYTHAE_FIF_DATA``.
        data: Your file, for ``csv`` only, see :func:`~pythae_fif.data.load_table`.

    Raises:
        ConfigError: An unknown name, or an argument that does not fit the data set.
        DataError: A file is missing or not what its name promises.
    """
    is_valid = name in ARCHIVED if data is None else name == "csv"
    if not is_valid:
        raise ConfigError(
            f"table {name!r} with --data {data}: needs {', '.join(ARCHIVED)}, or csv and a path"
        )
    if data is not None:  # the hash of a study's data leaves out the columns
        return replace(load_table(data), columns=None)

    clean, row_count, files = ARCHIVED[name]
    paths = [data_home(data_root) / file for file in files]
    try:
        parts, mean, std = clean(*paths)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"no {name} data in {paths[0]} ({format_error(error)}): unpack {ARCHIVE} there, or set "
            f"--data-root or {DATA_VARIABLE}"
        ) from error

    arrays = _standardize(parts, mean, std, f"{name} data")
    return Splits(
        name,
        **arrays,
        labels=None,
        source=f"{name.upper()}, {len(mean)} columns, {sizes(arrays)} of {row_count:,} rows",
        partial=sum(map(len, arrays.values())) < row_count,
    )
