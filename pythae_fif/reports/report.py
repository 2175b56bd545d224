"""A report of an experiment: its sentence, its table, and what must stand beside the numbers."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.scoring import MIN_SAMPLES
from pythae_fif.files import write_bytes
from pythae_fif.names import SAMPLERS
from pythae_fif.reports.compared import compared_tables
from pythae_fif.reports.figures import draw_figures
from pythae_fif.reports.frame import TIED_RANK, chosen_frame, first_scores, ranks, score_frame
from pythae_fif.reports.tables import number, overview, score_table, to_html
from pythae_fif.runs.store import Store

FEW_STEPS = 1000  # a training of fewer shows little
MAX_NAMES = 4  # of models in the sentence


class Report:
    """What is told of an experiment: configurations chosen by validation, and what must be said.

    Args:
        experiment: What was asked.
        results: Its runs; at least one.
        splits: Its data, by which a model that did not learn is known.
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
        splits: Splits,
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
        self.table = table = chosen_frame(self.frame, elsewhere, constant_error(splits))
        self.sentence, scores = summary_sentence(table), first_scores(results)
        self.tables = {
            "overview": overview(table, scores.distance_name, experiment.samplers),
            "scores": score_table(table, scores.distance_name, scores.score_name),
            **compared_tables(experiment, results, table),
        }
        self.warnings, self.notes = warnings_and_notes(experiment, results, self.frame, table)
        odd = [f"Data: {note}." for note in splits.notes]
        if missing:
            odd.append(f"{pluralized(missing, 'run')} without a result, or not of every sampler.")
        self.warnings = odd + self.warnings

    def terminal(self) -> RenderableType:
        """The sentence, the overview, and the warnings; numbers have room in 80 columns."""
        table = self.tables["overview"]
        title = escape(f"{self.title}: {table.title}")
        shown = RichTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        cells = table.marked(escape, "[bold]{}[/]", "[underline]{}[/]")
        for heading, right in zip(cells, table.of_numbers, strict=True):
            shown.add_column(heading, justify="right" if right else "left", no_wrap=right)
        for row in cells.itertuples(index=False):
            shown.add_row(*row)
        warnings = [Text(f"· {warning}") for warning in self.warnings]
        return Group(Text(self.sentence, "bold"), shown, *warnings)

    def write(self, store: Store) -> list[Path]:
        """Writes `tables/`, `figures/` and the page of an experiment below the store's folder.

        A file whose content stays the same is left as it is. The last of the paths is the page.
        """
        drawn = draw_figures(self.frame, self.table, self.results, store, self.splits)
        figures = {f"{self.name}-{figure.name}": figure for figure in drawn}
        marked = [f"# {self.title}", self.sentence]
        marked += [table.to_markdown().rstrip() for table in self.tables.values()]
        marked += ["## Notes", "\n".join(f"* {note}" for note in (*self.warnings, *self.notes))]
        marked += [f"![{of.shows}](../figures/{name})" for name, of in figures.items()]
        # The page needs no network: pictures are inside, and links lead to the runs beside it.
        loader = jinja2.PackageLoader("pythae_fif.reports", "")
        page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
        page.filters["base64"] = lambda content: base64.b64encode(content).decode()
        runs = [of.spec for of in self.results if store.folder(of.spec).is_dir()]
        shown = {"report": self, "figures": [*figures.values()], "runs": runs, "html_of": to_html}
        texts = {f"tables/{self.name}-{key}.tex": of.to_latex() for key, of in self.tables.items()}
        texts |= {
            f"tables/{self.name}.csv": self.table.to_csv(index=False),
            f"tables/{self.name}-runs.csv": self.frame.to_csv(index=False),
            f"tables/{self.name}.md": "\n\n".join(marked) + "\n",
            f"{self.name}.html": page.get_template("page.html").render(shown),
        }
        files = {f"figures/{name}": figure.content for name, figure in figures.items()}
        files |= {path: text.encode() for path, text in texts.items()}
        for path, content in files.items():
            write_bytes(store.root / path, content)
        return [store.root / path for path in files]


def summary_sentence(table: pandas.DataFrame) -> str:
    """Which models are lowest from the prior and with the mixture, and whether that stands out."""
    prior = table["sampler"] == table["prior"]
    roles = {"from the prior": table[prior], "with the mixture": table[table["sampler"] == "gmm"]}
    first = table["sampler"].iloc[0]
    if not any(map(len, roles.values())):
        roles = {f"with {SAMPLERS[first].label} codes": table[table["sampler"] == first]}
    text = "; ".join(_describe_best(where, rows) for where, rows in roles.items() if len(rows))
    low, high = table["seeds"].min(), table["seeds"].max()
    seeds = pluralized(high, "seed") if low == high else f"{low} to {high} seeds"
    return f"{text[0].upper()}{text[1:]} ({seeds})."


