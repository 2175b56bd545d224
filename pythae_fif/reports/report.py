"""A report of an experiment: its sentence, table and notes, for a terminal and as files."""

__all__ = ["Report", "build_report", "write_report"]

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas
from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import Choice, select
from pythae_fif.data import Splits
from pythae_fif.files import write_bytes
from pythae_fif.reports.compared import compared_tables
from pythae_fif.reports.figures import Figure, figures_of
from pythae_fif.reports.frame import chosen_frame, first_scores, score_frame
from pythae_fif.reports.notes import constant_error, notes_of, sentence_of, warnings_of
from pythae_fif.reports.tables import TEXTS, Table, html_of, overview, score_table
from pythae_fif.runs.store import Store


@dataclass(frozen=True)
class Report:
    """What is told of an experiment.

    Attributes:
        experiment, results, splits: What was asked, its runs, and its data, if at hand.
        frame: A row a run and sampler.
        table: A row a model and sampler, of the configuration chosen by validation.
        warnings: Why numbers are missing, or say less than they seem to.
        tables: Name -> table that is read; the first is the overview.
    """

    experiment: Experiment
    results: Sequence[ImageResult]
    splits: Splits | None
    frame: pandas.DataFrame
    table: pandas.DataFrame
    warnings: Sequence[str]
    tables: dict[str, Table]

    @property
    def title(self) -> str:
        """Data set, of one's own data its name too, architecture and profile."""
        experiment = self.experiment
        own = "" if experiment.data is None else f" {Path(experiment.data).name}"
        return f"{experiment.dataset}{own}, {experiment.arch}, profile {experiment.profile}"

    @property
    def sentence(self) -> str:
        """Which models are lowest, and whether that stands out of the noise."""
        return sentence_of(self.table)

    @property
    def notes(self) -> list[str]:
        """What the numbers are of."""
        return notes_of(self.experiment, self.results, self.table)

    def terminal(self) -> RenderableType:
        """The sentence, the overview, and the warnings; numbers have room in 80 columns."""
        table = self.tables["overview"]
        title = escape(f"{self.title}: {table.title}")
        shown = RichTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        cells = table.marked(escape, "[bold]{}[/]", "[underline]{}[/]")
        for heading in cells:
            number = heading != "Model"
            shown.add_column(heading, justify="right" if number else "left", no_wrap=number)
        for row in cells.itertuples(index=False):
            shown.add_row(*row)
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
    warnings = warnings_of(experiment, results, table, splits, missing)
    return Report(experiment, results, splits, frame, table, warnings, tables)


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
        for key in ours.keys() & theirs.keys() - {"std"}:
            yield from _numbers(ours[key], theirs[key])
    elif isinstance(ours, float) and isinstance(theirs, float):
        yield ours, theirs


def write_report(report: Report, store: Store) -> list[Path]:
    """Writes `tables/`, `figures/` and the page of an experiment below the store's folder.

    A file whose content stays the same is left as it is. The last of the paths is the page.
    """
    name = report.experiment.name
    figures = list(figures_of(report.frame, report.table, report.results, store, report.splits))
    files = {f"figures/{name}-{figure.name}": figure.content for figure in figures}
    texts = {f"tables/{name}-{key}.tex": table.to_latex() for key, table in report.tables.items()}
    texts |= {
        f"tables/{name}.csv": report.table.to_csv(index=False),
        f"tables/{name}-runs.csv": report.frame.to_csv(index=False),
        f"tables/{name}.md": _markdown(report, figures),
        f"{name}.html": _page(report, figures),
    }
    files |= {path: text.encode() for path, text in texts.items()}
    for path, content in files.items():
        write_bytes(store.root / path, content)
    return [store.root / path for path in files]


def _markdown(report: Report, figures: Sequence[Figure]) -> str:
    """The sentence, tables and notes, then links to the figures."""
    parts = [f"# {report.title}", report.sentence]
    parts += [table.to_markdown().rstrip() for table in report.tables.values()]
    parts += ["## Notes", "\n".join(f"* {note}" for note in (*report.warnings, *report.notes))]
    parts += [
        f"![{of.shows}](../figures/{report.experiment.name}-{of.name})\n\n{of.shows}."
        for of in figures
    ]
    return "\n\n".join(parts) + "\n"


def _page(report: Report, figures: Sequence[Figure]) -> str:
    """One HTML page, which opens without a network: pictures and all are inside.

    First the sentence, then samples of the best beside test images, then the overview; all else is
    below, folded.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pythae_fif.reports", ""), autoescape=True, trim_blocks=True
    )
    environment.filters["inline"] = lambda text: Markup(html_of(text))
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    page = environment.get_template("page.html")
    return page.render(report=report, figures=figures, texts=TEXTS)
