"""A data set's name becomes training, validation and test images: ``load_images``.

A name is imported when it is first asked for: `DATASETS` needs no torch.
"""

__all__ = [
    "DATASETS", "Columns", "DataOptions", "ImageDataset", "Splits", "load_images", "load_table",
    "to_float",
]  # fmt: skip

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.data.load import load_images
    from pythae_fif.data.names import DATASETS, DataOptions
    from pythae_fif.data.splits import Columns, ImageDataset, Splits, to_float
    from pythae_fif.data.tables import load_table
else:
    __getattr__ = lazily(__name__)
