"""The numbers printed in the paper, as data: `benchmark_configs/published/table<number>.yaml`."""

__all__ = ["TABLE_3", "PublishedCell", "PublishedTable", "load_published", "printed"]

import functools
import re
from dataclasses import dataclass

import yaml
from pydantic import ConfigDict, Field

from pythae_fif.benchmark.yaml_files import config_file, names_in
from pythae_fif.errors import ConfigError
from pythae_fif.reports.grid import DASH, Cell
from pythae_fif.validation import Checked, read_checked

TABLE_3 = {
    "VAE": "vae",
    "IWAE": "iwae",
    "VAE-lin NF": "vae_lin_nf",
    "VAE-IAF": "vae_iaf",
    "β-(TC) VAE": "beta_vae beta_tc_vae",
    "FactorVAE": "factor_vae",
    "InfoVAE (RBF/IMQ)": "info_vae_rbf info_vae_imq",
    "AAE": "aae",
    "MSSSIM-VAE": "msssim_vae",
    "Vanilla AE": "ae",
    "WAE (RBF/IMQ)": "wae_rbf wae_imq",
    "VQVAE": "vqvae",
    "RAE (L2/GP)": "rae_l2 rae_gp",
    "FIF": "fif",
}
"""Rows of table 3 -> the models of table 8 of which each shows the best."""

_PRINTED = re.compile(r"\d+(\.\d+)?( ± \d+(\.\d+)?)?")


class _Line(Checked):
    model_config = ConfigDict(strict=False)  # all values are texts

    name: str
    at: dict[str, str] = Field(default_factory=dict)


class _Row(_Line):
    values: list[str]
    compared: bool = True


class _File(Checked):
    model_config = ConfigDict(strict=False)

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
        value: The number, without what follows its ±.
        row: The heading.
        at: What it is the value of: the table's, its column's and its row's coordinates together,
            such as dataset, arch, model, sampler and metric.
        compared: Whether its row takes part in the ranking.
    """

    text: str
    value: float
    row: str
    at: dict[str, str]
    compared: bool


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper; `rows` are complete, one cell a column.

    Attributes:
        title, note: In our words.
        source: The paper and the table.
        rows: Its cells.
    """

    title: str
    source: str
    note: str
    rows: list[list[PublishedCell]]

    def find(self, **at: str) -> list[PublishedCell]:
        """The cells with these coordinates, row by row.

        Example:
            >>> [cell.text for cell in load_published(8).find(model="rae_gp", dataset="celeba")]
            ['86.1', '2.4', '201.9', '3.1', '52.5', '1.9', '59.0', '1.8']
        """
        cells = (cell for row in self.rows for cell in row)
        return [cell for cell in cells if cell.at.items() >= at.items()]


@functools.cache
def load_published(number: int) -> PublishedTable:
    """Reads `published/table<number>.yaml`.

    Args:
        number: Of a table of results; table 3 is part of 8, 4 has formulae, 9 to 11 architectures.

    Raises:
        ConfigError: There is no such file, or a key, value or cell of it is missing or wrong.
    """
    path = config_file(f"published/table{number}")
    if not path.is_file():
        raise ConfigError(f"table {number} is not transcribed: {', '.join(names_in('published'))}")
    # The base loader leaves numbers as they are printed: 2.0 is not 2.
    values = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    content = read_checked(_File, values, path.name)
    columns = len(content.columns)
    for row in content.rows:
        where = f"{path.name}: row {row.name!r}"
        if len(row.values) != columns:
            raise ConfigError(f"{where} has {len(row.values)} values for {columns} columns")
        for text in row.values:
            if _PRINTED.fullmatch(text) is None:
                raise ConfigError(f"{where}: {text!r} is not a number, or number ± number")
    cells = [
        [_cell(content, row, *of) for of in zip(content.columns, row.values, strict=True)]
        for row in content.rows
    ]
    return PublishedTable(content.title, content.source, content.note, cells)


def _cell(table: _File, row: _Row, column: _Line, text: str) -> PublishedCell:
    at = {**table.at, **column.at, **row.at}
    return PublishedCell(text, float(text.split(" ± ")[0]), row.name, at, row.compared)


def printed(cell: PublishedCell | None) -> Cell:
    """A printed number as a cell of a table, `–` where the paper has none."""
    return Cell(DASH) if cell is None else Cell(cell.text, cell.value)
