"""One training in several processes, as torchrun starts them."""

__all__ = ["Processes", "as_batches"]

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pythae.data.datasets import DatasetOutput, collate_dataset_output
from torch import Tensor, nn

from pythae_fif.training.loader import BatchDataset

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of its training.

    Args:
        rank: Its number, from 0.
        count: How many they are.
    """

    rank: int
    count: int

    @classmethod
    def join(cls, config: Any) -> "Processes":
        """Meets the other processes, unless this one is in a group already.

        Each takes the GPU of its local rank and NCCL (`config.dist_backend`) where there are GPUs
        and `no_cuda` is not set, and Gloo on the CPU.

        Args:
            config: Pythae's training configuration, which knows what torchrun has set.
        """
        on_gpu = torch.cuda.is_available() and not config.no_cuda
        if on_gpu:
            torch.cuda.set_device(max(0, config.local_rank))
        if not dist.is_initialized():
            backend = config.dist_backend if on_gpu else "gloo"
            dist.init_process_group(backend, rank=config.rank, world_size=config.world_size)
        return cls(dist.get_rank(), dist.get_world_size())

    def seed(self, seed: int, epoch: int, *, alike: bool) -> None:
        """Starts torch's random numbers of an epoch, alike in all processes or different in each.

        They depend on nothing that came before, so that a training resumes exactly.
        """
        text = f"{seed} {epoch} {'all' if alike else self.rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def all_values(self, value: T) -> list[T]:
        """The value of each."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the first one's buffers: the running statistics of BatchNorm."""
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


class _Collated:
    """A data set of Pythae's, item by item, as a `BatchDataset`."""

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


def as_batches(dataset: Any) -> BatchDataset:
    """The data set itself if it gives batches, else item by item."""
    return dataset if isinstance(dataset, BatchDataset) else _Collated(dataset)
