"""Loads extractors by their names: built-in ones, and a user's own."""

import sys
from pathlib import Path

import torch
from torch import nn

from pythae_fif.data.cache import tensor_hash
from pythae_fif.errors import ConfigError, format_error
from pythae_fif.evaluation.catalog import (
    EXTRACTORS,
    ExtractorRecord,
    ExtractorRequest,
    check_extractor_name,
)
from pythae_fif.evaluation.extractors import CHUNK, Extractor
from pythae_fif.files import checksum, digest
from pythae_fif.names import import_object


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
    image_shape = tuple(map(int, image_shape))
    record = EXTRACTORS.get(name)
    takes_images = record is None or record.takes_images
    if not takes_images and len(image_shape) != 1:
        raise ConfigError(f"extractor {name!r} does not take images: choose pixels (--extractor)")
    if takes_images and len(image_shape) != 3:
        raise ConfigError(f"extractor {name!r} does not take a table: choose columns (--extractor)")
    _check_weights(name, record, weights)

    if record is None:
        return _load_user_extractor(name, device)
    return record.build(ExtractorRequest(image_shape, dataset, device, weights, offline))


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
    record = EXTRACTORS.get(name)
    if record is not None and record.depends_on_data:
        return
    would_download = record is not None and record.downloads_weights and weights is None
    if offline or not would_download:
        load_extractor(name, (3, 64, 64), weights=weights, offline=offline)


def _check_weights(name: str, record: ExtractorRecord | None, weights: str | Path | None) -> None:
    """Raises a ConfigError if an extractor does not take the file of weights that was given."""
    if weights is not None and (record is None or not record.takes_weights):
        takers = " and ".join(key for key, entry in EXTRACTORS.items() if entry.takes_weights)
        raise ConfigError(f"extractor {name!r} does not take --extractor-weights: only {takers} do")


def _load_user_extractor(name: str, device: str | torch.device) -> Extractor:
    """Loads the network of a user's function, `module:function`."""
    try:
        network = import_object(check_extractor_name(name).replace(":", "."))()
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
        name, f"FD-{name}", network, digest("own/2", name, *parts), device, chunk=CHUNK
    )
