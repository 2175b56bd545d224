"""Builds the extractors of the catalogue, and users' own."""

from collections.abc import Callable
from pathlib import Path

import torch

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.catalog import EXTRACTORS, ExtractorRequest, find_extractor
from pythae_fif.evaluation.classifier import classifier
from pythae_fif.evaluation.extractors import Extractor, columns, pixels, user_extractor
from pythae_fif.evaluation.networks import efficientnet_lite0, published_inception, tf_inception

BUILDERS: dict[str, Callable[[ExtractorRequest], Extractor]] = {
    "classifier": classifier,
    "columns": columns,
    "efficientnet-lite0": efficientnet_lite0,
    "inception": published_inception,
    "pixels": pixels,
    "tf-inception": tf_inception,
}
"""Name of a built-in extractor -> the function that builds it."""


def load_extractor(
    name: str,
    image_shape: tuple[int, ...],
    dataset: str = "",
    *,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
    offline: bool = False,
) -> Extractor:
    """Loads an extractor by its name, for a data set.

    Args:
        name: A key of `EXTRACTORS`, or `module:function`, a function that takes no arguments and
            returns a network.
        image_shape: Shape (C, H, W) of the images, or (D,) of a table's rows.
        dataset: Name of the data set, for `classifier`; '' finds digits or mnist by the shape.
        device: Device of the network.
        weights: File of `inception` or `tf-inception`; other extractors do not take one.
        offline: Whether `inception` may not download its weights.

    Raises:
        ConfigError: The name is unknown, packages or weights are missing, the user's network
            cannot be used, or the extractor is not for such data.
    """
    record = find_extractor(name)
    if record.takes_images != (len(image_shape) == 3):
        other = "a table: choose columns" if record.takes_images else "images: choose pixels"
        raise ConfigError(f"extractor {name!r} does not take {other} (--extractor)")
    if weights is not None and not record.takes_weights:
        takers = " and ".join(key for key, entry in EXTRACTORS.items() if entry.takes_weights)
        raise ConfigError(f"extractor {name!r} does not take --extractor-weights: only {takers} do")

    build = BUILDERS.get(name, user_extractor)
    shape = tuple(map(int, image_shape))
    return build(ExtractorRequest(name, shape, dataset, device, weights, offline))


def require_extractor(
    name: str, *, weights: str | Path | None = None, offline: bool = False
) -> None:
    """Checks that an extractor can be loaded, before the data are known and without a download.

    Args:
        name: See :func:`load_extractor`.
        weights: See :func:`load_extractor`.
        offline: See :func:`load_extractor`.

    Raises:
        ConfigError: A package or a file is missing, or the user's network cannot be used.
    """
    record = find_extractor(name)
    would_download = record.downloads_weights and weights is None and not offline
    if not (record.depends_on_data or would_download):
        load_extractor(name, (3, 64, 64), weights=weights, offline=offline)
