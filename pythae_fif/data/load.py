"""A data set's name becomes training, validation and test images, which are cached on disk."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pythae_fif.data.cache import cached
from pythae_fif.data.images import folder_of_images, npz_file
from pythae_fif.data.published import load_standard_dataset
from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits
from pythae_fif.data.tables import load_table
from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.files import digest
from pythae_fif.names import DataOptions, DataRequest
from pythae_fif.validation import read_checked

_PLAIN = ("name", "source", "partial", "notes")

# Part of the cache's keys: raise it when reading, decoding, cropping, resizing or splitting change.
_VERSION = 12


class ExpectedHashes(NamedTuple):
    """The data that a command has seen: hashes of images and of labels, None where not used."""

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
        name: One of ``DATASETS``.
        data_root, data, options: See :class:`~pythae_fif.names.DataOptions`.
        image_size: Side in pixels of ``celeba`` and ``folder`` images, 64 if None.
        crop: Side of the centred square of CelebA's 178 x 218 pixels, 148 if None; 140 in the
            code of Sorrenson et al. Images in Pythae's layout are cropped already.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not what the name promises.
    """
    root, path = (None if of is None else str(of) for of in (data_root, data))
    asked = read_checked(DataOptions, {"data_root": root, "data": path, **options}, "load_images")
    return load(name, asked, image_size=image_size, crop=crop)


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
    """The data of a command, or of one of its runs.

    Args:
        name, options, image_size, crop: See :func:`load_images`.
        progress: Called as ``progress(done, total)`` while images are decoded.
        planned: Of a run what the command has seen: other data are a DataError.
        counts: `train_size`, `val_size`, `test_size`: how many of a split's first images are used.
    """
    if name not in READERS:
        raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, READERS)}")
    if (name in ("folder", "npz", "csv")) != (options.data is not None):
        raise ConfigError(f"data set {name!r}: folder, npz and csv need --data, others take none")
    if image_size is not None and name not in ("folder", "celeba"):
        raise ConfigError(f"image_size={image_size}: what {name} holds has a size of its own")
    if name != "csv" and (options.label or options.columns or options.drop):
        raise ConfigError(f"data set {name!r}: label, columns and drop are of csv alone")
    if crop is not None and name != "celeba":
        raise ConfigError(f"crop={crop}: images of celeba alone are cropped")
    files, read = READERS[name](DataRequest(name, options, image_size or 64, crop or 148, progress))
    try:
        stats = [(path, os.stat(path)) for path in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if name in ("digits", "csv"):
        splits = _with_warnings(read())
    else:
        stamps = [(path, of.st_size, of.st_mtime_ns) for path, of in stats]
        file = f"{name}-{digest(_VERSION, name, image_size, crop, *stamps)}.pt"
        seen = planned is not None  # the command has checked the file
        splits = _unpacked(cached(file, lambda: _packed(_with_warnings(read())), trusted=seen))
    splits = splits.subset(**{split: counts.get(f"{split}_size") for split in SPLIT_NAMES})
    if planned and (splits.content_hash, planned.labels_hash and splits.labels_hash) != planned:
        raise DataError(f"the data of {name} changed since the plan: start the command again")
    return splits


def _with_warnings(splits: Splits) -> Splits:
    """Splits with a note where over 1 % of the test examples are also in training, or images are
    nearly black, as masks of 0 and 1 are."""
    known = {hash(image.tobytes()) for image in splits.train}
    again = sum(hash(image.tobytes()) in known for image in splits.test)
    notes = [*splits.notes]
    if again > 0.01 * len(splits.test):
        notes.append(f"{again:,} of {len(splits.test):,} test examples are in training, too")
    if splits.columns is None and splits.train.max() < 2:
        notes.append("no pixel is above 1 of 255: images of 0 and 1 need 0 and 255")
    return replace(splits, notes=tuple(notes))


def _packed(splits: Splits) -> dict[str, Any]:
    """Splits for the cache."""
    packed = {key: getattr(splits, key) for key in (*_PLAIN, "content_hash")}
    for split in SPLIT_NAMES:
        packed[split] = torch.from_numpy(np.ascontiguousarray(splits[split]))
        if splits.labels is not None:
            packed[f"{split}_labels"] = torch.from_numpy(splits.labels[split])
    return packed


def _unpacked(packed: dict[str, Any]) -> Splits:
    found = {key: of.numpy() for key, of in packed.items() if isinstance(of, torch.Tensor)}
    plain, labels = {key: packed[key] for key in _PLAIN}, None
    if "test_labels" in found:
        labels = {split: found[f"{split}_labels"] for split in SPLIT_NAMES}
    arrays: Any = {split: found[split] for split in SPLIT_NAMES}
    splits = Splits(**plain, **arrays, labels=labels)
    vars(splits)["content_hash"] = packed["content_hash"]
    return splits


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


def _table_file(request: DataRequest) -> Source:
    path, of = request.path, request.options
    return [path], lambda: load_table(path, columns=of.columns, drop=of.drop, label=of.label)


READERS: dict[str, Callable[[DataRequest], Source]] = {
    "digits": lambda request: ([], _read_digits),
    "mnist": load_standard_dataset,
    "cifar10": load_standard_dataset,
    "celeba": load_standard_dataset,
    "folder": folder_of_images,
    "npz": npz_file,
    "csv": _table_file,
}
"""Name of a data set -> finds its files, and downloads them where they are missing."""
