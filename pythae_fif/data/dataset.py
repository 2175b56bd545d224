"""Torch views of uint8 images: a data set for Pythae's trainers, and floats in [0, 1]."""

__all__ = ["ImageDataset", "as_tensor", "shared", "to_float"]

import copy
import warnings

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from torch import Tensor
from torch.utils.data import Dataset

from pythae_fif.errors import DataError


def shared(array: np.ndarray) -> Tensor:
    """An array as a tensor that shares its memory, for reading alone."""
    with warnings.catch_warnings():
        # Torch has no read-only tensors and warns of arrays that are, such as mapped ones.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


def as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Images, or rows of a table, as a tensor that shares their memory, for reading alone.

    Raises:
        DataError: They are neither uint8 (N, C, H, W) nor float32 (N, D).
    """
    if isinstance(images, np.ndarray):
        images = shared(images)
    if (images.dtype, images.ndim) not in ((torch.uint8, 4), (torch.float32, 2)):
        raise DataError(
            f"images are {images.dtype} of shape {tuple(images.shape)}, "
            "needs uint8 of shape (N, C, H, W), or rows of a table as float32 of shape (N, D)"
        )
    return images


def _unit(images: Tensor) -> Tensor:
    """Images in [0, 1]; rows of a table as they are, in memory of their own."""
    unit = images.to(torch.float32, copy=True)
    return unit.div_(255) if images.dtype == torch.uint8 else unit


def to_float(images: np.ndarray | Tensor, limit: int | None = None) -> Tensor:
    """Images as float32 in [0, 1], in the form that Pythae's samplers are fitted on.

    Rows of a table, float32 (N, D), stay as they are.

    Args:
        images: uint8 (N, C, H, W).
        limit: Take the first ``limit`` images only; None takes all.

    Returns:
        float32 (N, C, H, W), 255 becoming exactly 1.

    Example:
        >>> to_float(np.full((3, 1, 2, 2), 255, np.uint8), limit=2).shape
        torch.Size([2, 1, 2, 2])
    """
    return _unit(as_tensor(images[:limit]))


class ImageDataset(Dataset[DatasetOutput]):
    """Images for Pythae's trainers, kept as uint8 until a batch is made of them.

    Args:
        images: uint8 (N, C, H, W), or rows of a table, float32 (N, D).
        labels: Class indices (N,) or condition vectors (N, c), or None for ones, as Pythae's own
            ``DataProcessor`` gives.

    Attributes:
        images: As a tensor, for reading: it shares the memory of a contiguous array, which may be a
            file that is mapped.
        labels: float32 tensor (N,) or (N, c).
        labelled: Whether labels were given.

    Raises:
        DataError: ``images`` is neither, or labels do not match.

    Example:
        >>> dataset = ImageDataset(np.full((20, 1, 2, 2), 51, np.uint8))
        >>> dataset.batch(torch.tensor([3, 1])).data.shape, round(float(dataset[0].data.max()), 6)
        (torch.Size([2, 1, 2, 2]), 0.2)
    """

    def __init__(
        self, images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None
    ) -> None:
        self.images = as_tensor(images)
        self.labelled = labels is not None
        if labels is None:
            self.labels = torch.ones(len(self.images))
        else:
            self.labels = torch.as_tensor(labels).to(torch.float32)
        count = len(self.images)
        if self.labels.dim() not in (1, 2) or len(self.labels) != count:
            raise DataError(
                f"labels have shape {tuple(self.labels.shape)}, needs ({count},) or ({count}, c)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DatasetOutput:
        """One image, float32 (C, H, W) in [0, 1], and its label, float32."""
        return DatasetOutput(data=_unit(self.images[index]), labels=self.labels[index])

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same images and labels on a device; they stay uint8 there."""
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        return moved

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput:
        """Several images at once; uint8 is what travels to the device.

        Args:
            indices: int64 (B,), on the images' device or on the CPU.
            device: Where the batch is wanted; None leaves it where the images are.

        Returns:
            ``data`` float32 (B, C, H, W) in [0, 1], and ``labels`` float32.
        """
        images, labels = self.images[indices], self.labels[indices]
        if device is not None:
            images, labels = images.to(device), labels.to(device)
        return DatasetOutput(data=_unit(images), labels=labels)
