"""Torch views of uint8 images: a data set for Pythae's trainers, and floats in [0, 1]."""

__all__ = ["ImageDataset", "as_tensor", "to_float"]

import copy

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from torch import Tensor
from torch.utils.data import Dataset

from pythae_fif.errors import DataError


def as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Images, or rows of a table, as a tensor that shares their memory, for reading alone.

    Raises:
        DataError: They are neither uint8 (N, C, H, W) nor float32 (N, D).
    """
    images = torch.as_tensor(images)
    if (images.dtype, images.ndim) not in ((torch.uint8, 4), (torch.float32, 2)):
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise DataError(f"images are {found}, needs uint8 (N, C, H, W), or float32 rows (N, D)")
    return images


def to_float(images: np.ndarray | Tensor, limit: int | None = None) -> Tensor:
    """The first images, or all, as float32 in [0, 1]; rows of a table as they are.

    Args:
        images: uint8 (N, C, H, W), of which 255 becomes exactly 1, or float32 (N, D).
    """
    held = as_tensor(images[:limit])
    unit = held.to(torch.float32, copy=True)
    return unit.div_(255) if held.dtype == torch.uint8 else unit


class ImageDataset(Dataset[DatasetOutput]):
    """Images for Pythae's trainers, kept as uint8 until a batch is made of them.

    Args:
        images: uint8 (N, C, H, W), or rows of a table, float32 (N, D).
        labels: Class indices (N,) or condition vectors (N, c), or None for ones, as Pythae's own
            ``DataProcessor`` gives.

    Attributes:
        images: As a tensor that shares the memory of the array, for reading; it is on `device`.
        labels: float32 tensor (N,) or (N, c).
        labelled: Whether labels were given.

    Raises:
        DataError: ``images`` is neither.
    """

    def __init__(
        self, images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None
    ) -> None:
        self.images = as_tensor(images)
        self.device = self.images.device
        self.labelled = labels is not None
        given = torch.ones(len(self.images)) if labels is None else torch.as_tensor(labels)
        self.labels = given.to(torch.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DatasetOutput:
        """One image, float32 (C, H, W) in [0, 1], and its label, float32."""
        return DatasetOutput(data=to_float(self.images[index][None])[0], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same images and labels on a device; they stay uint8 there."""
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        moved.device = moved.images.device
        return moved

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput:
        """Images in [0, 1] and labels of indices (B,); uint8 is what travels to the device."""
        images, labels = self.images[indices], self.labels[indices]
        return DatasetOutput(data=to_float(images.to(device)), labels=labels.to(device))
