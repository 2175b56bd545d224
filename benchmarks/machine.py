"""What the benchmarks share: a timed call, a table of the results, and where they go."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pythae_fif.reports.grid import Cell, Grid, write_grid
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.output import Drawing, write_study


def seconds(function: Callable[[], object], device: str) -> float:
    """One timed call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def markdown(rows: list[dict[str, str]]) -> str:
    """A table of rows with the same keys."""
    lines = [
        list(rows[0]),
        ["---"] + ["--:"] * (len(rows[0]) - 1),
        *(list(row.values()) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def command(output: str) -> str:
    """This program's command without the file that it writes."""
    return " ".join(["python", *sys.argv]).replace(f" --output {output}", "")


def with_range(values: Sequence[float], form: str = ".3g") -> Cell:
    """The median with the lowest and the highest."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) <= len(values) // 2:
        return Cell("not finite")
    median = statistics.median(finite)
    ends = f"{min(finite):{form}} to {max(finite):{form}}"
    return Cell(f"{median:{form}} ({ends})", median)


def publish(results: Path, made_by: str, grid: Grid, drawing: Drawing) -> None:
    """Writes a table and a figure, by the name of the figure, and prints the paths.

    Args:
        results: The folder of results.
        made_by: The command.
        grid: The table.
        drawing: The figure with its caption.
    """
    paths = write_grid(grid, results / "tables" / drawing.name, ".md", ".csv")
    options = StudyOptions(results=results, command=made_by)
    for path in (*paths, *write_study(options, [drawing], {})):
        print(path)
