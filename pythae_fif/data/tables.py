"""Loads a user's table."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pythae_fif.columns import (
    OTHER,
    Columns,
    Value,
    category_texts,
    convert_formatted_numbers,
    plain_value,
    value_text,
)
from pythae_fif.data.splits import MIN_IMAGES, Splits, describe_sizes, shuffled_split
from pythae_fif.data.table_files import describe_unusual_columns, read_table_file
from pythae_fif.errors import ConfigError, DataError, check_choice, pluralized
from pythae_fif.names import Missing

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MAX_VALUES = 50
"""Texts and booleans with at most so many values are categories without being named."""
RARE_SHARE = 0.01
"""Values of a category in a smaller share of the training rows are rare."""
MIN_SPREAD = 0.1
"""Numbers that are 0 or 1 are divided by at least this standard deviation, that of a 1 in about 1 %
of the rows. A value in a single one of 100,000 rows would otherwise become 300."""
MAX_DECIMALS = 8
"""Samples are rounded if the training rows have at most so many decimals."""
NUM_QUANTILES = 1000
MAX_LISTED = 10
"""Rare values that a note lists."""


def load_table(
    table: "str | Path | DataFrame",
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
    categories: Sequence[str] | None = None,
    quantiles: Sequence[str] | None = None,
    missing: Missing | None = None,
) -> Splits:
    """Loads a user's table: cleans and shuffles it, cuts it 80/10/10 and standardises it.

    Texts and booleans with at most 50 values become one-hot columns. Left out are rows with missing
    values, and columns that are other texts, constant, a counter (0, 1, 2, ...) or missing in more
    than half of the rows; ``notes`` lists them. The separator, decimal commas and a first line of
    names are detected. Columns without names are called c1, c2, ...

    Args:
        table: A DataFrame, or a file of separated values, which may be compressed as .gz.
        columns: The columns to model; None for all that can be modelled.
        drop: Columns to leave out.
        label: The column with the class of a row.
        categories: Further columns whose values become one-hot columns. Values in less than 1 % of
            the training rows are grouped.
        quantiles: Columns of numbers that are mapped to a normal distribution, by scikit-learn's
            ``QuantileTransformer``, for heavy tails.
        missing: 'mean' to replace missing numbers by the mean, with a further column that says
            where, and to let a missing value be a value of a category. None to leave rows with
            missing values out.

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
        for name in [*(categories or []), *(quantiles or [])]:
            check_choice(name, names, f"column {name!r} is not modelled")
        cleaned = _clean_columns(frame[names], columns is None, categories or [], quantiles or [])

        has_label = True if label is None else frame[label].notna()
        rows, row_notes = _drop_incomplete_rows(cleaned.rows, has_label, missing)
        indices = shuffled_split(len(rows))

        train = rows.iloc[indices["train"]]
        constant = [name for name, column in train.items() if not _varies(column)]
        rows = rows.drop(columns=constant)
        left_out = cleaned.left_out | dict.fromkeys(constant, "constant")
        column_notes = _describe_left_out(rows, left_out, columns is not None)
        kept_categories = [name for name in cleaned.categories if name in rows]
        kept_quantiles = [name for name in quantiles or [] if name in rows]
        fitted, arrays, fit_notes = _fit_columns(rows, indices, kept_categories, kept_quantiles)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{place}: {error}") from error

    labels = None
    class_names = None
    if label is not None:
        labels, classes = _number_classes(frame[label][rows.index], indices)
        class_names = tuple(map(str, classes))
        counts = np.bincount(labels["train"], minlength=len(classes)).tolist()
        fitted = replace(fitted, label=label, classes=classes, class_counts=counts)

    dropped = [name for name in frame.columns if name not in fitted.names]
    sizes = describe_sizes(arrays)
    numbers = rows.drop(columns=[*fitted.categories])
    return Splits(
        "csv",
        **arrays,
        labels=labels,
        source=f"{place}, {len(fitted.names)} columns, standardised by training rows, {sizes}",
        columns=replace(fitted, dropped=dropped),
        example_ids={split: rows.index[part].to_numpy() for split, part in indices.items()},
        class_names=class_names,
        notes=(
            *column_notes,
            *file_notes,
            *cleaned.notes,
            *row_notes,
            *fit_notes,
            *describe_unusual_columns(numbers, fitted.names),
        ),
    )


class CleanedColumns(NamedTuple):
    """The columns of a table that can be modelled.

    Attributes:
        rows: Their values: float64 with NaN for missing ones, and those of categories as they are.
        categories: Names of the categories.
        left_out: Name of every other column -> why it is left out.
        notes: Lines on values that were converted.
    """

    rows: "DataFrame"
    categories: list[str]
    left_out: dict[str, str]
    notes: list[str]


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


