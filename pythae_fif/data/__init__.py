"""Loads data sets as training, validation and test images or rows; see ``load_images``."""

__all__ = [
    "Columns", "DataOptions", "ImageDataset", "Splits", "load_images", "load_table", "to_float",
]  # fmt: skip

from pythae_fif.data.load import load_images
from pythae_fif.data.splits import Columns, ImageDataset, Splits, to_float
from pythae_fif.data.tables import load_table
from pythae_fif.names import DataOptions
