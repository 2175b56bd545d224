"""Reads a user's images that are not split: those of a folder, or of an .npz file."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pythae_fif.data.images import decode_files, find_images, read_npz, to_uint8
from pythae_fif.errors import DataError, requires_extra
from pythae_fif.files import check_regular_file

if TYPE_CHECKING:
    from pandas import Index

logger = logging.getLogger(__name__)


def read_images(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    *,
    split: str = "test",
    skip_broken: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> "tuple[Tensor, Index[Any]]":
    """Reads images, resized if they are in a folder.

    Args:
        path: A folder of images or an .npz file, which has them by the key `data`, the split, or
            its first key.
        shape: The shape (C, H, W) that the images must have; None for the first image's shape. Grey
            images are converted to C channels.
        split: The key of an .npz file that is used if it has no key `data`.
        skip_broken: Whether files that cannot be decoded are left out, with a logged warning.
        progress: Called as ``progress(done, total)`` while a folder's images are decoded.

    Returns:
        uint8 images (N, C, H, W), and their file names or row numbers.

    Raises:
        DataError: There are no images, or they have another shape.
    """
    with requires_extra("benchmark", "reading images"):
        import pandas as pd

    path = Path(path).expanduser()
    if path.is_file():
        arrays = read_npz(path)
        key = next((key for key in ("data", split, *arrays) if key in arrays), "data")
        images = torch.from_numpy(to_uint8(arrays[key], f"{path}, key {key!r}"))
        names: Index[Any] = pd.RangeIndex(len(images), name="row")
    else:
        file_names = find_images(path)
        if not file_names:
            raise DataError(
                f"{path}: neither a folder of images, nor an .npz file, nor a saved model"
            )
        side = shape[1] if shape else _first_side(path, file_names)
        decoded = decode_files(path, file_names, side, progress, skip_broken=skip_broken)
        for note in decoded.notes:
            logger.warning("%s: %s", path, note)
        images = torch.from_numpy(decoded.images)
        names = pd.Index(file_names, name="file")[decoded.indices]
    return (images if shape is None else _with_shape(images, shape, path)), names


def _with_shape(images: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    """Returns images with a number of channels; DataError if that does not give them the shape."""
    is_grey = bool((images == images[:, :1]).all())
    if images.shape[1] != shape[0] and is_grey:
        images = images[:, :1].expand(-1, shape[0], -1, -1)
    if images.shape[1:] != shape:
        raise DataError(f"{path} has images of shape {tuple(images.shape[1:])}, not {shape}")
    return images


def _first_side(folder: Path, names: list[str]) -> int:
    """Returns the shorter side in pixels of the first image that can be read; 1 if none can."""
    from PIL import Image  # of the extra `benchmark`; Pythae installs it, too

    for name in names:
        with contextlib.suppress(Exception):  # Pillow's plugins raise a dozen unrelated types
            check_regular_file(folder / name)
            with Image.open(folder / name) as image:
                return min(image.size)
    return 1
