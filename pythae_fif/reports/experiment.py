"""All that is written of an experiment: tables, figures, and the page that holds them."""

__all__ = ["Failure", "constant_error", "write_experiment"]

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pythae_fif.benchmark.leaderboard import ImageStore
from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.sheets import reference_sheet, samples_name
from pythae_fif.data import Splits
from pythae_fif.files import write_text
from pythae_fif.pictures import write_figure
from pythae_fif.reports.figures import beta_figure, cost_figure, learning_figure
from pythae_fif.reports.grid import Cell, Grid, to_markdown, write_grid, write_rows
from pythae_fif.reports.model_tables import code_grid, configuration_grid, cost_grid
from pythae_fif.reports.page import FigureFile, experiment_page
from pythae_fif.reports.published_tables import table2, table3, table8
from pythae_fif.reports.report import Report
from pythae_fif.reports.sample_figure import (
    BEST,
    Line,
    best,
    images_of,
    of_classes,
    reconstructions,
    sample_figure,
    samples,
)
from pythae_fif.reports.score_table import score_grid
from pythae_fif.training import LOG_NAME

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """A run that has no result: its model, configuration and reason."""

    model: str
    configuration: str
    reason: str


def write_experiment(
    store: ImageStore,
    splits: Splits,
    report: Report,
    failures: Sequence[Failure] = (),
) -> list[Path]:
    """Writes `tables/`, `figures/` and `pages/` of an experiment below the results folder.

    A picture that cannot be drawn costs none of the tables. A file whose content stays the same is
    left as it is.

    Args:
        store: Where the runs are and the files go.
        splits: The images of the experiment.
        report: Its scores.
        failures: Runs that failed, with their reasons.

    Returns:
        The files.

    Raises:
        StoreError: The results folder does not take a file.
    """
    name = _name(report, splits)
    tables = store.root / "tables"
    scores = score_grid(report)
    named = {
        "table2": table2(report),
        "table8": table8(report),
        "table3": table3(report),
        "configurations": configuration_grid(report),
        "codes": code_grid(report),
        "cost": cost_grid(report),
    }
    grids = {key: grid for key, grid in named.items() if grid is not None}
    paths = [write_rows(tables / f"{name}.csv", [vars(row) for row in report.rows])]
    paths += write_grid(scores, tables / name, ".tex")
    for key, grid in grids.items():
        paths += write_grid(grid, tables / f"{name}-{key}", ".csv", ".tex")
    if failures:  # of this call alone: files of their own would outlive it
        grids["failures"] = _failure_grid(failures)
    markdown, page = tables / f"{name}.md", store.root / "pages" / f"{name}.html"
    figures: list[FigureFile] = []
    try:
        figures.extend(_figures(store, splits, report))
    finally:
        write_text(markdown, _markdown(scores, grids, figures, tables))
    write_text(page, experiment_page(report, scores, grids, figures))
    return [*paths, markdown, page, *(figure.path for figure in figures)]


def _name(report: Report, splits: Splits) -> str:
    """Of the files; your own data are told by their content too, for others may be named alike."""
    own = "" if report.experiment.data is None else f"-{splits.content_hash[:6]}"
    return report.experiment.name + own


