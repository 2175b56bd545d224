"""Sheets of images, such as samples of one trained model."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.pictures import pixel_bytes

SIDE = 8  # rows and columns of images of a sheet
SAMPLES_PER_CLASS = 16  # images of a class, in a row


def samples_picture(samples: Tensor, classes: np.ndarray | None = None) -> bytes:
    """A PNG of the first 64 samples (n, C, H, W) in [0, 1]; with classes (n,), of a row a class."""
    if classes is None:
        return pixel_bytes(picture_sheet(samples[: SIDE * SIDE], SIDE, SIDE))
    rows = [
        picture_sheet(samples[classes == of][:SAMPLES_PER_CLASS], 1, SAMPLES_PER_CLASS)
        for of in np.unique(classes)
    ]
    return pixel_bytes(np.concatenate(rows))


def picture_sheet(images: Tensor, rows: int, columns: int) -> np.ndarray:
    """Images in [0, 1] in rows, black where there are none: (rows H, columns W, C) uint8."""
    whole = rounded_images(images.detach().cpu().nan_to_num())
    whole = F.pad(whole, (*[0] * 7, rows * columns - len(whole))).unflatten(0, (rows, columns))
    return whole.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).numpy()
