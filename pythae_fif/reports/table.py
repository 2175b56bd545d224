"""The table of an experiment: one row a model and sampler, as Markdown, CSV and on the terminal."""

__all__ = ["Report", "Row", "build_report", "write_report"]

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, load_model_entry
from pythae_fif.benchmark.selection import Choice, Result, select
from pythae_fif.trainers.checkpoint import write_whole

SAMPLER_LABELS = {"normal": "N", "gmm": "GMM", "maf": "MAF", "iaf": "IAF"}


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
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An experiment's table with all that must stand beside its numbers.

    Attributes:
        title: Data set, architecture and profile.
        rows: The chosen configurations.
        distance, score: What the Frechet distance and the classifier score are called; the score
            is None where the extractor gives none.
        notes: Sentences under the table.
        marks: Row index -> rank 1 or 2 by test distance among the rows of its sampler.
    """

    title: str
    rows: list[Row]
    distance: str
    score: str | None
    notes: list[str]
    marks: dict[int, int]


def build_report(
    experiment: Experiment, results: list[Result], command: str, missing: int = 0
) -> Report:
    """Selects the configurations and gathers what must be said about them.

    Args:
        experiment: What was asked for.
        results: Specification and record of its finished runs; at least one.
        command: The command that makes this table.
        missing: Number of runs of the plan that have no record.
    """
    choices = select(results)
    rows = [_row(choice) for choice in choices]
    _, first = results[0]
    scored = next(iter(first["scores"].values()))
    sizes = first["data"]["sizes"]
    accuracy = first.get("extractor_accuracy")
    devices = sorted({record["provenance"]["device"] for _, record in results})
    versions = first["provenance"]["versions"]
    notes = [
        f"Profile `{experiment.profile}`: {experiment.settings.note}.",
        f"Data: {first['data']['source']}; used {sizes['train']:,} training, {sizes['val']:,} "
        f"validation and {sizes['test']:,} test images.",
        f"Scores: {scored['num_samples']:,} samples, {_rounding(scored['rounded'])}; extractor "
        f"`{scored['extractor']}` ({scored['extractor_hash']}"
        + (f", test accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f"). FD is its {scored['distance_name']}, "
        + (f"CS its {scored['score_name']}, " if scored["score_name"] else "")
        + "KD the kernel distance (KID's formula), then improved precision and recall, density and "
        "coverage, all of the test images; MSE the squared reconstruction error a pixel; distances of another extractor or sample "
        "count are on another scale.",
        "Each model and sampler has the configuration of lowest validation distance; bold is the "
        "lowest test distance of a sampler, underlined the second.",
        f"Epochs {experiment.settings.epochs}, batch {experiment.settings.batch_size}, "
        f"seeds {', '.join(map(str, experiment.seeds))}, on {', '.join(devices)} with "
        f"{first['provenance']['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        f"Made by `{command}`.",
    ]
    if missing:
        notes.insert(0, f"{missing} runs of the plan have no result: the table is not complete.")
    return Report(
        title=f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}",
        rows=rows,
        distance=scored["distance_name"],
        score=scored["score_name"],
        notes=notes,
        marks=_marks(rows),
    )


def _row(choice: Choice) -> Row:
    frechet_val, frechet_test = choice.mean("frechet", "val"), choice.mean("frechet", "test")
    assert frechet_val is not None and frechet_test is not None
    records = [record for _, record in choice.results]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

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
        reconstruction_mse=mean([r["reconstruction_mse"]["test"] for r in records]),
        training_seconds=mean([r["training"]["seconds"] for r in records]),
        parameters=records[0]["parameters"],
        run_ids=tuple(spec.run_id for spec, _ in choice.results),
    )


def _marks(rows: list[Row]) -> dict[int, int]:
    marks: dict[int, int] = {}
    for sampler in {row.sampler for row in rows}:
        group = [i for i, row in enumerate(rows) if row.sampler == sampler]
        ranked = sorted(group, key=lambda i: rows[i].frechet_test)
        marks |= {index: rank for rank, index in enumerate(ranked[:2], start=1)}
    return marks


def _rounding(rounded: bool) -> str:
    return "rounded to 8 bits" if rounded else "not rounded"


def _number(value: float | None, std: float | None = None) -> str:
    if value is None:
        return "–"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return f"{value:.{digits}f}{spread}"


def _pair(first: float | None, second: float | None) -> str:
    return "–" if first is None or second is None else f"{first:.2f} / {second:.2f}"


def _cells(report: Report, index: int) -> list[str]:
    row = report.rows[index]
    chosen = row.configuration
    if row.candidates > 1:
        chosen += f" (of {row.candidates})"
    return [
        row.model,
        row.sampler,
        _number(row.frechet_test, row.frechet_test_std),
        _number(row.frechet_val),
        _number(row.score, row.score_std),
        "–" if row.kernel is None else f"{1000 * row.kernel:.2f}",
        _pair(row.precision, row.recall),
        _pair(row.density, row.coverage),
        f"{row.reconstruction_mse:.4f}",
        f"{row.training_seconds:.0f}",
        chosen,
    ]


def _headings(report: Report) -> list[str]:
    return [
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


def to_terminal(report: Report) -> Table:
    """The table for a terminal."""
    table = Table(title=report.title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Short headings: the notes say in full what FD and CS are.
    headings = ["model", "", "FD test", "FD val", "CS", "MSE", "sec", "chosen"]
    for index, heading in enumerate(headings):
        numeric = 2 <= index <= 6
        table.add_column(
            heading,
            justify="right" if numeric else "left",
            no_wrap=index < len(headings) - 1,
            overflow="fold",
        )
    for index, row in enumerate(report.rows):
        cells = _cells(report, index)
        del cells[5:8]  # they are in the files: a terminal has 80 columns
        style = {1: "bold", 2: "underline"}.get(report.marks.get(index, 0))
        if style:
            cells[2] = f"[{style}]{cells[2]}[/]"
        last_of_model = index + 1 == len(report.rows) or report.rows[index + 1].model != row.model
        table.add_row(*cells, end_section=last_of_model)
    return table


def to_markdown(report: Report, picture: str | None = None) -> str:
    """The table with its notes and, below them, the picture."""
    lines = [f"# {report.title}", ""]
    lines += [
        "| " + " | ".join(_headings(report)) + " |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for index in range(len(report.rows)):
        cells = _cells(report, index)
        rank = report.marks.get(index)
        if rank:
            cells[2] = f"**{cells[2]}**" if rank == 1 else f"<u>{cells[2]}</u>"
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"* {note}" for note in report.notes)]
    if picture:
        lines += ["", f"![Samples of every model]({picture})"]
    return "\n".join(lines) + "\n"


def to_csv(report: Report) -> str:
    """One line a row, with unrounded numbers."""
    file = io.StringIO()
    names = list(Row.__dataclass_fields__)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in report.rows:
        values: list[Any] = [getattr(row, name) for name in names]
        writer.writerow([" ".join(v) if isinstance(v, tuple) else v for v in values])
    return file.getvalue()


def write_report(report: Report, folder: Path, name: str, picture: str | None) -> list[Path]:
    """Writes `<name>.md` and `<name>.csv` in a folder, which is made if needed.

    Raises:
        OSError: The folder cannot be made or does not take them.
    """
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", to_markdown(report, picture)), (".csv", to_csv(report))):
        path = folder / f"{name}{suffix}"
        write_whole(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
        paths.append(path)
    return paths
