"""Figure 11 of the paper: samples of every model with each of its samplers, side by side."""

__all__ = ["Strip", "sample_figure", "tiles"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pythae_fif.benchmark.sheets import SIDE
from pythae_fif.pictures import new_figure

ROWS = 2  # of them that are shown of every model and sampler
WIDTH, NARROW = 4.2, 3.2  # inches of a strip, and of one where there are more than two columns
STRIPS = 16  # in a column, at most


@dataclass(frozen=True)
class Strip:
    """Two rows of images of a sheet.

    Attributes:
        label: Name of the sampler.
        sheet: A picture of 8 x 8 images of any height and width.
    """

    label: str
    sheet: Path


def sample_figure(panels: Mapping[str, list[Strip]], title: str) -> Any:
    """Samples of every model: a block a model, a strip a sampler, in as many columns as needed.

    Args:
        panels: Label of every model -> a strip for each of its samplers.
        title: Above it all.

    Returns:
        The Matplotlib figure.
    """
    columns = _columns(panels)
    first = next(iter(panels.values()))[0]
    height, width = tiles(first.sheet).shape[:2]
    across = WIDTH if len(columns) <= 2 else NARROW
    strip, gap, head = across * height / width, 0.06, 0.28
    heights = [
        sum(head + len(strips) * (strip + gap) for _, strips in column) for column in columns
    ]
    left, top = 0.75, 0.5
    size = (len(columns) * (across + left) + 0.15, max(heights) + top + 0.1)
    figure = new_figure(*size, layout=None)
    figure.suptitle(title, fontsize=12, y=1 - 0.2 / size[1])

    def place(x: float, y: float) -> Any:
        """Axes of a strip whose upper left corner is at (x, y), in inches from the upper left."""
        box = (x / size[0], 1 - (y + strip) / size[1], across / size[0], strip / size[1])
        return figure.add_axes(box)

    for index, column in enumerate(columns):
        x, y = index * (across + left) + left, top
        for label, strips in column:
            y += head
            for number, one in enumerate(strips):
                _show(place(x, y), tiles(one.sheet), one.label, "" if number else label)
                y += strip + gap
    return figure


def _columns(panels: Mapping[str, list[Strip]]) -> list[list[tuple[str, list[Strip]]]]:
    """The models in columns of about equal numbers of strips, in their order."""
    total = sum(map(len, panels.values()))
    count = min(len(panels), max(2, math.ceil(total / STRIPS)))
    columns: list[list[tuple[str, list[Strip]]]] = [[] for _ in range(count)]
    done = 0
    for label, strips in panels.items():
        middle = done + len(strips) / 2
        columns[min(count - 1, int(middle * count / total))].append((label, strips))
        done += len(strips)
    return [column for column in columns if column]


def tiles(sheet: Path, rows: int = ROWS) -> np.ndarray:
    """The first rows of images of a sheet, with white gaps between the images."""
    pixels = np.asarray(Image.open(sheet))
    height, width = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    grid = pixels.reshape(SIDE, height, SIDE, width, -1)[:rows]
    gap = max(1, min(height, width) // 14)
    grid = np.pad(grid, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
    whole = grid.reshape(rows * (height + gap), SIDE * (width + gap), -1)
    return whole[:-gap, :-gap].squeeze()


def _show(axis: Any, image: np.ndarray, sampler: str, model: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel(sampler, fontsize=8, rotation=0, ha="right", va="center")
    axis.set_title(model, fontsize=10, loc="left", pad=3, fontweight="bold")