def _clean_columns(
    frame: "DataFrame", judge: bool, categories: Collection[str], quantiles: Collection[str]
) -> CleanedColumns:
    """Separates the columns that can be modelled from the others.

    Args:
        frame: All columns.
        judge: Also leaves out columns that can be modelled but should not.
        categories: The columns that the user named as categories.
        quantiles: The columns that the user named as numbers with heavy tails.

    Raises:
        DataError: A column of `quantiles` has texts.
    """
    import pandas as pd

    left_out: dict[str, str] = {}
    kept: dict[str, Series] = {}
    kept_categories = []
    notes = []
    for name, column in frame.items():
        numbers, value_notes = _read_numbers(column)
        is_category = name in categories or _is_category(column, numbers)
        if name in quantiles and (is_category or numbers is None):
            raise DataError(f"column {name!r} has no numbers, which `quantiles` needs")

        values = column if is_category else numbers
        reason = "text" if values is None else _reason_to_leave_out(name, values) if judge else ""
        if values is None or reason:
            left_out[name] = reason
            continue
        kept[name] = values
        kept_categories += [name] if is_category else []
        notes += [] if is_category else value_notes
    return CleanedColumns(pd.DataFrame(kept, index=frame.index), kept_categories, left_out, notes)


def _read_numbers(column: "Series") -> "tuple[Series | None, list[str]]":
    """Reads a column as float64, with NaN for missing and infinite values.

    Returns:
        The numbers, None if there are texts or dates; and notes on values that were converted.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return None, []
    notes = []
    texts = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    numbers = pd.to_numeric(texts, errors="coerce").astype(np.float64)
    if (numbers.isna() & column.notna()).any():
        formatted = convert_formatted_numbers(column)
        if formatted is None:
            return None, []
        numbers = formatted
        notes.append(f"{column.name}: texts such as {column.dropna().iloc[0]} are read as numbers")

    infinite_count = int(np.isinf(numbers).sum())
    if infinite_count:
        notes.append(f"{column.name}: infinite in {pluralized(infinite_count, 'row')}, left out")
        numbers = numbers.replace([np.inf, -np.inf], np.nan)
    return numbers, notes


def _is_category(column: "Series", numbers: "Series | None") -> bool:
    """Returns whether a column is a category without being named: booleans or a few texts."""
    import pandas as pd

    if numbers is not None:
        return bool(pd.api.types.infer_dtype(column, skipna=True) == "boolean")
    is_date = pd.api.types.is_datetime64_any_dtype(column)
    return not is_date and column.nunique() <= MAX_VALUES


def _reason_to_leave_out(name: str, values: "Series") -> str:
    """Returns why a column that can be modelled should not be; empty if it should."""
    if values.isna().mean() > 0.5:
        return "more than half missing"
    if values.nunique() == 1:
        return "constant"
    is_counter = values.dtype == np.float64 and (np.diff(values) == 1).all()
    return "a counter" if is_counter or name == "Unnamed: 0" else ""


def _drop_incomplete_rows(
    rows: "DataFrame", has_label: "Series | bool", missing: Missing | None
) -> "tuple[DataFrame, list[str]]":
    """Returns the complete rows and a note on the others; DataError if too few are left.

    If missing values are imputed, rows without a label are the only incomplete ones.
    """
    complete = rows.notna().all(axis=1) | (missing is not None)
    complete &= has_label
    incomplete_count = int((~complete).sum())
    if not incomplete_count:
        return rows, []

    note = f"{incomplete_count:,} of {len(rows):,} rows with missing values left out"
    rows = rows[complete]
    if len(rows) < 10 * MIN_IMAGES:
        raise DataError(
            f"{note}: {10 * MIN_IMAGES} are needed, drop other columns or set missing='mean'"
        )
    return rows, [note]


def _varies(column: "Series") -> bool:
    """Returns whether a column has more than one value, a missing one included."""
    if column.dtype == np.float64:  # faster for long tables
        return bool(column.max() > column.min())
    return bool(category_texts(column).nunique() > 1)


def _describe_left_out(
    rows: "DataFrame", left_out: Mapping[str, str], requested: bool
) -> list[str]:
    """Returns a note on the columns that are left out; DataError if that is not possible.

    At least two columns must be left, and all of them if the user has `requested` columns.
    """
    descriptions = [f"{name} ({reason})" for name, reason in left_out.items()]
    summary = ", ".join(descriptions[:12]) + (", ..." if len(descriptions) > 12 else "")
    if rows.shape[1] < 2 or (requested and left_out):
        raise DataError(
            f"{rows.shape[1]} columns can be modelled, not these: "
            f"{summary or 'no others'}; at least 2 are needed, and all requested ones"
        )
    return [f"columns left out: {summary}"] if left_out else []


def _fit_columns(
    rows: "DataFrame",
    indices: Mapping[str, np.ndarray],
    categories: Sequence[str],
    quantiles: Collection[str],
) -> tuple[Columns, dict[str, Any], list[str]]:
    """Fits the conversion of a table to standardised rows to its training rows.

    Args:
        rows: All rows, with missing values only if these are imputed.
        indices: Split -> indices of its rows.
        categories: Names of the categories.
        quantiles: Names of the columns of numbers that are mapped to a normal distribution.

    Returns:
        The columns; split -> standardised rows (N, D), float32; and notes on the encoding.
    """
    train = rows.iloc[indices["train"]]
    values: dict[str, list[Value]] = {}
    notes = []
    for name in categories:
        values[name], note = _choose_values(rows[name], train[name])
        notes += [note] if note else []

    numbers = train.drop(columns=categories)
    imputed = numbers.mean()[rows[numbers.columns].isna().any()].to_dict()
    complete = numbers.fillna(imputed)
    levels = np.linspace(0, 1, min(NUM_QUANTILES, len(train)))
    decimals = {name: _count_decimals(column.dropna()) for name, column in numbers.items()}
    encoding = Columns(
        list(rows.columns),
        mean=[],
        std=[],
        categories=values,
        imputed=imputed,
        quantiles={name: np.quantile(complete[name], levels).tolist() for name in quantiles},
        decimals={name: count for name, count in decimals.items() if count is not None},
        ranges={
            name: (float(column.min()), float(column.max())) for name, column in numbers.items()
        },
    )
    encoded = encoding.encode(rows)
    split_rows = {split: encoded[part] for split, part in indices.items()}
    with np.errstate(invalid="ignore"):  # infinite values raise an error in `standardize`
        mean = split_rows["train"].mean(0)
        std = split_rows["train"].std(0)
    for name, place in encoding.slices.items():
        if name in values:
            std[place] = max(MIN_SPREAD, np.sqrt(np.square(std[place]).sum()))
        elif name in imputed:
            std[place.stop - 1] = max(MIN_SPREAD, std[place.stop - 1])

    arrays = standardize(split_rows, mean, std)
    if imputed:
        notes.append(f"missing values replaced by the mean: {', '.join(imputed)}")
    return replace(encoding, mean=mean.tolist(), std=std.tolist()), arrays, notes


def _choose_values(column: "Series", train: "Series") -> tuple[list[Value], str]:
    """Chooses the values of a category that have numbers of their own.

    Args:
        column: The category in all rows.
        train: The category in the training rows.

    Returns:
        The values, sorted; after them :data:`OTHER` if there are several rare ones, and None if
        values are missing; and a note on rare values, which may be empty.
    """
    counts = category_texts(train).value_counts().drop("", errors="ignore")
    rare = counts.index[counts < RARE_SHARE * len(train)]
    rare = rare if len(rare) > 1 else rare[:0]
    plain = {value_text(value): plain_value(value) for value in train.dropna().unique()}
    values = [plain[text] for text in counts.index.difference(rare) if text != OTHER]
    values.sort(key=lambda value: (isinstance(value, str), value))
    if len(rare) or OTHER in counts:
        values.append(OTHER)
    if column.isna().any():
        values.append(None)

    listed = ", ".join(rare[:MAX_LISTED]) + (", ..." if len(rare) > MAX_LISTED else "")
    name = column.name
    note = f"{name}: {len(rare)} rare values are one value {OTHER!r}: {listed}" if len(rare) else ""
    return values, note


def _count_decimals(column: "Series") -> int | None:
    """Returns how many decimals all numbers of a column have at most; None if they are many."""
    values = column.to_numpy()
    for decimals in range(MAX_DECIMALS + 1):
        if all((part.round(decimals) == part).all() for part in (values[:100], values)):
            return decimals
    return None


def _number_classes(
    column: "Series", indices: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[Value]]:
    """Returns split -> classes 0, 1, ... of its rows, and the values of the classes."""
    # A missing cell turns whole numbers into floats.
    classes, values = column.convert_dtypes().factorize(sort=True)
    labels = {split: classes[part].astype(np.int64) for split, part in indices.items()}
    return labels, [*map(plain_value, values)]


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
