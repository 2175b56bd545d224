"""Batches out of memory by one indexing operation each."""

__all__ = ["BatchDataset", "BatchLoader", "CutLoader"]

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from pythae.data.datasets import DatasetOutput
from torch import Tensor


@runtime_checkable
class BatchDataset(Protocol):
    """A data set that gives a whole batch at once, as `pythae_fif.data.ImageDataset` does."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, device: torch.device | str | None = None) -> DatasetOutput: ...


class BatchLoader:
    """Stands in for the `DataLoader` that Pythae's training and evaluation steps expect.

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
        count = len(self.dataset)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        # The whole order moves to the device at once where the data are there.
        order = order.to(getattr(self.dataset, "device", "cpu"))
        for indices in order.split(self.batch_size):
            yield self.dataset.batch(indices, device=self.device)


class CutLoader:
    """A loader that ends a pass early when it is told to, and counts what it gave.

    Args:
        loader: A loader of batches with a `dataset`.
        stop: Asked after every batch but the last, once the step made of it is done.

    Attributes:
        batches: Batches given in the present or last pass.
        images: Their images.

    Example:
        >>> loader = torch.utils.data.DataLoader([{"data": 1}, {"data": 2}, {"data": 3}])
        >>> cut = CutLoader(loader, stop=lambda: True)
        >>> len(cut), [batch["data"].item() for batch in cut], cut.images
        (3, [1], 1)
    """

    def __init__(self, loader: Any, stop: Callable[[], bool]) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.stop = stop
        self.batches = self.images = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[DatasetOutput]:
        self.batches = self.images = 0
        for batch in self.loader:
            self.batches += 1
            self.images += len(batch["data"])
            yield batch
            if self.stop():
                return
