"""Sheets of images: samples of one trained model, and the test images beside which they stand."""

import numpy as np
from torch import Tensor

from pythae_fif.data import Splits, to_float
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.pictures import pixel_bytes

SIDE = 8  # rows and columns of images of a sheet
OF_CLASS = 16  # images of a class, in a row


def samples_picture(samples: Tensor, classes: np.ndarray | None = None) -> bytes:
    """A PNG of the first 64 samples, or of a conditional model of a row a class.

    Args:
        samples: (n, C, H, W) in [0, 1].
        classes: (n,), of a conditional model's samples.
    """
    if classes is None:
        return pixel_bytes(sheet(samples[: SIDE * SIDE]))
    lines = [
        sheet(samples[classes == label][:OF_CLASS], rows=1, columns=OF_CLASS)
        for label in np.unique(classes)
    ]
    return pixel_bytes(np.concatenate(lines))


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
