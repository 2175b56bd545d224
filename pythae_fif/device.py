"""Where computations take place, and random numbers for a block of code alone."""

__all__ = ["default_device", "fork_rng"]

from contextlib import AbstractContextManager

import torch


def default_device() -> str:
    """'cuda' where there is a GPU, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fork_rng() -> AbstractContextManager[None]:
    """Puts torch's random numbers of the CPU and the current GPU back after a block.

    A process uses one GPU; PyTorch's own, without a word, saves all of them and warns.
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    fork: AbstractContextManager[None] = torch.random.fork_rng(devices=gpus)
    return fork
