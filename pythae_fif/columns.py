"""The columns of a table: names, units, and conversion to and from standardised rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from pythae_fif.errors import DataError, format_error, requires_extra

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from sklearn.preprocessing import QuantileTransformer

GROUPED_NUMBER = r"[+-]?\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?"
PERCENTAGE = r"[+-]?\d+(?:\.\d+)?\s*%"

OTHER = "other"
"""The value of a category that stands for all rare values."""
MAX_EXACT_INTEGER = 2.0**53
"""Above it not every whole number is a float64."""

Value = str | bool | int | float | None
"""A value of a category. None stands for a missing value."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are modelled, and their conversion to D standardised numbers.

    * A column of numbers is one number, or two if missing values are imputed: the second is 1 where
      the value is missing, and 0 elsewhere.
    * A category is as many numbers as it has values: 1 for the value of the row, and 0 for all
      others (one-hot).

    These D numbers are standardised, (number - mean) / std.

    Attributes:
        names: Names of the columns.
        mean: Means of the D numbers in the training rows.
        std: Their standard deviations. All numbers of a category have the same one.
        dropped: Names of the table's other columns.
        categories: Category -> its values. The value :data:`OTHER` stands for all rare ones.
        imputed: Column of numbers -> the mean that replaces missing values.
        quantiles: Column of numbers -> quantiles by which it is mapped to a normal distribution.
        decimals: Column of numbers -> the number of decimals of all training rows.
        ranges: Column of numbers -> the lowest and the highest value of the training rows.
        label: Name of the column with the classes; None without one.
        classes: Its values, in the order of their indices.
        class_counts: Number of training rows of each class.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # of a saved file

    names: list[str]
    mean: list[Finite]
    std: list[Positive]
    # Not in the text of the object: the hash of a run's data is computed from that text.
    dropped: list[str] = field(default_factory=list, repr=False)
    categories: dict[str, list[Value]] = field(default_factory=dict, repr=False)
    imputed: dict[str, Finite] = field(default_factory=dict, repr=False)
    quantiles: dict[str, list[Finite]] = field(default_factory=dict, repr=False)
    decimals: dict[str, int] = field(default_factory=dict, repr=False)
    ranges: dict[str, tuple[Finite, Finite]] = field(default_factory=dict, repr=False)
    label: str | None = field(default=None, repr=False)
    classes: list[Value] = field(default_factory=list, repr=False)
    class_counts: list[int] = field(default_factory=list, repr=False)

    def check(self, input_dim: Sequence[int]) -> None:
        """Checks that the attributes fit each other and a model's `input_dim`.

        Raises:
            DataError: A length is wrong; the message names it.
        """
        widths = [place.stop - place.start for place in self.slices.values()]
        for name, length in (("mean", len(self.mean)), ("std", len(self.std))):
            if length != sum(widths) or len(widths) != len(self.names):
                raise DataError(f"{name} has {length} numbers, needs {sum(widths)}")
        if tuple(input_dim) != (sum(widths),):
            raise DataError(f"columns of {sum(widths)} numbers for input_dim={tuple(input_dim)}")
        if len(self.classes) != len(self.class_counts):
            raise DataError(f"{len(self.classes)} classes have {len(self.class_counts)} counts")

    @property
    def encodings(self) -> tuple[Any, ...]:
        """What a hash of the data needs besides names, mean and std; empty for plain numbers."""
        encodings = (self.categories, self.imputed, self.quantiles)
        return encodings if any(encodings) else ()

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Column -> the places of its numbers among the D numbers of a row."""
        slices = {}
        start = 0
        for name in self.names:
            width = 1 + (name in self.imputed)
            stop = start + len(self.categories.get(name, [None] * width))
            slices[name] = slice(start, stop)
            start = stop
        return slices

    # ------------------------------------------------------------------ table -> numbers

    def transform(self, frame: "DataFrame") -> np.ndarray:
        """Converts rows in original units to standardised rows (N, D).

        Columns are found by their names, in any order; further columns are left out. A value of a
        category that no training row has counts as :data:`OTHER`; without that value all numbers of
        the category are 0 before they are standardised.

        Returns:
            The rows as float64, with NaN for missing values that are neither imputed nor a value of
            a category.

        Raises:
            DataError: A column is missing, occurs several times, or has values that are not
                numbers.
        """
        return (self.encode(frame) - self.mean) / self.std

    def encode(self, frame: "DataFrame") -> np.ndarray:
        """Converts rows to numbers (N, D) that are not standardised; see :meth:`transform`."""
        stripped_names = [str(name).strip() for name in frame.columns]
        for name in self.names:
            count = stripped_names.count(name)
            if count != 1:
                raise DataError(
                    f"the table has {count or 'no'} column{'s' * (count > 1)} {name!r}: the model "
                    f"needs {', '.join(self.names)}, each once"
                )
        blocks = [
            self._encode(name, frame.iloc[:, stripped_names.index(name)]) for name in self.names
        ]
        return np.concatenate(blocks, axis=1)

    def _encode(self, name: str, column: "Series") -> np.ndarray:
        """Returns the numbers (N, k) of a column."""
        if name in self.categories:
            return self._encode_category(name, column)

        numbers = _to_numbers(column)
        if name in self.imputed:
            is_missing = ~np.isfinite(numbers)
            numbers = np.where(is_missing, self.imputed[name], numbers)
        if name in self.quantiles:
            numbers = self._quantile_transformer(name).transform(numbers[:, None])[:, 0]
        return np.stack([numbers, is_missing] if name in self.imputed else [numbers], axis=1)

    def _encode_category(self, name: str, column: "Series") -> np.ndarray:
        """Returns the one-hot numbers (N, k) of a category."""
        values = [*map(value_text, self.categories[name])]
        texts = category_texts(column)
        is_missing = (texts == "").to_numpy()
        if OTHER in values:
            texts = texts.where(texts.isin(values) | is_missing, OTHER)

        from sklearn.preprocessing import OneHotEncoder  # takes a second to import

        encoder = OneHotEncoder(categories=[values], handle_unknown="ignore", sparse_output=False)
        one_hot: np.ndarray = encoder.fit([[values[0]]]).transform(texts.to_numpy(object)[:, None])
        if "" not in values:
            one_hot[is_missing] = np.nan
        return one_hot

    # ------------------------------------------------------------------ numbers -> table

    def inverse_transform(self, rows: np.ndarray) -> np.ndarray:
        """Converts standardised rows (..., D), such as a model's samples, to original units.

        A category gets its most likely value, the one with the largest number.

        Returns:
            The rows (..., number of columns) as float64, or as objects if a column is a category.
        """
        encoded = rows.astype(np.float64) * self.std + self.mean
        columns = [self._decode(name, encoded[..., place]) for name, place in self.slices.items()]
        return np.stack(columns, axis=-1)

    def _decode(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Returns the values (...) of a column from its numbers (..., k)."""
        if name in self.categories:
            values = np.empty(len(self.categories[name]), dtype=object)
            values[:] = self.categories[name]
            return values[numbers.argmax(-1)]

        decoded = numbers[..., 0]
        if name in self.quantiles:
            transformer = self._quantile_transformer(name)
            decoded = transformer.inverse_transform(decoded.reshape(-1, 1)).reshape(decoded.shape)
        if name in self.imputed:
            decoded = np.where(numbers[..., 1] > 0.5, np.nan, decoded)
        return decoded

    def to_frame(self, rows: Any, labels: Any = None, *, raw: bool = False) -> "DataFrame":
        """Converts standardised rows to rows that the table could have, as a DataFrame.

        Numbers are clipped to the range of the training rows, and rounded to their decimals.

        Args:
            rows: Rows (..., D), a tensor or an array.
            labels: Class indices (...) of the rows, which become the column `label`; None for none.
            raw: Whether numbers stay as they are.

        Raises:
            ConfigError: pandas is not installed.
        """
        with requires_extra("benchmark", "a DataFrame"):
            import pandas as pd
        array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
        values = self.inverse_transform(array.reshape(-1, len(self.mean)))

        columns = {}
        for name, column in zip(self.names, values.T, strict=True):
            if name in self.categories:
                columns[name] = pd.Series(column.tolist(), name=name)
            else:
                numbers = pd.Series(column.astype(np.float64), name=name)
                columns[name] = numbers if raw else self._possible_numbers(numbers)
        frame = pd.DataFrame(columns)
        if labels is not None and self.label is not None:
            frame[self.label] = [self.classes[index] for index in np.ravel(labels)]
        return frame

    def _possible_numbers(self, numbers: "Series") -> "Series":
        """Returns numbers in the range of the training rows, with as many decimals."""
        name = str(numbers.name)
        if name in self.ranges:
            numbers = numbers.clip(*self.ranges[name])
        decimals = self.decimals.get(name)
        if decimals is None:
            return numbers

        numbers = numbers.round(decimals)
        is_integer = decimals == 0 and bool((numbers.abs().fillna(0) < MAX_EXACT_INTEGER).all())
        if not is_integer:
            return numbers
        return numbers.astype("Int64" if numbers.hasnans else np.int64)

    # ------------------------------------------------------------------ densities

    def to_original_units(self, rows: Tensor) -> Tensor:
        """Converts standardised rows (..., D) to the D numbers of a row; it is differentiable.

        Numbers are in original units. The numbers of categories are between 0 and 1.
        """
        numbers = [*(rows * rows.new_tensor(self.std) + rows.new_tensor(self.mean)).unbind(-1)]
        for name in self.quantiles:
            place = self.slices[name].start
            numbers[place] = self._from_normal(name, numbers[place])[0]
        return torch.stack(numbers, dim=-1)

    def log_scale(self, rows: Tensor) -> Tensor:
        """Computes the log-derivative of :meth:`to_original_units`, summed over the D numbers.

        Args:
            rows: Standardised rows (..., D).

        Returns:
            The sums (...), in nats; minus infinity where a quantile is repeated.
        """
        log_scale = rows.new_tensor(np.log(self.std)).sum().expand(rows.shape[:-1])
        for name in self.quantiles:
            place = self.slices[name].start
            normal = rows[..., place] * self.std[place] + self.mean[place]
            log_scale = log_scale + self._from_normal(name, normal)[1]
        return log_scale

    def _from_normal(self, name: str, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Maps standard normal numbers (...) to a column's units by linear interpolation.

        Returns:
            The numbers, and the logarithms of their derivatives.
        """
        quantiles = normal.new_tensor(self.quantiles[name])
        steps = len(quantiles) - 1
        place = torch.special.ndtr(normal) * steps  # between the quantiles
        index = place.floor().clamp(0, steps - 1).long()
        slope = quantiles.diff()[index]
        log_density = -normal.square() / 2 - np.log(2 * np.pi) / 2
        number = quantiles[index] + (place - index) * slope
        return number, (slope * steps).log() + log_density

    def _quantile_transformer(self, name: str) -> "QuantileTransformer":
        """Returns scikit-learn's transformer of a column to a normal distribution.

        The quantiles of n quantiles are themselves, so it is fitted to them.
        """
        from sklearn.preprocessing import QuantileTransformer  # takes a second to import

        quantiles = np.array(self.quantiles[name])[:, None]
        transformer = QuantileTransformer(
            n_quantiles=len(quantiles), output_distribution="normal", subsample=None
        )
        return transformer.fit(quantiles)


def plain_value(value: Any) -> Value:
    """Returns a value of a category as JSON has it; None for a missing one, and 2 for 2.0."""
    if value is None or value != value:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else float(value)
    return str(value).strip() or None


def category_texts(column: "Series") -> "Series":
    """Returns the texts (N,) by which the values of a category are recognised."""
    return column.astype(object).where(column.notna(), None).map(value_text)


def value_text(value: Any) -> str:
    """Returns the text of a value: the same for 1, 1.0 and "1 ", and empty for a missing one."""
    plain = plain_value(value)
    return "" if plain is None else str(plain)


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
