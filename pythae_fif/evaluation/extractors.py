"""Extractors, which turn images into features, and sets of features."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pythae_fif.data.cache import cached, tensor_hash
from pythae_fif.data.splits import SPLIT_NAMES, Splits, as_tensor
from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, format_error
from pythae_fif.evaluation.catalog import ExtractorRequest
from pythae_fif.evaluation.counter import Counter, OnProgress
from pythae_fif.files import checksum, digest, safe_name
from pythae_fif.names import import_object

T = TypeVar("T")
MAX_PIXELS_SIDE = 16  # The covariance of all pixels of 64 x 64 x 3 would have 12288^2 entries.
BATCH_SIZE = 256  # images per call of an extractor
CHUNK = 4  # images per CPU thread that a large network takes at once, to stay in the cache
RANGE_TOLERANCE = 1e-3  # Floats that exceed [0, 1] by more are taken to be in a wrong range.


def rounded_images(images: Tensor) -> Tensor:
    """Clamps and rounds floating-point images (N, C, H, W) to uint8; returns others unchanged."""
    if images.ndim != 4 or not images.is_floating_point():
        return images
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def unit_images(images: Tensor) -> Tensor:
    """Converts images (B, C, H, W), uint8 or floating point, to float32 in [0, 1].

    Raises:
        DataError: The images have another shape or range.
        NonFiniteError: Pixels are NaN or infinite.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise DataError(f"images must have shape (B, C, H, W), not {tuple(images.shape)}")

    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    images = images.to(torch.float32)
    if not images.isfinite().all():
        raise NonFiniteError("images have NaN or infinite pixels")
    if (images - 0.5).abs().max() > 0.5 + RANGE_TOLERANCE:
        raise DataError("float images must be in [0, 1]: divide by 255, or clamp samples first")
    return images.clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A fixed network from images to features, and to logits if it classifies.

    Attributes:
        name: Name of a built-in extractor, or `module:function` of a user's network.
        distance_name: Name of the Frechet distance of its features.
        network: Maps images (B, C, H, W), float32 in [0, 1], to features (B, ...), or to features
            and logits (B, classes). It is moved to the device, in evaluation mode.
        hash: Short hexadecimal identifier of weights and preprocessing.
        device: Device of the network.
        score_name: Name of the inception score of its logits; None without logits.
        chunk: Images per CPU thread that the network takes at once; None for all.
        takes_images: Whether it takes images. Otherwise it takes rows of a table, which are neither
            clamped nor rounded.
    """

    name: str
    distance_name: str
    network: nn.Module
    hash: str
    device: str | torch.device = "cpu"
    score_name: str | None = None
    chunk: int | None = None
    takes_images: bool = True

    def __post_init__(self) -> None:
        self.network.eval().to(self.device)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Computes features and logits, on the extractor's device.

        Args:
            images: Images (B, C, H, W), uint8 or floating point in [0, 1], or rows (B, D) of a
                table.

        Returns:
            Features (B, F), and logits (B, classes) or None.

        Raises:
            DataError: Images have another shape or range.
            NonFiniteError: Pixels are NaN or infinite.
            ConfigError: The user's network fails.
        """
        images = images.to(self.device)  # Images of 8 bits move as such.
        images = unit_images(images) if self.takes_images else images.float()
        step = self.chunk * torch.get_num_threads() if self.chunk and images.is_cpu else len(images)

        try:
            with torch.no_grad(), full_float32():
                outputs = [self.network(part) for part in images.split(step)]
            if not isinstance(outputs[0], tuple):
                return torch.cat(outputs).flatten(1), None

            features, logits = zip(*outputs, strict=True)
            return torch.cat(features), torch.cat(logits)
        except Exception as error:  # A user's network may raise any exception.
            if ":" not in self.name:
                raise
            raise ConfigError(
                f"extractor {self.name!r} fails on {tuple(images.shape)}: {format_error(error)}"
            ) from error


def user_extractor(request: ExtractorRequest) -> Extractor:
    """Builds the extractor with the network of a user's function, `module:function`.

    Raises:
        ConfigError: The function cannot be imported or called, or returns no network.
    """
    name = request.name
    try:
        network = import_object(name)()
    except Exception as error:  # The user's code may raise any exception.
        raise ConfigError(f"extractor {name!r} cannot be loaded: {format_error(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"extractor {name!r} returns a {type(network).__name__}: it must return a "
            "torch.nn.Module, because its weights identify its features"
        )

    # The hash identifies the code of the user's module and the weights.
    module_name, _, _ = name.partition(":")
    path = getattr(sys.modules[module_name], "__file__", None)
    parts = [checksum(Path(path))] if path else []
    parts += [
        digest(key, tensor_hash(weight)) for key, weight in sorted(network.state_dict().items())
    ]
    return Extractor(
        name, f"FD-{name}", network, digest("own/2", name, *parts), request.device, chunk=CHUNK
    )


