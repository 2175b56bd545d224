"""Image files: found, decoded in parallel, cropped and resized."""

__all__ = ["SUFFIXES", "Decoded", "OnCount", "decode_files", "find_images"]

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pythae_fif.data.locations import LIMIT_VARIABLE, unpacked_limit
from pythae_fif.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BACKGROUND = "white"
"""What transparent images are composed over."""

FAINT = 4096
"""A sixteenth of what 16 bits hold: where no value reaches it, 12 or 8 bits were kept in 16."""

_TASK = 64
_MAX_THREADS = 16

OnCount = Callable[[int, int], None]
"""Called while files are decoded, with the number that is done and that of all."""


@dataclass(frozen=True)
class Decoded:
    """What became of a list of image files.

    Args:
        images: uint8 (N, 3, S, S), in the order of the files; a failed file's image is zero.
        sizes: Width and height of each original, int32 (N, 2) in pixels; zero where it failed.
        failed: Indices of the files that could not be decoded, int64 (F,).
        transparent: Whether a file had transparency, bool (N,).
    """

    images: np.ndarray
    sizes: np.ndarray
    failed: np.ndarray
    transparent: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Indices of the files that could be decoded."""
        return np.setdiff1d(np.arange(len(self.images)), self.failed)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """``images[rows]``, without a copy (2 GB of CelebA) where the rows are one run."""
        one_run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        return self.images[rows[0] : rows[-1] + 1] if one_run else self.images[rows]


def find_images(folder: Path) -> list[str]:
    """Paths, relative to ``folder`` and sorted, of every image below it.

    Hidden files and folders, whose names begin with a dot, are passed over.

    Args:
        folder: The folder; a link to one is followed, links to folders further down are not.

    Returns:
        Paths with forward slashes, ending in one of `SUFFIXES` (in any case).

    Raises:
        DataError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # it holds no images
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(prefix + name)
    return sorted(found)


def decode_files(
    folder: Path,
    names: Sequence[str],
    *,
    image_size: int,
    crop: float = 1.0,
    progress: OnCount | None = None,
) -> Decoded:
    """Decodes image files to RGB squares.

    From an image of w x h pixels, the centred square with sides of ``crop * min(w, h)`` is cut
    and resized with Pillow's bilinear filter, which averages over the source pixels when it
    shrinks (antialiasing). The square may begin between pixels, so that it is the same region of
    the picture at whatever resolution the file is kept. Sixteen bits are scaled by 1/257,
    transparency is composed over `BACKGROUND`, and of several frames the first is taken. Integers
    of 32 bits are read as 16 bits where all of them fit; other images of 32 bits cannot be decoded.
    Where no such image of all has a value of `FAINT`, all are refused: they would be almost black.

    Args:
        folder: The folder of the files.
        names: Sorted paths below ``folder``.
        image_size: Side S of the result in pixels.
        crop: Side of the square as a fraction of the shorter side, in (0, 1].
        progress: Called as ``progress(done, total)`` all along.

    Returns:
        Images, original sizes and the indices of undecodable files.

    Raises:
        DataError: A file is missing, cannot be opened (a file that opens but cannot be decoded is
            counted as failed instead), has more pixels than `unpacked_limit` allows, or 8 or 12
            bits in 16.
    """
    images = np.zeros((len(names), 3, image_size, image_size), np.uint8)
    sizes = np.zeros((len(names), 2), np.int32)
    transparent = np.zeros(len(names), bool)
    largest = np.zeros(len(names), np.int64)

    def work(start: int) -> list[int]:
        failed = []
        for index in range(start, min(start + _TASK, len(names))):
            found = _decode(folder / names[index], image_size, crop, limit)
            if found is None:
                failed.append(index)
            else:
                images[index], sizes[index] = found.pixels, found.size
                transparent[index], largest[index] = found.transparent, found.largest
        return failed

    failed: list[int] = []
    # Of three bytes a pixel, as many at once as there are threads.
    limit = unpacked_limit() // (3 * _MAX_THREADS)
    pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    # Threads and not processes: Pillow lets go of the interpreter lock while it decodes.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS))
    try:
        for task, indices in enumerate(pool.map(work, range(0, len(names), _TASK)), 1):
            failed += indices
            if progress is not None:
                progress(min(task * _TASK, len(names)), len(names))
    finally:
        pool.shutdown(cancel_futures=True)
        Image.MAX_IMAGE_PIXELS = pillows
    if 0 < (most := int(largest.max(initial=0))) < FAINT:
        raise DataError(
            f"{folder / names[int(largest.argmax())]}: of all images of 16 bits its value {most} "
            "is the largest, so that they would be almost black: scale them to 0 to 65,535, or "
            "save them with 8 bits"
        )
    return Decoded(images, sizes, np.array(failed, np.int64), transparent)


class _Found(NamedTuple):
    """One decoded image.

    Attributes:
        pixels: uint8 (3, S, S).
        size: Width and height of the original.
        transparent: Whether it had transparency.
        largest: Its largest value, if that is of 16 bits, else 0.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    transparent: bool
    largest: int


def _decode(path: Path, image_size: int, crop: float, limit: int) -> _Found | None:
    try:
        with Image.open(path) as file:
            if math.prod(file.size) > limit:
                raise DataError(
                    f"{path}: {file.size[0]} x {file.size[1]} pixels, above the limit of "
                    f"{limit:,}; if it is yours, raise {LIMIT_VARIABLE}"
                )
            transparent = file.has_transparency_data
            image, largest = _in_rgb(ImageOps.exif_transpose(file), transparent)
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
    return _Found(np.asarray(image).transpose(2, 0, 1), (width, height), transparent, largest)


def _in_rgb(image: Image.Image, transparent: bool) -> tuple[Image.Image, int]:
    """An image with 8 bits a channel, and the largest value if it had 16, else 0."""
    largest = 0
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError("values of no known range")
        largest = int(values.max())
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if transparent:
        over = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(over, image.convert("RGBA"))
    return image.convert("RGB"), largest
