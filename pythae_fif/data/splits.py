"""A data set in memory: training, validation and test part, as arrays and as Pythae wants them."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import deprecated

from pythae_fif.errors import DataError
from pythae_fif.files import digest

SPLIT_NAMES = ("train", "val", "test")
MIN_IMAGES = 10


@dataclass(frozen=True)
class Columns:
    """How the D columns of a table were standardised: (value - mean) / std, by training rows."""

    names: list[str]
    mean: list[float]
    std: list[float]

    def inverse_transform(self, rows: np.ndarray) -> np.ndarray:
        """Standardised rows (..., D), such as a model's samples, in original units, float64."""
        return rows.astype(np.float64) * self.std + self.mean

    @deprecated("renamed to inverse_transform")
    def restored(self, rows: np.ndarray) -> np.ndarray:
        """Deprecated name of :meth:`inverse_transform`."""
        return self.inverse_transform(rows)


def shuffled_split(count: int) -> dict[str, np.ndarray]:
    """A seeded shuffle of ``range(count)``, cut 80/10/10 (remainders go to training)."""
    # RandomState and not default_rng: NumPy promises that only the former's streams never change.
    order = np.random.RandomState(0).permutation(count)
    cuts = [count - 2 * (count // 10), count - count // 10]
    return dict(zip(SPLIT_NAMES, np.split(order, cuts), strict=True))


def split_train_val_test(parts: dict[str, np.ndarray], shuffle: bool = True) -> dict[str, Any]:
    """Arrays of the three splits: from one array `data`, shuffled, or from those of training and
    test, and perhaps validation.

    Else validation is cut from training, its last rows unless shuffled: 10,000 of 50,000 or more as
    in the paper (appendix E.4); a sixth of fewer, as MNIST.
    """
    if "data" in parts:
        index = shuffled_split(len(parts["data"]))
        return {split: parts["data"][rows] for split, rows in index.items()}
    if "val" in parts:
        return parts
    count = len(parts["train"])
    cut = count - (10_000 if count >= 50_000 else count // 6)
    order = np.random.RandomState(0).permutation(count) if shuffle else np.arange(count)
    train, val = (parts["train"][np.sort(of)] for of in np.split(order, [cut]))
    return {"train": train, "val": val, "test": parts["test"]}


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """The first 16 hex digits of the SHA-256 of all splits' names, shapes and bytes."""
    sha = hashlib.sha256()
    for split in SPLIT_NAMES:
        array = np.ascontiguousarray(arrays[split])
        sha.update(f"{split}{array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()[:16]


def sizes(arrays: Mapping[str, np.ndarray]) -> str:
    """The number of images of each split, as `source` of `Splits` writes them."""
    return "/".join(str(len(arrays[split])) for split in SPLIT_NAMES)


@dataclass(frozen=True, eq=False)
class Splits:
    """Images of one data set, as uint8 arrays of shape (N, C, H, W) with values 0..255.

    Or the rows of a table, standardised, as float32 arrays of shape (N, D).

    Args:
        name, source: The data set's name, and one line that says what the data are.
        train, val, test: Images for training, for choosing a configuration and for the scores.
        labels: Split name -> int64 labels (N,), or None.
        partial: Whether these are fewer or lesser images than the published data set holds.
        columns: Of a user's table: names, and the way back to original units.
        notes: Lines on what was left out or is odd.

    Raises:
        DataError: Images are not of one shape, or a split has fewer than 10.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray] | None
    source: str
    partial: bool = False
    columns: Columns | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.train.shape[1:]
        for split in SPLIT_NAMES:
            images = self[split]
            if images.shape[1:] != shape:
                found = f"images of {split} are {images.shape[1:]}, of train {shape}"
                raise DataError(f"{self.name}: {found}")
            if len(images) < MIN_IMAGES:
                raise DataError(
                    f"{self.name}: the {split} split has {len(images)} examples, needs at least "
                    f"{MIN_IMAGES}; {10 * MIN_IMAGES} in all are enough"
                )

    def __getitem__(self, split: str) -> np.ndarray:
        """The images of the split of that name."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def input_dim(self) -> tuple[int, ...]:
        """Channels, height and width of one image; or (D,), the number of columns."""
        return self.train.shape[1:]

    @cached_property
    def content_hash(self) -> str:
        """Identifies the images of all splits, but not their labels; of a table units and names."""
        found = content_hash({split: self[split] for split in SPLIT_NAMES})
        return found if self.columns is None else digest(found, self.columns)

    @property
    def classes(self) -> int | None:
        """Number of classes, whose labels count from 0; None without labels."""
        if self.labels is None:
            return None
        return 1 + max(int(of_split.max()) for of_split in self.labels.values())

    @cached_property
    def labels_hash(self) -> str | None:
        """Identifies the labels of all splits; None where there are none."""
        return None if self.labels is None else content_hash(self.labels)

    def subset(
        self, train: int | None = None, val: int | None = None, test: int | None = None
    ) -> "Splits":
        """The first images of each split, for quick profiles; None keeps all. They share memory;
        ``source`` names the cut and ``partial`` is True, unless nothing was cut."""
        keep = {"train": train, "val": val, "test": test}
        cut: dict[str, Any] = {split: self[split][:count] for split, count in keep.items()}
        if all(len(cut[split]) == len(self[split]) for split in SPLIT_NAMES):
            return self
        labels = self.labels and {split: self.labels[split][: len(cut[split])] for split in cut}
        source = f"{self.source}; cut to the first {sizes(cut)}"
        return replace(self, **cut, labels=labels, source=source, partial=True)


Source = tuple[Sequence[Path], Callable[[], Splits]]
"""The files of a data set, and what reads them."""


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
        images: uint8 (N, C, H, W), or a table's float32 (N, D), shared; a DataError for others.
        labels: Class indices (N,) or condition vectors (N, c), which become float32, or None for
            ones, as Pythae's own ``DataProcessor`` gives.
    """

    def __init__(
        self, images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None
    ) -> None:
        self.images = as_tensor(images)
        self.labelled = labels is not None
        given = torch.ones(len(self.images)) if labels is None else torch.as_tensor(labels)
        self.labels = given.to(torch.float32)
        if len(given) != len(self.images):
            raise DataError(f"{len(given)} labels for {len(self.images)} samples")
        if self.images.is_floating_point() and not self.images.isfinite().all():
            raise DataError("some values of the data are NaN or infinite")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DatasetOutput:
        """One image, float32 (C, H, W) in [0, 1], and its label, float32."""
        return DatasetOutput(data=to_float(self.images[index][None])[0], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same images and labels on a device; they stay uint8 there."""
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        return moved

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput:
        """Images in [0, 1] and labels of indices (B,); uint8 is what travels to the device."""
        images, labels = self.images[indices], self.labels[indices]
        return DatasetOutput(data=to_float(images.to(device)), labels=labels.to(device))
