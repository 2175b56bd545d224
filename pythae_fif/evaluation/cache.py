"""Tensors that are computed once and kept in a file, which tells whether they are its own."""

__all__ = ["cached_tensors", "tensor_hash"]

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pythae_fif.files import cached, digest


def tensor_hash(of: Tensor) -> str:
    """Identifies a tensor by what it holds: shape, type and every number."""
    sha = hashlib.sha256()
    for batch in of.split(1024) if of.ndim else [of]:
        sha.update(batch.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest(tuple(of.shape), of.dtype, sha.hexdigest())


def cached_tensors(path: Path, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, or new ones that are kept there.

    The file holds a digest of its own name and of every number, which is checked: one that was
    damaged, changed or put there under another's name is set aside, and its tensors are built anew.
    Nothing in it is run.
    """

    def sealed(tensors: dict[str, Tensor]) -> dict[str, object]:
        parts = ((name, tensor_hash(of)) for name, of in sorted(tensors.items()))
        return {"tensors": tensors, "digest": digest(path.name, *parts)}

    def read(path: Path) -> dict[str, Tensor]:
        held = torch.load(path, map_location="cpu", weights_only=True)
        tensors: dict[str, Tensor] = held["tensors"]
        if held["digest"] != sealed(tensors)["digest"]:
            raise ValueError("its content is not what was written under this name")
        return tensors

    return cached(
        path, read=read, build=build, write=lambda found, file: torch.save(sealed(found), file)
    )
