"""The columns of a table: names, units, and conversion to and from standardised rows."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pythae_fif.errors import DataError, format_error, requires_extra

if TYPE_CHECKING:
    from pandas import DataFrame, Series

GROUPED_NUMBER = r"[+-]?\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?"
PERCENTAGE = r"[+-]?\d+(?:\.\d+)?\s*%"


@dataclass(frozen=True)
class Columns:
    """The D columns of a table that are modelled, and their standardisation, (value - mean) / std.

    Attributes:
        names: Names of the columns.
        mean: Means of the training rows.
        std: Standard deviations of the training rows.
        dropped: Names of the table's other columns.
    """

    names: list[str]
    mean: list[float]
    std: list[float]
    # Not in the text of the object: the hash of a run's data is computed from that text.
    dropped: list[str] = field(default_factory=list, repr=False)

    def transform(self, frame: "DataFrame") -> np.ndarray:
        """Converts rows in original units to standardised rows (N, D).

        Columns are found by their names, in any order; further columns are left out.

        Returns:
            The rows as float64, with NaN for missing values.

        Raises:
            DataError: A column is missing, occurs several times, or has values that are not
                numbers.
        """
        stripped_names = [str(name).strip() for name in frame.columns]
        for name in self.names:
            count = stripped_names.count(name)
            if count != 1:
                raise DataError(
                    f"the table has {count or 'no'} column{'s' * (count > 1)} {name!r}: the model "
                    f"needs {', '.join(self.names)}, each once"
                )
        columns = [frame.iloc[:, stripped_names.index(name)] for name in self.names]
        rows = np.stack([_to_numbers(column) for column in columns], axis=1)
        return (rows - self.mean) / self.std

    def inverse_transform(self, rows: np.ndarray) -> np.ndarray:
        """Converts standardised rows (..., D), such as a model's samples, to original units.

        Returns:
            The rows as float64.
        """
        return rows.astype(np.float64) * self.std + self.mean

    def to_frame(self, rows: Any) -> "DataFrame":
        """Converts standardised rows to a DataFrame in original units.

        Args:
            rows: Rows (..., D), a tensor or an array.

        Raises:
            ConfigError: pandas is not installed.
        """
        with requires_extra("benchmark", "a DataFrame"):
            import pandas as pd
        array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
        return pd.DataFrame(
            self.inverse_transform(array.reshape(-1, len(self.names))), columns=self.names
        )


def _to_numbers(column: "Series") -> np.ndarray:
    """Returns the values (N,) of a column; DataError if they are not numbers."""
    try:
        return column.to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        numbers = convert_formatted_numbers(column)
        if numbers is None:
            raise DataError(
                f"column {column.name!r} needs numbers as in training ({format_error(error)})"
            ) from error
        return numbers.to_numpy()


def convert_formatted_numbers(column: "Series") -> "Series | None":
    """Converts a column of texts such as `1,234.5` or `12 %` to numbers.

    Returns:
        The numbers, percentages divided by 100; None if a text is not such a number.
    """
    texts = column.dropna().astype(str).str.strip()
    is_percentage = texts.str.fullmatch(PERCENTAGE)
    is_number = texts.str.fullmatch(rf"{GROUPED_NUMBER}|[+-]?\d+(?:\.\d+)?")
    if texts.empty or not (is_percentage | is_number).all():
        return None

    numbers = texts.str.replace(r"[,' %]", "", regex=True).astype(float)
    return numbers.where(~is_percentage, numbers / 100).reindex(column.index)
