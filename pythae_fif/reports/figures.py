"""Figures 1, 10 and 11 of the paper for an experiment, and score against cost."""

__all__ = ["Figure", "figures_of"]

import io
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
from pythae_fif.reports.frame import first_scores
from pythae_fif.runs.store import Store
from pythae_fif.sampling import SAMPLERS

MOST = 16  # images in a line, which is what packed runs have of a sheet
WIDTH, LABEL = 1000, 170  # pixels: of a figure of samples, of it the names
IMAGE, GAP = 48, 2  # pixels: of an image, about; between images
BEST = 4  # models in the first figure
NAME, WIDE = 8, 50  # points: of a name


class Figure(NamedTuple):
    """A picture of an experiment: its kind, title, what it shows, and its content as a file."""

    kind: str
    title: str
    shows: str
    content: bytes

    @property
    def name(self) -> str:
        """End of its file's name: WebP where images are samples, else PNG."""
        return f"{self.kind}.webp" if self.kind in ("best", "samples") else f"{self.kind}.png"


def figures_of(
    frame: pandas.DataFrame,
    table: pandas.DataFrame,
    results: Sequence[ImageResult],
    store: Store,
    splits: Splits | None,
) -> Iterator[Figure]:
    """Draws those that there is something to draw of.

    Args:
        frame, table: Of :func:`~pythae_fif.reports.frame.score_frame` and `chosen_frame`.
        results: The runs.
        store: Where their pictures are.
        splits: The data; None draws no samples.
    """
    distance = first_scores(results).distance_name
    runs = {result.spec.run_id: result for result in results}
    if splits is not None and splits.columns is None:
        shape = splits.test.shape[1:]
        test = {"test images": images_of(reference_sheet(splits), shape)[:MOST]}
        lines = _samples(table, runs, store, shape)
        best = {n: images for m in _best(table) for n, images in lines.get(m, {}).items()}
        every = {n: images for of_model in lines.values() for n, images in of_model.items()}
        if best:
            shows = "Test images, and unselected samples of FIF and the models of lowest distance"
            yield Figure("best", "Samples of the best", shows, _sheet(test | best))
        if len(every) > len(best):
            shows = "Unselected samples of every model's chosen configuration (figure 11)"
            yield Figure("samples", "Samples of all models", shows, _sheet(test | every))
    if beta := _beta(frame, distance):
        shows = (
            f"{distance} of FIF to validation data against the reconstruction weight β, means over "
            "the seeds, for every sampler and number K of random vectors (figure 10)"
        )
        yield Figure("beta", "FIF's reconstruction weight", shows, beta)
    if cost := _cost(table, distance):
        shows = f"{distance} to test data against seconds of training; lower left is better"
        yield Figure("cost", "Score against training time", shows, cost)


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
) -> dict[str, dict[str, np.ndarray]]:
    """Model -> name -> images (n, H, W, C) uint8, of every sampler that has a sheet."""
    lines: dict[str, dict[str, np.ndarray]] = {}
    for row in table.itertuples():
        spec = runs[row.run_ids.split()[0]].spec
        content = store.read(spec, f"samples-{row.sampler}.png")
        if content is None:
            continue
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB" if shape[0] == 3 else "L"))
            images = images_of(pixels, shape)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = f"{store.folder(spec)}/samples-{row.sampler}.png"
            raise StoreError(f"{name} is damaged: remove it, and run again") from error
        if spec.labels_hash is not None:  # a row a class: one image of each, in turn
            by_class = images.reshape(-1, OF_CLASS, *images.shape[1:])
            images = by_class.swapaxes(0, 1).reshape(images.shape)
        name = f"{row.label}, {SAMPLERS[row.sampler].label}"
        lines.setdefault(row.model, {})[name] = images[:MOST]
    return lines


def _sheet(lines: dict[str, np.ndarray]) -> bytes:
    """Images in rows, each enlarged by a whole number and nothing smoothed."""
    height, width = next(iter(lines.values())).shape[1:3]
    scale = max(1, round(IMAGE / max(height, width)))
    count = min(MOST, (WIDTH - LABEL) // (scale * width + GAP))
    down, across = scale * height + GAP, LABEL + count * (scale * width + GAP)
    canvas = np.full((len(lines) * down, across, 3), 255, np.uint8)
    figure = new_figure(across / DPI, canvas.shape[0] / DPI)
    figure.set_dpi(DPI)
    for row, (name, images) in enumerate(lines.items()):
        for column, image in enumerate(images[:count]):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = row * down, LABEL + column * (scale * width + GAP)
            canvas[top : top + down - GAP, left : left + scale * width] = large
        middle = 1 - (row + 0.5) / len(lines)
        figure.text((LABEL - 8) / across, middle, name, size=9, ha="right", va="center")
    figure.figimage(canvas, zorder=-1)
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
    keys = ["sampler", "vectors", "beta"]
    means = of_fif.groupby(keys)["frechet_val"].mean().unstack("beta")
    for (sampler, vectors), line in means.iterrows():
        colour, style = f"C{samplers.index(sampler)}", {1: "-", 2: "--"}.get(vectors, ":")
        line = line.dropna()
        axis.plot(line.index, line, style, marker="o", markersize=4, color=colour)
        text = f" {SAMPLERS[sampler].label}, K = {vectors}"
        axis.text(line.index[-1], line.iloc[-1], text, fontsize=8, color=colour, va="center")
    axis.set(yscale="log", xticks=means.columns)
    axis.set(xlabel="reconstruction weight β", ylabel=f"{distance}, validation")
    _plain_ticks(axis.yaxis)
    return figure_bytes(figure)


def _cost(table: pandas.DataFrame, distance: str) -> bytes | None:
    """A panel a sampler, at most three, with a name at every marker; None if nothing is finite."""
    finite = table[np.isfinite(table["frechet_test"])].sort_values("frechet_test", ascending=False)
    if finite.empty:
        return None
    shown = [name for name in table["sampler"].unique() if name in set(finite["sampler"])][:3]
    panels = [(name, finite[finite["sampler"] == name]) for name in shown]
    tallest = max(len(rows) for _, rows in panels)
    figure = new_figure(10, max(3.4, 0.17 * tallest + 1))
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    colours = {model: f"C{n % 10}" for n, model in enumerate(table["model"].unique())}
    for axis, (sampler, rows) in zip(axes, panels, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="seconds of training")
        axis.scatter(
            rows["training_seconds"], rows["frechet_test"], s=16, c=rows["model"].map(colours)
        )
        axis.margins(0.15)
        _plain_ticks(axis.xaxis)
        _plain_ticks(axis.yaxis)
        axis.set_title(f"samples by {SAMPLERS[sampler].label}")
    axes[0].set_ylabel(f"{distance}, test")
    figure.draw_without_rendering()  # which lays out the axes
    for axis, (_, rows) in zip(axes, panels, strict=True):
        placed: list[tuple[float, float]] = []
        for row in rows.itertuples():
            point = (row.training_seconds, row.frechet_test)
            left, height = axis.transData.transform(point) * 72 / DPI
            low = height
            while any(abs(x - left) < WIDE and abs(y - low) < NAME for x, y in placed):
                low -= 1  # until no name is upon another
            placed.append((left, low))
            style = {"fontsize": 7, "color": colours[row.model], "va": "center"}
            offset = (6, low - height)
            axis.annotate(row.label, point, offset, textcoords="offset points", **style)
    return figure_bytes(figure)


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis, written out: at 1, 2 and 5 times powers of ten, or few."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(4))
    axis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    axis.set_minor_formatter(NullFormatter())
