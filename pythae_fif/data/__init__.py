"""Loads data sets as training, validation and test images or rows; see ``load_images``.

The names below are imported when they are first used, because the command line needs only the
torch-free :mod:`~pythae_fif.data.catalog` at its start.
"""

from typing import TYPE_CHECKING

from pythae_fif.register import lazy_names

if TYPE_CHECKING:
    from pythae_fif.columns import Columns
    from pythae_fif.data.load import load_images
    from pythae_fif.data.source import DataRequest, DataSource
    from pythae_fif.data.splits import ImageDataset, Splits, to_float
    from pythae_fif.data.tables import load_table
    from pythae_fif.names import DataOptions

__all__ = [
    "Columns", "DataOptions", "DataRequest", "DataSource", "ImageDataset", "Splits", "load_images",
    "load_table", "to_float",
]  # fmt: skip


__getattr__ = lazy_names(
    __name__,
    {
        "Columns": "pythae_fif.columns",
        "DataOptions": "pythae_fif.names",
        "DataRequest": "pythae_fif.data.source",
        "DataSource": "pythae_fif.data.source",
        "ImageDataset": "pythae_fif.data.splits",
        "Splits": "pythae_fif.data.splits",
        "load_images": "pythae_fif.data.load",
        "load_table": "pythae_fif.data.tables",
        "to_float": "pythae_fif.data.splits",
    },
)
