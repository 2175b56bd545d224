"""What is computed once a machine: tensors and plain values in a file that tells if it is whole."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import StoreError
from pythae_fif.files import (
    digest,
    file_lock,
    os_errors_as_store_error,
    quarantine,
    write_atomically,
)
from pythae_fif.names import CACHE_VARIABLE, cache_home

logger = logging.getLogger(__name__)


def tensor_hash(of: Tensor) -> str:
    """Identifies a tensor by what it holds: shape, type and every number."""
    sha = hashlib.sha256()
    for batch in of.split(1024) if of.ndim else [of]:
        sha.update(batch.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest(tuple(of.shape), of.dtype, sha.hexdigest())


def cached(name: str, build: Callable[[], dict[str, Any]], trusted: bool = False) -> dict[str, Any]:
    """The tensors and plain values of a file of the cache, or new ones that are kept there.

    The file holds a digest of its name and all that is in it. One that was damaged, changed or put
    there under another's name is set aside and built anew, unless it is `trusted`, which spares a
    hash of all numbers; nothing in it is run. Its tensors are mapped on the CPU: processes share
    their memory, and what is written into them stays there.
    Where no cache can be written, a warning says so.
    """
    path, built = cache_home() / name, None
    try:
        with os_errors_as_store_error(f"make {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path):  # another process may build it
            if path.exists():
                try:
                    return _read(path, trusted)
                except Exception as error:  # of a damaged file
                    quarantine(path, error)
            built = build()
            held = {"tensors": built, "digest": _seal(name, built)}
            write_atomically(path, lambda file: torch.save(held, file))
            return _read(path)
    except StoreError as error:
        logger.warning("%s is not cached (%s): choose another %s", name, error, CACHE_VARIABLE)
    return built or build()


def _seal(name: str, values: Mapping[str, Any]) -> str:
    parts = ((k, tensor_hash(v) if isinstance(v, Tensor) else v) for k, v in sorted(values.items()))
    return digest(name, *parts)


def _read(path: Path, trusted: bool = False) -> dict[str, Any]:
    held = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    values: dict[str, Any] = held["tensors"]
    if not trusted and held["digest"] != _seal(path.name, values):
        raise ValueError("its content is not what was written under this name")
    return values
