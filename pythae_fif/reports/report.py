"""The report of an experiment: a summary sentence, tables, warnings and notes."""

import base64
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.results import Result
from pythae_fif.data import Splits
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.score_types import Scores, number
from pythae_fif.evaluation.scores import find_columns
from pythae_fif.evaluation.scoring import MIN_SAMPLES
from pythae_fif.evaluation.simple_models import score_simple_models
from pythae_fif.files import write_bytes
from pythae_fif.reports.compared import comparison_tables
from pythae_fif.reports.figures import Figure, draw_figures
from pythae_fif.reports.frame import (
    FEW_STEPS,
    SIGNIFICANCE,
    TIED_RANK,
    doubt_of_lead,
    first_scores,
    make_frames,
    ranks,
)
from pythae_fif.reports.tables import (
    CONFIGURATION,
    escape_markdown,
    overview_table,
    score_table,
    to_html,
)
from pythae_fif.runs.store import Store
from pythae_fif.sampling.catalog import find_sampler

MAX_NAMES = 4  # models that the summary sentence names
MAX_CLASSES_LENGTH = 300  # characters of a note on the classes


class Report:
    """The report of an experiment, on the configurations chosen by validation score.

    Args:
        experiment: The experiment.
        results: Results of its runs, at least one.
        splits: Its data. They show which models did not learn.
        missing: Number of runs that have no result, or none for a requested sampler.
        reference: A store of runs made elsewhere, such as our committed results.

    Attributes:
        title: Data set, architecture and profile.
        sentence: A summary: which models are best, and whether the lead exceeds the noise.
        frame: One row per run and sampler.
        table: One row per model and sampler.
        tables: Name -> table to show; the first is the overview.
        warnings: Why numbers are missing, or mean less than they seem to.
        commands: The command lines that made the runs.
        notes: How the numbers were obtained, and what they mean.
    """

    def __init__(
        self,
        experiment: Experiment,
        results: Sequence[Result],
        splits: Splits,
        missing: int = 0,
        reference: Store | None = None,
    ) -> None:
        self.name = experiment.name
        self.results = results
        self.splits = splits
        file_name = "" if experiment.data is None else f" {Path(experiment.data).name}"
        self.title = (
            f"{experiment.dataset}{file_name}, {experiment.arch}, profile {experiment.profile}"
        )

        columns = find_columns(experiment.scores, is_table=len(splits.input_dim) == 1)
        self.frame, self.table = make_frames(
            experiment, results, columns, reference, constant_error(splits)
        )

        scores = first_scores(results)
        distance = scores.distance_name
        self.sentence = summary_sentence(self.table)
        self.tables = {
            "overview": overview_table(self.table, distance, experiment.samplers),
            "scores": score_table(self.table, distance, scores.score_name, columns),
            **comparison_tables(experiment, results, self.table, math.prod(splits.input_dim)),
        }

        self.warnings = [f"Data: {note}." for note in splits.notes]
        if missing:
            self.warnings.append(
                f"{pluralized(missing, 'run')} without a result for every sampler."
            )
        self.warnings += score_warnings(results, self.frame, self.table)
        self.warnings += [
            f"{column.heading} is missing for {self.frame[column.name].isna().sum()} of "
            f"{len(self.frame)} pairs of run and sampler: the models of these runs are not in the "
            "store."
            for column in columns
            if column.heading and column.function and self.frame[column.name].isna().any()
        ]
        commands = {result.training.provenance.command for result in results}
        self.commands = sorted(command for command in commands if command)
        self.notes = score_notes(experiment, results, self.frame, self.table, splits)

    def terminal(self) -> RenderableType:
        """Returns the sentence, the overview and the warnings; the numbers fit into 80 columns."""
        overview = self.tables["overview"]
        rich_table = RichTable(
            title=escape(f"{self.title}: {overview.title}"),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        cells = overview.mark_ranks(escape, "[bold]{}[/]", "[underline]{}[/]")
        cells = cells.drop(columns=CONFIGURATION)  # the last column, which is too wide
        unranked = list(cells.columns[1:].difference(overview.ranks))
        cells[unranked] = cells[unranked].replace(" ±.*", "", regex=True)
        for heading, numeric in zip(cells, overview.numeric_columns, strict=False):
            rich_table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
        for row in cells.itertuples(index=False):
            rich_table.add_row(*row)

        return Group(
            Text(self.sentence, "bold"),
            rich_table,
            *(Text(f"· {warning}") for warning in self.warnings),
        )

    def write(self, store: Store) -> list[Path]:
        """Writes `tables/`, `figures/` and the page of the experiment into the store's folder.

        A file is left as it is if its content stays the same.

        Returns:
            The paths of the files. The last one is the page.
        """
        figures = {
            f"{self.name}-{figure.name}": figure
            for figure in draw_figures(self.frame, self.table, self.results, store, self.splits)
        }
        texts = {
            **{
                f"tables/{self.name}-{key}.tex": table.to_latex([*self.warnings, *self.notes])
                for key, table in self.tables.items()
            },
            f"tables/{self.name}.csv": self.table.to_csv(index=False),
            f"tables/{self.name}-runs.csv": self.frame.to_csv(index=False),
            f"tables/{self.name}.md": self._markdown_page(figures),
            f"{self.name}.html": self._html_page(figures, store),
        }

        files = {f"figures/{name}": figure.content for name, figure in figures.items()}
        files |= {path: text.encode() for path, text in texts.items()}
        for path, content in files.items():
            write_bytes(store.root / path, content)
        return [store.root / path for path in files]

    def _markdown_page(self, figures: Mapping[str, Figure]) -> str:
        """Returns sentence, tables, notes and figures as Markdown."""
        paragraphs = [
            f"# {escape_markdown(self.title)}",
            escape_markdown(self.sentence),
            *(table.to_markdown().rstrip() for table in self.tables.values()),
            "## Notes",
            "\n".join(f"* {escape_markdown(note)}" for note in (*self.warnings, *self.notes)),
            *(
                f"![{escape_markdown(figure.shows)}](../figures/{name})"
                for name, figure in figures.items()
            ),
        ]
        return "\n\n".join(paragraphs) + "\n"

    def _html_page(self, figures: Mapping[str, Figure], store: Store) -> str:
        """Returns the page, which needs no network: it holds the figures, and links to the runs."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("pythae_fif.reports", ""),
            autoescape=True,
            trim_blocks=True,
        )
        environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
        return environment.get_template("page.html").render(
            report=self,
            figures=list(figures.values()),
            jobs=[
                result.job for result in self.results if store.folder(result.job.training).is_dir()
            ],
            to_html=to_html,
        )


def summary_sentence(table: pd.DataFrame) -> str:
    """Summarises which models are best, from the prior and from the mixture.

    Args:
        table: One row per model and sampler, from :func:`~pythae_fif.reports.frame.chosen_frame`.
    """
    from_prior = table[table["sampler"] == table["usual_sampler"]]
    from_mixture = table[table["sampler"] == "gmm"]
    parts = {"from the prior": from_prior, "from the Gaussian mixture": from_mixture}
    if from_prior.empty and from_mixture.empty:
        sampler = table["sampler"].iloc[0]
        parts = {f"with {find_sampler(sampler).label}": table[table["sampler"] == sampler]}

    clauses = [f"{start}, {_describe_best(rows)}" for start, rows in parts.items() if len(rows)]
    min_seeds = table["seeds"].min()
    max_seeds = table["seeds"].max()
    is_range = min_seeds < max_seeds
    seeds = f"{min_seeds} to {max_seeds} seeds" if is_range else pluralized(max_seeds, "seed")
    return f"Sampled {'; '.join(clauses)} ({seeds})."


def _describe_best(rows: pd.DataFrame) -> str:
    """Describes which models of a sampler are best, among those that learned if any did.

    A model wins only if it is ahead of all others by more than the noise and by a t-test.
    """
    if rows["learned"].any():
        rows = rows[rows["learned"]]
    rows = rows.sort_values("frechet_test")
    labels = list(rows["label"])
    values = list(map(number, rows["frechet_test"]))
    if len(rows) == 1:
        return f"{labels[0]} has a distance of {values[0]}"

    # The models that are tied with the best need not be the next ones: their noise differs.
    marks = ranks(rows)
    tied = [index for index, rank in enumerate(marks) if rank == TIED_RANK]
    if tied:
        names = [labels[index] for index in tied]
        models = f"{', '.join(names[:-1])} and {names[-1]}"
        if len(tied) > MAX_NAMES:
            models = f"{len(tied)} models"
        return (
            f"no clear winner: {models} are tied within the noise ({values[0]} to "
            f"{values[tied[-1]]})"
        )

    doubt = doubt_of_lead(rows)
    if doubt:
        return (
            f"no clear winner: {labels[0]} has the lowest distance ({values[0]}), then {labels[1]} "
            f"({values[1]}), but {doubt}"
        )
    return (
        f"{labels[0]} is best ({values[0]}), ahead of {labels[1]} ({values[1]}) by more than the "
        f"noise (t-test at {SIGNIFICANCE:.0%})"
    )


def constant_error(splits: Splits) -> float:
    """Returns the mean squared error, per pixel in [0, 1], of the mean training image.

    It is the error of guessing every test image by the same image.
    """
    mean = splits.train.mean(axis=0, dtype=np.float64)
    total = sum(float(((image - mean) ** 2).sum()) for image in splits.test)
    scale = 255**2 if splits.columns is None else 1
    return total / splits.test.size / scale


def score_warnings(
    results: Sequence[Result], frame: pd.DataFrame, table: pd.DataFrame
) -> list[str]:
    """Lists the reasons why the numbers mean less than they seem to.

    Args:
        results: Results of the runs.
        frame: One row per run and sampler.
        table: One row per model and sampler.
    """
    warnings = []
    data = results[0].evaluation.result.data
    if data.partial:
        warnings.append(f"A part of the data: {data.source}.")

    if not table["learned"].all():
        labels = ", ".join(sorted(set(table.loc[~table["learned"], "label"])))
        warnings.append(
            f"{labels} did not learn: reconstructions are no better than the mean of the training "
            "data, so these rows say nothing about the model."
        )

    weights = sorted(set(frame["extractor_hash"]))
    if len(weights) > 1:
        warnings.append(
            f"The scores come from {len(weights)} different weights of the extractor "
            f"({', '.join(weights)}): their distances are not on one scale."
        )

    likelihoods = [
        record.result.scores.marginal_likelihood or {}
        for result in results
        for record in result.scores.values()
    ]
    if len({score.codes for by_split in likelihoods for score in by_split.values()}) > 1:
        warnings.append(
            "Some log-likelihoods have the prior and the noise of modes, others those of the "
            "encoder's codes, as before version 0.3: they are not on one scale."
        )

    reasons = {
        result.job.training.model: record.result.scores.left_out
        for result in results
        for record in result.scores.values()
        if record.result.scores.left_out
    }
    warnings += [f"Left out for {model}: {reason}." for model, reason in reasons.items()]

    points = {score["test"].points for score in likelihoods if score}
    if len(points) > 1:
        warnings.append(
            f"Log-likelihoods are means over {min(points):,} to {max(points):,} test points: "
            "there are fewer where they would take longer than the training."
        )

    samples = first_scores(results).num_samples
    references = data.sizes["test"]
    if min(samples, references) < MIN_SAMPLES:
        warnings.append(
            f"Few data: {samples:,} samples and {references:,} references, fewer than "
            f"{MIN_SAMPLES:,}: distances are biased upwards, and comparable only at these numbers."
        )

    steps = frame["steps"].astype(float).min()
    if steps < FEW_STEPS:
        warnings.append(f"Short training: {steps:,.0f} steps, fewer than {FEW_STEPS:,}.")
    return warnings


def _notes_on_rows(splits: Splits, latent_dim: int, scores: Scores) -> list[str]:
    """Says how models score that need no training, against which a table's scores can be read."""
    simple = score_simple_models(splits, latent_dim, scores.num_samples)
    return [
        "Log-likelihoods are for standardised rows.",
        f"Without a training: {simple.num_rows:,} training rows in place of samples have the "
        f"distance {number(simple.distance_of_rows)} and the energy dist. × 10³ "
        f"{number(1e3 * simple.energy_of_rows, form='.2f')}. Samples of one Gaussian, fitted to "
        f"all training rows, have {number(simple.distance_of_gaussian)} and "
        f"{number(1e3 * simple.energy_of_gaussian, form='.2f')}; its log-likelihood is "
        f"{number(simple.likelihood_of_gaussian, form='.2f')} nats. The projection to {latent_dim} "
        f"principal components has the MSE {number(simple.error_of_projection, form='.4f')}.",
    ]


def score_notes(
    experiment: Experiment,
    results: Sequence[Result],
    frame: pd.DataFrame,
    table: pd.DataFrame,
    splits: Splits,
) -> list[str]:
    """Describes the data, the training and the scores.

    Args:
        experiment: The experiment.
        results: Results of the runs.
        frame: One row per run and sampler.
        table: One row per model and sampler.
        splits: The data.
    """
    scores = first_scores(results)
    profile = experiment.active_profile
    data = results[0].evaluation.result.data
    sizes = " / ".join(f"{data.sizes[split]:,}" for split in ("train", "val", "test"))
    latent_dims = ", ".join(map(str, sorted(set(frame["latent_dim"]))))
    seeds = ", ".join(map(str, sorted(set(frame["seed"]))))
    configurations = pluralized(int(table["candidates"].max()), "configuration")
    entries = [experiment.entries[model] for model in dict.fromkeys(table["model"])]
    class_names = textwrap.shorten(", ".join(splits.class_names or ()), MAX_CLASSES_LENGTH)

    return [
        f"Profile {experiment.profile_summary} ({profile.note}): {describe_length(profile)}, "
        f"{profile.precision}, latent dimension {latent_dims}, at most {configurations} per model, "
        f"seeds {seeds}.",
        f"Data: {data.source}; {sizes} used for training, validation and test.",
        *([f"Classes, by index from 0: {class_names}."] if class_names else []),
        f"Scores: {scores.num_samples:,} samples; extractor `{scores.extractor}` "
        f"({scores.extractor_hash}). {scores.distance_name} is a FID only if its features are "
        "Inception's.",
        "mem. is the probability that a sample is nearer to the training data than a test example "
        "is: 0.5 for new samples, near 1 for copies, but also for blurred samples. auth. is the "
        "share of samples that are no copies.",
        "KL is the divergence from the standard normal of a Gaussian fitted to the training codes.",
        *(_notes_on_rows(splits, experiment.latent_dim, scores) if splits.columns else []),
        "Each row shows the configuration of lowest validation distance, among those with the most "
        "seeds. Bold is the lowest test distance of a sampler if it is below all others beyond the "
        "noise of split, seeds and draws and by a t-test, as the sentence on top says; the second "
        "lowest is then underlined. `=` marks all that are tied with the lowest within the noise. "
        "± is the standard deviation over seeds or, for the distance of a single seed, over draws.",
        *(
            ["ref is the largest relative difference from the same runs in our results."]
            if "reference" in table
            else []
        ),
        "MSE and train s belong to the chosen configuration that is shown: it is the first "
        "column's, or one that did not learn (†).",
        "train s includes the evaluation after each epoch"
        + (
            f"; the limit of {profile.wall_clock:g} s is for training steps alone."
            if profile.wall_clock is not None
            else "."
        ),
        f"Machines: {'; or '.join(dict.fromkeys(frame['machine']))}. Each record names the "
        "versions, the revision and, if it was recorded, the command.",
        *(f"{entry.label}: {' '.join(entry.notes)}" for entry in entries if entry.notes),
    ]
