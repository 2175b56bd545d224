"""What turns images into features: one class of extractors, and how to get one by its name."""

__all__ = [
    "CHUNK",
    "Extracted",
    "Extractor",
    "check_extractor",
    "load_extractor",
    "require_extractor",
]

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation.cache import tensor_hash
from pythae_fif.evaluation.images import unit_images
from pythae_fif.evaluation.names import EXTRACTORS, own_extractor
from pythae_fif.files import checksum, digest
from pythae_fif.lazy import import_named
from pythae_fif.volume_change.precision import at_least_float32, full_float32

if TYPE_CHECKING:
    from pythae_fif.evaluation.classifier import LabelledImages

LARGEST_SIDE = 16
"""Height and width of `pixels`: a covariance of all of 64 x 64 x 3 would have 12288^2 entries."""

CHUNK = 4
"""Images of a large network at once for each thread of a CPU, so that they stay in its cache."""


class Extracted(NamedTuple):
    """What an extractor makes of B images, float32 where it runs.

    Attributes:
        features: (B, F).
        logits: (B, classes), or None where the extractor does not classify.
    """

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True, eq=False)
class Extractor:
    """A fixed network from images to features, and to logits where it classifies.

    Args:
        name: Its name in `EXTRACTORS`, or of a network of the user's own.
        distance_name: What the Frechet distance of its features is called.
        network: From images (B, C, H, W), float32 in [0, 1], to features (B, ...), or to features
            and logits (B, classes). It is moved to the device, in evaluation mode.
        hash: Short hexadecimal identifier of weights and preprocessing.
        device: Where it runs.
        score_name: What the inception score of its logits is called; None without logits.
        accuracy: Fraction of held-out images that it classifies rightly, where that is measured.
        image_shape: The one shape (C, H, W) that it takes; None takes grey and RGB images of any
            size.
        chunk: Images at once for each thread of a CPU; None takes them all.
        of_images: Whether it takes images; else rows of a table, neither clamped nor rounded.

    Example:
        >>> features, logits = load_extractor("pixels", (3, 64, 64))(torch.zeros(2, 3, 64, 64))
        >>> features.shape, logits
        (torch.Size([2, 768]), None)
    """

    name: str
    distance_name: str
    network: nn.Module
    hash: str
    device: str | torch.device = "cpu"
    score_name: str | None = None
    accuracy: float | None = None
    image_shape: tuple[int, ...] | None = None
    chunk: int | None = None
    of_images: bool = True

    def __post_init__(self) -> None:
        self.network.eval().to(self.device)

    def __call__(self, images: Tensor) -> Extracted:
        """Features and logits of images.

        Args:
            images: Images (B, C, H, W), uint8 or floating point in [0, 1]; rows (B, D) of a table.

        Raises:
            DataError: Images of the wrong shape or type, or outside [0, 1].
            NonFiniteError: NaN or infinite pixels.
        """
        images = self._checked(images).to(self.device)
        on_cpu = images.device.type == "cpu"
        step = self.chunk * torch.get_num_threads() if self.chunk and on_cpu else len(images)
        with torch.no_grad(), full_float32():
            outputs = [self.network(part) for part in images.split(step)]
        if not isinstance(outputs[0], tuple):
            return Extracted(at_least_float32(torch.cat(outputs)).flatten(1), None)
        features, logits = (
            at_least_float32(torch.cat(part)) for part in zip(*outputs, strict=True)
        )
        return Extracted(features, logits)

    def _checked(self, images: Tensor) -> Tensor:
        if not self.of_images:
            return images.to(torch.float32)
        images = unit_images(images)
        shape = tuple(images.shape)
        if self.image_shape is None and shape[1] not in (1, 3):
            raise DataError(f"{self.name} takes grey or RGB images (B, 1 or 3, H, W), not {shape}")
        if self.image_shape is not None and shape[1:] != self.image_shape:
            raise DataError(
                f"{self.name}: images must have shape (B, *{self.image_shape}), not {shape}"
            )
        return images


