"""What turns images into features: the base of all extractors, and pixels as features."""

__all__ = ["ColumnExtractor", "Extracted", "Extractor", "PixelExtractor"]

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pythae_fif.errors import DataError
from pythae_fif.evaluation.images import unit_images
from pythae_fif.files import digest
from pythae_fif.volume_change.precision import at_least_float32, full_float32

CPU_CHUNK = 4
"""Images of a network at once for each thread of the CPU, so that they stay in its cache."""


class Extracted(NamedTuple):
    """What an extractor makes of B images, float32 where it runs.

    Attributes:
        features: (B, F).
        logits: (B, classes), or None where the extractor does not classify.
    """

    features: Tensor
    logits: Tensor | None


class Extractor(ABC):
    """A fixed map from images to features, and to logits where it classifies.

    Attributes:
        name: Its name in `EXTRACTORS`.
        distance_name: What the Frechet distance of its features is called.
        score_name: What the inception score of its logits is called; None without logits.
        feature_dim: Number F of features.
        hash: Short hexadecimal identifier of weights and preprocessing.
        accuracy: Fraction of held-out images that it classifies rightly, where that is measured.
        logit_bias: The bias (classes) that its logits leave out, as the inception score's authors
            did; None where they leave none out.
        image_shape: The one shape (C, H, W) that it takes; None takes grey and RGB images of any
            size.
        device: Where it runs.
        of_images: Whether it takes images; else rows of a table, which are neither clamped nor
            rounded.
    """

    name: str
    distance_name: str
    score_name: str | None
    feature_dim: int
    hash: str
    accuracy: float | None = None
    logit_bias: Tensor | None = None
    image_shape: tuple[int, int, int] | None = None
    device: torch.device = torch.device("cpu")
    of_images: bool = True

    def __call__(self, images: Tensor) -> Extracted:
        """Features and logits of images.

        Args:
            images: Images (B, C, H, W), uint8 or floating point in [0, 1].

        Raises:
            DataError: Images of the wrong shape or type, or outside [0, 1].
            NonFiniteError: NaN or infinite pixels.
        """
        images = unit_images(images)
        shape = tuple(images.shape)
        if self.image_shape is None and shape[1] not in (1, 3):
            raise DataError(f"{self.name} takes grey or RGB images (B, 1 or 3, H, W), not {shape}")
        if self.image_shape is not None and shape[1:] != self.image_shape:
            raise DataError(
                f"{self.name}: images must have shape (B, *{self.image_shape}), not {shape}"
            )
        with torch.no_grad(), full_float32():
            features, logits = self.extract(images.to(self.device))
        return Extracted(
            at_least_float32(features), None if logits is None else at_least_float32(logits)
        )

    @abstractmethod
    def extract(self, images: Tensor) -> Extracted:
        """Features and logits of images (B, C, H, W), float32 in [0, 1], of a shape it takes."""

    def chunks(self, images: Tensor) -> tuple[Tensor, ...]:
        """The images in as many parts as are fast on the device."""
        on_cpu = self.device.type == "cpu"
        chunk = CPU_CHUNK * torch.get_num_threads() if on_cpu else len(images)
        return torch.split(images, chunk)


class PixelExtractor(Extractor):
    """Pixels as features: no network, so the distance sees colours and coarse shapes alone.

    Images larger than 16 x 16 are average-pooled to 16 x 16 per channel first, since a covariance
    of all pixels of a 64 x 64 RGB image has 12288^2 entries.

    Args:
        image_shape: The (C, H, W) of the images.

    Example:
        >>> pixels = PixelExtractor((3, 64, 64))
        >>> features, logits = pixels(torch.zeros(2, 3, 64, 64))
        >>> features.shape, logits
        (torch.Size([2, 768]), None)
    """

    name = "pixels"
    distance_name = "FD-pixels"
    score_name = None
    LARGEST_SIDE = 16

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.pooled = (min(height, self.LARGEST_SIDE), min(width, self.LARGEST_SIDE))
        self.feature_dim = channels * self.pooled[0] * self.pooled[1]
        self.hash = digest("pixels/1", self.image_shape, self.pooled)

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, C * h * w) with h, w <= 16, in [0, 1], and no logits."""
        return Extracted(F.adaptive_avg_pool2d(images, self.pooled).flatten(1), None)


class ColumnExtractor(Extractor):
    """The D columns of a standardised table as features.

    The Frechet distance is then the FID-like score of the paper's table 1: the squared
    Wasserstein-2 distance of two Gaussian fits.

    Args:
        columns: D.
    """

    name = "columns"
    distance_name = "FID-like"
    score_name = None
    of_images = False

    def __init__(self, columns: int) -> None:
        self.feature_dim = columns
        self.hash = digest("columns/1", columns)

    def __call__(self, images: Tensor) -> Extracted:
        """Features (B, D) of rows (B, D), floating point."""
        return self.extract(images)

    def extract(self, images: Tensor) -> Extracted:
        """The rows, and no logits."""
        return Extracted(images.to(torch.float32), None)
