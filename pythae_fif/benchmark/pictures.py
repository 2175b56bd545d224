"""Pictures of one trained model: its samples, and its reconstructions of test images."""

from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.data import Splits, to_float
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.pictures import figure_bytes, new_figure, pixel_bytes
from pythae_fif.sampling.models import reconstruct

SIDE = 8  # rows and columns of images of a sheet
OF_CLASS = 16  # images of a class, in a row


def samples_picture(splits: Splits, samples: Tensor, classes: np.ndarray | None = None) -> bytes:
    """A PNG of samples: the first 64, or of a conditional model a row a class; of rows, histograms.

    Args:
        splits: The data.
        samples: (n, C, H, W) in [0, 1], or standardised rows (n, D).
        classes: (n,), of a conditional model's samples.
    """
    if samples.ndim == 2:
        return _histograms(splits, samples.numpy())
    if classes is None:
        return pixel_bytes(sheet(samples[: SIDE * SIDE]))
    lines = [
        sheet(samples[classes == label][:OF_CLASS], rows=1, columns=OF_CLASS)
        for label in np.unique(classes)
    ]
    return pixel_bytes(np.concatenate(lines))


def reconstructions_picture(model: BaseAE, images: np.ndarray, labels: np.ndarray | None) -> bytes:
    """A PNG of rows of test images, and below each row its reconstructions."""
    count = min(len(images), SIDE * SIDE // 2) // SIDE * SIDE
    restored = reconstruct(model, images[:count], None if labels is None else labels[:count])
    rows = [torch.split(half, SIDE) for half in (to_float(images[:count]), restored)]
    return pixel_bytes(
        sheet(torch.cat([half for pair in zip(*rows, strict=True) for half in pair]))
    )


def reference_sheet(splits: Splits) -> np.ndarray:
    """The first 64 test images as a sheet, (8 H, 8 W, C) uint8."""
    return sheet(to_float(splits.test, limit=SIDE * SIDE))


def sheet(images: Tensor, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """Images in [0, 1] in rows, black where there are none: (rows H, columns W, C)."""
    whole = rounded_images(images.detach().cpu().float().nan_to_num()).numpy()
    missing = rows * columns - len(whole)
    whole = np.concatenate([whole, np.zeros((missing, *whole.shape[1:]), np.uint8)])
    _, channels, height, width = whole.shape
    grid = whole.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def _histograms(splits: Splits, rows: np.ndarray) -> bytes:
    """The first eight columns of standardised rows, over those of the test rows."""
    names = list(splits.columns.names)[:SIDE] if splits.columns is not None else []
    figure = new_figure(1.6 * len(names) + 1, 2)
    axes: Any = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name, test, made in zip(axes, names, splits.test.T, rows.T, strict=False):
        bins = np.linspace(test.min(), test.max(), 30)
        axis.hist(test, bins, density=True, histtype="step", color="0.6")
        axis.hist(made, bins, density=True, histtype="step", color="tab:red")
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    return figure_bytes(figure)
