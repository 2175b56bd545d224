"""The table of an experiment: one row a model and sampler, chosen on the validation split."""

__all__ = [
    "SAMPLER_LABELS",
    "Report",
    "Row",
    "build_report",
    "experiment_grid",
    "rows_to_csv",
    "to_terminal",
]

import csv
import io
import statistics
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.selection import Choice, Result, select
from pythae_fif.reports.grid import DASH, Cell, Grid, number, ranks
from pythae_fif.sampling import FIT_STEPS, FITTED

SAMPLER_LABELS = {
    "normal": "N",
    "gmm": "GMM",
    "maf": "MAF",
    "iaf": "IAF",
    "two_stage": "2-stage",
    "vamp": "VAMP",
    "hypersphere": "sphere",
    "poincare": "Poincaré",
    "pixelcnn": "PixelCNN",
}
"""Names of samplers as tables show them; N is the standard normal."""

CONSTANT = 0.98
"""A model whose squared error is above this part of the mean image's error did not learn."""

MAIN_PACKAGES = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")
"""Those whose versions a table's note names; the records name all."""

_RANKED = {1: "bold", 2: "underline"}


@dataclass(frozen=True)
class Row:
    """A line of the table; numbers are means over the seeds, `std` their spread."""

    model: str
    sampler: str
    configuration: str
    candidates: int
    frechet_val: float
    frechet_test: float
    frechet_test_std: float | None
    score: float | None
    score_std: float | None
    kernel: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    reconstruction_mse: float
    training_seconds: float
    parameters: int
    learned: bool
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An experiment's table with all that must stand beside its numbers.

    Attributes:
        title: Data set, architecture and profile.
        rows: The chosen configurations.
        choices: The runs that they come from, in the same order.
        distance, score: What the Frechet distance and the classifier score are called; the score
            is None where the extractor gives none.
        notes: Sentences under the table.
        marks: Row index -> rank 1 or 2 by test distance among the rows of its sampler.
    """

    title: str
    rows: list[Row]
    choices: list[Choice]
    distance: str
    score: str | None
    notes: list[str]
    marks: dict[int, int]


def build_report(
    experiment: Experiment,
    results: list[Result],
    command: str,
    missing: int = 0,
    constant_mse: float | None = None,
    earlier: int = 0,
) -> Report:
    """Selects the configurations and gathers what must be said about them.

    Args:
        experiment: What was asked for.
        results: Specification and record of its finished runs; at least one.
        command: The command that makes this table.
        missing: Number of runs of the plan that have no record.
        constant_mse: Squared error a test pixel of the training images' mean, by which a model
            that did not learn is known; None leaves that out.
        earlier: Number of the runs that are not of this command's plan.
    """
    choices = select(results)
    rows = [_row(choice, constant_mse) for choice in choices]
    _, first = results[0]
    scored = next(iter(first["scores"].values()))
    return Report(
        title=f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}",
        rows=rows,
        choices=choices,
        distance=scored["distance_name"],
        score=scored["score_name"],
        notes=[
            *_warnings(experiment, results, choices, rows, missing, constant_mse),
            *_notes(experiment, results, choices, command, earlier),
        ],
        marks=ranks((i, row.sampler, row.frechet_test) for i, row in enumerate(rows)),
    )


def _warnings(
    experiment: Experiment,
    results: list[Result],
    choices: list[Choice],
    rows: list[Row],
    missing: int,
    constant_mse: float | None,
) -> list[str]:
    """What stands before all other notes: why numbers are missing or cannot be compared."""
    warnings = []
    if missing:
        runs = "1 run of the plan has" if missing == 1 else f"{missing} runs of the plan have"
        warnings.append(f"{runs} no result: the table is not complete.")
    dimensions = {
        row.model: choice.spec.latent_dim
        for row, choice in zip(rows, choices, strict=True)
        if choice.spec.latent_dim != experiment.latent_dim
    }
    if dimensions:
        others = ", ".join(f"{model} {dimension}" for model, dimension in dimensions.items())
        warnings.append(f"Latent dimension {experiment.latent_dim}, but {others}.")
    weights = {s["extractor_hash"] for _, record in results for s in record["scores"].values()}
    if len(weights) > 1:
        warnings.append(
            f"The scores are of {len(weights)} different weights of the extractor "
            f"({', '.join(sorted(weights))}): their distances are not on one scale."
        )
    failed = sorted({row.model for row in rows if not row.learned})
    if failed:
        warnings.append(
            f"† {', '.join(failed)} did not learn: the reconstruction error of the chosen run is "
            f"no better than that of the training images' mean, {constant_mse:.4f} (within "
            f"{1 - CONSTANT:.0%}); such rows say nothing about the model."
        )
    return warnings


def _notes(
    experiment: Experiment,
    results: list[Result],
    choices: list[Choice],
    command: str,
    earlier: int,
) -> list[str]:
    """What data, scores and training the numbers stand for."""
    _, first = results[0]
    scored = next(iter(first["scores"].values()))
    sizes = first["data"]["sizes"]
    accuracy = first.get("extractor_accuracy")
    provenance = [record["provenance"] for _, record in results]
    machines = dict.fromkeys(f"{p['device']} with {p['cores']} cores" for p in provenance)
    versions = dict.fromkeys(
        ", ".join(
            f"{name} {p['versions'][name]}" for name in MAIN_PACKAGES if name in p["versions"]
        )
        for p in provenance
    )
    fitted = [SAMPLER_LABELS[s] for s in FITTED if any(choice.sampler == s for choice in choices)]
    seeds = sorted({spec.seed for choice in choices for spec, _ in choice.results})
    rounding = "rounded to 8 bits" if scored["rounded"] else "not rounded"
    return [
        f"Profile `{experiment.profile}`: {experiment.settings.note}.",
        f"Data: {first['data']['source']}; used {sizes['train']:,} training, {sizes['val']:,} "
        f"validation and {sizes['test']:,} test images.",
        f"Scores: {scored['num_samples']:,} samples, {rounding}; extractor "
        f"`{scored['extractor']}` ({scored['extractor_hash']}"
        + (f", test accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f"). FD is its {scored['distance_name']}, "
        + (f"CS its {scored['score_name']}, " if scored["score_name"] else "")
        + "KD the kernel distance (KID's formula), then improved precision and recall, density and "
        "coverage, all of the test images; MSE the squared reconstruction error a pixel; distances "
        "of another extractor or sample count are on another scale.",
        "Each model and sampler has the configuration of lowest validation distance; bold is the "
        "lowest test distance of a sampler, underlined the second."
        + (
            " ± is the standard deviation over the seeds; other numbers are means."
            if len(seeds) > 1
            else ""
        ),
        *(
            [
                f"The density models of {', '.join(fitted)} are fitted to the training codes in at "
                f"most {experiment.settings.fit_steps or FIT_STEPS:,} steps of Adam on 100 codes "
                f"each."
            ]
            if fitted
            else []
        ),
        f"{_training_line(experiment, choices)}, "
        f"seeds {', '.join(map(str, seeds))}, on {', '.join(machines)}; "
        f"{'; or '.join(versions)}.",
        f"Made by `{command}`"
        + (f", and {earlier} runs by earlier commands of the same profile." if earlier else "."),
    ]


def _training_line(experiment: Experiment, choices: list[Choice]) -> str:
    """How long and with what batches the models trained, and under a wall clock what it was."""
    settings = experiment.settings
    batches = dict.fromkeys(
        choice.spec.settings.get("batch_size", settings.batch_size) for choice in choices
    )
    batch = f"batch {' or '.join(map(str, batches))}"
    if settings.wall_clock is None:
        return f"Epochs {settings.epochs}, {batch}"
    used = [r["training"]["train_seconds"] for choice in choices for _, r in choice.results]
    return (
        f"{length_of(settings).capitalize()} of training steps a run, evaluation not counted (used "
        f"{min(used):.0f} to {max(used):.0f} s), {batch}"
    )


def _row(choice: Choice, constant_mse: float | None) -> Row:
    frechet_val, frechet_test = choice.mean("frechet", "val"), choice.mean("frechet", "test")
    assert frechet_val is not None and frechet_test is not None
    records = [record for _, record in choice.results]
    errors = [record["reconstruction_mse"]["test"] for record in records]
    return Row(
        model=load_model_entry(choice.model).label,
        sampler=SAMPLER_LABELS[choice.sampler],
        configuration=choice.spec.configuration,
        candidates=choice.candidates,
        frechet_val=frechet_val,
        frechet_test=frechet_test,
        frechet_test_std=choice.std("frechet", "test"),
        score=choice.mean("score", "mean"),
        score_std=choice.std("score", "mean"),
        kernel=choice.mean("kernel", "test", "mean"),
        precision=choice.mean("neighbours", "test", "precision"),
        recall=choice.mean("neighbours", "test", "recall"),
        density=choice.mean("neighbours", "test", "density"),
        coverage=choice.mean("neighbours", "test", "coverage"),
        reconstruction_mse=statistics.fmean(errors),
        training_seconds=statistics.fmean(r["training"]["seconds"] for r in records),
        parameters=records[0]["parameters"],
        # One seed that did not learn is enough to spoil the mean.
        learned=constant_mse is None or max(errors) < CONSTANT * constant_mse,
        run_ids=tuple(spec.run_id for spec, _ in choice.results),
    )


def _pair(first: float | None, second: float | None) -> Cell:
    return Cell(DASH if first is None or second is None else f"{first:.2f} / {second:.2f}")


def _cells(report: Report, index: int) -> list[Cell]:
    row = report.rows[index]
    chosen = row.configuration + (f" (of {row.candidates})" if row.candidates > 1 else "")
    test = number(row.frechet_test, row.frechet_test_std)
    kernel = None if row.kernel is None else 1000 * row.kernel
    return [
        Cell(row.model if row.learned else f"{row.model} †"),
        Cell(row.sampler),
        Cell(test.text, test.value, report.marks.get(index, 0)),
        number(row.frechet_val),
        number(row.score, row.score_std),
        Cell(DASH) if kernel is None else Cell(f"{kernel:.2f}", kernel),
        _pair(row.precision, row.recall),
        _pair(row.density, row.coverage),
        Cell(f"{row.reconstruction_mse:.4f}", row.reconstruction_mse),
        Cell(f"{row.training_seconds:.0f}", row.training_seconds),
        Cell(chosen),
    ]


def experiment_grid(report: Report) -> Grid:
    """The table in full, for files and the page."""
    rows = report.rows
    starts = (i for i, row in enumerate(rows) if i and row.model != rows[i - 1].model)
    return Grid(
        title=report.title,
        headings=[
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
        ],
        align="llrrrrrrrrl",
        rows=[_cells(report, index) for index in range(len(rows))],
        notes=report.notes,
        groups=frozenset(starts),
    )


def to_terminal(report: Report) -> Table:
    """The table for a terminal of 80 columns, which leaves three columns to the files."""
    table = Table(title=report.title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Short headings: the notes say in full what FD and CS are.
    headings = ["model", "", "FD test", "FD val", "CS", "MSE", "sec", "chosen"]
    for index, heading in enumerate(headings):
        numeric = 2 <= index <= 6
        table.add_column(
            heading,
            justify="right" if numeric else "left",
            no_wrap=numeric or index == 1,
            overflow="fold",
        )
    for index, row in enumerate(report.rows):
        cells = _cells(report, index)
        del cells[5:8]
        texts = [cell.text for cell in cells]
        style = _RANKED.get(cells[2].rank)
        if style:
            texts[2] = f"[{style}]{texts[2]}[/]"
        last_of_model = index + 1 == len(report.rows) or report.rows[index + 1].model != row.model
        table.add_row(*texts, end_section=last_of_model)
    return table


def rows_to_csv(report: Report) -> str:
    """One line a row, every field of it, with unrounded numbers."""
    file = io.StringIO()
    names = list(Row.__dataclass_fields__)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in report.rows:
        values: list[Any] = [getattr(row, name) for name in names]
        writer.writerow([" ".join(v) if isinstance(v, tuple) else v for v in values])
    return file.getvalue()