def constant_error(splits: Splits) -> float:
    """Mean squared error of the mean training image as the guess for every test image: per pixel in
    [0, 1], or per value of a table."""
    mean = splits.train.mean(axis=0, dtype=np.float64)
    blocks = np.array_split(splits.test, max(1, len(splits.test) // 1000))
    total = sum(float(((block - mean) ** 2).sum()) for block in blocks)
    return total / splits.test.size / (255**2 if splits.columns is None else 1)


def _failure_grid(failures: Sequence[Failure]) -> Grid:
    return Grid(
        title="Runs that failed",
        headings=["Model", "configuration", "reason"],
        align="lll",
        rows=[
            [Cell(read_model_entry(model).label), Cell(configuration), Cell(reason)]
            for model, configuration, reason in failures
        ],
    )


def _markdown(
    scores: Grid, grids: Mapping[str, Grid], figures: Sequence[FigureFile], tables: Path
) -> str:
    sections = [to_markdown(scores), *(to_markdown(grid, level=2) for grid in grids.values())]
    for figure in figures:
        path = Path(os.path.relpath(figure.path, tables)).as_posix()
        sections.append(f"## {figure.title}\n\n![{figure.shows}]({path})\n")
    return "\n".join(sections)


def _figures(store: ImageStore, splits: Splits, report: Report) -> Iterator[FigureFile]:
    """Draws and writes those figures that there is something to draw of."""
    logs: dict[str, Path] = {}
    for row, choice in zip(report.rows, report.choices, strict=True):
        logs.setdefault(row.model, store.place(choice.spec) / LOG_NAME)
    drawings: list[tuple[str, str, str, Callable[[], Any]]] = [
        (
            "beta",
            "FIF: reconstruction weight",
            "Validation distance of FIF against the reconstruction weight β for K = 1 and K = 2 "
            "Hutchinson vectors and every sampler (the paper's figure 10).",
            lambda: beta_figure(report),
        ),
        (
            "cost",
            "Score against training time",
            "Test distance against seconds of training of the chosen configuration, a point a "
            "model; both axes are logarithmic and lower left is better.",
            lambda: cost_figure(report),
        ),
        (
            "learning",
            "Learning curves",
            "Training (solid) and evaluation loss (dashed) of every model's chosen run against "
            "seconds of training; each loss is its model's own.",
            lambda: learning_figure(logs, report.title),
        ),
    ]
    stem = str(store.root / "figures" / _name(report, splits))
    if splits.columns is None:
        yield from _image_figures(store, splits, report, stem)
    else:
        yield from _table_figures(store, report)
    for kind, title, shows, draw in drawings:
        if (figure := draw()) is not None:
            path = Path(f"{stem}-{kind}.png")
            write_figure(path, figure)
            yield FigureFile(kind, title, shows, path)


def _image_figures(
    store: ImageStore, splits: Splits, report: Report, stem: str
) -> Iterator[FigureFile]:
    """Figures that are made of the runs' sheets. If a run lacks its own, they stay."""
    pictures: list[tuple[str, str, str, Callable[[ImageStore, Report], list[Line]]]] = [
        (
            "best",
            "Reconstructions and samples",
            "Test images, and their reconstructions and uncurated samples of FIF and of at most "
            f"{BEST} other models of lowest validation distance, each with its best sampler (the "
            "paper's figure 1).",
            best,
        ),
        (
            "samples",
            "Samples",
            "Uncurated samples of every model with each of its samplers, from the runs of the "
            "table, FIF first; above all, test images (the paper's figure 11).",
            samples,
        ),
        (
            "reconstructions",
            "Reconstructions",
            "Test images, and their reconstructions by every model, FIF first.",
            reconstructions,
        ),
    ]
    for row, choice in zip(report.rows, report.choices, strict=True):
        if choice.spec.labels_hash is not None and splits.labels is not None:
            pictures.append(
                (
                    f"classes-{choice.model}-{choice.sampler}",
                    f"{row.model}, {row.sampler}: a row a class",
                    "Uncurated samples of each class; above all, test images.",
                    partial(of_classes, choice=choice, labels=np.unique(splits.labels["train"])),
                )
            )
    tested = Line("test images", {"": images_of(reference_sheet(splits))})
    whole = all(
        (store.place(choice.spec) / samples_name(choice.sampler)).exists()
        for choice in report.choices
    )
    for kind, title, shows, lines in pictures:
        path = Path(f"{stem}-{kind}.webp")
        if whole and (drawn := lines(store, report)):
            write_figure(path, sample_figure([tested, *drawn], report.title))
        elif not path.exists():
            if not whole:
                logger.warning("%s is not drawn: some runs have no pictures", path)
            continue
        yield FigureFile(kind, title, shows, path)


def _table_figures(store: ImageStore, report: Report) -> Iterator[FigureFile]:
    """The runs' own pictures of samples of a table."""
    for row, choice in zip(report.rows, report.choices, strict=True):
        path = store.place(choice.spec) / samples_name(choice.sampler)
        if path.exists():
            yield FigureFile(
                f"{choice.model}-{choice.sampler}",
                f"{row.model}, {row.sampler} samples",
                "Samples and test rows: marginals and pairs of columns.",
                path,
            )
