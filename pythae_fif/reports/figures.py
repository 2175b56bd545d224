"""Figures 1, 10 and 11 of the paper for an experiment."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas
from PIL import Image

from pythae_fif.benchmark.models import GRID_FLAGS
from pythae_fif.benchmark.pictures import SAMPLES_PER_CLASS
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.files import os_errors_as_store_error
from pythae_fif.names import SAMPLERS
from pythae_fif.pictures import DPI, figure_bytes, new_figure
from pythae_fif.reports.frame import first_scores
from pythae_fif.runs.store import Store

MAX_MODELS = 16  # images in a line, which is what packed runs have of a sheet
WIDTH, LABEL = 1000, 170  # pixels: of a figure of samples, of it the names
IMAGE, GAP = 48, 2  # pixels: of an image, about; between images
BEST_MODELS = 4  # models in the first figure


class Figure(NamedTuple):
    """A picture of an experiment: the end of its file's name, what it shows, and its content."""

    name: str
    shows: str
    content: bytes


def draw_figures(
    frame: pandas.DataFrame,
    table: pandas.DataFrame,
    results: Sequence[ImageResult],
    store: Store,
    splits: Splits,
) -> Iterator[Figure]:
    """Draws those that there is something to draw of, by `score_frame`, `chosen_frame` and the
    pictures of the runs in a store; of a table no samples."""
    if splits.columns is None:
        test = {"test images": _line(splits.test[:MAX_MODELS].transpose(0, 2, 3, 1))}
        size, runs = splits.test.shape[2:], {of.spec.run_id: of for of in results}
        every = dict(_samples(table, runs, store, size))
        models = table[table["learned"]].sort_values("frechet_val")["model"]
        first = list(dict.fromkeys([*models[models == "fif"], *models]))[:BEST_MODELS]
        best = sorted((of for of in every if of[0] in first), key=lambda of: first.index(of[0]))
        if best:
            shows = "Test images, and unselected samples of FIF and the models of lowest distance"
            lines = test | {label: every[model, label] for model, label in best}
            yield Figure("best.webp", shows, _sheet(lines))
        if len(every) > len(best):
            shows = "Unselected samples of every model's chosen configuration"
            lines = test | {label: line for (_, label), line in every.items()}
            yield Figure("samples.webp", shows, _sheet(lines))
    distance = first_scores(results).distance_name
    if beta := _beta(frame, distance):
        shows = (
            f"{distance} of FIF to validation data against the reconstruction weight β, means over "
            "the seeds, for every sampler and number K of random vectors (figure 10)"
        )
        yield Figure("beta.png", shows, beta)


def _samples(
    table: pandas.DataFrame, runs: Mapping[str, ImageResult], store: Store, size: Sequence[int]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Model and label, and a line of samples, of every sampler that has a sheet."""
    height, width = size
    by_model = pandas.concat([of for _, of in table.groupby("model", sort=False)])
    for row in by_model.itertuples():
        spec = runs[row.run_ids.split()[0]].spec
        content = store.read(spec, name := f"samples-{row.sampler}.png")
        if content is None:
            continue
        with (
            os_errors_as_store_error(f"draw {store.folder(spec) / name}"),
            Image.open(io.BytesIO(content)) as image,
        ):
            sheet = np.asarray(image.convert("RGB"))
        grid = sheet.reshape(-1, height, sheet.shape[1] // width, width, 3).swapaxes(1, 2)
        if spec.labels_hash is not None:  # a row a class: one image of each, in turn
            grid = grid.reshape(-1, SAMPLES_PER_CLASS, height, width, 3).swapaxes(0, 1)
        label = f"{row.label}, {SAMPLERS[row.sampler].label}"
        images = grid.reshape(-1, height, width, 3)
        there = np.flatnonzero(images.any((1, 2, 3)))  # a packed sheet is padded
        yield (row.model, label), _line(images[: there.max(initial=0) + 1])


def _line(images: np.ndarray) -> np.ndarray:
    """The first images side by side, (h, w, 1 or 3): enlarged by a whole number, not smoothed."""
    height, width = images.shape[1:3]
    scale = max(1, round(IMAGE / max(height, width)))
    count = max(1, min(MAX_MODELS, (WIDTH - LABEL) // (scale * width + GAP)))
    large = images[:count].repeat(scale, axis=1).repeat(scale, axis=2)
    gaps = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    return np.concatenate([*np.pad(large, gaps, constant_values=255)], axis=1)


def _sheet(lines: Mapping[str, np.ndarray]) -> bytes:
    """A line below the other, as many as the file's format takes, and their names to the left."""
    down, across = (max(of.shape[axis] for of in lines.values()) for axis in (0, 1))
    lines = dict([*lines.items()][: 16_383 // down])  # WebP has no more pixels
    canvas = np.full((len(lines), down, LABEL + across, 3), 255, np.uint8)
    figure = new_figure((LABEL + across) / DPI, len(lines) * down / DPI)
    figure.set_dpi(DPI)
    for row, (name, line) in enumerate(lines.items()):
        canvas[row, :, LABEL : LABEL + line.shape[1]] = line
        middle = 1 - (row + 0.5) / len(lines)
        figure.text((LABEL - 8) / (LABEL + across), middle, name, size=9, ha="right", va="center")
    figure.figimage(canvas.reshape(-1, LABEL + across, 3), zorder=-1)
    return figure_bytes(figure, ".webp")


def _beta(frame: pandas.DataFrame, distance: str) -> bytes | None:
    """None if there are not two values of beta, or something else varies, too."""
    of_fif = frame[(frame["model"] == "fif") & frame["beta"].notna()]
    varied = {word.split("=")[0] for text in of_fif["configuration"] for word in text.split(", ")}
    if of_fif["beta"].nunique() < 2 or varied - set(GRID_FLAGS):
        return None
    figure = new_figure(8, 4)
    axis: Any = figure.subplots()
    samplers = list(of_fif["sampler"].unique())
    means = of_fif.groupby(["sampler", "vectors", "beta"])["frechet_val"].mean().unstack("beta")
    for (sampler, vectors), line in means.iterrows():
        colour, style = f"C{samplers.index(sampler)}", {1: "o-", 2: "o--"}.get(vectors, "o:")
        label, line = f"{SAMPLERS[sampler].label}, K = {vectors}", line.dropna()
        axis.plot(line.index, line, style, markersize=4, color=colour, label=label)
    axis.set(yscale="log", xticks=means.columns)
    axis.yaxis.set_major_formatter("{x:.3g}")
    axis.yaxis.set_minor_formatter("{x:.3g}")
    axis.set(xlabel="reconstruction weight β", ylabel=f"{distance}, validation")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure_bytes(figure)