def load_extractor(
    name: str,
    image_shape: tuple[int, ...],
    labelled: "LabelledImages | None" = None,
    *,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
) -> Extractor:
    """The extractor of a name, for one data set.

    Args:
        name: A key of `EXTRACTORS`; `FILE.pt`, which `torch.jit.save` has written; or
            `module:function`, where the function takes nothing and returns a network, and modules
            are found from the working directory too.
        image_shape: The (C, H, W) of the images, or (D,) of a table's rows.
        labelled: What `classifier` is trained on, where none is shipped for its data set.
        device: Where networks run.
        weights: File of `inception` or `tf-inception`.
        offline: Whether `inception` may not fetch its weights from the network.
        cache_dir: Folder where `classifier` keeps its weights; None trains it every time.

    Raises:
        ConfigError: Unknown name, missing packages or weights, a network of the user's own that
            cannot be used, weights for an extractor that takes none, or `classifier` without
            labels.
        DataError: Images or labels that `classifier` cannot be trained on.
        NonFiniteError: The training of `classifier` diverged.
        StoreError: The cache folder cannot be used.
    """
    image_shape = tuple(map(int, image_shape))
    check_extractor(name, image_shape, labelled, weights=weights)
    match name:
        case "columns":  # the distance is then the FID-like score of the paper's table 1
            key = digest("columns/1", *image_shape)
            return Extractor(name, "FID-like", nn.Identity(), key, device, of_images=False)
        case "pixels":
            height, width = (min(side, LARGEST_SIDE) for side in image_shape[1:])
            key = digest("pixels/1", image_shape, (height, width))
            pool = nn.AdaptiveAvgPool2d((height, width))
            return Extractor(name, "FD-pixels", pool, key, device, image_shape=image_shape)
        case "classifier":
            from pythae_fif.evaluation.classifier import load_classifier

            assert labelled is not None  # which is checked
            return load_classifier(labelled, device=device, cache_dir=cache_dir)
        case "efficientnet-lite0":
            from pythae_fif.evaluation.efficientnet import efficientnet_lite0

            return efficientnet_lite0(device)
        case "inception":
            from pythae_fif.evaluation.inception import inception, load_weights

            return inception(load_weights(weights, offline=offline), device)
        case "tf-inception":
            from pythae_fif.evaluation.inception import tf_inception

            return tf_inception(weights)
    return _own(name, image_shape, device)


def check_extractor(
    name: str,
    image_shape: tuple[int, ...],
    labelled: "LabelledImages | None" = None,
    *,
    weights: str | Path | None = None,
) -> None:
    """Refuses what :func:`load_extractor` cannot do with such data, before anything is read.

    Raises:
        ConfigError: Another extractor is right for the data, or takes weights.
        DataError: Images or labels that `classifier` cannot be trained on.
    """
    of_rows = name == "columns"
    if len(image_shape) != (1 if of_rows else 3):
        kind, right = ("images", "pixels") if of_rows else ("a table", "columns")
        raise ConfigError(f"extractor {name!r} does not take {kind}: choose {right} (--extractor)")
    if weights is not None and name not in ("inception", "tf-inception"):
        raise ConfigError(f"extractor {name!r} takes no weights (--extractor-weights)")
    if name == "classifier":
        if labelled is None:
            raise ConfigError(
                "extractor 'classifier' needs class labels, and this data set has none: "
                "choose efficientnet-lite0 or pixels"
            )
        labelled.check()


def require_extractor(
    name: str, *, weights: str | Path | None = None, offline: bool = False
) -> str | None:
    """Looks for what an extractor needs, before any data are known; nothing is downloaded.

    Returns:
        The address of what will be downloaded; None if all is here.

    Raises:
        ConfigError: A package or a file is missing, or a network of the user's own cannot be
            loaded.
    """
    if name == "inception":
        from pythae_fif.evaluation.inception import WEIGHTS_URL, find_weights

        return None if find_weights(weights, required=offline) else WEIGHTS_URL
    if name in ("tf-inception", "efficientnet-lite0"):
        load_extractor(name, (3, 64, 64), weights=weights)
    elif name not in EXTRACTORS:
        _own_network(name, "cpu")
    return None


def _own(name: str, image_shape: tuple[int, ...], device: str | torch.device) -> Extractor:
    """Features of any network that maps images (N, C, H, W) in [0, 1] to them.

    Its hash is that of the file, or of the function's name, the file of its module, if it has one,
    and its network's weights.
    """
    network = _own_network(name, device)
    path, _, content = own_extractor(name).rpartition("@")
    shown, parts = Path(path).name or name, [content]
    if not path:
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        parts += [checksum(Path(file))] if file else []
        parts += [digest(key, tensor_hash(of)) for key, of in sorted(network.state_dict().items())]
    distance, key = f"FD-{shown.removesuffix('.pt')}", digest("own/2", *parts)
    found = Extractor(shown, distance, network, key, device, image_shape=image_shape, chunk=CHUNK)
    try:
        features, logits = found(torch.zeros(2, *image_shape))
        if len(features) != 2 or logits is not None:
            raise ValueError(f"it gives {len(features)} of 2 images, or more than features")
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"extractor {shown!r} gives no features (N, ...) of images "
            f"{(2, *image_shape)}: {_reason(error)}"
        ) from error
    return found


def _own_network(name: str, device: str | torch.device) -> nn.Module:
    """The network of a file or a function; of no other type, whose weights could not be told."""
    try:
        path, _, _ = own_extractor(name).rpartition("@")
    except ConfigError as error:
        raise ConfigError(f"extractor {name!r}: {error}") from error
    try:
        if path:
            with warnings.catch_warnings():  # PyTorch deprecates the format, which users have
                warnings.filterwarnings("ignore", ".*torch.jit.load", FutureWarning)
                network = torch.jit.load(path, map_location=device)
        else:
            module, _, function = name.partition(":")
            network = import_named(module, function)()
    except Exception as error:  # the user's own code raises anything
        raise ConfigError(f"extractor {name!r} cannot be loaded: {_reason(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"extractor {name!r} returns a {type(network).__name__}: a torch.nn.Module is needed, "
            "whose weights tell its features apart"
        )
    return network


def _reason(error: Exception) -> str:
    """The last line of its message, where TorchScript says what went wrong."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
