"""Batches out of memory by one indexing operation each."""

__all__ = ["BatchDataset", "BatchLoader", "Loader", "items_for_batch_norm", "make_loader"]

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.utils.data import DataLoader

from pythae_fif.data.dataset import ImageDataset
from pythae_fif.errors import ConfigError

PART_OF_GPU = 0.25
"""Of the GPU's free memory: data that fit into it move there as a whole."""


@runtime_checkable
class BatchDataset(Protocol):
    """A data set that gives a whole batch at once, as `pythae_fif.data.ImageDataset` does."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput: ...


class BatchLoader:
    """Stands in for PyTorch's `DataLoader`.

    The last batch may be smaller. A new order is drawn each epoch from torch's global random
    numbers, so that restoring their state restores the order.

    Args:
        dataset: N items that come in batches.
        batch_size: Items in a batch, at least 1.
        shuffle: Whether to draw a new order for each pass; else the order is that of the data.
        device: Where the batches shall be.

    Example:
        >>> class Squares:
        ...     def __len__(self):
        ...         return 5
        ...     def batch(self, indices, device=None):
        ...         return DatasetOutput(data=indices**2)
        >>> [batch.data.tolist() for batch in BatchLoader(Squares(), 3, shuffle=False)]
        [[0, 1, 4], [9, 16]]
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        *,
        shuffle: bool,
        device: torch.device | str | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.device = device

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Draws the order at once, and gives the batches one by one."""
        size = len(self.dataset)
        order = torch.randperm(size) if self.shuffle else torch.arange(size)
        # The whole order moves to the device at once where the data are there.
        order = order.to(getattr(self.dataset, "device", "cpu"))
        return (
            self.dataset.batch(indices, device=self.device)
            for indices in torch.split(order, self.batch_size)
        )


Loader = BatchLoader | DataLoader[Any]


def make_loader(dataset: Any, split: str, config: BaseTrainerConfig, device: str) -> Loader:
    """The loader of a data set, which is the same as Pythae's for Pythae's data sets.

    Args:
        dataset: A `BatchDataset`, or any data set that Pythae's trainers take. The tensors of an
            `ImageDataset`, in uint8, and of a plain `BaseDataset` move to a GPU that has the room.
        split: 'train' or 'eval'. A `BatchDataset` is shuffled for 'train' only; other data sets
            are shuffled for both, as by Pythae.
        config: Of the training: batch sizes, and workers that read item by item.
        device: Of the training.
    """
    batch_size = getattr(config, f"per_device_{split}_batch_size")
    workers = getattr(config, f"{split}_dataloader_num_workers")
    if isinstance(dataset, ImageDataset) and _fits(dataset.images, device):
        dataset = dataset.to(device)
    if isinstance(dataset, BatchDataset):
        return BatchLoader(dataset, batch_size, shuffle=split == "train", device=device)
    collate: Callable[[list[Any]], DatasetOutput] = collate_dataset_output
    if type(dataset) is BaseDataset and not workers:
        dataset, collate = range(len(dataset)), _rows_of(dataset, device)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, collate_fn=collate)


def _fits(data: Tensor, device: str) -> bool:
    """Whether data are to move to a device as a whole: it is a GPU with room for them."""
    on_the_way = device != "cpu" and data.device.type == "cpu"
    return on_the_way and data.nbytes <= PART_OF_GPU * torch.cuda.mem_get_info()[0]


def _rows_of(dataset: BaseDataset, device: str) -> Callable[[list[int]], DatasetOutput]:
    """From indices to the batch of a plain data set of Pythae's, by one indexing operation."""
    data, labels = dataset.data, dataset.labels
    if _fits(data, device):
        data, labels = data.to(device), labels.to(device)

    def batch(indices: list[int]) -> DatasetOutput:
        rows = torch.tensor(indices).to(data.device, non_blocking=True)
        return DatasetOutput(data=data[rows].to(device), labels=labels[rows].to(device))

    return batch


@contextmanager
def items_for_batch_norm(items: int, batch_size: int) -> Iterator[None]:
    """Within it PyTorch's error of BatchNorm on one item is one line that says how to have more.

    Args:
        items: Of the training set.
        batch_size: Of the training.

    Raises:
        ConfigError: A batch has one item, and BatchNorm no variance of it.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        sizes = itertools.chain(range(batch_size - 1, 1, -1), range(batch_size + 1, items + 1))
        size = next((size for size in sizes if items % size != 1), None)
        remedy = "one more item" if size is None else f"per_device_train_batch_size={size}"
        raise ConfigError(
            f"BatchNorm needs more than one item in each batch: {items} items in batches of "
            f"{batch_size} leave one; {remedy} leaves more"
        ) from error
