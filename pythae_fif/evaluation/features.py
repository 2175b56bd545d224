"""Features of a set of images or samples, and what scores need of them alone."""

__all__ = ["Features"]

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from pythae_fif.data.cache import cached, tensor_hash
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.extractors import Extractor, rounded_images, unit_images
from pythae_fif.files import digest, safe_name

T = TypeVar("T")
BATCH_SIZE = 256  # images of which features are taken at once


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, where the extractor runs.

    Args:
        values: (N, F), float32 or float64.
        extractor: Hash of the extractor that they come from.

    Raises:
        NonFiniteError: NaN or infinite features.
    """

    values: Tensor
    extractor: str = ""
    _held: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if bad := int((~self.values.isfinite()).any(dim=1).sum()):
            raise NonFiniteError(f"{bad} of {len(self)} feature vectors are NaN or infinite")

    @classmethod
    def of(cls, images: Tensor, extractor: Extractor, known: str | None = None) -> "Features":
        """The features of images, from the cache where they are known.

        Args:
            images: Images (N, C, H, W), uint8 or floating point in [0, 1], which are rounded to 8
                bits, as those of a file are.
            extractor: Where the features come from.
            known: Identifies the images, where that is known.
        """

        def build() -> dict[str, Tensor]:
            held = images
            if extractor.of_images and images.is_floating_point():
                held = rounded_images(unit_images(images))  # data out of range are a mistake
            parts = held.split(BATCH_SIZE)
            return {"features": torch.cat([extractor(part)[0] for part in parts])}

        key = digest(known or tensor_hash(images), extractor.hash)
        held = cached(f"features-{safe_name(extractor.name)}-{key}.pt", build)["features"]
        return cls(held.to(extractor.device), extractor.hash)

    def __len__(self) -> int:
        return len(self.values)

    def once(self, function: Callable[..., T], *others: "Features") -> T:
        """`function(self, *others)`, computed once."""
        if (function, others) not in self._held:
            self._held[function, others] = function(self, *others)
        held: T = self._held[function, others]
        return held

    @cached_property
    def mean(self) -> Tensor:
        """(F), float64."""
        return self.values.mean(dim=0, dtype=torch.float64)

    @cached_property
    def root(self) -> Tensor:
        """R (F, min(F, N)) of the unbiased covariance R R^T, float64, on the CPU."""
        triangle: Tensor = torch.linalg.qr((self.values - self.mean).cpu(), mode="r").R
        return triangle.T / math.sqrt(len(self) - 1)
