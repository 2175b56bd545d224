"""Reads images from a user's folder or .npz file, and decodes, crops and resizes image files."""

import math
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import DataError, format_error

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_images(folder: Path) -> list[str]:
    """Returns the sorted paths, relative to ``folder``, of all files with one of `SUFFIXES` in it.

    Subfolders are searched. Hidden files and folders are left out, and links to folders are not
    followed.
    """
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    visible = {name: path for name, path in names.items() if "/." not in f"/{name}"}
    return sorted(name for name, path in visible.items() if not path.is_dir())


def decode_files(
    folder: Path,
    names: Sequence[str],
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
    crop: float = 1.0,
) -> np.ndarray:
    """Decodes image files to RGB squares, as Pillow's ``convert("RGB")`` makes them.

    A centred square is cut and resized with Pillow's bilinear filter, with antialiasing. The
    square may begin between pixels.

    Args:
        folder: The folder of the files.
        names: Paths of N files, relative to the folder.
        image_size: Side S of the result in pixels.
        progress: Called as ``progress(done, total)`` after every file.
        crop: Side of the square as a fraction of the shorter side, in (0, 1].

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        DataError: A file is damaged, or has more than 8 bits per channel.
    """
    images = np.zeros((len(names), 3, image_size, image_size), np.uint8)

    def decode(index: int) -> None:
        path = folder / names[index]
        try:
            images[index] = _decode(path, image_size, crop)
        except Exception as error:  # Pillow's plugins raise a dozen unrelated types
            raise DataError(f"{path}: cannot be decoded ({format_error(error)})") from error

    # Threads are enough: Pillow releases the interpreter lock while it decodes.
    with ThreadPool() as pool:
        for index, _ in enumerate(pool.imap(decode, range(len(names)), chunksize=64)):
            if progress is not None:
                progress(index + 1, len(names))
    return images


def _decode(path: Path, image_size: int, crop: float) -> np.ndarray:
    """Returns the pixels (3, S, S) of a file; any error if it cannot be decoded."""
    from PIL import Image, ImageOps  # of the extra `benchmark`; Pythae installs it, too

    with Image.open(path) as file:
        if file.mode[0] in "IF":  # Pillow would clip larger values at 255
            raise ValueError(f"mode {file.mode}: convert it to 8 bits per channel")
        image = ImageOps.exif_transpose(file).convert("RGB")

    width, height = image.size
    # Rounded, so that 148 / 178 of 178 is 148 and not a hair more, which would round up below.
    side = round(crop * min(width, height), 6)
    left = (width - side) / 2
    top = (height - side) / 2

    # The image is first cut to whole pixels: otherwise the filter would reach outside the square.
    x = math.floor(left)
    y = math.floor(top)
    square = image.crop((x, y, math.ceil(left + side), math.ceil(top + side)))
    resized = square.resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,
        box=(left - x, top - y, left - x + side, top - y + side),
    )
    return np.asarray(resized).transpose(2, 0, 1)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file, by key.

    Raises:
        DataError: The file is not an .npz file, or holds pickled objects.
    """
    try:
        with np.load(path) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # even a MemoryError, if a header claims a large array
        raise DataError(f"{path}: not a readable .npz file ({format_error(error)})") from error


def to_uint8(array: np.ndarray, place: str) -> np.ndarray:
    """Converts images to uint8 (N, C, H, W).

    Args:
        array: Images (N, C, H, W), (N, H, W, C) or (N, H, W), as uint8 or as floats in [0, 1]. A
            four-dimensional array with a second dimension of 1 or 3 is read as (N, C, H, W).
        place: Origin of the array, with which an error begins.

    Raises:
        DataError: The array has another shape, type or range.
    """
    images = array[:, None] if array.ndim == 3 else array
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{place}: shape {array.shape}, needs N x C x H x W or N x H x W x C with C = 1 or 3, "
            "or N x H x W"
        )

    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)

    is_numeric = images.dtype.kind in "biuf"
    low = images.min() if is_numeric else np.nan
    high = images.max() if is_numeric else np.nan
    if images.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise DataError(
            f"{place}: {images.dtype} from {low} to {high}, needs uint8, or floats in [0, 1]"
        )

    return np.rint(images * 255.0).astype(np.uint8)


def read_labelled_npz(
    path: Path, key_choices: Sequence[Sequence[str]] = (SPLIT_NAMES, ("train", "test"), ("data",))
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the images of an .npz file and their labels.

    Args:
        path: The file.
        key_choices: Sets of keys; the first set that the file has is read.

    Returns:
        Key -> uint8 images (N, C, H, W), and key -> int64 labels (N,) for keys with labels. Labels
        are read from `labels` for `data`, and from `train_labels` for `train`, and so on.

    Raises:
        DataError: The file cannot be read, or its images or labels have the wrong form.
    """
    content = read_npz(path)
    keys = next((choice for choice in key_choices if content.keys() >= {*choice}), None)
    if keys is None:
        raise DataError(f"{path}: has keys {', '.join(content)}; needs data, or train and test")

    images = {key: to_uint8(content[key], f"{path}, key {key!r}") for key in keys}
    valid_classes = range(sum(map(len, images.values())))
    labels = {}
    for key in keys:
        array = content.get("labels" if key == "data" else f"{key}_labels")
        if array is None:
            continue
        if array.shape != (len(images[key]),) or not np.isin(array, valid_classes).all():
            raise DataError(f"{path}: labels of {key!r}: each image needs one class, 0 or higher")
        labels[key] = array.astype(np.int64)
    return images, labels
