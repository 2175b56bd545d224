"""Loaders that take each batch out of memory by one indexing operation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pythae.data.datasets import DatasetOutput, collate_dataset_output
from pythae.trainers import BaseTrainerConfig
from torch.utils.data import DataLoader

from pythae_fif.data.splits import ImageDataset

MAX_SHARE_OF_GPU_MEMORY = 0.25
"""Share of a GPU's free memory up to which a data set is moved there as a whole."""


@dataclass
class BatchLoader:
    """Loads batches of images, in place of PyTorch's `DataLoader`.

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
