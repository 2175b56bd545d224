"""Sheets of images, such as the samples of a trained model."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.pictures import pixel_bytes

SIDE = 8  # rows, and columns, of images on a sheet
SAMPLES_PER_CLASS = 16  # images in a row, if each row is a class


def samples_picture(samples: Tensor, classes: np.ndarray | None = None) -> bytes:
    """Draws the first 64 samples, or the first 16 of each class, as a PNG file.

    Args:
        samples: Images (N, C, H, W) in [0, 1].
        classes: The class of each sample (N,), for one row per class.

    Returns:
        The content of the file.
    """
    if classes is None:
        return pixel_bytes(picture_sheet(samples[: SIDE * SIDE], SIDE, SIDE))

    rows = [
        picture_sheet(samples[classes == label][:SAMPLES_PER_CLASS], 1, SAMPLES_PER_CLASS)
        for label in np.unique(classes)
    ]
    return pixel_bytes(np.concatenate(rows))


def picture_sheet(images: Tensor, rows: int, columns: int) -> np.ndarray:
    """Arranges images in rows and columns; places without an image are black.

    Args:
        images: Images (N, C, H, W) in [0, 1]; at most rows * columns.
        rows: Number of rows.
        columns: Number of columns.

    Returns:
        One image (rows * H, columns * W, C) of type uint8.
    """
    pixels = rounded_images(images.detach().cpu().nan_to_num())
    padding_after = rows * columns - len(pixels)
    pixels = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, padding_after))

    # (rows * columns, C, H, W) becomes (rows, H, columns, W, C).
    grid = pixels.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    return grid.flatten(0, 1).flatten(1, 2).numpy()
