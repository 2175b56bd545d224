"""A data set's name becomes training, validation and test images."""

__all__ = ["SOURCES", "absent", "load", "load_images", "open_splits"]

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.cache import cached_splits
from pythae_fif.data.images import folder_of_images, npz_file
from pythae_fif.data.names import DataOptions, Request
from pythae_fif.data.published import AbsentError, celeba, torchvision_set
from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits, by_sides
from pythae_fif.data.tables import table_file
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.files import digest

MANY = 0.01
"""Test images that may also be in training, as a fraction, before a note says so."""

# Part of the cache's keys: raise it when reading, decoding, cropping, resizing or splitting change.
_VERSION = 11


def load_images(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    image_size: int | None = None,
    crop: int | None = None,
    **options: Any,
) -> Splits:
    """Loads a data set as uint8 images in three splits, or a user's table as float32 rows.

    MNIST, CIFAR-10 and CelebA are looked for below the data root, first in Pythae's layout
    (``<root>/<name>/train_data.npz`` and ``eval_data.npz``), then in torchvision's own, and are
    downloaded if neither is there. What is read from files is cached.

    Args:
        name: One of ``DATASETS``.
        data_root, data, options: See :class:`~pythae_fif.data.names.DataOptions`.
        image_size: Side in pixels that ``celeba`` and ``folder`` images are resized to (default
            64); the others keep the size they have.
        crop: Side of the centred square of CelebA's 178 x 218 pixels, 148 if None; 140 in the
            code of Sorrenson et al. Images in Pythae's layout are cropped already.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not what the name promises.

    Example:
        >>> splits = load_images("digits")
        >>> splits.input_dim, splits.source
        ((1, 8, 8), 'digits of scikit-learn, 8x8, 1197/300/300')
    """
    root, path = (None if of is None else str(of) for of in (data_root, data))
    asked = DataOptions(data_root=root, data=path, **options)
    return load(name, asked, image_size=image_size, crop=crop)


def load(
    name: str,
    options: DataOptions,
    *,
    image_size: int | None = None,
    crop: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: bool = True,
    **sizes: int | None,
) -> Splits:
    """The data of a command: found or downloaded, read, checked, hashed and cached.

    Args:
        name, options, image_size, crop, progress: As of :class:`~pythae_fif.data.names.Request`.
        check: Whether the content of the cache is hashed anew, even if no file was changed.
        sizes: `train_size`, `val_size`, `test_size`: how many of a split's first images are used.

    Raises:
        ConfigError, DataError: As of :func:`load_images`.
    """
    request = Request(name, options, image_size or 64, crop or 148, progress)
    files, read = SOURCES[name](request)
    try:
        stats = {path: os.stat(path) for path in files}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if stats:
        asked = options.model_dump(exclude={"data_root", "offline"})
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
        key = digest(_VERSION, name, image_size, crop, asked, *stamps)
        splits = cached_splits(key, lambda: _checked(read()), check=check)
    else:
        splits = _checked(read())
    if image_size is not None and splits.input_dim[1:] != (image_size, image_size):
        found = by_sides(splits.input_dim)
        raise ConfigError(f"image_size={image_size}: {name} is {found}, and is not resized")
    return splits.subset(**{split: sizes.get(f"{split}_size") for split in SPLIT_NAMES})


def open_splits(
    data_hash: str, labels_hash: str | None, name: str, options: DataOptions, **how: Any
) -> Splits:
    """The data of a run, which are those of its plan, without hashing what has not changed.

    Args:
        data_hash: `content_hash` of what :func:`load` gave to the command.
        labels_hash: Its `labels_hash`; None if labels are not used.
        name, options, how: As of :func:`load`.

    Raises:
        DataError: The data are not those of the plan.
    """
    splits = load(name, options, check=False, **how)
    if splits.content_hash != data_hash or labels_hash not in (None, splits.labels_hash):
        raise DataError(f"the data of {name} changed since the plan: start the command again")
    return splits


def absent(name: str, options: DataOptions) -> AbsentError | None:
    """What :func:`load` would download first; None where all files are there. Nothing is read.

    Raises:
        ConfigError, DataError: As of :func:`load`, as far as that can be told.
    """
    request = Request(name, options.model_copy(update={"offline": True}))
    try:
        SOURCES[name](request)
    except AbsentError as error:
        if options.offline:
            raise
        return error
    return None


def _checked(splits: Splits) -> Splits:
    """With a note on test images that are also in training; labels must be classes."""
    if splits.columns is not None:  # rows of a table may well be alike
        return splits
    count = sum(len(splits[split]) for split in SPLIT_NAMES)
    if splits.classes is not None and splits.classes > count:
        raise DataError(
            f"{splits.name}: a label {splits.classes - 1:,} of {count:,} images: number the "
            "classes from 0"
        )
    known = {hash(image.tobytes()) for image in splits.train}
    again = sum(hash(image.tobytes()) in known for image in splits.test)
    if again <= MANY * len(splits.test):
        return splits
    note = f"{again:,} of {len(splits.test):,} test images are in training, too"
    return replace(splits, notes=(*splits.notes, note))


def _read_digits() -> Splits:
    """The 0..16 of scikit-learn's digits scaled to 0..255; the same test images for everyone."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    index = dict(zip(SPLIT_NAMES, np.split(order, [1197, 1497]), strict=True))
    arrays: Any = {split: images[rows] for split, rows in index.items()}
    labels = {split: digits.target[rows].astype(np.int64) for split, rows in index.items()}
    source = "digits of scikit-learn, 8x8, 1197/300/300"
    return Splits("digits", **arrays, labels=labels, source=source)


SOURCES: dict[str, Callable[[Request], Source]] = {
    "digits": lambda request: ([], _read_digits),
    "mnist": torchvision_set,
    "cifar10": torchvision_set,
    "celeba": celeba,
    "folder": folder_of_images,
    "npz": npz_file,
    "csv": table_file,
}
"""Name of a data set -> finds its files, and downloads them where they are missing."""
