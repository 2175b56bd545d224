"""Images as scores take them: checked, in [0, 1], rounded."""

__all__ = ["RANGE_TOLERANCE", "rounded_images", "unit_images"]

import math

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError

RANGE_TOLERANCE = 1e-3
"""How far outside [0, 1] a float pixel may lie before it counts as a mistake of scale."""


def rounded_images(images: Tensor) -> Tensor:
    """Floating-point images clamped to [0, 1] and rounded as an image file would: uint8.

    Example:
        >>> rounded_images(torch.tensor([-1.0, 0.2, 0.502, 1.5]))
        tensor([  0,  51, 128, 255], dtype=torch.uint8)
    """
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def unit_images(images: Tensor) -> Tensor:
    """Checks a batch of images and converts it to float32 in [0, 1].

    Args:
        images: Images (B, C, H, W) with B >= 1, uint8 in 0..255 or floating point in [0, 1].

    Returns:
        The images as float32 in [0, 1] (B, C, H, W); what lies outside by rounding is clamped.

    Raises:
        DataError: wrong number of axes, no images, another dtype, or values outside [0, 1].
        NonFiniteError: NaN or infinite pixels.

    Example:
        >>> unit_images(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    if images.ndim != 4 or images.numel() == 0:
        raise DataError(
            f"images must have shape (B, C, H, W) with B >= 1, not {tuple(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    if not images.is_floating_point():
        raise DataError(f"images must be uint8 or floating point, not {images.dtype}")
    images = images.to(torch.float32)
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not math.isfinite(low + high):
        raise NonFiniteError("images have NaN or infinite pixels")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise DataError(
            f"float images must lie in [0, 1], not [{low:.4g}, {high:.4g}]; "
            "divide by 255, or clamp samples first"
        )
    return images.clamp(0, 1)
