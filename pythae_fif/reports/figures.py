"""Pictures of an experiment."""

__all__ = ["sample_figure"]

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROWS, COLUMNS = 3, 8  # images shown of every model and sampler


def sample_figure(
    panels: list[list[tuple[str, Path, int]]],
    headings: list[str],
    real: tuple[Path, int] | None,
    title: str,
    path: Path,
) -> None:
    """Samples of every model side by side: a row a model, a column a sampler.

    Args:
        panels: For every model its samplers' (label, sheet, index): the sheet is a run's
            `samples.png`, whose square blocks of 8 x 8 images stand side by side, and the index
            says which block.
        headings: Names of the columns.
        real: A sheet of real images and its block, shown first.
        title: Above it all.
        path: The PNG to write.
    """
    columns, rows = len(headings), len(panels) + (real is not None)
    figure = Figure(figsize=(4.2 * columns + 0.9, 1.62 * rows + 0.6), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title, fontsize=12)
    for axis in axes.flat:
        axis.set_axis_off()
    if real is not None:
        _show(axes[0][0], _block(*real), "data", None)
    for row, panel in enumerate(panels, start=int(real is not None)):
        for column, (label, sheet, index) in enumerate(panel):
            heading = headings[column] if row == int(real is not None) else None
            _show(axes[row][column], _block(sheet, index), label if column == 0 else "", heading)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _block(path: Path, index: int) -> np.ndarray:
    """The first ROWS x COLUMNS images of a block of a sheet, with white gaps between them."""
    sheet = np.asarray(Image.open(path))
    if sheet.ndim == 2:
        sheet = sheet[..., None]
    side = sheet.shape[0]
    size = side // 8
    block = sheet[: size * ROWS, index * side : index * side + size * COLUMNS]
    channels = block.shape[-1]
    tiles = block.reshape(ROWS, size, COLUMNS, size, channels)
    gap = max(1, size // 14)
    tiles = np.pad(tiles, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
    grid = tiles.reshape(ROWS * (size + gap), COLUMNS * (size + gap), channels)
    return grid[:-gap, :-gap].squeeze()


def _show(axis, image: np.ndarray, label: str, heading: str | None) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel(label, fontsize=11)
    if heading:
        axis.set_title(heading, fontsize=11)
