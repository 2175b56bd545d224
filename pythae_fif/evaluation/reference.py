"""What samples are compared with: features of images and their statistics, computed once."""

__all__ = ["Reference", "tensor_hash"]

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pythae_fif.evaluation.extractor import Extractor
from pythae_fif.evaluation.frechet import FeatureStatistics, factor
from pythae_fif.evaluation.images import rounded_images, unit_images
from pythae_fif.evaluation.pairs import DENSE, NEAREST, OwnPairs, nearest, own_pairs
from pythae_fif.files import cached, digest, safe_name

BATCH_SIZE = 256


def tensor_hash(of: Tensor) -> str:
    """Identifies a tensor by what it holds: shape, type and every number.

    Example:
        >>> tensor_hash(torch.zeros(1, 2)) == tensor_hash(torch.zeros(2, 1))
        False
    """
    sha = hashlib.sha256()
    for batch in of.split(1024):
        sha.update(batch.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest(tuple(of.shape), of.dtype, sha.hexdigest())


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of reference images, and what scores need of these alone, each computed once.

    Attributes:
        features: (N, F), float32, where the extractor runs.
        statistics: Mean and covariance of the features.
        extractor: Hash of the extractor that they come from.
        path: Its file, beside which the rest is kept; None keeps it in memory.

    Example:
        >>> from pythae_fif.evaluation import PixelExtractor
        >>> images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
        >>> Reference.of(images, PixelExtractor((1, 8, 8))).features.shape
        torch.Size([5, 64])
    """

    features: Tensor
    statistics: FeatureStatistics
    extractor: str
    path: Path | None = None
    _held: dict[str, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

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
        preprocessing).

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

        round_to_uint8 &= extractor.of_images

        def build() -> tuple[Tensor, FeatureStatistics]:
            batches = []
            for batch in images.split(BATCH_SIZE):
                if round_to_uint8 and batch.is_floating_point():
                    # unit_images first: data out of range are a mistake, samples are clamped
                    batch = rounded_images(unit_images(batch))
                batches.append(extractor(batch).features)
            features = torch.cat(batches)
            del batches  # as large as their whole
            return features, FeatureStatistics.of(features)

        if cache_dir is None:
            return cls(*build(), extractor.hash)
        rounded = round_to_uint8 or images.dtype == torch.uint8
        key = digest(tensor_hash(images), rounded, extractor.hash)
        path = Path(cache_dir) / f"reference-{safe_name(extractor.name)}-{key}.npz"
        features, statistics = cached(path, read=_read, build=build, write=_write)
        # moved here and not by `_read`: a full GPU says nothing of the file
        features, statistics = features.to(extractor.device), statistics.to(extractor.device)
        return cls(features, statistics, extractor.hash, path)

    def own_pairs(self, subsets: Tensor, num_samples: int, seed: int) -> OwnPairs:
        """Radii, and the kernel within the subsets (S, N) that are drawn beside so many samples."""
        key = digest(num_samples, seed, *subsets.shape, int(subsets[0].sum()), NEAREST, DENSE)
        return OwnPairs(*self._once(f"pairs-{key}", lambda: own_pairs(self.features, subsets)))

    def root(self) -> Tensor:
        """A factor of the covariance; see `factor`."""
        return self._once("root", lambda: (factor(self.statistics.covariance),))[0]

    def nearest_to(self, other: "Reference") -> Tensor:
        """Distances (M) of each feature of another reference to the nearest of these."""
        key = digest(tensor_hash(other.features) if other.path is None else other.path.stem)
        return self._once(f"nearest-{key}", lambda: nearest(other.features, self.features)[:1])[0]

    def _once(self, name: str, build: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        if name not in self._held:
            held = (
                build()
                if self.path is None
                else cached(
                    self.path.with_name(f"{self.path.stem}-{name}.npz"),
                    read=_read_tensors,
                    build=build,
                    write=lambda held, file: np.savez(file, *(part.cpu().numpy() for part in held)),
                )
            )
            self._held[name] = tuple(part.to(self.features.device) for part in held)
        return self._held[name]


def _read_tensors(path: Path) -> tuple[Tensor, ...]:
    with np.load(path, allow_pickle=False) as held:
        return tuple(torch.from_numpy(part) for part in held.values())


def _read(path: Path) -> tuple[Tensor, FeatureStatistics]:
    with np.load(path, allow_pickle=False) as held:
        features, mean, scatter = (
            torch.from_numpy(held[name]) for name in ("features", "mean", "scatter")
        )
        return features, FeatureStatistics(int(held["count"]), mean, scatter)


def _write(held: tuple[Tensor, FeatureStatistics], file: BinaryIO) -> None:
    features, statistics = held
    np.savez(
        file,
        features=features.cpu().numpy(),
        count=np.int64(statistics.count),
        mean=statistics.mean.cpu().numpy(),
        scatter=statistics.scatter.cpu().numpy(),
    )
