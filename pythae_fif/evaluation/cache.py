"""Tensors that are computed once and kept in a file, which tells whether they are its own."""

__all__ = ["cached_tensors", "tensor_hash"]

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import one_line
from pythae_fif.files import digest, locked, set_aside, stored, write_whole

logger = logging.getLogger(__name__)


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

    def sealed(tensors: dict[str, Tensor]) -> dict[str, Any]:
        parts = ((name, tensor_hash(of)) for name, of in sorted(tensors.items()))
        return {"tensors": tensors, "digest": digest(path.name, *parts)}

    with stored(f"use {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):  # another process may build it
            try:
                held = torch.load(path, map_location="cpu", weights_only=True)
                found: dict[str, Tensor] = held["tensors"]
                if held["digest"] != sealed(found)["digest"]:
                    raise ValueError("its content is not what was written under this name")
                return found
            except FileNotFoundError:
                pass
            except OSError:
                raise
            except Exception as error:  # of a damaged file
                line, aside = one_line(error), set_aside(path)
                logger.warning("%s cannot be read (%s): set aside as %s", path, line, aside.name)
            found = build()
            write_whole(path, lambda file: torch.save(sealed(found), file))
            return found
