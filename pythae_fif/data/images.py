"""Images from files: found, decoded in parallel, cropped and resized; arrays of .npz files."""

__all__ = [
    "SUFFIXES",
    "Decoded",
    "decode_files",
    "find_images",
    "read_npz",
    "to_labels",
    "to_uint8",
]

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pythae_fif.data.source import OnCount
from pythae_fif.errors import DataError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ROUNDING = 1e-3
"""Floats may leave [0, 1] by so much, as a resize lets them."""

_TASK = 64
_MAX_THREADS = 16


@dataclass(frozen=True)
class Decoded:
    """Images of files.

    Attributes:
        names: Of the N files that could be decoded.
        images: uint8 (N, 3, S, S).
        sizes: Width and height of each original in pixels, (N, 2).
        notes: On files that were left out.
    """

    names: list[str]
    images: np.ndarray
    sizes: np.ndarray
    notes: list[str]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """``images[rows]``, without a copy (2 GB of CelebA) where the rows are one run."""
        one_run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        return self.images[rows[0] : rows[-1] + 1] if one_run else self.images[rows]


def find_images(folder: Path) -> list[str]:
    """Paths, relative to ``folder`` and sorted, of every image below it.

    Files end in one of `SUFFIXES`, in any case. Hidden files and folders, whose names begin with a
    dot, are passed over; a link to a folder further down is not followed.

    Raises:
        DataError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # it holds no images
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append((below / name).as_posix())
    return sorted(found)


def decode_files(
    folder: Path,
    names: Sequence[str],
    *,
    image_size: int,
    crop: float = 1.0,
    skip_undecodable: bool = False,
    progress: OnCount | None = None,
) -> Decoded:
    """Decodes image files to RGB squares, as Pillow's ``convert("RGB")`` makes them.

    From an image of w x h pixels, the centred square with sides of ``crop * min(w, h)`` is cut
    and resized with Pillow's bilinear filter, which averages over the source pixels when it
    shrinks (antialiasing). The square may begin between pixels, so that it is the same region of
    the picture at whatever resolution the file is kept.

    Args:
        folder: The folder of the files.
        names: Paths below ``folder``.
        image_size: Side S of the result in pixels.
        crop: Side of the square as a fraction of the shorter side, in (0, 1].
        skip_undecodable: Leave out files that cannot be decoded.
        progress: Called as ``progress(done, total)`` all along.

    Raises:
        DataError: A file is missing, is no regular file, has more than 8 bits a channel, or cannot
            be decoded.
    """
    images = np.zeros((len(names), 3, image_size, image_size), np.uint8)
    sizes = np.zeros((len(names), 2), np.int32)

    def work(start: int) -> list[int]:
        failed = []
        for index in range(start, min(start + _TASK, len(names))):
            found = _decode(folder / names[index], image_size, crop)
            if found is None:
                failed.append(index)
            else:
                images[index], sizes[index] = found
        return failed

    failed: list[int] = []
    # Threads and not processes: Pillow lets go of the interpreter lock while it decodes.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS))
    try:
        for task, indices in enumerate(pool.map(work, range(0, len(names), _TASK)), 1):
            failed += indices
            if progress is not None:
                progress(min(task * _TASK, len(names)), len(names))
    finally:
        pool.shutdown(cancel_futures=True)
    if not failed:
        return Decoded(list(names), images, sizes, [])
    if not skip_undecodable:
        raise DataError(
            f"{len(failed)} of {len(names)} images cannot be decoded, the first is "
            f"{folder / names[failed[0]]}; mend or remove them, or leave them out with "
            "--skip-undecodable"
        )
    kept = np.setdiff1d(np.arange(len(names)), failed)
    note = f"{len(failed)} undecodable images left out"
    return Decoded([names[row] for row in kept], images[kept], sizes[kept], [note])


def _decode(path: Path, image_size: int, crop: float) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Pixels (3, S, S), and width and height of the original; None if it cannot be decoded."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path}: cannot be read (it is no regular file)")
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":  # Pillow would cut them off at 255
                raise DataError(f"{path}: mode {file.mode}, needs 8 bits a channel: convert it")
            image = ImageOps.exif_transpose(file).convert("RGB")
        width, height = image.size
        # Rounded, so that 148 / 178 of 178 is 148 and not a hair more, which would round up below.
        side = round(crop * min(width, height), 6)
        left, top = (width - side) / 2, (height - side) / 2
        # Cut to whole pixels first: resize alone would let the filter reach outside of the square.
        x, y = math.floor(left), math.floor(top)
        image = image.crop((x, y, math.ceil(left + side), math.ceil(top + side))).resize(
            (image_size, image_size),
            Image.Resampling.BILINEAR,
            box=(left - x, top - y, left - x + side, top - y + side),
        )
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen unrelated types on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        return None
    return np.asarray(image).transpose(2, 0, 1), (width, height)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, by key.

    Raises:
        DataError: The file is missing, no .npz, damaged, or holds pickled objects.
    """
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle, and advise to open it
        raise DataError(f"{path}: no such .npz file, or no whole one")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    # Of a header that claims more than there is, a MemoryError.
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file ({one_line(error)})") from error


def to_uint8(array: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8, (N, C, H, W).

    A four-dimensional array with 1 or 3 at its second place is N x C x H x W, otherwise
    N x H x W x C.

    Args:
        array: Images (N, C, H, W), (N, H, W, C) or (N, H, W), uint8 or floats in [0, 1].
        where: The file and key, for error lines.

    Raises:
        DataError: Another shape, type or range.
    """
    images = array[:, None] if array.ndim == 3 else array
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{where}: shape {array.shape}, needs N x C x H x W or N x H x W x C with 1 or 3 "
            "channels, or N x H x W"
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    low, high = images.min(), images.max()
    if images.dtype.kind != "f" or not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise DataError(
            f"{where}: {images.dtype} from {low} to {high}, needs uint8, or floats in [0, 1]"
        )
    return np.rint(images * 255.0).clip(0, 255).astype(np.uint8)


def to_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Class indices of N images as int64 (N,).

    Raises:
        DataError: They are no integers from 0 up, or not N.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{where}: {labels.dtype} of shape {labels.shape}, needs integers from 0 up of shape "
            f"({count},)"
        )
    return labels.astype(np.int64)
