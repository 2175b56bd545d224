"""The numbers printed in the paper, as data: `benchmark_configs/published/table<number>.yaml`."""

__all__ = ["TABLES", "PublishedCell", "PublishedTable", "load_published", "printed"]

import functools
import re
from dataclasses import dataclass

import yaml
from pydantic import ConfigDict, Field

from pythae_fif.benchmark.yaml_files import config_file
from pythae_fif.errors import ConfigError
from pythae_fif.reports.grid import DASH, Cell
from pythae_fif.validation import Checked, read_checked

TABLES = (1, 2, 3, 5, 6, 7, 8)
"""Numbers of the paper's tables of results (table 4 holds formulae, 9 to 11 architectures)."""

_PRINTED = re.compile(r"\d+(\.\d+)?( ± \d+(\.\d+)?)?")


class _Line(Checked):
    model_config = ConfigDict(strict=False)  # all values are texts

    name: str
    at: dict[str, str] = Field(default_factory=dict)


class _Row(_Line):
    values: list[str]
    source: str | None = None
    second: list[str] = Field(default_factory=list)
    compared: bool = True


class _File(Checked):
    model_config = ConfigDict(strict=False)

    number: int
    title: str
    source: str
    note: str
    at: dict[str, str] = Field(default_factory=dict)
    columns: list[_Line]
    rows: list[_Row]


@dataclass(frozen=True)
class PublishedCell:
    """One printed number.

    Attributes:
        text: As it is printed, such as `0.110 ± 0.021`.
        value, std: The number and what follows its ±, if anything does.
        row, column: The headings.
        at: What it is the value of: the table's, its column's and its row's coordinates together,
            such as dataset, arch, model, sampler, metric and unit.
        source: Whose number it is.
        second: Whether the paper underlines it, as far as our text of the paper shows.
        compared: Whether its row takes part in the ranking.
    """

    text: str
    value: float
    std: float | None
    row: str
    column: str
    at: dict[str, str]
    source: str
    second: bool
    compared: bool


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper; `rows` are complete, one cell a column.

    Attributes:
        title, note: In our words.
        source: The paper and the table.
        columns: Headings.
        rows: Its cells.
    """

    title: str
    source: str
    note: str
    columns: list[str]
    rows: list[list[PublishedCell]]

    def find(self, **at: str) -> list[PublishedCell]:
        """The cells with these coordinates, row by row; a merged row has each of its models.

        Example:
            >>> [cell.text for cell in load_published(3).find(model="rae_gp", arch="resnet")]
            ['168.7', '3.1', '58.3', '1.8']
        """
        cells = (cell for row in self.rows for cell in row)
        return [c for c in cells if all(_is_at(c.at.get(key), v) for key, v in at.items())]


def _is_at(coordinate: str | None, wanted: str) -> bool:
    return coordinate is not None and (wanted == coordinate or wanted in coordinate.split())


@functools.cache
def load_published(number: int) -> PublishedTable:
    """Reads `published/table<number>.yaml`.

    Args:
        number: One of `TABLES`.

    Raises:
        ConfigError: There is no such file, or a key, value or cell of it is missing or wrong.
    """
    path = config_file(f"published/table{number}")
    if number not in TABLES:
        raise ConfigError(f"table {number} is not transcribed: {', '.join(map(str, TABLES))} are")
    # The base loader leaves numbers as they are printed: 2.0 is not 2.
    values = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    content = read_checked(_File, values, path.name)
    columns = [column.name for column in content.columns]
    for row in content.rows:
        where = f"{path.name}: row {row.name!r}"
        if len(row.values) != len(columns):
            raise ConfigError(f"{where} has {len(row.values)} values for {len(columns)} columns")
        if unknown := set(row.second) - set(columns):
            raise ConfigError(f"{where}: no column {unknown.pop()!r} to mark")
        for text in row.values:
            if _PRINTED.fullmatch(text) is None:
                raise ConfigError(f"{where}: {text!r} is not a number, or number ± number")
    cells = [
        [_cell(content, row, *of) for of in zip(content.columns, row.values, strict=True)]
        for row in content.rows
    ]
    return PublishedTable(content.title, content.source, content.note, columns, cells)


def _cell(table: _File, row: _Row, column: _Line, text: str) -> PublishedCell:
    value, *std = map(float, text.split(" ± "))
    return PublishedCell(
        text=text,
        value=value,
        std=std[0] if std else None,
        row=row.name,
        column=column.name,
        at={**table.at, **column.at, **row.at},
        source=row.source or table.source,
        second=column.name in row.second,
        compared=row.compared,
    )


def printed(cell: PublishedCell | None) -> Cell:
    """A printed number as a cell of a table, `–` where the paper has none."""
    return Cell(DASH) if cell is None else Cell(cell.text, cell.value)
