"""How to get an extractor by its name."""

__all__ = ["ExtractorOptions", "build_extractor"]

from dataclasses import dataclass
from pathlib import Path

import torch

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.evaluation.classifier import LabelledImages, train_classifier
from pythae_fif.evaluation.extractor import ColumnExtractor, Extractor, PixelExtractor
from pythae_fif.evaluation.names import EXTRACTORS


@dataclass(frozen=True)
class ExtractorOptions:
    """Which extractor, where it runs, and where its weights are.

    Attributes:
        name: A key of `EXTRACTORS`.
        device: Where networks run.
        precision: `float32` or `bfloat16`, for `inception` and `efficientnet-lite0`.
        inception_weights: File of `inception` or `tf-inception` (see `find_inception_weights` and
            `TFInceptionExtractor`).
        download: Whether `inception` may fetch its weights from the network.
        cache_dir: Folder where `classifier` keeps its weights; None trains it every time.
    """

    name: str
    device: str | torch.device = "cpu"
    precision: str = "float32"
    inception_weights: str | Path | None = None
    download: bool = True
    cache_dir: str | Path | None = None


def build_extractor(
    options: ExtractorOptions,
    image_shape: tuple[int, ...],
    training: LabelledImages | None = None,
) -> Extractor:
    """The extractor of a name, for one data set.

    Args:
        options: Which one, and where.
        image_shape: The (C, H, W) of the images, or (D,) of a table's rows.
        training: What `classifier` is trained on.

    Raises:
        ConfigError: Unknown name, missing packages or weights, or `classifier` without labels.
        DataError: Images or labels of the wrong shape or type.
        NonFiniteError: The training of `classifier` diverged.
        StoreError: The cache folder cannot be used.

    Example:
        >>> build_extractor(ExtractorOptions("pixels"), (1, 8, 8)).feature_dim
        64
    """
    if options.name in EXTRACTORS and (options.name == "columns") != (len(image_shape) == 1):
        kind, right = ("a table", "columns") if len(image_shape) == 1 else ("images", "pixels")
        raise ConfigError(
            f"extractor {options.name!r} does not take {kind}: choose {right} (--extractor)"
        )
    if options.name == "columns":
        return ColumnExtractor(*image_shape)
    if options.name == "pixels":
        channels, height, width = image_shape
        return PixelExtractor((channels, height, width))
    if options.name == "classifier":
        if training is None:
            raise ConfigError(
                "extractor 'classifier' needs class labels, and this data set has none: "
                "choose efficientnet-lite0 or pixels"
            )
        return train_classifier(training, device=options.device, cache_dir=options.cache_dir)
    if options.name == "efficientnet-lite0":
        from pythae_fif.evaluation.efficientnet import EfficientNetExtractor

        return EfficientNetExtractor(device=options.device, precision=options.precision)
    if options.name == "inception":
        from pythae_fif.evaluation.inception import load_inception

        return load_inception(
            options.inception_weights,
            device=options.device,
            precision=options.precision,
            download=options.download,
        )
    if options.name == "tf-inception":
        from pythae_fif.evaluation.tf_inception import TFInceptionExtractor

        return TFInceptionExtractor(options.inception_weights)
    raise ConfigError(
        f"unknown extractor {options.name!r}: {did_you_mean(options.name, EXTRACTORS)}"
    )
