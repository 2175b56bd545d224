"""Features: what turns images into them, by its name, and what scores need of a set of them."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import deprecated

from pythae_fif.data.cache import cached, tensor_hash
from pythae_fif.device import full_float32
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, format_error
from pythae_fif.files import checksum, digest, safe_name
from pythae_fif.names import EXTRACTORS, check_extractor_name, import_object

T = TypeVar("T")
BATCH_SIZE = 256  # images of which features are taken at once
MAX_PIXELS_SIDE = 16  # of `pixels`: a covariance of all of 64 x 64 x 3 would have 12288^2 entries
CHUNK = 4  # images of a large network at once for each thread of a CPU, to stay in its cache
RANGE_TOLERANCE = 1e-3  # of a float pixel outside [0, 1], before it counts as a mistake of scale


def rounded_images(images: Tensor) -> Tensor:
    """Floating-point images (N, C, H, W) clamped and rounded to uint8; all else as it is."""
    if images.ndim != 4 or not images.is_floating_point():
        return images
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def unit_images(images: Tensor) -> Tensor:
    """Images (B, C, H, W), uint8 or floating point, as float32 in [0, 1]. A DataError says that
    they have another shape or range, a NonFiniteError that some are NaN."""
    if images.ndim != 4 or images.numel() == 0:
        raise DataError(f"images must have shape (B, C, H, W), not {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    images = images.to(torch.float32)
    if not images.isfinite().all():
        raise NonFiniteError("images have NaN or infinite pixels")
    if (images - 0.5).abs().max() > 0.5 + RANGE_TOLERANCE:
        raise DataError("float images must lie in [0, 1]: divide by 255, or clamp samples first")
    return images.clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A fixed network from images to features, and to logits where it classifies.

    Args:
        name: Its name in `EXTRACTORS`, or of a network of the user's own.
        distance_name, score_name: What the Frechet distance of its features and the inception
            score of its logits are called; None without logits.
        network: From images (B, C, H, W), float32 in [0, 1], to features (B, ...), or to features
            and logits (B, classes). It is moved to the device, in evaluation mode.
        hash: Short hexadecimal identifier of weights and preprocessing.
        device: Where it runs.
        chunk: Images at once for each thread of a CPU; None takes them all.
        takes_images: Whether it takes images; else rows of a table, neither clamped nor rounded.
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

    @property
    @deprecated("renamed to takes_images")
    def of_images(self) -> bool:
        """Deprecated name of `takes_images`."""
        return self.takes_images

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, F) and logits (B, classes) or None, where the extractor runs.

        Args:
            images: Those that :func:`unit_images` takes, which is applied; of a table, rows (B, D).
        """
        images = images.to(self.device)  # of 8 bits, if they can be
        images = unit_images(images) if self.takes_images else images.float()
        on_cpu = images.device.type == "cpu"
        step = self.chunk * torch.get_num_threads() if self.chunk and on_cpu else len(images)
        try:
            with torch.no_grad(), full_float32():
                outputs = [self.network(part) for part in images.split(step)]
            if not isinstance(outputs[0], tuple):
                return torch.cat(outputs).flatten(1), None
            features, logits = (torch.cat(part) for part in zip(*outputs, strict=True))
            return features, logits
        except Exception as error:  # of the user's own network anything
            if self.name in EXTRACTORS:
                raise
            fails = f"fails on {tuple(images.shape)}: {format_error(error)}"
            raise ConfigError(f"extractor {self.name!r} {fails}") from error


