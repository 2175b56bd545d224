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
        part: Number of this process and how many there are. Each gives its part of every batch;
            the parts of one batch differ by one item at most, and a last batch that is too small
            for all is left out.

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
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.device = device
        self.part = part

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest >= self.part[1])

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Draws the order at once, and gives the batches one by one."""
        count = len(self.dataset)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        # The whole order moves to the device at once where the data are there.
        order = order.to(getattr(self.dataset, "device", "cpu"))
        number, parts = self.part
        return (
            self.dataset.batch(indices.tensor_split(parts)[number], device=self.device)
            for indices in order.split(self.batch_size)[: len(self)]
        )

    def weights(self) -> Iterator[float]:
        """What the mean over each part counts in the mean of these over all processes."""
        number, parts = self.part
        for step in range(len(self)):
            size = min(self.batch_size, len(self.dataset) - step * self.batch_size)
            yield (size // parts + (number < size % parts)) * parts / size


class CutLoader:
    """A loader that ends a pass early when it is told to, and counts what it gave.

    Args:
        loader: A loader of batches with a `dataset`.
        stop: Asked after every batch but the last, once the step made of it is done.

    Attributes:
        batches: Batches given in the present or last pass.

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
        self.batches = 0

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def images(self) -> int:
        """The images of these batches, in all processes."""
        return min(self.batches * self.loader.batch_size, len(self.dataset))

    def weights(self) -> Iterator[float]:
        """See :meth:`BatchLoader.weights`."""
        return self.loader.weights()

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Lets the loader draw its order at once, and gives the batches one by one."""
        self.batches = 0
        return self._cut(iter(self.loader))

    def _cut(self, batches: Iterator[DatasetOutput]) -> Iterator[DatasetOutput]:
        for batch in batches:
            self.batches += 1
            yield batch
            if self.stop():
                return
