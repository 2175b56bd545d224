"""The data of a training: converts what a user passes to a data set, and loads its batches."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from pythae_fif.data.splits import ImageDataset
from pythae_fif.errors import DataError

REQUIREMENT = (
    "pass a tensor, an array, an ImageDataset, a TensorDataset, or a data set with items "
    "{'data': tensor}"
)

MAX_SHARE_OF_GPU_MEMORY = 0.25
"""Share of a GPU's free memory up to which a data set is moved there as a whole."""


def as_dataset(data: Any, name: str) -> Any:
    """Converts tensors and arrays to a data set; any other data set stays as it is.

    Args:
        data: A tensor or an array: uint8 images (N, C, H, W), which are scaled to [0, 1], or
            floats of any shape (N, ...). A `TensorDataset` of such data, or a `Subset` of it, with
            or without labels. A data set whose items are dictionaries with the key "data". None for
            none.
        name: 'training' or 'evaluation', for errors.

    Returns:
        A data set whose items are dictionaries; None for None.

    Raises:
        DataError: The data are something else, or a value is NaN or infinite.
    """
    place = f"the {name} set"
    if isinstance(data, DataLoader):
        raise DataError(
            f"{place} is a DataLoader: pass its `dataset`, and set the batch size in the "
            "configuration"
        )
    if isinstance(data, np.ndarray | Tensor):
        return _tensors_as_dataset(place, data)
    if isinstance(data, Subset) and isinstance(find_whole(data), TensorDataset):
        data = TensorDataset(*data.dataset[[*map(int, data.indices)]])
    if isinstance(data, TensorDataset):
        if len(data.tensors) > 2:
            raise DataError(
                f"{place} has {len(data.tensors)} tensors: use TensorDataset(data), or "
                "TensorDataset(data, labels)"
            )
        return _tensors_as_dataset(place, *data.tensors)

    if data is not None:
        _check_items(place, data)
    return data


def find_whole(data: Any) -> Any:
    """Returns the data set of which data are a part, by `random_split`; other data as they are."""
    while isinstance(data, Subset):
        data = data.dataset
    return data


def _tensors_as_dataset(
    place: str, data: np.ndarray | Tensor, labels: Tensor | None = None
) -> ImageDataset | BaseDataset:
    """Returns a data set of tensors, with the fast loader if there is one for them."""
    tensor = data if isinstance(data, Tensor) else _array_as_tensor(place, data)
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    is_image = tensor.dtype == torch.uint8 and tensor.ndim == 4
    if not is_image and (tensor.dtype != torch.float32 or tensor.ndim < 2):
        raise DataError(
            f"{place} is {tensor.dtype} of shape {tuple(tensor.shape)}: use uint8 images "
            "(N, C, H, W), or floats (N, ...)"
        )
    if is_image or tensor.ndim == 2:
        return ImageDataset(tensor, labels)

    if not tensor.isfinite().all():
        raise DataError(f"{place}: some values are NaN or infinite")
    dataset = BaseDataset(tensor, torch.ones(len(tensor)) if labels is None else labels)
    dataset.labelled = labels is not None
    return dataset


def _array_as_tensor(place: str, array: np.ndarray) -> Tensor:
    """Returns an array as a tensor, which shares its memory."""
    try:
        return torch.as_tensor(array)
    except TypeError as error:
        raise DataError(f"{place} is an array of {array.dtype}: use uint8 or floats") from error


def _check_items(place: str, dataset: Any) -> None:
    """Raises a DataError unless the items of a data set are dictionaries with the key "data"."""
    try:
        item = dataset[0] if len(dataset) else {"data": ()}
    except (KeyError, NotImplementedError, TypeError) as error:
        raise DataError(f"{place} is a {type(dataset).__name__}: {REQUIREMENT}") from error
    if not isinstance(item, Mapping) or "data" not in item:
        raise DataError(
            f"{place} is a {type(dataset).__name__} with items of type {type(item).__name__}: "
            f"{REQUIREMENT}"
        )


@dataclass
class BatchLoader:
    """Loads batches of images, each by one indexing operation, in place of PyTorch's `DataLoader`.

    If the last batch would hold a single image, that image joins the batch before it, because some
    losses need two. Each shuffled pass draws a new order from torch's global random numbers, so
    restoring their state restores the order.

    Args:
        dataset: The images.
        batch_size: Images in a batch.
        shuffle: Whether each pass has a new order.
        device: Device of the batches.
    """

    dataset: ImageDataset
    batch_size: int
    shuffle: bool
    device: str = "cpu"

    def __len__(self) -> int:
        # Unless batches hold one image each, a last batch of one image joins the batch before it.
        count = len(self.dataset) - 1 if self.batch_size > 1 else len(self.dataset)
        return math.ceil(max(1, count) / self.batch_size)

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Draws the order immediately, and yields the batches one by one."""
        size = len(self.dataset)
        order = torch.randperm(size) if self.shuffle else torch.arange(size)

        # The whole order moves to the images' device in one copy.
        parts = [*order.to(self.dataset.images.device).split(self.batch_size)]
        if len(parts) > len(self):
            parts[-2:] = [torch.cat(parts[-2:])]
        return (self.dataset.batch(indices, device=self.device) for indices in parts)


Loader = BatchLoader | DataLoader[Any]


def make_loader(dataset: Any, split: str, config: BaseTrainerConfig, device: str) -> Loader:
    """Builds the loader of a data set.

    Args:
        dataset: An `ImageDataset`, which moves to the GPU if there is room for it, or any other
            data set that Pythae's trainers accept, which gets Pythae's loader.
        split: 'train' or 'eval'. An `ImageDataset` is shuffled only for 'train', any other data
            set for both, as Pythae does.
        config: The training's configuration, with batch sizes and numbers of worker processes;
            only Pythae's loader uses workers.
        device: Device of the training.

    Returns:
        The loader.
    """
    batch_size = getattr(config, f"per_device_{split}_batch_size")
    if not isinstance(dataset, ImageDataset):
        return DataLoader(
            dataset,
            batch_size,
            shuffle=True,
            num_workers=getattr(config, f"{split}_dataloader_num_workers"),
            collate_fn=collate_dataset_output,
        )

    if device != "cpu":
        free_memory, _ = torch.cuda.mem_get_info()
        if dataset.images.nbytes <= MAX_SHARE_OF_GPU_MEMORY * free_memory:
            dataset = dataset.to(device)
    return BatchLoader(dataset, batch_size, shuffle=split == "train", device=device)
