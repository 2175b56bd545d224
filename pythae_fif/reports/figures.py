"""Figures 1, 10 and 11 of the paper for an experiment, score against cost, and learning curves."""

__all__ = ["Figure", "figures_of"]

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas
from PIL import Image

from pythae_fif.benchmark.models import GRID_FLAGS
from pythae_fif.benchmark.pictures import OF_CLASS, reference_sheet
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import StoreError
from pythae_fif.pictures import DPI, figure_bytes, new_figure
from pythae_fif.runs.store import Store
from pythae_fif.sampling import SAMPLERS

MOST = 16  # images in a line, which is what packed runs have of a sheet
WIDTH, LABEL = 1000, 170  # pixels: of a figure of samples, of it the names
IMAGE, GAP = 48, 2  # pixels: of an image, about; between images
BEST = 4  # models in the first figure


class Figure(NamedTuple):
    """A picture of an experiment: its kind, title, what it shows, and its content as a file."""

    kind: str
    title: str
    shows: str
    content: bytes

    @property
    def name(self) -> str:
        """End of its file's name: WebP where images are samples, else PNG."""
        return f"{self.kind}.webp" if self.is_pixels else f"{self.kind}.png"

    @property
    def is_pixels(self) -> bool:
        """Whether its pixels are those of images."""
        return self.kind in ("best", "samples")


class _Line(NamedTuple):
    """A name, and images (n, H, W, C) uint8 beside it."""

    name: str
    images: np.ndarray


def figures_of(
    frame: pandas.DataFrame,
    table: pandas.DataFrame,
    results: Sequence[ImageResult],
    distance: str,
    store: Store,
    splits: Splits | None,
) -> Iterator[Figure]:
    """Draws those that there is something to draw of.

    Args:
        frame, table: Of :func:`~pythae_fif.reports.frame.score_frame` and `chosen_frame`.
        results: The runs.
        distance: What it is called.
        store: Where their pictures are.
        splits: The data; None draws no samples.
    """
    runs = {result.spec.run_id: result for result in results}
    if splits is not None and splits.columns is None:
        shape = splits.test.shape[1:]
        test = _Line("test images", images_of(reference_sheet(splits), shape)[:MOST])
        lines = _samples(table, runs, store, shape)
        best = [line for model in _best(table) for line in lines.get(model, [])]
        every = [line for model in table["model"].unique() for line in lines.get(model, [])]
        if best:
            shows = "Test images, and unselected samples of FIF and the models of lowest distance"
            yield Figure("best", "Samples of the best", shows, _sheet([test, *best]))
        if len(every) > len(best):
            shows = "Unselected samples of every model's chosen configuration (figure 11)"
            yield Figure("samples", "Samples of all models", shows, _sheet([test, *every]))
    if beta := _beta(frame, distance):
        shows = (
            f"{distance} of FIF to validation data against the reconstruction weight β, means over "
            "the seeds, for every sampler and number K of random vectors (figure 10)"
        )
        yield Figure("beta", "FIF's reconstruction weight", shows, beta)
    shows = (
        f"{distance} to test data against seconds of training of the chosen configuration; both "
        "axes are logarithmic, and lower left is better"
    )
    yield Figure("cost", "Score against training time", shows, _cost(table, distance))
    if learning := _learning(table, runs):
        shows = (
            "Training (solid) and evaluation loss (dashed) of every model's chosen run against "
            "seconds of training; each loss is its model's own"
        )
        yield Figure("learning", "Learning curves", shows, learning)


