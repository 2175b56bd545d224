"""Loads a user's table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.columns import Columns, convert_formatted_numbers
from pythae_fif.data.splits import MIN_IMAGES, Splits, describe_sizes, shuffled_split
from pythae_fif.data.table_files import describe_unusual_columns, read_table_file
from pythae_fif.errors import ConfigError, DataError, check_choice, pluralized

if TYPE_CHECKING:
    from pandas import DataFrame, Series


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
    file_notes: list[str] = []
    if isinstance(table, str | Path):
        place = Path(table).name
        table, file_notes = read_table_file(Path(table))
    frame = table.reset_index(drop=True).rename(columns=lambda name: str(name).strip())

    try:
        names = _choose_columns(list(frame.columns), columns, drop, label)
        numbers, left_out, value_notes = _numeric_columns(frame[names], judge=columns is None)
        has_label = True if label is None else frame[label].notna()
        numbers, row_notes = _drop_incomplete_rows(numbers, has_label)
        indices = shuffled_split(len(numbers))

        varies = _varies(numbers.iloc[indices["train"]])
        left_out |= dict.fromkeys(numbers.columns[~varies], "constant")
        numbers = numbers.loc[:, varies]
        column_notes = _describe_left_out(numbers, left_out, columns is not None)
        arrays, mean, std = _standardize_splits(numbers, indices)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{place}: {error}") from error

    labels = None
    class_names = None
    if label is not None:
        labels, class_names = _number_classes(frame[label][numbers.index], indices)

    kept_names = list(numbers.columns)
    dropped = [name for name in frame.columns if name not in kept_names]
    sizes = describe_sizes(arrays)
    return Splits(
        "csv",
        **arrays,
        labels=labels,
        source=f"{place}, {len(kept_names)} columns, standardised by training rows, {sizes}",
        columns=Columns(kept_names, mean.tolist(), std.tolist(), dropped),
        example_ids={split: numbers.index[part].to_numpy() for split, part in indices.items()},
        class_names=class_names,
        notes=(
            *column_notes,
            *file_notes,
            *value_notes,
            *row_notes,
            *describe_unusual_columns(numbers),
        ),
    )


def _choose_columns(
    names: list[str],
    columns: Sequence[str] | None,
    drop: Sequence[str] | None,
    label: str | None,
) -> list[str]:
    """Returns the names of the columns to model; ConfigError or DataError if a name is wrong."""
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            raise DataError(f"it has several columns {name!r}: rename all but one")

    excluded = list(drop or [])
    if label is not None:
        excluded.append(label)
    for name in [*excluded, *(columns or [])]:
        check_choice(name, names, f"it has no column {name!r}")
    if label is not None and label in (columns or []):
        raise ConfigError(f"column {label!r} is the label and cannot be modelled as well")

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

        has_texts = bool((numbers.isna() & column.notna()).any())
        infinite_count = int(np.isinf(numbers).sum())
        if infinite_count:
            notes.append(f"{name}: infinite in {pluralized(infinite_count, 'row')}, left out")
            numbers = numbers.replace([np.inf, -np.inf], np.nan)

        gaps = numbers.isna()
        if is_date or has_texts:
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
    numbers: "DataFrame", has_label: "Series | bool"
) -> "tuple[DataFrame, list[str]]":
    """Returns the complete rows and a note on the others; DataError if too few are left."""
    complete = numbers.notna().all(axis=1) & has_label
    incomplete_count = int((~complete).sum())
    if not incomplete_count:
        return numbers, []

    note = f"{incomplete_count:,} of {len(numbers):,} rows with missing values left out"
    numbers = numbers[complete]
    if len(numbers) < 10 * MIN_IMAGES:
        raise DataError(f"{note}: {10 * MIN_IMAGES} are needed, drop other columns")
    return numbers, [note]


def _varies(numbers: "DataFrame") -> "Series":
    """Returns for each column whether it has more than one value."""
    return numbers.max() > numbers.min()


def _describe_left_out(
    numbers: "DataFrame", left_out: Mapping[str, str], requested: bool
) -> list[str]:
    """Returns a note on the columns that are left out; DataError if that is not possible.

    At least two columns must be left, and all of them if the user has `requested` columns.
    """
    descriptions = [f"{name} ({reason})" for name, reason in left_out.items()]
    summary = ", ".join(descriptions[:12]) + (", ..." if len(descriptions) > 12 else "")
    if numbers.shape[1] < 2 or (requested and left_out):
        raise DataError(
            f"{numbers.shape[1]} columns can be modelled, not these: "
            f"{summary or 'no others'}; at least 2 are needed, and all requested ones"
        )
    return [f"columns left out: {summary}"] if left_out else []


def _standardize_splits(
    numbers: "DataFrame", indices: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Returns split -> standardised rows, and the training rows' mean and standard deviation."""
    values = np.ascontiguousarray(numbers.to_numpy())
    train = values[indices["train"]]
    with np.errstate(invalid="ignore"):  # infinite values raise an error below
        mean = train.mean(0)
        std = train.std(0)
    split_rows = {split: values[part] for split, part in indices.items()}
    return standardize(split_rows, mean, std), mean, std


def _number_classes(
    column: "Series", indices: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns split -> classes 0, 1, ... of its rows, and the names of the classes."""
    # A missing cell turns whole numbers into floats.
    classes, values = column.convert_dtypes().factorize(sort=True)
    labels = {split: classes[part].astype(np.int64) for split, part in indices.items()}
    return labels, tuple(map(str, values))


def standardize(
    split_rows: Mapping[str, np.ndarray], mean: np.ndarray, std: np.ndarray
) -> dict[str, Any]:
    """Standardises the rows of each split.

    Args:
        split_rows: Split -> rows (N, D).
        mean: Mean of each column, (D,).
        std: Standard deviation of each column, (D,).

    Returns:
        Split -> (rows - mean) / std, float32.

    Raises:
        DataError: A number is NaN or infinite.
    """
    with np.errstate(all="ignore"):  # NaN and infinity raise an error below
        arrays = {
            split: ((rows - mean) / std).astype(np.float32) for split, rows in split_rows.items()
        }

    is_finite = np.isfinite([mean, std]).all(0)
    for array in arrays.values():
        is_finite &= np.isfinite(array).all(0)
    bad_columns = [str(index + 1) for index in np.flatnonzero(~is_finite)[:5]]
    if bad_columns:
        plural = "s" if len(bad_columns) > 1 else ""
        raise DataError(
            "values are NaN or infinite, or so once standardised, in modelled "
            f"column{plural} {', '.join(bad_columns)}"
        )
    return arrays
