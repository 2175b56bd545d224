"""One training in several processes, as torchrun starts them."""

__all__ = ["ALONE", "Processes"]

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pythae.trainers import BaseTrainerConfig
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of its training; of one that is alone, everything is its own.

    Args:
        rank: Its number, from 0.
        count: How many they are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, config: BaseTrainerConfig) -> "Processes":
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
            # Told its GPU, NCCL neither guesses it at a barrier nor waits to connect.
            place = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
            dist.init_process_group(
                backend, rank=config.rank, world_size=config.world_size, device_id=place
            )
        return cls(dist.get_rank(), dist.get_world_size())

    def seed(self, seed: int, epoch: int, *, alike: bool) -> None:
        """Starts torch's random numbers of an epoch, alike in all processes or different in each.

        They depend on nothing that came before, so that a training resumes exactly. A process
        that is alone goes on with its random numbers.
        """
        if self.count > 1:
            text = f"{seed} {epoch} {'all' if alike else self.rank}"
            digest = hashlib.sha256(text.encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def all_values(self, value: T) -> list[T]:
        """The value of each."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Returns once all are here.

        A training ends with it. Gloo frees the tensors of other collectives in a thread of its own,
        which needs Python's lock for that, and a process that ends at that moment may hang. A
        barrier has no tensors.
        """
        if self.count > 1:
            dist.barrier()

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the first one's buffers: the running statistics of BatchNorm."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def average_gradients(self, model: nn.Module) -> nn.Module:
        """The model for training steps, whose gradients are averaged over all processes."""
        return model if self.count == 1 else nn.parallel.DistributedDataParallel(model)


ALONE = Processes()
