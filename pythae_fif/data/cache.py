"""Data sets on disk as arrays that every process maps into its memory, without a copy.

An entry is a folder of .npy files with the hashes of their content, named by a digest of the files
that they were read from and of what was asked. The process of a command hashes the content anew.
The processes of its runs look at sizes and times of change, and hash what was changed since.
"""

__all__ = ["cached_splits"]

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.data.splits import SPLIT_NAMES, Columns, Splits
from pythae_fif.errors import StoreError
from pythae_fif.files import locked, read_json, set_aside, stored, whole_folder, write_json

_log = logging.getLogger(__name__)

_PLAIN = ("name", "source", "partial", "notes")


def cached_splits(key: str, build: Callable[[], Splits], *, check: bool) -> Splits:
    """The splits of a key: mapped from the cache, or built and stored there.

    An entry whose content is not what was written is set aside, with ``.corrupt`` appended to its
    name, and built anew. Where no cache can be written, a warning says so.

    Args:
        key: Digest of all that defines the splits.
        build: Reads them.
        check: Whether to hash images whose files were not changed, too.
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
                    _log.warning("%s cannot be used (%s): set aside as %s", folder, error, aside)
            built = build()
            _write(folder, built)
            return _mapped(folder, check=False)
    except StoreError as error:
        _log.warning("data are not cached (%s): choose another %s", error, CACHE_VARIABLE)
    return built or build()


def _stamps(folder: Path) -> list[list[int]]:
    """Size and time of change of each array."""
    return [[of.st_size, of.st_mtime_ns] for of in map(Path.stat, sorted(folder.glob("*.npy")))]


def _write(folder: Path, splits: Splits) -> None:
    about = {key: getattr(splits, key) for key in (*_PLAIN, "content_hash", "labels_hash")}
    about["columns"] = splits.columns and asdict(splits.columns)
    with whole_folder(folder) as temporary:
        for split in SPLIT_NAMES:
            np.save(temporary / f"{split}.npy", splits[split])
            if splits.labels is not None:
                np.save(temporary / f"{split}-labels.npy", splits.labels[split])
        write_json(temporary / "about.json", {**about, "stamps": _stamps(temporary)})


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
    columns = about["columns"] and Columns(**about["columns"])
    splits = Splits(**plain, **arrays, labels=labels, columns=columns)
    if not check and columns is None and _stamps(folder) == about["stamps"]:
        vars(splits)["content_hash"] = about["content_hash"]
    if (splits.content_hash, splits.labels_hash) != (about["content_hash"], about["labels_hash"]):
        raise ValueError("the content is not what was written")
    return splits
