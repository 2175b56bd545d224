"""The default device, the precision of computations, and the state of random number generators."""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch


def default_device() -> str:
    """Returns 'cuda' if there is a GPU, and 'cpu' otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 and autocast off in the block, for numbers that are documented as exact.

    TF32 keeps 10 bits of the mantissa of a float32 factor. cuDNN's convolutions use it by default.
    """
    cudnn: Any = torch.backends.cudnn
    backends: Any = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    saved_precisions = [backend.fp32_precision for backend in backends]

    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, saved_precisions, strict=True):
            backend.fp32_precision = precision


def fork_rng() -> AbstractContextManager[None]:
    """Restores torch's random states, on the CPU and on the current GPU, after the block."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    return torch.random.fork_rng(devices=gpus)


def random_state() -> dict[str, Any]:
    """Returns the states of the global generators of Python, NumPy and torch, as plain values."""
    name, keys, *position_and_gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *position_and_gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores the states that :func:`random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
