"""A cache on disk for tensors and plain values, in files that are checked when they are read."""

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


def tensor_hash(tensor: Tensor) -> str:
    """Computes a hash of a tensor's shape, type and numbers."""
    content = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return digest(tuple(tensor.shape), tensor.dtype, hashlib.sha256(content).hexdigest())


def cached(name: str, build: Callable[[], dict[str, Any]], trusted: bool = False) -> dict[str, Any]:
    """Reads tensors and plain values from a file of the cache, or builds and stores them.

    The file holds a digest of its name and its content. A file that was damaged, changed or copied
    from another name is set aside and built anew. Nothing in it is executed. The tensors are mapped
    on the CPU: processes share their memory, and writes to them do not reach the file. If the
    cache cannot be written, a warning is logged.

    Args:
        name: Name of the file.
        build: Computes the values if the file is missing.
        trusted: Skips the check of the digest, which takes a hash of all numbers.
    """
    path = cache_home() / name
    built = None
    try:
        with os_errors_as_store_error(f"make {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)

        with file_lock(path):  # another process may be building it
            if path.exists():
                try:
                    return _read(path, trusted)
                except Exception as error:  # a damaged file raises anything
                    quarantine(path, error)

            built = build()
            content = {"tensors": built, "digest": _content_digest(name, built)}
            write_atomically(path, lambda file: torch.save(content, file))
            return _read(path)
    except StoreError as error:
        logger.warning("%s is not cached (%s): choose another %s", name, error, CACHE_VARIABLE)
    return built or build()


def _content_digest(name: str, values: Mapping[str, Any]) -> str:
    """Computes the digest of a file's name and values."""
    hashes = {key: tensor_hash(value) for key, value in values.items() if isinstance(value, Tensor)}
    return digest(name, *sorted({**values, **hashes}.items()))


def _read(path: Path, trusted: bool = False) -> dict[str, Any]:
    """Reads the values of a file; any error if it is damaged."""
    content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    values: dict[str, Any] = content["tensors"]
    if not trusted and content["digest"] != _content_digest(path.name, values):
        raise ValueError("its content is not what was written under this name")
    return values
