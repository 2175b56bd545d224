"""The numbers printed in the paper, as data: `benchmark_configs/published/table<number>.yaml`."""

__all__ = ["TABLES", "PublishedCell", "PublishedTable", "load_published", "published_value"]

import functools
import re
from dataclasses import dataclass

import yaml
from pydantic import ConfigDict, Field

from pythae_fif.benchmark.yaml_files import config_file
from pythae_fif.errors import ConfigError
from pythae_fif.validation import Checked, read_checked

TABLES = (1, 2, 3, 5, 6, 7, 8)
"""Numbers of the paper's tables of results (table 4 holds formulae, 9 to 11 architectures)."""

_PRINTED = re.compile(r"(\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


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
        number: In the paper.
        title, note: In our words.
        source: The paper and the table.
        columns: Headings.
        rows: Its cells.
    """

    number: int
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
    return PublishedTable(
        number=content.number,
        title=content.title,
        source=content.source,
        note=content.note,
        columns=columns,
        rows=[_cells(content, row, path.name) for row in content.rows],
    )


def _cells(content: _File, row: _Row, where: str) -> list[PublishedCell]:
    if len(row.values) != len(content.columns):
        raise ConfigError(
            f"{where}: row {row.name!r} has {len(row.values)} values for "
            f"{len(content.columns)} columns"
        )
    unknown = set(row.second) - {column.name for column in content.columns}
    if unknown:
        raise ConfigError(f"{where}: row {row.name!r}: no column {unknown.pop()!r} to mark")
    cells = []
    for column, text in zip(content.columns, row.values, strict=True):
        printed = _PRINTED.fullmatch(text)
        if printed is None:
            raise ConfigError(
                f"{where}: row {row.name!r}, {column.name}: {text!r} is not a number, or number ± "
                f"number"
            )
        value, std = printed.groups()
        cells.append(
            PublishedCell(
                text=text,
                value=float(value),
                std=None if std is None else float(std),
                row=row.name,
                column=column.name,
                at={**content.at, **column.at, **row.at},
                source=row.source or content.source,
                second=column.name in row.second,
                compared=row.compared,
            )
        )
    return cells


def published_value(
    dataset: str, arch: str, model: str, sampler: str, metric: str = "FID"
) -> PublishedCell | None:
    """The cell of table 8 of a model with a sampler, or None where the paper has none.

    Args:
        dataset, arch, model, sampler: Names as in the benchmark.
        metric: `FID` or `IS`.

    Example:
        >>> published_value("celeba", "resnet", "fif", "normal").text
        '62.3'
    """
    found = load_published(8).find(
        dataset=dataset, arch=arch, model=model, sampler=sampler, metric=metric
    )
    return found[0] if found else None
