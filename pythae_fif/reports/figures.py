"""Pictures of an experiment."""

__all__ = ["sample_figure"]

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 8  # rows and columns of images in a block of a sheet
ROWS = 2  # of them that are shown of every model and sampler
Block = tuple[Path, int, int]
"""A sheet, the index of a block in it, and the number of its blocks."""


def sample_figure(
    panels: dict[str, list[Block]],
    headings: list[str],
    real: Path,
    title: str,
    path: Path,
) -> None:
    """Samples of every model side by side: a row a model, a column a sampler.

    Args:
        panels: Label of every model -> a block for each of its samplers. The sheets are the runs'
            `samples.png`, whose blocks of 8 x 8 images of any height and width stand side by side.
        headings: Names of the columns.
        real: A sheet of one block of real images; its rows fill the first row of the picture.
        title: Above it all.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # here, for the rest of a command should not wait for it

    data = [_tiles((real, 0, 1), ROWS * column % SIDE) for column in range(len(headings))]
    rows = {"data": data, **{label: [_tiles(b) for b in panel] for label, panel in panels.items()}}
    height, width = data[0].shape[:2]
    size = (4.2 * len(headings) + 0.9, (4.2 * height / width + 0.3) * len(rows) + 0.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(rows), len(headings), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (label, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            # The column headings are the samplers', which the data have none of.
            heading = headings[column] if row == 1 else ""
            _show(axes[row][column], image, label if column == 0 else "", heading)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _tiles(block: Block, first: int = 0) -> np.ndarray:
    """ROWS rows of images of a block, from row `first`, with white gaps between the images."""
    path, index, blocks = block
    sheet = np.asarray(Image.open(path))
    height, width = sheet.shape[0] // SIDE, sheet.shape[1] // (SIDE * blocks)
    tiles = sheet.reshape(SIDE, height, blocks, SIDE, width, -1)[first : first + ROWS, :, index]
    gap = max(1, min(height, width) // 14)
    tiles = np.pad(tiles, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
    grid = tiles.reshape(ROWS * (height + gap), SIDE * (width + gap), -1)
    return grid[:-gap, :-gap].squeeze()


def _show(axis: Any, image: np.ndarray, label: str, heading: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel(label, fontsize=11)
    axis.set_title(heading, fontsize=11)
