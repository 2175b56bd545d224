"""Loads data sets by name as training, validation and test images, cached on disk."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pythae_fif.columns import Columns
from pythae_fif.data.cache import cached
from pythae_fif.data.catalog import find_dataset
from pythae_fif.data.sets import DATASETS
from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import SPLIT_NAMES, Splits
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.files import digest
from pythae_fif.names import TABLE_OPTIONS, DataOptions
from pythae_fif.validation import read_checked

DEFAULT_SIDE = 64
DEFAULT_CROP = 148
"""Sides in pixels of resized images, and of CelebA's centre crop."""

PLAIN_FIELDS = ("name", "source", "partial", "notes", "class_names")
"""Fields of :class:`Splits` that the cache holds as they are."""

CACHE_VERSION = 14
"""A part of the cache's keys: raise it when reading, decoding, cropping or splitting changes."""


class ExpectedHashes(NamedTuple):
    """Hashes of the data that a command has planned its runs for.

    Attributes:
        data_hash: Hash of the images.
        labels_hash: Hash of the labels; None if the run does not use them.
    """

    data_hash: str
    labels_hash: str | None


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
    downloaded if neither is there. Images of files are cached.

    Args:
        name: A built-in data set, or ``module:object`` for your own
            :class:`~pythae_fif.data.DataSource`.
        data_root: See :class:`~pythae_fif.names.DataOptions`.
        data: See :class:`~pythae_fif.names.DataOptions`.
        options: Further fields of ``DataOptions``.
        image_size: Side in pixels of ``celeba`` and ``folder`` images, 64 if None.
        crop: Side of the centred square of CelebA's 178 x 218 pixels, 148 if None. The code of
            Sorrenson et al. uses 140. Images in Pythae's layout are already cropped.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not what the name promises.
    """
    values = {
        "data_root": None if data_root is None else str(data_root),
        "data": None if data is None else str(data),
        **options,
    }
    return load(
        name,
        read_checked(DataOptions, values, "load_images"),
        image_size=image_size,
        crop=crop,
    )


def load(
    name: str,
    options: DataOptions,
    *,
    image_size: int | None = None,
    crop: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    planned: ExpectedHashes | None = None,
    **counts: int | None,
) -> Splits:
    """Loads the data of a command or of one of its runs.

    Args:
        name: See :func:`load_images`.
        options: The location of the data and how they are read.
        image_size: See :func:`load_images`.
        crop: See :func:`load_images`.
        progress: Called as ``progress(done, total)`` while images are decoded.
        planned: For a run, the hashes of the data that the command has planned for.
        counts: `train_size`, `val_size` and `test_size`: how many of a split's first images are
            used; all if None.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not those that were planned.
    """
    source = find_dataset(options.reader or name)
    _check_arguments(name, source, options, image_size, crop)
    request = DataRequest(name, options, image_size or DEFAULT_SIDE, crop or DEFAULT_CROP, progress)
    files, read = source.find(request)
    try:
        stats = [(path, os.stat(path)) for path in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    if not source.is_cached:
        splits = _with_warnings(read())
    else:
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        key = digest(CACHE_VERSION, name, image_size, crop, options.skip_broken, *stamps)
        packed = cached(
            f"{name}-{key}.pt",
            lambda: _pack(_with_warnings(read())),
            trusted=planned is not None,  # the command has checked the file
        )
        splits = _unpack(packed)

    splits = splits.subset(**{split: counts.get(f"{split}_size") for split in SPLIT_NAMES})
    if planned is not None:
        labels_hash = planned.labels_hash and splits.labels_hash
        if planned != (splits.content_hash, labels_hash):
            raise DataError(f"the data of {name} changed since the plan: start the command again")
    return splits


def _check_arguments(
    name: str, source: DataSource, options: DataOptions, image_size: int | None, crop: int | None
) -> None:
    """Raises a ConfigError for an argument that a data set needs or does not take."""
    if source.needs_path and options.data is None:
        raise ConfigError(f"data set {name!r} needs your folder or file: give its path as `data`")

    has_columns = any(getattr(options, name) for name in TABLE_OPTIONS)
    checks = [
        ("--data", options.data is not None, attrgetter("needs_path")),
        (f"image_size={image_size}", image_size is not None, attrgetter("takes_image_size")),
        (f"crop={crop}", crop is not None, attrgetter("takes_crop")),
        (", ".join(TABLE_OPTIONS), has_columns, attrgetter("takes_columns")),
    ]
    for argument, is_given, takes in checks:
        if is_given and not takes(source):
            takers = [key for key, candidate in DATASETS.items() if takes(candidate)]
            raise ConfigError(
                f"data set {name!r} does not take {argument}: it applies to {', '.join(takers)}"
            )


def _with_warnings(splits: Splits) -> Splits:
    """Adds notes if over 1 % of the test examples are in training or no pixel is above 1 of 255."""
    train_hashes = {hash(image.tobytes()) for image in splits.train}
    repeated = sum(hash(image.tobytes()) in train_hashes for image in splits.test)
    notes = [*splits.notes]
    if repeated > 0.01 * len(splits.test):
        notes.append(f"{repeated:,} of {len(splits.test):,} test examples are in training, too")
    if splits.columns is None and splits.train.max() < 2:
        notes.append("no pixel is above 1 of 255: images of 0 and 1 need 0 and 255")
    return replace(splits, notes=tuple(notes))


def _pack(splits: Splits) -> dict[str, Any]:
    """Returns the fields of splits as tensors and plain values for the cache."""
    plain = {key: getattr(splits, key) for key in (*PLAIN_FIELDS, "content_hash")}
    plain["columns"] = splits.columns and asdict(splits.columns)
    arrays = {"train": splits.train, "val": splits.val, "test": splits.test}
    arrays |= {f"{split}_labels": labels for split, labels in (splits.labels or {}).items()}
    plain["example_ids"] = {
        split: ids.tolist() for split, ids in (splits.example_ids or {}).items()
    }
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    return plain | tensors


def _unpack(packed: dict[str, Any]) -> Splits:
    """Returns the splits of a cached file."""
    arrays: Any = {split: packed[split].numpy() for split in SPLIT_NAMES}
    labels = None
    if "test_labels" in packed:
        labels = {split: packed[f"{split}_labels"].numpy() for split in SPLIT_NAMES}

    plain = {key: packed[key] for key in PLAIN_FIELDS}
    ids = {split: np.array(values) for split, values in packed["example_ids"].items()}
    return Splits(
        **plain,
        **arrays,
        labels=labels,
        columns=packed["columns"] and Columns(**packed["columns"]),
        example_ids=ids or None,
        cached_hash=packed["content_hash"],
    )
