"""Batches out of memory by one indexing operation each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pythae.data.datasets import DatasetOutput, collate_dataset_output
from pythae.trainers import BaseTrainerConfig
from torch.utils.data import DataLoader

from pythae_fif.data.splits import ImageDataset

PART_OF_GPU = 0.25  # of its free memory: data that fit into it move there as a whole


@dataclass
class BatchLoader:
    """Stands in for PyTorch's `DataLoader`, of N images on a device. A last batch of one joins that
    before: some losses need two. To shuffle, a new order is drawn for each pass from torch's global
    random numbers, so that restoring their state restores the order."""

    dataset: ImageDataset
    batch_size: int
    shuffle: bool
    device: str = "cpu"

    def __len__(self) -> int:
        count = len(self.dataset) - (self.batch_size > 1)
        return -(-max(1, count) // self.batch_size)

    def __iter__(self) -> Iterator[DatasetOutput]:
        """Draws the order at once, and gives the batches one by one."""
        size = len(self.dataset)
        order = torch.randperm(size) if self.shuffle else torch.arange(size)
        # The whole order moves to the device at once where the data are there.
        parts = [*order.to(self.dataset.images.device).split(self.batch_size)]
        if len(parts) > len(self):
            parts[-2:] = [torch.cat(parts[-2:])]
        return (self.dataset.batch(indices, device=self.device) for indices in parts)


Loader = BatchLoader | DataLoader[Any]


def make_loader(dataset: Any, split: str, config: BaseTrainerConfig, device: str) -> Loader:
    """The loader of a data set.

    Args:
        dataset: An `ImageDataset`, whose uint8 images move to a GPU that has the room, or any data
            set that Pythae's trainers take, for which the loader is Pythae's.
        split: 'train' or 'eval'. Images are shuffled for 'train' alone, others for both.
        config, device: Of the training: batch sizes, workers that read item by item, and where.
    """
    batch_size = getattr(config, f"per_device_{split}_batch_size")
    if not isinstance(dataset, ImageDataset):
        workers = getattr(config, f"{split}_dataloader_num_workers")
        options: dict[str, Any] = {"num_workers": workers, "collate_fn": collate_dataset_output}
        return DataLoader(dataset, batch_size, shuffle=True, **options)
    if device != "cpu" and dataset.images.nbytes <= PART_OF_GPU * torch.cuda.mem_get_info()[0]:
        dataset = dataset.to(device)
    return BatchLoader(dataset, batch_size, shuffle=split == "train", device=device)
