"""The table of an experiment's scores, for files and for a terminal."""

__all__ = ["score_grid", "score_terminal"]

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from pythae_fif.benchmark.display import initials
from pythae_fif.reports.grid import DASH, Cell, Grid, measured, number, rank_column
from pythae_fif.reports.report import Report, Row


class _Column(NamedTuple):
    """A column of the table.

    Attributes:
        heading: In files.
        cells: One a row.
        short: The heading in a terminal; None where the column is left to the files.
        align: `l` or `r`.
    """

    heading: str
    cells: list[Cell]
    short: str | None = None
    align: str = "r"


def _pair(first: float | None, second: float | None) -> Cell:
    return Cell(DASH if first is None or second is None else f"{first:.2f} / {second:.2f}")


def _difference(found: float) -> Cell:
    cell = measured(None if math.isnan(found) else found, ".1%")
    return replace(cell, text={0.0: "same", math.inf: "other extractor"}.get(found, cell.text))


def _columns(report: Report) -> list[_Column]:
    def of(cell: Callable[[Row], Cell]) -> list[Cell]:
        return list(map(cell, report.rows))

    score = f"{report.score} ↑" if report.score else "score"
    distances = of(lambda r: number(r.frechet_test, r.frechet_test_std, r.frechet_test_noise))
    columns = [
        _Column("Model", of(lambda r: Cell(r.model + " †" * (not r.learned))), "model", "l"),
        _Column("Sampler", of(lambda r: Cell(r.sampler)), "", "l"),
        _Column(f"{report.distance} test ↓", distances, "FD test"),
        _Column("validation ↓", of(lambda r: number(r.frechet_val)), "FD val"),
        _Column(score, of(lambda r: number(r.score, r.score_std)), "CS"),
        _Column("KD × 10³ ↓", of(lambda r: measured(r.kernel and 1000 * r.kernel, ".2f"))),
        _Column("prec. / recall ↑", of(lambda r: _pair(r.precision, r.recall))),
        _Column("dens. / cov. ↑", of(lambda r: _pair(r.density, r.coverage))),
        _Column("recon. MSE ↓", of(lambda r: measured(r.reconstruction_mse, ".4f")), "MSE"),
        _Column("train s", of(lambda r: measured(r.training_seconds, ".0f")), "sec"),
    ]
    if any(row.nearer is not None for row in report.rows):  # early records have none
        columns.append(_Column("mem. / auth.", of(lambda r: _pair(r.nearer, r.authenticity))))
    if report.differences:
        columns.append(_Column("reference", list(map(_difference, report.differences)), "ref"))
    if len(machines := report.machines) > 1:
        numbers = [
            sorted({machines.index(r.record.provenance.machine) + 1 for r in choice.results})
            for choice in report.choices
        ]
        columns.append(_Column("machine", [Cell(", ".join(map(str, on))) for on in numbers]))
    chosen = of(lambda r: Cell(r.configuration + f" (of {r.candidates})" * (r.candidates > 1)))
    return [*columns, _Column("chosen configuration", chosen, "chosen", "l")]


def score_grid(report: Report) -> Grid:
    """The table in full, for files and the page."""
    columns, rows = _columns(report), report.rows
    cells = [list(line) for line in zip(*(column.cells for column in columns), strict=True)]
    rank_column(cells, 2, [row.sampler for row in rows])
    starts = (i for i, row in enumerate(rows) if i and row.model != rows[i - 1].model)
    return Grid(
        title=report.title,
        headings=[column.heading for column in columns],
        align="".join(column.align for column in columns),
        rows=cells,
        notes=report.notes,
        groups=frozenset(starts),
    )


WIDE = 110
"""Columns of a terminal in which the names of hyper-parameters have room."""


def score_terminal(report: Report, width: int = 80) -> Table:
    """The table for a terminal, which leaves some columns to the files; in a narrow one the
    hyper-parameters are initials."""
    if width < WIDE:
        rows = [replace(row, configuration=initials(row.configuration)) for row in report.rows]
        report = replace(report, rows=rows)
    grid = score_grid(report)
    # Short headings: the notes say in full what FD and CS are.
    shown = {i: of for i, of in enumerate(_columns(report)) if of.short is not None}
    styles = {1: "bold", 2: "underline"}
    title = Text(grid.title, "bold")
    signs = {
        "±": "± over draws of samples, or over seeds",
        "=": "= level with the lowest of a sampler",
    }
    distances = "".join(row[2].shown for row in grid.rows)
    legend = "; ".join(text for sign, text in signs.items() if sign in distances)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=legend)
    for column in shown.values():
        table.add_column(
            column.short or "",
            justify="right" if column.align == "r" else "left",
            no_wrap=column.short not in ("model", "ref", "chosen"),
            overflow="fold",
        )
    for position, row in enumerate(grid.rows, start=1):
        cells = ((row[index].shown, styles.get(row[index].rank, "")) for index in shown)
        table.add_row(*map(Text.assemble, cells), end_section=position in grid.groups)
    return table
