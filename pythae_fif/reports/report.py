"""A report of an experiment: its sentence, table and notes, for a terminal and as files."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import counted
from pythae_fif.files import write_bytes
from pythae_fif.reports.compared import compared_tables
from pythae_fif.reports.figures import Figure, figures_of
from pythae_fif.reports.frame import chosen_frame, first_scores, score_frame
from pythae_fif.reports.notes import constant_error, notes_of, sentence_of
from pythae_fif.reports.tables import html_of, overview, score_table
from pythae_fif.runs.store import Store


class Report:
    """What is told of an experiment: configurations chosen by validation, and what must be said.

    Args:
        experiment: What was asked.
        results: Its runs; at least one.
        splits: Its data, by which a model that did not learn is known; None leaves that out.
        missing: Number of runs that have no record, or not of every sampler that is asked.
        reference: Another store with runs made elsewhere, such as our committed results.

    Attributes:
        title, sentence: Above all; which models are lowest, and whether that stands out.
        frame, table: A row a run and sampler, and one a chosen model and sampler.
        tables: Name -> table that is read; the first is the overview.
        warnings, notes: Why numbers are missing or say less than they seem to; what they are of.
    """

    def __init__(
        self,
        experiment: Experiment,
        results: Sequence[ImageResult],
        splits: Splits | None,
        missing: int = 0,
        reference: Store | None = None,
    ) -> None:
        self.name, self.results, self.splits = experiment.name, results, splits
        own = "" if experiment.data is None else f" {Path(experiment.data).name}"
        self.title = f"{experiment.dataset}{own}, {experiment.arch}, profile {experiment.profile}"
        self.frame, elsewhere = score_frame(experiment, results), None
        if reference is not None:
            read = (ImageResult.read(reference, of.spec) for of in results)
            if theirs := [of for of in read if of is not None]:
                elsewhere = score_frame(experiment, theirs)
        constant = math.inf if splits is None else constant_error(splits)
        self.table = table = chosen_frame(self.frame, elsewhere, constant)
        self.sentence, scores = sentence_of(table), first_scores(results)
        self.tables = {
            "overview": overview(table, scores.distance_name),
            "scores": score_table(table, scores.distance_name, scores.score_name),
            **compared_tables(experiment, results, table),
        }
        self.warnings, self.notes = notes_of(experiment, results, self.frame, table)
        odd = [f"Data: {note}." for note in (splits.notes if splits else ())]
        if missing:
            odd.append(f"{counted(missing, 'run')} without a result, or not of every sampler.")
        self.warnings = odd + self.warnings

    def terminal(self) -> RenderableType:
        """The sentence, the overview, and the warnings; numbers have room in 80 columns."""
        table = self.tables["overview"]
        title = escape(f"{self.title}: {table.title}")
        shown = RichTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        cells = table.marked(escape, "[bold]{}[/]", "[underline]{}[/]")
        for heading, number in zip(cells, table.of_numbers, strict=True):
            shown.add_column(heading, justify="right" if number else "left", no_wrap=number)
        for row in cells.itertuples(index=False):
            shown.add_row(*row)
        warnings = [Text(f"· {warning}") for warning in self.warnings]
        return Group(Text(self.sentence, "bold"), shown, *warnings)

    def write(self, store: Store) -> list[Path]:
        """Writes `tables/`, `figures/` and the page of an experiment below the store's folder.

        A file whose content stays the same is left as it is. The last of the paths is the page.
        """
        drawn = figures_of(self.frame, self.table, self.results, store, self.splits)
        figures = {f"{self.name}-{figure.name}": figure for figure in drawn}
        marked = [f"# {self.title}", self.sentence]
        marked += [table.to_markdown().rstrip() for table in self.tables.values()]
        marked += ["## Notes", "\n".join(f"* {note}" for note in (*self.warnings, *self.notes))]
        marked += [f"![{of.shows}](../figures/{name})" for name, of in figures.items()]
        texts = {f"tables/{self.name}-{key}.tex": of.to_latex() for key, of in self.tables.items()}
        texts |= {
            f"tables/{self.name}.csv": self.table.to_csv(index=False),
            f"tables/{self.name}-runs.csv": self.frame.to_csv(index=False),
            f"tables/{self.name}.md": "\n\n".join(marked) + "\n",
            f"{self.name}.html": self._page(list(figures.values()), store),
        }
        files = {f"figures/{name}": figure.content for name, figure in figures.items()}
        files |= {path: text.encode() for path, text in texts.items()}
        for path, content in files.items():
            write_bytes(store.root / path, content)
        return [store.root / path for path in files]

    def _page(self, figures: Sequence[Figure], store: Store) -> str:
        """One HTML page, which opens without a network: pictures and all are inside, and links
        lead to the runs' folders beside it."""
        loader = jinja2.PackageLoader("pythae_fif.reports", "")
        page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
        page.filters["base64"] = lambda content: base64.b64encode(content).decode()
        runs = [of.spec for of in self.results if store.folder(of.spec).is_dir()]
        shown = {"report": self, "figures": figures, "runs": runs, "html_of": html_of}
        return page.get_template("page.html").render(shown)