def columns(request: ExtractorRequest) -> Extractor:
    """Builds the extractor that returns the columns of a table."""
    return Extractor(
        "columns",
        distance_name="FID-like",  # the score of the paper's table 1
        network=nn.Identity(),
        hash=digest("columns/1", *request.image_shape),
        device=request.device,
        takes_images=False,
    )


def pixels(request: ExtractorRequest) -> Extractor:
    """Builds the extractor that averages pixels."""
    _, height, width = request.image_shape
    size = (min(height, MAX_PIXELS_SIDE), min(width, MAX_PIXELS_SIDE))
    return Extractor(
        "pixels",
        distance_name="FD-pixels",
        network=nn.AdaptiveAvgPool2d(size),
        hash=digest("pixels/1", request.image_shape, size),
        device=request.device,
    )


def state_bytes(state: Mapping[str, Tensor]) -> list[bytes]:
    """Returns the bytes of a network's weights in the order of their names, for a digest."""
    return [state[name].cpu().numpy().tobytes() for name in sorted(state)]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a set of images, with moments that are computed once.

    Attributes:
        values: Features (N, F) of N images.
        extractor: Hash of the extractor.

    Raises:
        NonFiniteError: Features are NaN or infinite.
    """

    values: Tensor
    extractor: str = ""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        non_finite_count = int((~self.values.isfinite()).any(dim=1).sum())
        if non_finite_count:
            raise NonFiniteError(
                f"{non_finite_count} of {len(self)} feature vectors are NaN or infinite"
            )

    @classmethod
    def from_images(
        cls,
        images: Tensor,
        extractor: Extractor,
        images_id: str | None = None,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> "Features":
        """Computes the features of images, or reads them from the cache.

        Args:
            images: Images (N, C, H, W), uint8 or floating point in [0, 1]. The latter are rounded
                to 8 bits, as in an image file.
            extractor: Extractor of the features.
            images_id: Identifier of the images in the cache; by default a hash of them.
            on_batch: Called with the number of images after each batch.
        """

        def compute() -> dict[str, Tensor]:
            # `unit_images` refuses images that are out of range, which rounding would clamp.
            must_round = extractor.takes_images and images.is_floating_point()
            inputs = rounded_images(unit_images(images)) if must_round else images
            features = []
            for part in inputs.split(BATCH_SIZE):
                features.append(extractor(part)[0])
                on_batch(len(part))
            return {"features": torch.cat(features)}

        key = digest(images_id or tensor_hash(images), extractor.hash)
        values = cached(f"features-{safe_name(extractor.name)}-{key}.pt", compute)["features"]
        return cls(values.to(extractor.device), extractor.hash)

    @classmethod
    def from_splits(
        cls,
        splits: Splits,
        extractor: Extractor,
        progress: OnProgress = lambda done, total: None,
    ) -> "dict[str, Features]":
        """Computes the features of each split, or reads them from the cache.

        Args:
            splits: The data.
            extractor: Extractor of the features.
            progress: Called with the number of images that are done, and the number of all.
        """
        counter = Counter(progress, sum(len(splits[split]) for split in SPLIT_NAMES))
        return {
            split: cls.from_images(
                as_tensor(splits[split]),
                extractor,
                f"{split} of {splits.content_hash}",
                counter.add,
            )
            for split in SPLIT_NAMES
        }

    def __len__(self) -> int:
        return len(self.values)

    def cached(self, function: Callable[..., T], *arguments: "Features") -> T:
        """Returns `function(self, *arguments)`, which is computed only once.

        Args:
            function: Function of sets of features.
            *arguments: Further sets of features.
        """
        if (function, arguments) not in self._cache:
            self._cache[function, arguments] = function(self, *arguments)
        return self._cache[function, arguments]

    @cached_property
    def mean(self) -> Tensor:
        """The mean (F), float64."""
        return self.values.mean(dim=0, dtype=torch.float64)

    @cached_property
    def covariance_root(self) -> Tensor:
        """A root R (F, min(F, N)) of the unbiased covariance R R^T, float64, on the CPU.

        It is computed on the device of the features.
        """
        triangle: Tensor = torch.linalg.qr(self.values - self.mean, mode="r").R.cpu()
        return triangle.T / math.sqrt(len(self) - 1)
