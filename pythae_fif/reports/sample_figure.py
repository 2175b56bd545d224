"""Figures 1 and 11 of the paper: rows of samples and reconstructions, a pixel as a square."""

__all__ = [
    "BEST",
    "MOST",
    "Line",
    "best",
    "images_of",
    "of_classes",
    "reconstructions",
    "sample_figure",
    "samples",
]

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pythae_fif.benchmark.leaderboard import ImageStore
from pythae_fif.benchmark.selection import Choice
from pythae_fif.benchmark.sheets import OF_CLASS, RECONSTRUCTIONS, SIDE, classes_name, samples_name
from pythae_fif.pictures import DPI, new_figure, read_pixels
from pythae_fif.reports.report import Report, Row

WIDTH, LABEL, HEAD = 830, 120, 40  # pixels: a page's width, of it the names; above all lines
IMAGE, GAP, BLOCK_GAP = 48, 2, 12  # pixels of an image, about; between images; between strips
ACROSS = 2  # strips side by side, at most
MOST = 16  # images in a line, which is what packed runs have of a sheet
BEST = 3  # models beside FIF in figure 1


class Line(NamedTuple):
    """A model and its strips of images.

    Attributes:
        name: Of the model.
        strips: What a strip shows, such as a sampler -> images (n, H, W, C) uint8. A single one
            fills the line; the third and further ones begin a new line.
    """

    name: str
    strips: dict[str, np.ndarray]


def images_of(sheet: np.ndarray, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """The images of a sheet, (rows * columns, H, W, C)."""
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    grid = sheet.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
    return grid.reshape(rows * columns, height, width, -1)


def sample_figure(lines: Sequence[Line], title: str) -> Any:
    """Images of every model in rows, each enlarged by a whole number and nothing smoothed.

    Args:
        lines: From above; at least one.
        title: Above it all.

    Returns:
        The Matplotlib figure; it is as sharp as the images at its own DPI alone.
    """
    rows = [row for line in lines for row in _rows(line)]
    size = next(iter(lines[0].strips.values())).shape[1:3]
    scale = max(1, round(IMAGE / max(size)))
    height, width = (scale * side + GAP for side in size)
    blocks = max(len(row.strips) for row in rows)
    fits = (WIDTH - LABEL - (blocks - 1) * BLOCK_GAP) // (blocks * width)
    count = min(max(1, fits), MOST // blocks)
    across = LABEL + blocks * count * width + (blocks - 1) * BLOCK_GAP
    down = HEAD + len(rows) * height
    figure = new_figure(across / DPI, down / DPI)
    figure.set_dpi(DPI)
    canvas = np.full((down, across, 3), 255, np.uint8)
    for index, row in enumerate(rows):
        top = HEAD + index * height
        images = list(row.strips.values())
        if len(images) == 1:
            images = [images[0][block * count :] for block in range(blocks)]
        for block, strip in enumerate(images):
            for place, image in enumerate(strip[:count]):
                left = LABEL + block * (count * width + BLOCK_GAP) + place * width
                large = image.repeat(scale, axis=0).repeat(scale, axis=1)
                canvas[top : top + height - GAP, left : left + width - GAP] = large
        middle = 1 - (top + height / 2) / down
        text: dict[str, Any] = {"size": 8, "ha": "right", "linespacing": 1.3}
        at = (LABEL - 8) / across
        shown = " | ".join(row.strips)
        figure.text(at, middle, row.name, va="bottom" if shown else "center", weight="bold", **text)
        figure.text(at, middle, shown, va="top", color="0.35", **text)
    figure.text(0.5, 1 - HEAD / 2 / down, title, size=10, ha="center", va="center")
    figure.figimage(canvas, zorder=-1)
    return figure


def _rows(line: Line) -> Iterator[Line]:
    """A line in parts of at most two strips."""
    strips = list(line.strips.items())
    for start in range(0, len(strips), ACROSS):
        yield Line(line.name, dict(strips[start : start + ACROSS]))


def samples(store: ImageStore, report: Report) -> list[Line]:
    """The samples of every model with each of its samplers, FIF's first."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row, choice in zip(report.rows, report.choices, strict=True):
        for images in _images(store, choice, samples_name(choice.sampler)):
            found.setdefault(row.model, {})[row.sampler] = images
    lines = [Line(model, strips) for model, strips in found.items()]
    return sorted(lines, key=lambda line: line.name != "FIF")


def reconstructions(store: ImageStore, report: Report) -> list[Line]:
    """The reconstructions of every model by the run of its best sampler, FIF's first."""
    return [
        Line(model, {"": _second(images)})
        for model, (_, choice) in _best(report).items()
        for images in _images(store, choice, RECONSTRUCTIONS)
    ]


def best(store: ImageStore, report: Report) -> list[Line]:
    """Reconstructions and samples of FIF and the best other models."""
    models = _best(report)
    lines = []
    for model, (row, choice) in list(models.items())[: BEST + ("FIF" in models)]:
        for images in _images(store, choice, RECONSTRUCTIONS):
            lines.append(Line(model, {"reconstructions": _second(images)}))
        for images in _images(store, choice, samples_name(choice.sampler)):
            lines.append(Line(model, {f"samples, {row.sampler}": images}))
    return lines


def of_classes(store: ImageStore, report: Report, choice: Choice, labels: np.ndarray) -> list[Line]:
    """The samples of a conditional model, a line a class; the labels are those of its classes."""
    pixels = read_pixels(store.place(choice.spec) / classes_name(choice.sampler))
    if pixels is None:
        return []
    lines = np.split(images_of(pixels, len(labels), OF_CLASS), len(labels))
    return [Line(f"class {label}", {"": of}) for label, of in zip(labels, lines, strict=True)]


def _best(report: Report) -> dict[str, tuple[Row, Choice]]:
    """Every model's row of lowest validation distance; FIF first, then the lowest first."""
    pairs = sorted(
        zip(report.rows, report.choices, strict=True),
        key=lambda pair: (pair[0].model != "FIF", pair[0].frechet_val),
    )
    found: dict[str, tuple[Row, Choice]] = {}
    for row, choice in pairs:
        found.setdefault(row.model, (row, choice))
    return found


def _images(store: ImageStore, choice: Choice, name: str) -> Iterator[np.ndarray]:
    """The images of a run's sheet, if it has that sheet."""
    pixels = read_pixels(store.place(choice.spec) / name)
    if pixels is not None:
        yield images_of(pixels)


def _second(images: np.ndarray) -> np.ndarray:
    """Of a sheet of test images and reconstructions, a row each in turn, the reconstructions."""
    return np.concatenate(np.split(images, SIDE)[1::2])
