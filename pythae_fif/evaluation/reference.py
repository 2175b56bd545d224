"""What samples are compared with: features of images and their statistics, computed once."""

__all__ = ["Reference", "content_hash"]

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pythae_fif.evaluation.extractor import Extractor
from pythae_fif.evaluation.frechet import FeatureStatistics
from pythae_fif.evaluation.images import rounded_images, unit_images
from pythae_fif.files import cached, digest

BATCH_SIZE = 256


def content_hash(images: Tensor) -> str:
    """Identifies images by what they hold: shape, type and every pixel.

    Example:
        >>> content_hash(torch.zeros(1, 2)) == content_hash(torch.zeros(2, 1))
        False
    """
    sha = hashlib.sha256()
    for batch in images.split(1024):
        sha.update(batch.cpu().contiguous().numpy().tobytes())
    return digest(tuple(images.shape), images.dtype, sha.hexdigest())


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of reference images, and their mean and covariance.

    Attributes:
        features: (N, F), float32.
        statistics: Mean and covariance of the features.

    Example:
        >>> from pythae_fif.evaluation import PixelExtractor
        >>> images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
        >>> Reference.of(images, PixelExtractor((1, 8, 8))).features.shape
        torch.Size([5, 64])
    """

    features: Tensor
    statistics: FeatureStatistics

    @classmethod
    def of(
        cls,
        images: Tensor,
        extractor: Extractor,
        *,
        cache_dir: str | Path | None = None,
        round_to_uint8: bool = True,
    ) -> "Reference":
        """The reference that images are, from disk where it is known.

        The key on disk is made of the images' content, rounding, and the extractor's hash (weights,
        preprocessing, precision).

        Args:
            images: Images (N, C, H, W), uint8 or floating point in [0, 1].
            extractor: Where the features come from.
            cache_dir: Folder of references, which processes may share; None computes it.
            round_to_uint8: Whether floating-point images are rounded as those of a file are.

        Raises:
            DataError: Images that the extractor does not take.
            NonFiniteError: NaN or infinite pixels.
            StoreError: The cache folder cannot be used.
        """

        def build() -> Reference:
            statistics, features = FeatureStatistics(), []
            for batch in images.split(BATCH_SIZE):
                if round_to_uint8 and batch.is_floating_point():
                    # unit_images first: data out of range are a mistake, samples are clamped
                    batch = rounded_images(unit_images(batch))
                features.append(extractor(batch).features)
                statistics.update(features[-1])
            return cls(torch.cat(features), statistics)

        if cache_dir is None:
            return build()
        rounded = round_to_uint8 or images.dtype == torch.uint8
        key = digest(content_hash(images), rounded, extractor.hash)
        path = Path(cache_dir) / f"reference-{extractor.name}-{key}.npz"
        return cached(path, read=_read, build=build, write=_write)


def _read(path: Path) -> Reference:
    with np.load(path, allow_pickle=False) as held:
        mean, scatter = torch.from_numpy(held["mean"]), torch.from_numpy(held["scatter"])
        statistics = FeatureStatistics(int(held["count"]), mean, scatter)
        return Reference(torch.from_numpy(held["features"]), statistics)


def _write(reference: Reference, file: BinaryIO) -> None:
    np.savez(
        file,
        features=reference.features.numpy(),
        count=np.int64(reference.statistics.count),
        mean=reference.statistics.mean.numpy(),
        scatter=reference.statistics.scatter.numpy(),
    )
