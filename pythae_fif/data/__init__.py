"""A data set's name becomes training, validation and test images: ``load_images``.

A name is imported when it is first asked for: `DATASETS` needs no torch.
"""

__all__ = ["DATASETS", "ImageDataset", "Splits", "load_images", "to_float"]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythae_fif.data.dataset import ImageDataset, to_float
    from pythae_fif.data.load import load_images
    from pythae_fif.data.names import DATASETS
    from pythae_fif.data.splits import Splits

_HOMES = {
    "DATASETS": "names",
    "ImageDataset": "dataset",
    "Splits": "splits",
    "load_images": "load",
    "to_float": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
