"""All that is written of an experiment: tables, figures, and the page that holds them."""

__all__ = ["Failure", "constant_error", "write_experiment"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.selection import Choice, Result
from pythae_fif.benchmark.sheets import reference_sheet
from pythae_fif.data import Splits
from pythae_fif.files import write_whole
from pythae_fif.reports.comparison import not_comparable, table3, table8
from pythae_fif.reports.cost import cost_grid
from pythae_fif.reports.figures import Strip, sample_figure
from pythae_fif.reports.grid import Cell, Grid, to_csv, to_latex, to_markdown
from pythae_fif.reports.injective import table2
from pythae_fif.reports.page import Gallery, Picture, Section, picture_of, render_page
from pythae_fif.reports.plots import beta_figure, cost_figure, learning_figure
from pythae_fif.reports.table import SAMPLER_LABELS, Report, experiment_grid, rows_to_csv
from pythae_fif.runs.store import Store

Failure = tuple[str, str, str]
"""Model, configuration and reason of a run that has no result."""

SHEETS = {
    "reconstructions": "test images, and below each row of them its reconstructions",
    "interpolations": "straight lines in latent space between test images",
}


@dataclass(frozen=True)
class _Figure:
    """A picture beside the tables; `alt` says what it shows."""

    title: str
    path: Path
    alt: str


def write_experiment(
    store: Store,
    experiment: Experiment,
    splits: Splits,
    results: list[Result],
    report: Report,
    failures: Sequence[Failure] = (),
) -> list[Path]:
    """Writes `tables/`, `figures/` and `pages/` of an experiment below the results folder.

    The tables come first: a picture that cannot be drawn costs none of them.

    Args:
        store: Where the runs are and the files go.
        experiment: What was asked for.
        splits: Its images.
        results: Specification and record of its finished runs; at least one.
        report: Their table.
        failures: Runs that failed, with their reasons.

    Returns:
        The files written.

    Raises:
        StoreError: The results folder does not take a file.
        OSError: A folder in it cannot be made.
    """
    name = experiment.name
    reasons = not_comparable(experiment, results)
    named = {
        "table2": table2(experiment, results, report),
        "table8": table8(experiment, report, reasons),
        "table3": table3(experiment, report, reasons),
        "cost": cost_grid(results),
    }
    grids = {key: grid for key, grid in named.items() if grid is not None}
    files = {
        f"tables/{name}.csv": rows_to_csv(report),
        f"tables/{name}.tex": to_latex(experiment_grid(report)),
    }
    for key, grid in grids.items():
        files[f"tables/{name}-{key}.csv"] = to_csv(grid)
        files[f"tables/{name}-{key}.tex"] = to_latex(grid)
    if failures:  # of this call alone: files of their own would outlive it
        grids["failures"] = _failure_grid(failures)
    markdown = f"tables/{name}.md"
    files[markdown] = _markdown(report, grids, [])
    _write(store.root, files)

    figures = _figures(store, splits, results, report, name)
    last = {
        markdown: _markdown(report, grids, figures),
        f"pages/{name}.html": _page(store, report, results, grids, figures),
    }
    _write(store.root, last)
    return [*(store.root / path for path in files | last), *(f.path for f in figures)]


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def constant_error(splits: Splits) -> float:
    """Squared error a test pixel, in [0, 1], of the mean training image as the guess for all."""
    mean = splits.train.mean(axis=0, dtype=np.float64)
    parts = np.array_split(splits.test, max(1, len(splits.test) // 1000))
    total = sum(float(((part - mean) ** 2).sum()) for part in parts)
    return total / splits.test.size / 255**2


def _failure_grid(failures: Sequence[Failure]) -> Grid:
    return Grid(
        title="Runs that failed",
        headings=["Model", "configuration", "reason"],
        align="lll",
        rows=[
            [Cell(load_model_entry(model).label), Cell(configuration), Cell(reason)]
            for model, configuration, reason in failures
        ],
    )


def _figures(
    store: Store, splits: Splits, results: list[Result], report: Report, name: str
) -> list[_Figure]:
    """Those figures that there is something to draw of."""
    folder, title = store.root / "figures", report.title
    panels = _panels(store, splits, report.choices)
    logs = {
        load_model_entry(choice.model).label: store.run_dir(choice.spec) / "train_log.jsonl"
        for choice in reversed(report.choices)  # a model's first choice stays
    }
    logs = dict(reversed(logs.items()))
    drawn = [
        (
            "Samples",
            sample_figure(panels, title, folder / f"{name}-samples.png"),
            "Uncurated samples of every model with each of its samplers, from the runs of the "
            "table; first of all, test images.",
        ),
        (
            "FIF: reconstruction weight",
            beta_figure(results, title, folder / f"{name}-beta.png"),
            "Validation distance of FIF against the reconstruction weight β for K = 1 and K = 2 "
            "Hutchinson vectors and every sampler (the paper's figure 10).",
        ),
        (
            "Score against training time",
            cost_figure(report.choices, title, folder / f"{name}-cost.png"),
            "Test distance against seconds of training of the chosen configuration, a point a "
            "model; both axes are logarithmic and lower left is better.",
        ),
        (
            "Learning curves",
            learning_figure(logs, title, folder / f"{name}-learning.png"),
            "Training (solid) and evaluation loss (dashed) of every model's chosen run against "
            "seconds of training; each loss is its model's own.",
        ),
    ]
    return [_Figure(head, path, alt) for head, path, alt in drawn if path is not None]


def _panels(store: Store, splits: Splits, choices: list[Choice]) -> dict[str, list[Strip]]:
    """The sheets of real images, which are made if needed, and of every model's samplers."""
    folder = store.root / "runs" / splits.name
    real = folder / f"data-{splits.content_hash[:8]}.png"
    if not real.exists():
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(reference_sheet(splits).squeeze())
        write_whole(real, lambda file: image.save(file, "PNG"))
    panels = {"test images": [Strip("", real)]}
    for choice in choices:
        sheet = _sheet(store, choice)
        if sheet.is_file():
            label = load_model_entry(choice.model).label
            panels.setdefault(label, []).append(Strip(SAMPLER_LABELS[choice.sampler], sheet))
    return panels


def _sheet(store: Store, choice: Choice) -> Path:
    return store.run_dir(choice.spec) / f"samples-{choice.sampler}.png"


def _markdown(report: Report, grids: dict[str, Grid], figures: list[_Figure]) -> str:
    parts = [to_markdown(experiment_grid(report))]
    parts += [to_markdown(grid, level=2) for grid in grids.values()]
    parts += [f"## {f.title}\n\n![{f.alt}](../figures/{f.path.name})\n" for f in figures]
    return "\n".join(parts)


def _page(
    store: Store,
    report: Report,
    results: list[Result],
    grids: dict[str, Grid],
    figures: list[_Figure],
) -> str:
    sections = [Section("scores", "Scores", grids=[experiment_grid(report)])]
    titles = {
        "table2": "Beside the paper's table 2",
        "table8": "Beside the paper's table 8",
        "table3": "Beside the paper's table 3",
        "cost": "Cost",
        "failures": "Runs that failed",
    }
    sections += [Section(key, titles[key], grids=[grid]) for key, grid in grids.items()]
    sections += [
        Section(f"figure-{f.path.stem.rpartition('-')[2]}", f.title,
                pictures=[picture_of(f.path, f.alt)])
        for f in figures
    ]  # fmt: skip
    sections.append(Section("models", "Every model", models=_galleries(store, report.choices)))
    models = dict.fromkeys(choice.model for choice in report.choices)
    entries = [load_model_entry(model) for model in models]
    sections.append(
        Section(
            "sources",
            "Models and their sources",
            bullets=[
                " ".join([f"{entry.label}: {entry.source}.", *map(_sentence, entry.notes)])
                for entry in entries
            ],
        )
    )
    sections.append(_provenance(results))
    data = results[0][1]["data"]
    lead = (
        f"{len(results)} finished runs of {len(models)} models, scored by {report.distance}. "
        f"Data: {data['source']}."
    )
    return render_page(report.title, lead, sections)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _galleries(store: Store, choices: list[Choice]) -> list[Gallery]:
    """The sheets of the chosen runs; what a run has no file of is left out."""
    grouped: dict[str, list[Choice]] = {}
    for choice in choices:
        grouped.setdefault(choice.model, []).append(choice)
    galleries = []
    for model, chosen in grouped.items():
        pictures: list[Picture] = []
        for choice in chosen:
            alt = f"{SAMPLER_LABELS[choice.sampler]} samples"
            if choice.spec.varied:
                alt += f" ({choice.spec.configuration})"
            pictures += _if_there(_sheet(store, choice), alt)
        run_dir = store.run_dir(chosen[0].spec)
        for name, alt in SHEETS.items():
            pictures += _if_there(run_dir / f"{name}.png", alt)
        pictures += _if_there(
            run_dir / "latents.png",
            "training codes in two principal components, with the standard normal's circle of two "
            "standard deviations",
            sheet=False,
        )
        detail = f"run {chosen[0].spec.run_id}"
        galleries.append(Gallery(load_model_entry(model).label, detail, pictures))
    return galleries


def _if_there(path: Path, alt: str, sheet: bool = True) -> list[Picture]:
    return [picture_of(path, alt, sheet=sheet)] if path.is_file() else []


def _provenance(results: list[Result]) -> Section:
    """Where and with what the runs were made: each distinct value once."""
    provenance = [record["provenance"] for _, record in results]
    versions = [", ".join(f"{k} {v}" for k, v in p["versions"].items()) for p in provenance]
    lines = {
        "Device": [p["device"] for p in provenance],
        "Versions": versions,
        "Python": [p.get("python") for p in provenance],
        "Revision": [_revision(p) for p in provenance],
        "Training images": [f"{r['data']['sizes']['train']:,}" for _, r in results],
        "Data": [spec.data_hash for spec, _ in results],
        "Started": sorted(p["started"][:10] for p in provenance if p.get("started")),
    }
    bullets = [
        f"{key}: {'; '.join(str(v) for v in dict.fromkeys(values) if v is not None)}."
        for key, values in lines.items()
        if any(v is not None for v in values)
    ]
    return Section("provenance", "Provenance", bullets=bullets)


def _revision(provenance: dict) -> str | None:
    revision = provenance.get("git_revision")
    return f"{revision} with changes" if provenance.get("git_dirty") else revision
