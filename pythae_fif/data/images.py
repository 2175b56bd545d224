"""Reads images from a user's folder or .npz file, and decodes, crops and resizes image files."""

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import DataError, format_error, pluralized
from pythae_fif.files import check_regular_file

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_16_BITS = 65_535


def find_images(folder: Path) -> list[str]:
    """Returns the sorted paths, relative to ``folder``, of all files with one of `SUFFIXES` in it.

    Subfolders are searched. Hidden files and folders are left out, and links to folders are not
    followed.
    """
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    visible = {name: path for name, path in names.items() if "/." not in f"/{name}"}
    return sorted(name for name, path in visible.items() if not path.is_dir())


class DecodedImages(NamedTuple):
    """Images that were decoded from files.

    Attributes:
        images: uint8 (N, 3, S, S).
        indices: Indices (N,) of their files. Files that were left out are missing.
        notes: Lines on files that were left out or converted.
    """

    images: np.ndarray
    indices: np.ndarray
    notes: list[str]


def decode_files(
    folder: Path,
    names: Sequence[str],
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    crop: float = 1.0,
    skip_broken: bool = False,
) -> DecodedImages:
    """Decodes image files to RGB squares, as Pillow's ``convert("RGB")`` makes them.

    A centred square is cut and resized with Pillow's bilinear filter, with antialiasing. The
    square may begin between pixels. Transparent pixels show a white background, and channels of 16
    bits are reduced to 8.

    Args:
        folder: The folder of the files.
        names: Paths of the files, relative to the folder.
        image_size: Side S of the result in pixels.
        progress: Called as ``progress(done, total)`` after every file.
        crop: Side of the square as a fraction of the shorter side, in (0, 1].
        skip_broken: Whether files that cannot be decoded are left out.

    Returns:
        The images, in the order of their names.

    Raises:
        DataError: Files cannot be decoded; the message lists them.
    """
    from PIL import Image  # of the extra `benchmark`; Pythae installs it, too

    images = np.zeros((len(names), 3, image_size, image_size), np.uint8)
    errors: dict[int, str] = {}
    conversions: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            check_regular_file(folder / names[index])
            with Image.open(folder / names[index]) as file:
                image, conversions[index] = _convert_to_rgb(file)
            images[index] = _resize(image, image_size, crop)
        except Exception as error:  # Pillow's plugins raise a dozen unrelated types
            errors[index] = format_error(error)

    # Threads are enough: Pillow releases the interpreter lock while it decodes.
    with ThreadPool() as pool:
        for index, _ in enumerate(pool.imap(decode, range(len(names)), chunksize=64)):
            if progress is not None:
                progress(index + 1, len(names))

    notes = [
        f"{pluralized(count, 'image')} {conversion}"
        for conversion, count in Counter(conversions.values()).items()
        if conversion
    ]
    if errors:
        broken_files = [f"{names[index]} ({errors[index]})" for index in sorted(errors)]
        count = pluralized(len(errors), "file")
        if not skip_broken:
            raise DataError(
                f"{folder}: {count} cannot be decoded: {', '.join(broken_files)}; repair or remove "
                "them, or leave them out by --skip-broken"
            )
        notes.append(f"{count} that cannot be decoded left out: {', '.join(broken_files)}")

        if len(errors) == len(names):
            raise DataError(f"{folder}: no file can be decoded: {', '.join(broken_files)}")

    indices = np.array([index for index in range(len(names)) if index not in errors], int)
    return DecodedImages(images[indices] if errors else images, indices, notes)


def _convert_to_rgb(file: "Image") -> "tuple[Image, str]":
    """Converts an opened image to RGB; returns it and how it was converted, if a reader may ask."""
    from PIL import Image, ImageOps

    if file.mode == "F":  # Pillow would clip values above 255
        raise ValueError("mode F: convert it to 8 bits per channel")

    image = ImageOps.exif_transpose(file)
    if image.mode[0] == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > MAX_16_BITS:
            raise ValueError(f"mode {image.mode}: convert it to 8 bits per channel")
        eight_bits = (values * 255 / MAX_16_BITS).round().astype(np.uint8)
        return Image.fromarray(eight_bits).convert("RGB"), "of 16 bits reduced to 8 bits"

    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        lowest_alpha, _ = image.getchannel("A").getextrema()
        is_opaque = lowest_alpha == 255
        conversion = "" if is_opaque else "with transparent pixels shown on white"
        return Image.alpha_composite(background, image).convert("RGB"), conversion
    return image.convert("RGB"), ""


def _resize(image: "Image", image_size: int, crop: float) -> np.ndarray:
    """Returns the pixels (3, S, S) of the resized centre of an image."""
    from PIL.Image import Resampling

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
        Resampling.BILINEAR,
        box=(left - x, top - y, left - x + side, top - y + side),
    )
    return np.asarray(resized).transpose(2, 0, 1)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file, by key.

    Raises:
        DataError: The file is not an .npz file, or holds pickled objects.
    """
    try:
        check_regular_file(path)
        if not zipfile.is_zipfile(path):  # numpy would advise to open it as a pickle
            raise ValueError("it is not a zip archive of arrays")
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
