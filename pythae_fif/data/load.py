"""A data set's name becomes training, validation and test images, which are cached on disk.

An entry of the cache is a folder of .npy files, which every process maps into its memory, with the
hashes of their content. The process of a command hashes the content anew. The processes of its runs
look at sizes and times of change, and hash what was changed since.
"""

__all__ = ["SOURCES", "load", "load_images", "open_splits"]

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.images import folder_of_images, npz_file
from pythae_fif.data.names import CACHE_VARIABLE, DataOptions, Request, cache_home
from pythae_fif.data.published import celeba, torchvision_set
from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits, by_sides
from pythae_fif.data.tables import table_file
from pythae_fif.errors import ConfigError, DataError, StoreError, did_you_mean
from pythae_fif.files import digest, locked, read_json, set_aside, stored, whole_folder, write_json
from pythae_fif.validation import read_checked

logger = logging.getLogger(__name__)

_PLAIN = ("name", "source", "partial", "notes")

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
    check: bool = True,
    **sizes: int | None,
) -> Splits:
    """The data of a command: found or downloaded, read, checked, hashed and cached.

    Args:
        name, options, image_size, crop: As of :func:`load_images`.
        progress: Called as ``progress(done, total)`` while images are decoded.
        check: Whether the content of the cache is hashed anew, even if no file was changed.
        sizes: `train_size`, `val_size`, `test_size`: how many of a split's first images are used.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, SOURCES)}")
    if (name in ("folder", "npz", "csv")) != (options.data is not None):
        raise ConfigError(f"data set {name!r}: folder, npz and csv need --data, and no others")
    request = Request(name, options, image_size or 64, crop or 148, progress)
    files, read = SOURCES[name](request)
    try:
        stats = {path: os.stat(path) for path in files}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if name in ("digits", "csv"):
        splits = read()
    else:
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
        key = digest(_VERSION, name, image_size, crop, *stamps)
        splits = _cached(key, lambda: _checked(read()), check=check)
    if image_size is not None and splits.input_dim[1:] != (image_size, image_size):
        raise ConfigError(f"image_size={image_size}: {name} has {by_sides(splits.input_dim)}")
    return splits.subset(**{split: sizes.get(f"{split}_size") for split in SPLIT_NAMES})


def open_splits(
    data_hash: str, labels_hash: str | None, name: str, options: DataOptions, **how: Any
) -> Splits:
    """The data of a run, which are those of its plan, without hashing what has not changed.

    `data_hash` and `labels_hash` are those of what :func:`load` gave to the command, the latter
    None if labels are not used; the rest is as there. Other data are a DataError.
    """
    splits = load(name, options, check=False, **how)
    if splits.content_hash != data_hash or labels_hash not in (None, splits.labels_hash):
        raise DataError(f"the data of {name} changed since the plan: start the command again")
    return splits


def _cached(key: str, build: Callable[[], Splits], *, check: bool) -> Splits:
    """The splits of a key: mapped from the cache, or built and stored there.

    An entry whose content is not what was written is set aside, with ``.corrupt`` appended to its
    name, and built anew. Where no cache can be written, a warning says so.
    """
    folder, built = cache_home() / "images" / key, None
    try:
        with stored(f"make {folder.parent}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if folder.exists():
                try:
                    return _mapped(folder, check)
                except Exception as error:  # NumPy and JSON raise many unrelated types
                    aside = set_aside(folder).name
                    logger.warning("%s cannot be used (%s): set aside as %s", folder, error, aside)
            built = build()
            with whole_folder(folder) as temporary:
                _write(temporary, built)
            return _mapped(folder, check=False)
    except StoreError as error:
        logger.warning("data are not cached (%s): choose another %s", error, CACHE_VARIABLE)
    return built or build()


def _stamps(folder: Path) -> list[list[int]]:
    """Size and time of change of each array."""
    return [[of.st_size, of.st_mtime_ns] for of in map(Path.stat, sorted(folder.glob("*.npy")))]


def _write(folder: Path, splits: Splits) -> None:
    for split in SPLIT_NAMES:
        np.save(folder / f"{split}.npy", splits[split])
        if splits.labels is not None:
            np.save(folder / f"{split}-labels.npy", splits.labels[split])
    about = {key: getattr(splits, key) for key in (*_PLAIN, "content_hash", "labels_hash")}
    write_json(folder / "about.json", {**about, "stamps": _stamps(folder)})


def _mapped(folder: Path, check: bool) -> Splits:
    """The splits of an entry; raises an error if it is not whole, or not what was written."""
    about: Any = read_json(folder / "about.json")
    # Plain arrays, of which none but this process sees what it may write into them.
    arrays: Any = {
        split: np.asarray(np.load(folder / f"{split}.npy", mmap_mode="c")) for split in SPLIT_NAMES
    }
    labels = None
    if about["labels_hash"]:
        labels = {split: np.load(folder / f"{split}-labels.npy") for split in SPLIT_NAMES}
    plain = {key: about[key] for key in _PLAIN} | {"notes": tuple(about["notes"])}
    splits = Splits(**plain, **arrays, labels=labels)
    if not check and _stamps(folder) == about["stamps"]:
        vars(splits)["content_hash"] = about["content_hash"]
    if (splits.content_hash, splits.labels_hash) != (about["content_hash"], about["labels_hash"]):
        raise ValueError("the content is not what was written")
    return splits


def _checked(splits: Splits) -> Splits:
    """With a note on test images that are also in training, where these are more than 1 %."""
    known = {hash(image.tobytes()) for image in splits.train}
    again = sum(hash(image.tobytes()) in known for image in splits.test)
    if again <= 0.01 * len(splits.test):
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
