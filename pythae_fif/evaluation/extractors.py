"""How to get an extractor by its name."""

__all__ = ["build_extractor", "check_extractor"]

from pathlib import Path

import torch

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.classifier import (
    LabelledImages,
    check_training,
    shipped_classifier,
    train_classifier,
)
from pythae_fif.evaluation.extractor import ColumnExtractor, Extractor, PixelExtractor
from pythae_fif.evaluation.names import EXTRACTORS, own_extractor
from pythae_fif.evaluation.weights import DINOV2, INCEPTION, PUBLISHED

WITH_WEIGHTS = {*PUBLISHED, "tf-inception"}


def build_extractor(
    name: str,
    image_shape: tuple[int, ...],
    training: LabelledImages | None = None,
    *,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
    download: bool = True,
    cache_dir: str | Path | None = None,
) -> Extractor:
    """The extractor of a name, for one data set.

    Args:
        name: A key of `EXTRACTORS`, or of a network of the user's own (see `OwnExtractor`).
        image_shape: The (C, H, W) of the images, or (D,) of a table's rows.
        training: What `classifier` is trained on, where none is shipped for its data set.
        device: Where networks run.
        weights: File of `inception`, `dinov2` or `tf-inception` (see `Weights.find` and
            `TFInceptionExtractor`).
        download: Whether `inception` and `dinov2` may fetch their weights from the network.
        cache_dir: Folder where `classifier` keeps its weights; None trains it every time.

    Raises:
        ConfigError: Unknown name, missing packages or weights, a network of the user's own that
            cannot be used, weights for an extractor that takes none, or `classifier` without
            labels.
        DataError: Images or labels of the wrong shape or type.
        NonFiniteError: The training of `classifier` diverged.
        StoreError: The cache folder cannot be used.

    Example:
        >>> build_extractor("pixels", (1, 8, 8)).feature_dim
        64
    """
    check_extractor(name, image_shape, training, weights=weights)
    if name == "columns":
        return ColumnExtractor(*image_shape)
    channels, height, width = image_shape
    image_shape = (channels, height, width)
    if name == "pixels":
        return PixelExtractor(image_shape)
    if name == "classifier" and training is not None:
        return shipped_classifier(training.name, image_shape, device) or train_classifier(
            training, device=device, cache_dir=cache_dir
        )
    if name == "efficientnet-lite0":
        from pythae_fif.evaluation.efficientnet import EfficientNetExtractor

        return EfficientNetExtractor(device=device)
    if name == "dinov2":
        from pythae_fif.evaluation.dinov2 import DINOv2Extractor

        state = DINOV2.load(weights, download=download)
        return DINOv2Extractor(state, device=device)
    if name == "tf-inception":
        from pythae_fif.evaluation.tf_inception import TFInceptionExtractor

        return TFInceptionExtractor(weights)
    if name in EXTRACTORS:
        from pythae_fif.evaluation.inception import InceptionExtractor

        state = INCEPTION.load(weights, download=download)
        return InceptionExtractor(state, device=device, convention=name)
    from pythae_fif.evaluation.own import OwnExtractor

    return OwnExtractor(name, image_shape, device=device)


def check_extractor(
    name: str,
    image_shape: tuple[int, ...],
    training: LabelledImages | None = None,
    *,
    weights: str | Path | None = None,
) -> None:
    """Refuses what :func:`build_extractor` cannot do, before anything is read or trained.

    Args:
        name, image_shape, training, weights: As of :func:`build_extractor`.

    Raises:
        ConfigError: As of it, but for missing packages and weights.
        DataError: Images or labels that `classifier` cannot be trained on.
    """
    try:
        own_extractor(name)
    except ConfigError as error:
        raise ConfigError(f"extractor {name!r}: {error}") from error
    image_shape = tuple(image_shape)
    if len(image_shape) not in (1, 3):
        raise ConfigError(f"image_shape {image_shape}: (C, H, W), or (D,) of a table")
    if (name == "columns") != (len(image_shape) == 1):
        kind, right = ("a table", "columns") if len(image_shape) == 1 else ("images", "pixels")
        raise ConfigError(f"extractor {name!r} does not take {kind}: choose {right} (--extractor)")
    if weights is not None and name not in WITH_WEIGHTS:
        raise ConfigError(f"extractor {name!r} takes no weights (--extractor-weights)")
    if name == "classifier":
        if training is None:
            raise ConfigError(
                "extractor 'classifier' needs class labels, and this data set has none: "
                "choose efficientnet-lite0 or pixels"
            )
        if shipped_classifier(training.name, image_shape) is None:
            check_training(training)
