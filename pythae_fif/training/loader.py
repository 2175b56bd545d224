"""Batches out of memory by one indexing operation each."""

__all__ = ["BatchDataset", "BatchLoader", "Loader", "make_loader"]

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.utils.data import DataLoader

from pythae_fif.data.dataset import ImageDataset

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
        dataset: A `BatchDataset`, or any data set that Pythae's trainers take. The uint8 images of
            an `ImageDataset` move to a GPU that has the room.
        split: 'train' or 'eval'. A `BatchDataset` is shuffled for 'train' only; other data sets
            are shuffled for both, as by Pythae.
        config: Of the training: batch sizes, and workers that read item by item.
        device: Of the training.
    """
    batch_size = getattr(config, f"per_device_{split}_batch_size")
    workers = getattr(config, f"{split}_dataloader_num_workers")
    if isinstance(dataset, ImageDataset) and device != "cpu" and dataset.device.type == "cpu":
        free = torch.cuda.mem_get_info()[0]
        dataset = dataset.to(device) if dataset.images.nbytes <= PART_OF_GPU * free else dataset
    if isinstance(dataset, BatchDataset):
        return BatchLoader(dataset, batch_size, shuffle=split == "train", device=device)
    collate: Callable[[list[Any]], DatasetOutput] = collate_dataset_output
    if type(dataset) is BaseDataset and not workers:
        data, labels = dataset.data, dataset.labels
        dataset = range(len(dataset))  # whose rows come by one indexing operation

        def collate(rows: list[int]) -> DatasetOutput:
            return DatasetOutput(data=data[rows], labels=labels[rows])

    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, collate_fn=collate)
