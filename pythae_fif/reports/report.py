"""A report of an experiment: its sentence, table and notes, for a terminal and as files."""

__all__ = ["Report", "build_report", "write_report"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import Choice, select
from pythae_fif.data import Splits
from pythae_fif.files import write_bytes
from pythae_fif.reports.compared import compared_tables
from pythae_fif.reports.figures import Figure, figures_of
from pythae_fif.reports.frame import LEVEL, chosen_frame, first_scores, score_frame
from pythae_fif.reports.notes import constant_error, notes_of, sentence_of, warnings_of
from pythae_fif.reports.page import page_of
from pythae_fif.reports.tables import (
    Table,
    overview,
    score_table,
)
from pythae_fif.runs.store import Store


@dataclass(frozen=True)
class Report:
    """What is told of an experiment.

    Attributes:
        experiment: What was asked.
        results: Its runs; at least one.
        splits: Its data; None where they are not at hand.
        frame: A row a run and sampler.
        table: A row a model and sampler, of the configuration chosen by validation.
        sentence: Which models are lowest, and whether that stands out of the noise.
        warnings: Why numbers are missing, or say less than they seem to.
        notes: What the numbers are of.
        tables: Name -> table that is read; the first is the overview.
    """

    experiment: Experiment
    results: Sequence[ImageResult]
    splits: Splits | None
    frame: pandas.DataFrame
    table: pandas.DataFrame
    sentence: str
    warnings: Sequence[str]
    notes: Sequence[str]
    tables: dict[str, Table]

    @property
    def title(self) -> str:
        """Data set, of one's own data its name too, architecture and profile."""
        experiment = self.experiment
        own = "" if experiment.data is None else f" {Path(experiment.data).name}"
        return f"{experiment.dataset}{own}, {experiment.arch}, profile {experiment.profile}"

    def terminal(self, width: int) -> RenderableType:
        """The sentence, the overview, and the warnings; numbers have room in 80 columns."""
        table, marks = self.tables["overview"], {1: "bold", 2: "underline"}
        shown = RichTable(title=Text(f"{self.title}: {table.title}"), box=box.SIMPLE_HEAD,
                          padding=(0, 1, 0, 0))  # fmt: skip
        for heading in table.cells:
            left = heading == "Model"
            justify: Literal["left", "right"] = "left" if left else "right"
            shown.add_column(heading, justify=justify, no_wrap=not left, overflow="fold")
        for number, row in enumerate(table.cells.itertuples(index=False)):
            ranks = [table.ranks[h].iloc[number] if h in table.ranks else 0 for h in table.cells]
            texts = (
                Text(f"{text} =" if rank == LEVEL else text, marks.get(rank, ""))
                for text, rank in zip(row, ranks, strict=True)
            )
            shown.add_row(*texts)
        warnings = [Text(f"· {warning}") for warning in self.warnings]
        return Group(Text(self.sentence, "bold"), shown, *warnings)


def build_report(
    experiment: Experiment,
    results: Sequence[ImageResult],
    splits: Splits | None,
    missing: int = 0,
    reference: Store | None = None,
) -> Report:
    """Selects configurations by validation, and gathers what must be said about them.

    Args:
        experiment: What was asked.
        results: Its runs; at least one.
        splits: Its data, by which a model that did not learn is known; None leaves that out.
        missing: Number of runs that have no record, or not of every sampler that is asked.
        reference: Another store with runs made elsewhere, such as our committed results.

    Raises:
        StoreError: A record of the reference cannot be read.
    """
    frame, choices = score_frame(experiment, results), select(results)
    differences = [] if reference is None else [_difference(c, reference) for c in choices]
    constant = None if splits is None else constant_error(splits)
    known = [] if all(map(math.isnan, differences)) else differences
    table = chosen_frame(frame, choices, known, constant)
    scores = first_scores(results)
    tables = {
        "overview": overview(table, scores.distance_name),
        "scores": score_table(table, scores.distance_name, scores.score_name),
        **compared_tables(experiment, results, table),
    }
    return Report(
        experiment,
        results,
        splits,
        frame,
        table,
        sentence_of(table),
        warnings_of(experiment, results, table, splits, missing),
        notes_of(experiment, results, table),
        tables,
    )


def _difference(choice: Choice, reference: Store) -> float:
    """The largest relative difference of a choice's scores from those of the same runs elsewhere.

    NaN where a run is not there, infinite where an extractor of other weights made them.
    """
    found = [0.0]
    for result in choice.results:
        theirs = ImageResult.read(reference, result.spec)
        if theirs is None or choice.sampler not in theirs.scores:
            return math.nan
        ours, scores = (of.scores[choice.sampler].result for of in (result, theirs))
        if ours.extractor_hash != scores.extractor_hash:
            return math.inf
        here, there = (of.evaluation.result.reconstruction_mse for of in (result, theirs))
        pairs = [*_numbers(ours.to_dict(), scores.to_dict()), *_numbers(here, there)]
        found += [abs(a - b) / max(abs(a), abs(b)) for a, b in pairs if a != b]
    return max(found)


def _numbers(ours: Any, theirs: Any) -> Iterator[tuple[float, float]]:
    """Pairs of numbers that two results have in common; spreads are none."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() & theirs.keys() - {"std", "seed", "num_samples"}:
            yield from _numbers(ours[key], theirs[key])
    elif isinstance(ours, float) and isinstance(theirs, float):
        yield ours, theirs


def write_report(report: Report, store: Store) -> list[Path]:
    """Writes `tables/`, `figures/` and the page of an experiment below the store's folder.

    A file whose content stays the same is left as it is.

    Returns:
        The files; the last is the page.

    Raises:
        StoreError: The folder does not take a file, or a run's picture is damaged.
    """
    name = report.experiment.name
    figures = list(figures_of(report.frame, report.table, report.results, store, report.splits))
    files = {f"figures/{name}-{figure.name}": figure.content for figure in figures}
    texts = {f"tables/{name}-{key}.tex": table.to_latex() for key, table in report.tables.items()}
    texts |= {
        f"tables/{name}.csv": report.table.to_csv(index=False),
        f"tables/{name}-runs.csv": report.frame.to_csv(index=False),
        f"tables/{name}.md": _markdown(report, figures),
        f"{name}.html": page_of(report, figures, store),
    }
    files |= {path: text.encode() for path, text in texts.items()}
    for path, content in files.items():
        write_bytes(store.root / path, content)
    return [store.root / path for path in files]


def _markdown(report: Report, figures: Sequence[Figure]) -> str:
    """The sentence, tables and notes, then links to the figures."""
    notes = "\n".join(f"* {note}" for note in (*report.warnings, *report.notes))
    parts = [
        f"# {report.title}",
        report.sentence,
        *(table.to_markdown().rstrip() for table in report.tables.values()),
        f"## Notes\n\n{notes}",
        *(
            f"## {of.title}\n\n![{of.shows}](../figures/{report.experiment.name}-{of.name})"
            for of in figures
        ),
    ]
    return "\n\n".join(parts) + "\n"