def load_extractor(
    name: str,
    image_shape: tuple[int, ...],
    dataset: str = "",
    *,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
    offline: bool = False,
) -> Extractor:
    """The extractor of a name, for one data set.

    Args:
        name: A key of `EXTRACTORS`, or `module:function` that takes nothing and returns a network.
        image_shape: The (C, H, W) of the images, or (D,) of a table's rows.
        dataset: Its name, for `classifier`; else that of digits or mnist, by the shape.
        device: Where networks run.
        weights: File of `inception` or `tf-inception`, and of no other.
        offline: Whether `inception` may not fetch its weights from the network.

    Raises:
        ConfigError: Unknown name, missing packages or weights, a network of the user's own that
            cannot be used, or an extractor that is not for such data.
    """
    image_shape = tuple(map(int, image_shape))
    of_rows = name == "columns"
    if len(image_shape) != (1 if of_rows else 3):
        kind, right = ("images", "pixels") if of_rows else ("a table", "columns")
        raise ConfigError(f"extractor {name!r} does not take {kind}: choose {right} (--extractor)")
    if weights is not None and name not in ("inception", "tf-inception"):
        raise ConfigError(f"extractor {name!r} has no --extractor-weights: (tf-)inception has")
    match name:
        case "columns":  # the distance is then the FID-like score of the paper's table 1
            key = digest("columns/1", *image_shape)
            return Extractor(name, "FID-like", nn.Identity(), key, device, takes_images=False)
        case "pixels":
            height, width = (min(side, MAX_PIXELS_SIDE) for side in image_shape[1:])
            key = digest("pixels/1", image_shape, (height, width))
            return Extractor(name, "FD-pixels", nn.AdaptiveAvgPool2d((height, width)), key, device)
        case "classifier":
            from pythae_fif.evaluation.classifier import classifier

            return classifier(dataset, image_shape, device)
        case "efficientnet-lite0":
            from pythae_fif.evaluation.networks import efficientnet_lite0

            return efficientnet_lite0(device)
        case "inception":
            from pythae_fif.evaluation.networks import inception, weights_file

            file = weights_file(weights, offline=offline)
            return inception(torch.load(str(file), "cpu", weights_only=True), device)
        case "tf-inception":
            from pythae_fif.evaluation.networks import tf_inception

            return tf_inception(weights)
    try:
        network = import_object(check_extractor_name(name).replace(":", "."))()
    except Exception as error:  # the user's own code raises anything
        raise ConfigError(f"extractor {name!r} cannot be loaded: {format_error(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"extractor {name!r} returns a {type(network).__name__}: a torch.nn.Module is needed, "
            "whose weights tell its features apart"
        )
    path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    parts = [checksum(Path(path))] if path else []
    parts += [digest(key, tensor_hash(of)) for key, of in sorted(network.state_dict().items())]
    key = digest("own/2", name, *parts)
    return Extractor(name, f"FD-{name}", network, key, device, chunk=CHUNK)


def require_extractor(
    name: str, *, weights: str | Path | None = None, offline: bool = False
) -> None:
    """Looks for what an extractor needs, before any data are known; nothing is downloaded.

    A ConfigError says that a package or a file is missing, or that a network of the user's own
    cannot be used.
    """
    downloads = name == "inception" and weights is None and not offline
    if name not in ("classifier", "columns", "pixels") and not downloads:
        load_extractor(name, (3, 64, 64), weights=weights, offline=offline)


@dataclass(frozen=True, eq=False)
class Features:
    """Finite features (N, F) of N images, else a NonFiniteError, and the extractor's hash."""

    values: Tensor
    extractor: str = ""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if bad := int((~self.values.isfinite()).any(dim=1).sum()):
            raise NonFiniteError(f"{bad} of {len(self)} feature vectors are NaN or infinite")

    @classmethod
    def from_images(
        cls, images: Tensor, extractor: Extractor, named: str | None = None
    ) -> "Features":
        """The features of images, from the cache where they are known.

        Args:
            images: Images (N, C, H, W), uint8 or floating point in [0, 1], which are rounded to 8
                bits, as those of a file are.
            extractor: Where the features come from.
            named: What the images are known by, if it is not to be a hash of them.
        """

        def build() -> dict[str, Tensor]:
            held = images
            if extractor.takes_images and images.is_floating_point():
                held = rounded_images(unit_images(images))  # data out of range are a mistake
            parts = held.split(BATCH_SIZE)
            return {"features": torch.cat([extractor(part)[0] for part in parts])}

        key = digest(named or tensor_hash(images), extractor.hash)
        held = cached(f"features-{safe_name(extractor.name)}-{key}.pt", build)["features"]
        return cls(held.to(extractor.device), extractor.hash)

    def __len__(self) -> int:
        return len(self.values)

    def cached(self, function: Callable[..., T], *others: "Features") -> T:
        """`function(self, *others)`, computed once."""
        if (function, others) not in self._cache:
            self._cache[function, others] = function(self, *others)
        return self._cache[function, others]

    @classmethod
    @deprecated("renamed to from_images")
    def of(cls, images: Tensor, extractor: Extractor, named: str | None = None) -> "Features":
        """Deprecated name of :meth:`from_images`."""
        return cls.from_images(images, extractor, named)

    @deprecated("renamed to cached")
    def once(self, function: Callable[..., T], *others: "Features") -> T:
        """Deprecated name of :meth:`cached`."""
        return self.cached(function, *others)

    @cached_property
    def mean(self) -> Tensor:
        """(F), float64."""
        return self.values.mean(dim=0, dtype=torch.float64)

    @cached_property
    def covariance_root(self) -> Tensor:
        """R (F, min(F, N)) of the unbiased covariance R R^T, float64, on the CPU."""
        triangle: Tensor = torch.linalg.qr((self.values - self.mean).cpu(), mode="r").R
        return triangle.T / math.sqrt(len(self) - 1)
