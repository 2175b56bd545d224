"""Tensors that are computed once and kept in a file, which tells whether they are its own."""

__all__ = ["cached_tensors", "tensor_hash"]

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pythae_fif.files import cached, digest


def tensor_hash(of: Tensor) -> str:
    """Identifies a tensor by what it holds: shape, type and every number.

    Example:
        >>> tensor_hash(torch.zeros(1, 2)) == tensor_hash(torch.zeros(2, 1))
        False
    """
    sha = hashlib.sha256()
    for batch in of.split(1024) if of.ndim else [of]:
        sha.update(batch.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest(tuple(of.shape), of.dtype, sha.hexdigest())


def cached_tensors(path: Path, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file, or, where there is no whole one, new ones that are kept there.

    The file holds a digest of its own name and of every number, which is checked: a file that was
    damaged, changed or put there under another's name is set aside, and its tensors are built anew.
    Nothing in it is run.

    Args:
        path: The file; processes may share its folder.
        build: Computes the tensors.

    Returns:
        Name -> tensor, on the CPU where they come from the file.

    Raises:
        StoreError: The folder cannot be used.
    """

    def read(path: Path) -> dict[str, Tensor]:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held["digest"] != _digest(path, held["tensors"]):
            raise ValueError("its content is not what was written under this name")
        tensors: dict[str, Tensor] = held["tensors"]
        return tensors

    return cached(
        path,
        read=read,
        build=build,
        write=lambda tensors, file: torch.save(
            {
                "tensors": {name: tensor.cpu() for name, tensor in tensors.items()},
                "digest": _digest(path, tensors),
            },
            file,
        ),
    )


def _digest(path: Path, tensors: Mapping[str, Tensor]) -> str:
    parts = ((name, tensor_hash(tensor)) for name, tensor in sorted(tensors.items()))
    return digest(path.name, *parts)