def images_of(sheet: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The images of a sheet, (n, H, W, C), of images of shape (C, H, W)."""
    channels, height, width = shape
    rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
    grid = sheet.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * columns, height, width, channels)


def _best(table: pandas.DataFrame) -> list[str]:
    """FIF, and the models of lowest validation distance by any sampler."""
    models = table[table["learned"]].sort_values("frechet_val")["model"]
    fif = models[models == "fif"]
    return list(dict.fromkeys([*fif, *models]))[:BEST]


def _samples(
    table: pandas.DataFrame, runs: dict[str, ImageResult], store: Store, shape: Sequence[int]
) -> dict[str, list[_Line]]:
    """Model -> a line a sampler that has a sheet."""
    lines: dict[str, list[_Line]] = {}
    for row in table.itertuples():
        seeds = [runs[run_id] for run_id in row.run_ids.split()]
        sheets = ((of, store.read(of.spec, f"samples-{row.sampler}.png")) for of in seeds)
        result, content = next((pair for pair in sheets if pair[1] is not None), (seeds[0], None))
        if content is None:
            continue
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB" if shape[0] == 3 else "L"))
            images = images_of(pixels, shape)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = f"{store.folder(result.spec)}/samples-{row.sampler}.png"
            raise StoreError(f"{name} is damaged: remove it, and run again") from error
        if result.spec.labels_hash is not None:  # a row a class: one image of each, in turn
            by_class = images.reshape(-1, OF_CLASS, *images.shape[1:])
            images = by_class.swapaxes(0, 1).reshape(images.shape)
        there = np.flatnonzero(images.reshape(len(images), -1).any(axis=1))  # a sheet is padded
        images = images[: there[-1] + 1] if len(there) else images[:0]
        name = f"{row.label}, {SAMPLERS[row.sampler].label}"
        lines.setdefault(row.model, []).append(_Line(name, images[:MOST]))
    return lines


def _sheet(lines: Sequence[_Line]) -> bytes:
    """Images in rows, each enlarged by a whole number and nothing smoothed."""
    height, width = lines[0].images.shape[1:3]
    scale = max(1, round(IMAGE / max(height, width)))
    count = min(MOST, (WIDTH - LABEL) // (scale * width + GAP))
    down, across = scale * height + GAP, LABEL + count * (scale * width + GAP)
    canvas = np.full((len(lines) * down, across, 3), 255, np.uint8)
    figure = new_figure(across / DPI, canvas.shape[0] / DPI)
    figure.set_dpi(DPI)
    for row, line in enumerate(lines):
        for column, image in enumerate(line.images[:count]):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = row * down, LABEL + column * (scale * width + GAP)
            canvas[top : top + down - GAP, left : left + scale * width] = large
        middle = 1 - (row + 0.5) / len(lines)
        place = (LABEL - 8) / across
        figure.text(place, middle, line.name, size=9, ha="right", va="center")
    figure.figimage(canvas, zorder=-1)
    return figure_bytes(figure, ".webp")


def _bare(axis: Any, title: str = "") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.set_title(title, fontsize=9)


def _beta(frame: pandas.DataFrame, distance: str) -> bytes | None:
    """None if there are not two values of beta, or something else varies, too."""
    of_fif = frame[(frame["model"] == "fif") & frame["beta"].notna()]
    varied = {word.split("=")[0] for text in of_fif["configuration"] for word in text.split(", ")}
    if of_fif["beta"].nunique() < 2 or varied - set(GRID_FLAGS):
        return None
    figure = new_figure(8, 4)
    axis: Any = figure.subplots()
    samplers = list(of_fif["sampler"].unique())
    keys = ["sampler", "vectors", "beta"]
    means = of_fif.groupby(keys)["frechet_val"].mean().unstack("beta")
    for (sampler, vectors), line in means.iterrows():
        colour, style = f"C{samplers.index(sampler)}", {1: "-", 2: "--"}.get(vectors, ":")
        line = line.dropna()
        axis.plot(line.index, line, style, marker="o", markersize=4, color=colour)
        text = f" {SAMPLERS[sampler].label}, K = {vectors}"
        axis.text(line.index[-1], line.iloc[-1], text, fontsize=8, color=colour, va="center")
    if means.max(axis=None) > 10 * means.min(axis=None) > 0:
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(means.columns)
    axis.set_xlabel("reconstruction weight β", fontsize=9)
    axis.set_ylabel(f"{distance}, validation", fontsize=9)
    _bare(axis)
    return figure_bytes(figure)


def _cost(table: pandas.DataFrame, distance: str) -> bytes:
    """A panel a sampler that two models have, at most three; a name at every marker."""
    several = table.groupby("sampler", sort=False).filter(lambda group: len(group) > 1)
    panels = list((several if len(several) else table).groupby("sampler", sort=False))[:3]
    tallest = max(len(rows) for _, rows in panels)
    figure = new_figure(10, max(3.4, 0.17 * tallest + 1))
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    points: list[list[tuple[str, float, float, str]]] = []
    colours = {model: f"C{n % 10}" for n, model in enumerate(table["model"].unique())}
    for axis, (sampler, rows) in zip(axes, panels, strict=True):
        axis.set(xscale="log", yscale="log")
        across = rows["training_seconds"].clip(lower=1e-3)
        down = rows["frechet_test"].replace(math.inf, math.nan).clip(lower=1e-6)
        colour = rows["model"].map(colours)
        axis.scatter(across, down, s=16, c=colour)
        axis.margins(0.15)
        _plain_ticks(axis.xaxis)
        _plain_ticks(axis.yaxis)
        axis.set_xlabel("seconds of training", fontsize=9)
        _bare(axis, f"samples by {SAMPLERS[str(sampler)].label}")
        points.append([*zip(rows["label"], across, down, colour, strict=True)])
    axes[0].set_ylabel(f"{distance}, test", fontsize=9)
    figure.draw_without_rendering()  # which lays out the axes
    for axis, named in zip(axes, points, strict=True):
        _names(axis, named)
    return figure_bytes(figure)


def _names(axis: Any, points: list[tuple[str, float, float, str]]) -> None:
    """Names right of their markers, or below where another name is."""
    wide, high = 75, 11  # of a name, in pixels
    placed: list[tuple[float, float]] = []
    for name, x, y, colour in sorted(points, key=lambda point: -point[2]):
        if not math.isfinite(y):
            continue
        left, height = axis.transData.transform((x, y))
        low = height
        while near := [p for p in placed if abs(p[0] - left) < wide and abs(p[1] - low) < high]:
            low = min(bottom for _, bottom in near) - high
        placed.append((left, low))
        style: dict[str, Any] = {"fontsize": 7, "color": colour, "va": "center"}
        if low < height:
            style["arrowprops"] = {"arrowstyle": "-", "color": colour, "linewidth": 0.4}
        offset = (6, (low - height) * 72 / axis.figure.dpi)
        axis.annotate(name, (x, y), offset, textcoords="offset points", **style)


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis, written out: at 1, 2 and 5 times powers of ten, or few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.axes.autoscale_view()
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())


def _learning(table: pandas.DataFrame, runs: dict[str, ImageResult]) -> bytes | None:
    """A panel a model, whose loss is no other's; None if no training has two epochs."""
    chosen = table.drop_duplicates("model")
    first = zip(chosen["label"], chosen["run_ids"].str.split().str[0], strict=True)
    logs = {label: runs[run_id].training.result.log for label, run_id in first}
    logs = {label: log for label, log in logs.items() if len(log) > 1}
    if not logs:
        return None
    columns = min(len(logs), 4)
    rows = math.ceil(len(logs) / columns)
    figure = new_figure(10, 1.9 * rows + 0.3)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(logs) :]:
        axis.set_axis_off()
    for axis, (label, log) in zip(axes.flat, logs.items(), strict=False):
        seconds = np.cumsum([epoch.seconds for epoch in log])
        for name, style in (("train", "-"), ("eval", "--")):
            losses = np.array([getattr(epoch, name).get("loss", math.nan) for epoch in log])
            losses[~np.isfinite(losses)] = math.nan
            axis.plot(seconds, losses, style, linewidth=1.2)
        _bare(axis, label)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    return figure_bytes(figure)