def _describe_best(where: str, rows: pandas.DataFrame) -> str:
    rows = (rows[rows["learned"]] if rows["learned"].any() else rows).sort_values("frechet_test")
    labels, values = list(rows["label"]), list(map(number, rows["frechet_test"]))
    if len(rows) == 1:
        return f"{where} {labels[0]} is at {values[0]}"
    marks = ranks(rows["frechet_test"], rows["noise"])
    count = int((marks == TIED_RANK).sum())
    if count == 0:
        noise = "noise" if rows["seeds"].head(2).min() > 1 else "the noise of samples"
        return (
            f"{where} {labels[0]} is lowest with {values[0]}, beyond {noise}: {labels[1]} follows "
            f"with {values[1]}"
        )
    level = [i for i, mark in enumerate(marks) if mark == TIED_RANK]  # not always the lowest ones
    *others, last = (labels[i] for i in level)
    shown = f"{', '.join(others)} and {last}" if count <= MAX_NAMES else f"{count} models"
    return f"{where} {shown} are level ({values[0]} to {values[level[-1]]}): no lead stands out"


def constant_error(splits: Splits) -> float:
    """Mean squared error, a pixel in [0, 1], of the mean training image as guess of test images."""
    mean = splits.train.mean(axis=0, dtype=np.float64)
    total = sum(float(((image - mean) ** 2).sum()) for image in splits.test)
    return total / splits.test.size / (255**2 if splits.columns is None else 1)


def warnings_and_notes(
    experiment: Experiment,
    results: Sequence[ImageResult],
    frame: pandas.DataFrame,
    table: pandas.DataFrame,
) -> tuple[list[str], list[str]]:
    """Why numbers say less than they seem to; what data, scores and training they stand for."""
    scored, profile = first_scores(results), experiment.active_profile
    data = results[0].evaluation.result.data
    failed = ", ".join(sorted(set(table.loc[~table["learned"], "label"])))
    samples, references = scored.num_samples, data.sizes["test"]
    steps = frame["steps"].astype(float).min()
    weights = sorted(set(frame["extractor_hash"]))
    dims = ", ".join(map(str, sorted(set(frame["latent_dim"]))))
    warnings = {
        f"A part of the data: {data.source}.": data.partial,
        f"{failed} did not learn: reconstructions are no better than the mean of the training "
        "data; such rows say nothing about the model.": failed,
        f"The scores are of {len(weights)} different weights of the extractor "
        f"({', '.join(weights)}): their distances are not on one scale.": len(weights) > 1,
        f"Few data: {samples:,} samples and {references:,} references, fewer than "
        f"{MIN_SAMPLES:,}: distances are biased upwards, and compare at these numbers alone.": (
            min(samples, references) < MIN_SAMPLES
        ),
        f"Short trainings: {steps:,.0f} steps, fewer than {FEW_STEPS:,}.": steps < FEW_STEPS,
    }
    sizes = " / ".join(f"{data.sizes[split]:,}" for split in ("train", "val", "test"))
    entries = [experiment.entry_for(model) for model in dict.fromkeys(table["model"])]
    notes = [
        f"Profile {experiment.profile_summary} ({profile.note}): {describe_length(profile)}, "
        f"{profile.precision}, latent dimension {dims}, at most "
        f"{pluralized(int(table['candidates'].max()), 'configuration')} a model, seeds "
        f"{', '.join(map(str, sorted(set(frame['seed']))))}.",
        f"Data: {data.source}; used {sizes} for training, validation and test.",
        f"Scores: {samples:,} samples; extractor `{scored.extractor}` ({scored.extractor_hash}), "
        f"whose {scored.distance_name} is no FID unless its features are Inception's. mem. is the "
        "probability that a sample is nearer to the training data than those of the test are (0.5 "
        "is new, 1 copied), auth. the share of no copies; KL the divergence from the standard "
        "normal of the training codes' Gaussian.",
        "Each model and sampler has, of the configurations of most seeds, that of lowest "
        "validation distance. Bold is the lowest test distance of a sampler, underlined the "
        "second; if the lowest does not stand out, `=` marks all that are level with it within the "
        "noise of split, seeds and draws. ± is the standard deviation over seeds, or of one seed "
        "over draws; ref the largest relative difference from the same runs in our results. Of a "
        "row's configurations recon. and train s are of the first column's, or of one with a †.",
        f"Machines: {'; or '.join(dict.fromkeys(frame['machine']))}. Each record names versions, "
        "revision and, if it was kept, command.",
        *(f"{entry.label}: {' '.join(entry.notes)}" for entry in entries if entry.notes),
    ]
    return [line for line, holds in warnings.items() if holds], notes
