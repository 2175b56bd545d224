"""Where computations take place, how precise they are, and the random numbers that they draw."""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch


def default_device() -> str:
    """'cuda' where there is a GPU, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 and autocast off, for numbers that are called exact. TF32 keeps 10 bits of a
    float32 factor; cuDNN's convolutions use it unless told otherwise."""
    cudnn: Any = torch.backends.cudnn
    switches: Any = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def fork_rng() -> AbstractContextManager[None]:
    """Puts torch's random numbers of the CPU and the current GPU back after a block."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    return torch.random.fork_rng(devices=gpus)


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global random numbers, as plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    on_gpu = torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if on_gpu else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
