"""Figure 11 of the paper: samples of every model with each of its samplers, side by side."""

__all__ = ["Strip", "sample_figure", "tiles"]

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pythae_fif.benchmark.sheets import SIDE
from pythae_fif.pictures import new_figure

ROWS = 2  # of them that are shown of every model and sampler
WIDTH, NARROW = 4.2, 3.2  # inches of a strip, and of one where there are more than two columns
STRIPS = 16  # in a column, at most


class Strip(NamedTuple):
    """Two rows of images of a sheet.

    Attributes:
        title: Of model and sampler.
        sheet: Pixels of 8 x 8 images of any height and width.
    """

    title: str
    sheet: np.ndarray


def sample_figure(strips: Sequence[Strip], title: str) -> Any:
    """Samples of every model: a strip a sampler, one below the other, in columns.

    Args:
        strips: Those of every model; at least one.
        title: Above it all.

    Returns:
        The Matplotlib figure.
    """
    columns = min(len(strips), max(2, math.ceil(len(strips) / STRIPS)))
    rows = math.ceil(len(strips) / columns)
    images = [tiles(strip.sheet) for strip in strips]
    height, width = images[0].shape[:2]
    across = WIDTH if columns <= 2 else NARROW
    figure = new_figure(columns * (across + 0.15), rows * (across * height / width + 0.3) + 0.4)
    figure.suptitle(title, fontsize=12)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, strip, image in zip(axes.T.flat, strips, images, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axis.set_title(strip.title, fontsize=9, loc="left", pad=2)
    return figure


def tiles(pixels: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """The first rows of images of a sheet, with white gaps between the images."""
    height, width = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    grid = pixels.reshape(SIDE, height, SIDE, width, -1)[:rows]
    gap = max(1, min(height, width) // 14)
    grid = np.pad(grid, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
    whole = grid.reshape(rows * (height + gap), SIDE * (width + gap), -1)
    return whole[:-gap, :-gap].squeeze()
