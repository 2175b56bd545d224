"""Batches out of memory by one indexing operation each."""

__all__ = [
    "BatchDataset",
    "BatchLoader",
    "Loader",
    "items_for_batch_norm",
    "make_loader",
    "moved",
    "weighted_batches",
]

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
from pythae_fif.training.distributed import ALONE, Processes

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
        batch_size: Items in a batch, at least 1, in all processes together.
        shuffle: Whether to draw a new order for each pass; else the order is that of the data.
        device: Where the batches shall be.
        processes: Each takes a slice of every batch; the slices of one batch differ by one item at
            most, and a last batch that is too small for all is left out.

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
        processes: Processes = ALONE,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.device = device
        self.processes = processes

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest >= self.processes.count)

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Draws the order at once, and gives the batches one by one."""
        size = len(self.dataset)
        order = torch.randperm(size) if self.shuffle else torch.arange(size)
        # The whole order moves to the device at once where the data are there.
        order = order.to(getattr(self.dataset, "device", "cpu"))
        rank, count = self.processes.rank, self.processes.count
        return (
            self.dataset.batch(indices.tensor_split(count)[rank], device=self.device)
            for indices in torch.split(order, self.batch_size)[: len(self)]
        )

    def weights(self) -> Iterator[float]:
        """The weight of this process's slice in each batch; with it the mean over processes is the
        mean over the batch."""
        for step in range(len(self)):
            size = min(self.batch_size, len(self.dataset) - step * self.batch_size)
            smaller, larger = divmod(size, self.processes.count)
            yield (smaller + (self.processes.rank < larger)) * self.processes.count / size


class _ItemByItem:
    """A data set of Pythae's as a `BatchDataset`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput:
        """The items of these indices, (B,), in one batch."""
        batch = collate_dataset_output([self.dataset[index] for index in indices.tolist()])
        return DatasetOutput(
            **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        )


def _batches_on(device: str, dataset: BaseDataset) -> Callable[[list[int]], DatasetOutput]:
    """Indices to a batch of Pythae's plain data set, whose tensors all move to the device."""
    data, labels = dataset.data.to(device), dataset.labels.to(device)

    def batch(indices: list[int]) -> DatasetOutput:
        rows = torch.tensor(indices).to(device, non_blocking=True)
        return DatasetOutput(data=data[rows], labels=labels[rows])

    return batch


def _fits(data: Tensor, device: str) -> bool:
    """Whether data are to move to a device as a whole: they are there, or it is a GPU with room."""
    if device == "cpu" or data.device.type != "cpu":
        return device != "cpu"
    return data.nbytes <= PART_OF_GPU * torch.cuda.mem_get_info()[0]


def moved(dataset: Any, device: str) -> Any:
    """An `ImageDataset` in uint8 on a GPU that has room for it; any other data set as it is."""
    fits = isinstance(dataset, ImageDataset) and _fits(dataset.images, device)
    return dataset.to(device) if fits else dataset


Loader = BatchLoader | DataLoader[Any]


def make_loader(
    dataset: Any, split: str, config: BaseTrainerConfig, device: str, processes: Processes
) -> Loader:
    """The loader of a data set, which is the same as Pythae's for Pythae's data sets.

    Args:
        dataset: A `BatchDataset`; an `ImageDataset` that fits the GPU moves there as it is, in
            uint8. Any other data set of Pythae's is read item by item, but for a `BaseDataset` that
            fits the GPU.
        split: 'train' or 'eval'. A `BatchDataset` is shuffled for 'train' only; other data sets in
            one process are shuffled for both, as by Pythae.
        config: Of the training: batch sizes of each process, and workers that read item by item.
        device: Of the training.
        processes: Those that train.
    """
    batch_size = getattr(config, f"per_device_{split}_batch_size")
    dataset = moved(dataset, device)
    if not isinstance(dataset, BatchDataset):
        if processes.count == 1:
            workers = getattr(config, f"{split}_dataloader_num_workers")
            items, collate = dataset, collate_dataset_output
            plain = type(dataset) is BaseDataset and _fits(dataset.data, device)
            if plain and not workers:
                items, collate = range(len(dataset)), _batches_on(device, dataset)
            return DataLoader(
                items, batch_size, shuffle=True, num_workers=workers, collate_fn=collate
            )
        dataset = _ItemByItem(dataset)
    return BatchLoader(
        dataset,
        batch_size * processes.count,
        shuffle=split == "train",
        device=device,
        processes=processes,
    )


def weighted_batches(loader: Loader, seed: int, epoch: int | None) -> Iterator[tuple[float, Any]]:
    """The batches of this process, with what their losses count in the mean over all processes.

    Args:
        loader: It draws its order from the same random numbers in all processes.
        seed: Of the training.
        epoch: Of a training, in which each process then draws numbers of its own; else None.
    """
    if not isinstance(loader, BatchLoader):
        return zip(itertools.repeat(1.0), loader)
    if epoch is not None:
        loader.processes.seed(seed, epoch, alike=True)
    batches = iter(loader)
    if epoch is not None:
        loader.processes.seed(seed, epoch, alike=False)
    return zip(loader.weights(), batches, strict=True)


@contextmanager
def items_for_batch_norm(items: int, batch_size: int, count: int) -> Iterator[None]:
    """Within it PyTorch's error of BatchNorm on one item is one line that says how to have more.

    Args:
        items: Of the training set.
        batch_size: Of each process.
        count: Of the processes.

    Raises:
        ConfigError: A slice of a batch has one item, and BatchNorm no variance of it.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, ConfigError) or "more than 1 value per channel" not in str(error):
            raise
        sizes = itertools.chain(range(batch_size - 1, 1, -1), range(batch_size + 1, items + 1))
        size = next((size for size in sizes if items % (size * count) // count != 1), None)
        remedy = "one more item" if size is None else f"per_device_train_batch_size={size}"
        raise ConfigError(
            f"BatchNorm needs more than one item of each batch and process: {items} items in "
            f"batches of {batch_size * count} leave one; {remedy} leaves more"
        ) from error
