"""Files written whole, and the states of all random number generators."""

__all__ = ["random_state", "set_random_state", "write_whole"]

import contextlib
import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pythae_fif.errors import StoreError


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whenever it is cut off, the old or the new one is there, whole.

    Args:
        path: The file to make or replace; its folder exists.
        write: Writes the content to the open file that it is given.

    Raises:
        StoreError: If the folder or the disk does not take the file.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # nobody else's
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:  # on a full disk it would be in the way
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's (CPU and CUDA) global random numbers.

    Holds tensors and plain values alone, so that `torch.load(weights_only=True)` reads it back.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(())
        >>> set_random_state(state)
        >>> bool(torch.rand(()) == first)
        True
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
