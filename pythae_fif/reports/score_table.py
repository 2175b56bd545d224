"""The table of an experiment's scores, for files and for a terminal."""

__all__ = ["score_grid", "score_terminal"]

import math
from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from pythae_fif.benchmark.display import initials
from pythae_fif.reports.grid import DASH, Cell, Grid, measured, number, rank_column
from pythae_fif.reports.report import Report, Row


def _pair(first: float | None, second: float | None) -> Cell:
    return Cell(DASH if first is None or second is None else f"{first:.2f} / {second:.2f}")


def _cells(row: Row) -> list[Cell]:
    chosen = row.configuration + (f" (of {row.candidates})" if row.candidates > 1 else "")
    return [
        Cell(row.model if row.learned else f"{row.model} †"),
        Cell(row.sampler),
        number(row.frechet_test, row.frechet_test_std, row.frechet_test_noise),
        number(row.frechet_val),
        number(row.score, row.score_std),
        measured(None if row.kernel is None else 1000 * row.kernel, ".2f"),
        _pair(row.precision, row.recall),
        _pair(row.density, row.coverage),
        measured(row.reconstruction_mse, ".4f"),
        measured(row.training_seconds, ".0f"),
        Cell(chosen),
    ]


def score_grid(report: Report) -> Grid:
    """The table in full, for files and the page."""
    rows = report.rows
    cells = [_cells(row) for row in rows]
    rank_column(cells, 2, [row.sampler for row in rows])
    headings = [
        "Model",
        "Sampler",
        f"{report.distance} test ↓",
        "validation ↓",
        f"{report.score} ↑" if report.score else "score",
        "KD × 10³ ↓",
        "prec. / recall ↑",
        "dens. / cov. ↑",
        "recon. MSE ↓",
        "train s",
        "chosen configuration",
    ]
    if any(row.nearer is not None for row in rows):  # early records have none
        headings.insert(-1, "mem. / auth.")
        for line, row in zip(cells, rows, strict=True):
            line.insert(-1, _pair(row.nearer, row.authenticity))
    if report.differences:
        headings.insert(-1, "reference")
        for line, found in zip(cells, report.differences, strict=True):
            known = None if math.isnan(found) else found
            words = {0.0: "same", math.inf: "other extractor"}
            cell = measured(known, ".1%")
            line.insert(-1, Cell(words.get(found, cell.text), cell.value))
    machines = report.machines
    if len(machines) > 1:
        headings.insert(-1, "machine")
        for line, choice in zip(cells, report.choices, strict=True):
            on = {machines.index(r.record.provenance.machine) + 1 for r in choice.results}
            line.insert(-1, Cell(", ".join(map(str, sorted(on)))))
    starts = (i for i, row in enumerate(rows) if i and row.model != rows[i - 1].model)
    return Grid(
        title=report.title,
        headings=headings,
        align="ll" + "r" * (len(headings) - 3) + "l",
        rows=cells,
        notes=report.notes,
        groups=frozenset(starts),
    )


WIDE = 110
"""Columns of a terminal in which the names of hyper-parameters have room."""


def score_terminal(report: Report, width: int = 80) -> Table:
    """The table for a terminal, which leaves three columns to the files; in a narrow one the
    hyper-parameters are initials."""
    if width < WIDE:
        rows = [replace(row, configuration=initials(row.configuration)) for row in report.rows]
        report = replace(report, rows=rows)
    grid = score_grid(report)
    # Short headings: the notes say in full what FD and CS are.
    short = {0: "model", 1: "", 2: "FD test", 3: "FD val", 4: "CS"}
    short |= {8: "MSE", 9: "sec"} | (
        {grid.headings.index("reference"): "ref"} if report.differences else {}
    )
    short[len(grid.headings) - 1] = "chosen"
    styles = {1: "bold", 2: "underline"}
    title = Text(grid.title, "bold")
    signs = {
        "±": "± over draws of samples, or over seeds",
        "=": "= level with the lowest of a sampler",
    }
    column = "".join(row[2].shown for row in grid.rows)
    legend = "; ".join(text for sign, text in signs.items() if sign in column)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=legend)
    for index, heading in short.items():
        table.add_column(
            heading,
            justify="right" if grid.align[index] == "r" else "left",
            no_wrap=heading not in ("model", "ref", "chosen"),
            overflow="fold",
        )
    for position, row in enumerate(grid.rows, start=1):
        cells = ((row[index].shown, styles.get(row[index].rank, "")) for index in short)
        table.add_row(*map(Text.assemble, cells), end_section=position in grid.groups)
    return table
