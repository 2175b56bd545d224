"""Notes on columns of a table that a density model should perhaps not get."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NEAR_CONSTANT_SHARE = 0.99
"""Share of equal values above which a column is nearly constant."""
OUTLIER_RATIO = 1e4
"""A value is an outlier if it is so many interquartile ranges away from the median."""
UNIX_SECONDS = (1e9, 2e9)
"""Range of times in seconds since 1970, from 2001 to 2033."""
MAX_KEPT_NAMES = 20


def describe_unusual_columns(rows: "DataFrame") -> list[str]:
    """Describes the columns that are modelled, and those among them that look unusual.

    Args:
        rows: The columns that are modelled, without missing values.

    Returns:
        Notes, which may be empty.
    """
    notes = []
    for name, column in rows.items():
        description = _describe(column)
        if description:
            notes.append(f"column {name} {description}: leave it out by `drop` if it is no feature")
    notes += _describe_copies(rows)

    if notes:
        names = [*map(str, rows.columns)]
        more = ", ..." if len(names) > MAX_KEPT_NAMES else ""
        notes.append(f"columns kept: {', '.join(names[:MAX_KEPT_NAMES])}{more}")
    return notes


def _describe(column: "Series") -> str:
    """Describes what is unusual about a column; empty if nothing is."""
    values = column.to_numpy()
    is_whole = bool((values == np.round(values)).all())
    if is_whole and _is_time(values):
        return "looks like a time in seconds or milliseconds"
    if is_whole and len(np.unique(values)) == len(values):
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


def _describe_copies(rows: "DataFrame") -> list[str]:
    """Returns a note for each column that is an exact copy of an earlier one."""
    notes = []
    first_names: dict[bytes, str] = {}
    for name, column in rows.items():
        content = column.to_numpy().tobytes()
        if content in first_names:
            notes.append(
                f"column {name} is a copy of {first_names[content]}: leave one of them out"
            )
        first_names.setdefault(content, str(name))
    return notes
