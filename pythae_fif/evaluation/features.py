"""Features of a set of images or samples, and what scores need of them alone."""

__all__ = ["Features", "require_alike"]

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.cache import cached_tensors, tensor_hash
from pythae_fif.evaluation.extractors import Extractor
from pythae_fif.evaluation.images import rounded_images, unit_images
from pythae_fif.files import digest, safe_name

T = TypeVar("T")

BATCH_SIZE = 256
"""Images of which features are taken at once."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, float32 or float64, where the extractor runs.

    Args:
        values: (N, F), of any floating type.
        extractor: Hash of the extractor that they come from.

    Raises:
        DataError: Not two axes.
        NonFiniteError: NaN or infinite features.

    Example:
        >>> held = Features(torch.tensor([[0.0], [2.0], [4.0]]))
        >>> len(held), held.mean.item(), held.covariance.item()
        (3, 2.0, 4.0)
    """

    values: Tensor
    extractor: str = ""
    _held: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        values = self.values.detach()
        if values.ndim != 2:
            raise DataError(f"features must have shape (N, F), not {tuple(values.shape)}")
        if bad := int((~values.isfinite()).any(dim=1).sum()):
            raise NonFiniteError(f"{bad} of {len(values)} feature vectors are NaN or infinite")
        kind = torch.promote_types(values.dtype, torch.float32)
        object.__setattr__(self, "values", values.to(kind))

    @classmethod
    def of(
        cls,
        images: Tensor,
        extractor: Extractor,
        *,
        cache_dir: str | Path | None = None,
        images_hash: str | None = None,
    ) -> "Features":
        """The features of images, from disk where they are known.

        Floating-point images are rounded to 8 bits, as those of a file are.

        Args:
            images: Images (N, C, H, W), uint8 or floating point in [0, 1].
            extractor: Where the features come from.
            cache_dir: Folder of features, which processes may share; None computes them.
            images_hash: Identifies the images' content, where that is known.

        Raises:
            DataError: Images that the extractor does not take.
            NonFiniteError: NaN or infinite pixels.
            StoreError: The cache folder cannot be used.
        """

        def build() -> dict[str, Tensor]:
            batches = images.split(BATCH_SIZE)
            if extractor.of_images and images.is_floating_point():
                # unit_images first: data out of range are a mistake, samples are clamped
                batches = (rounded_images(unit_images(batch)) for batch in batches)
            return {"features": torch.cat([extractor(batch).features for batch in batches])}

        if cache_dir is None:
            return cls(build()["features"], extractor.hash)
        key = digest(images_hash or tensor_hash(images), extractor.hash)
        path = Path(cache_dir) / f"features-{safe_name(extractor.name)}-{key}.pt"
        held = cached_tensors(path, build)["features"]
        return cls(held.to(extractor.device), extractor.hash)

    def __len__(self) -> int:
        return len(self.values)

    def once(self, name: str, build: Callable[[], T]) -> T:
        """What `build` makes of these features, made once and kept under a name."""
        if name not in self._held:
            self._held[name] = build()
        held: T = self._held[name]
        return held

    @cached_property
    def mean(self) -> Tensor:
        """(F), float64."""
        return self.values.mean(dim=0, dtype=torch.float64)

    @cached_property
    def covariance(self) -> Tensor:
        """Unbiased covariance (F, F), float64.

        Raises:
            DataError: Fewer than two features.
        """
        if len(self) < 2:
            raise DataError(f"a covariance needs at least 2 feature vectors, not {len(self)}")
        scatter = self.mean.new_zeros(len(self.mean), len(self.mean))
        for rows in self.values.split(8192):  # not all of them in float64 at once
            centred = rows - self.mean
            scatter.addmm_(centred.T, centred)
        return scatter / (len(self) - 1)


def require_alike(a: Features, b: Features) -> None:
    """Raises a DataError where features of two sets have different lengths or extractors."""
    if a.values.shape[1] != b.values.shape[1] or a.extractor != b.extractor:
        raise DataError(
            f"features of the two sets must have one length, not {a.values.shape[1]} and "
            f"{b.values.shape[1]}, and come from one extractor"
        )
