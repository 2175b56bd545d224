"""A data set in memory: its training, validation and test split, and the data set for trainers."""

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

from pythae_fif.columns import Columns
from pythae_fif.errors import DataError
from pythae_fif.files import digest

SPLIT_NAMES = ("train", "val", "test")
MIN_IMAGES = 10


def shuffled_split(count: int) -> dict[str, np.ndarray]:
    """Shuffles ``range(count)`` with a fixed seed and cuts it 80/10/10.

    Remainders go to training.
    """
    # RandomState and not default_rng: NumPy promises that only the former's streams never change.
    order = np.random.RandomState(0).permutation(count)
    cuts = [count - 2 * (count // 10), count - count // 10]
    return dict(zip(SPLIT_NAMES, np.split(order, cuts), strict=True))


def split_train_val_test(arrays: dict[str, np.ndarray], shuffle: bool = True) -> dict[str, Any]:
    """Cuts arrays into the three splits.

    Missing validation data are cut from the training data: 10,000 of 50,000 or more, as in the
    paper (appendix E.4), and a sixth of fewer.

    Args:
        arrays: One array `data`, which is shuffled and cut; or `train` and `test`; or all three.
        shuffle: Whether validation data are cut at random. Otherwise they are the last ones.

    Returns:
        Split name -> array.
    """
    if "data" in arrays:
        split_indices = shuffled_split(len(arrays["data"]))
        return {split: arrays["data"][indices] for split, indices in split_indices.items()}
    if "val" in arrays:
        return arrays

    count = len(arrays["train"])
    val_count = 10_000 if count >= 50_000 else count // 6
    order = np.random.RandomState(0).permutation(count) if shuffle else np.arange(count)
    train_indices, val_indices = np.split(order, [count - val_count])
    return {
        "train": arrays["train"][np.sort(train_indices)],
        "val": arrays["train"][np.sort(val_indices)],
        "test": arrays["test"],
    }


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Computes the first 16 hex digits of the SHA-256 of all splits' names, shapes and bytes."""
    sha = hashlib.sha256()
    for split in SPLIT_NAMES:
        array = np.ascontiguousarray(arrays[split])
        sha.update(f"{split}{array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()[:16]


def describe_sizes(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sizes of the three splits, such as `50000/10000/10000`."""
    return "/".join(str(len(arrays[split])) for split in SPLIT_NAMES)


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """Images of one data set, as uint8 arrays of shape (N, C, H, W) with values 0..255.

    For a table: its standardised rows, as float32 arrays of shape (N, D).

    Args:
        name: Name of the data set.
        train: Images for training.
        val: Images for choosing a configuration.
        test: Images for the scores.
        labels: Split name -> int64 labels (N,), or None.
        source: One line that describes the data.
        partial: Whether images of the published data set are missing.
        columns: Names and standardisation of the columns of a table.
        notes: Lines on data that were left out or are unusual.
        example_ids: Split name -> where each example is from, (N,): its file, or its row number in
            a table, from 0. None for data that have no other order than that of the splits.
        class_names: Names of the classes 0, 1, ...; None if the data do not name them.
        cached_hash: The content hash, if it is known from the cache.

    Raises:
        DataError: Images have different shapes, or a split has fewer than 10.
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
    example_ids: dict[str, np.ndarray] | None = None
    class_names: tuple[str, ...] | None = None
    cached_hash: str | None = None

    def __post_init__(self) -> None:
        shape = self.train.shape[1:]
        for split in SPLIT_NAMES:
            images = self[split]
            if images.shape[1:] != shape:
                raise DataError(
                    f"{self.name}: {split} images have shape {images.shape[1:]}, train images "
                    f"{shape}"
                )
            if len(images) < MIN_IMAGES:
                raise DataError(
                    f"{self.name}: the {split} split has {len(images)} examples, needs at least "
                    f"{MIN_IMAGES}; {10 * MIN_IMAGES} without given splits are enough"
                )

    def __repr__(self) -> str:
        return f"<Splits {self.name}: {self.source}>"

    def __getitem__(self, split: str) -> np.ndarray:
        """Returns the images of a split by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def input_dim(self) -> tuple[int, ...]:
        """Channels, height and width of one image; (D,) for a table."""
        return self.train.shape[1:]

    @cached_property
    def content_hash(self) -> str:
        """Hash of the images of all splits, without labels; for a table with names and units."""
        if self.cached_hash is not None:
            return self.cached_hash
        array_hash = content_hash({split: self[split] for split in SPLIT_NAMES})
        if self.columns is None:
            return array_hash
        return digest(array_hash, self.columns, *self.columns.encodings)

    @property
    def classes(self) -> int | None:
        """Number of classes, counted from 0; None without labels."""
        if self.labels is None:
            return None
        return 1 + max(int(classes.max()) for classes in self.labels.values())

    @cached_property
    def labels_hash(self) -> str | None:
        """Hash of the labels of all splits; None without labels."""
        return None if self.labels is None else content_hash(self.labels)

    def subset(
        self, train: int | None = None, val: int | None = None, test: int | None = None
    ) -> "Splits":
        """Cuts every split to its first images, for quick profiles.

        Args:
            train: Number of training images; all if None.
            val: Number of validation images; all if None.
            test: Number of test images; all if None.

        Returns:
            These splits if nothing is cut. Otherwise splits that share their memory; ``source``
            names the cut, and ``partial`` is True.
        """
        counts = {"train": train, "val": val, "test": test}
        arrays: dict[str, Any] = {split: self[split][:count] for split, count in counts.items()}
        if all(len(arrays[split]) == len(self[split]) for split in SPLIT_NAMES):
            return self

        def cut(values: dict[str, np.ndarray] | None) -> dict[str, np.ndarray] | None:
            if values is None:
                return None
            return {split: values[split][: len(images)] for split, images in arrays.items()}

        return replace(
            self,
            **arrays,
            labels=cut(self.labels),
            example_ids=cut(self.example_ids),
            source=f"{self.source}; cut to the first {describe_sizes(arrays)}",
            partial=True,
            cached_hash=None,
        )


FilesAndReader = tuple[Sequence[Path], Callable[[], Splits]]
"""The files of a data set, and the function that reads them."""


def as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Returns images, or rows of a table, as a tensor that shares their memory; do not write to it.

    Raises:
        DataError: They are neither uint8 (N, C, H, W) nor float32 (N, D).
    """
    tensor = torch.as_tensor(images)
    if (tensor.dtype, tensor.ndim) not in ((torch.uint8, 4), (torch.float32, 2)):
        raise DataError(
            f"images are {tensor.dtype} of shape {tuple(tensor.shape)}, needs uint8 (N, C, H, W), "
            "or float32 rows (N, D)"
        )
    return tensor


def to_float(images: np.ndarray | Tensor, limit: int | None = None) -> Tensor:
    """Converts images to float32 in [0, 1]; copies the rows of a table unchanged.

    Args:
        images: uint8 (N, C, H, W), with 255 becoming exactly 1, or float32 (N, D).
        limit: Number of first images that are converted; all if None.
    """
    tensor = as_tensor(images[:limit])
    floats = tensor.to(torch.float32, copy=True)
    return floats.div_(255) if tensor.dtype == torch.uint8 else floats


class ImageDataset(Dataset[DatasetOutput]):
    """Images for Pythae's trainers, kept as uint8 until a batch is made.

    Args:
        images: uint8 (N, C, H, W), or a table's float32 (N, D). Their memory is shared.
        labels: Class indices (N,) or condition vectors (N, c), which become float32. None for ones,
            as in Pythae's ``DataProcessor``.

    Raises:
        DataError: The images have another type or shape, the numbers of images and labels differ,
            or a value is NaN or infinite.
    """

    def __init__(
        self, images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None
    ) -> None:
        self.images = as_tensor(images)
        self.labelled = labels is not None
        if labels is None:
            labels = torch.ones(len(self.images))
        self.labels = torch.as_tensor(labels).to(torch.float32)
        if len(self.labels) != len(self.images):
            raise DataError(f"{len(self.labels)} labels for {len(self.images)} samples")
        if self.images.is_floating_point() and not self.images.isfinite().all():
            raise DataError("some values of the data are NaN or infinite")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DatasetOutput:
        """Returns one image, float32 (C, H, W) in [0, 1], and its label, float32."""
        return DatasetOutput(data=to_float(self.images[index][None])[0], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Returns a data set with the images and labels on a device; images stay uint8."""
        dataset = copy.copy(self)
        dataset.images = self.images.to(device)
        dataset.labels = self.labels.to(device)
        return dataset

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput:
        """Returns a batch of images in [0, 1] and labels.

        Args:
            indices: Indices of the images, (B,).
            device: Device of the batch. Images are moved as uint8, which is faster.
        """
        return DatasetOutput(
            data=to_float(self.images[indices].to(device)),
            labels=self.labels[indices].to(device),
        )
