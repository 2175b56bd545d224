"""Data sets on disk as arrays that every process maps into its memory, without a copy.

An entry is a folder of .npy files with the hashes of their content, named by a digest of the files
that they were read from and of what was asked. The process of a command hashes the content anew.
The processes of its runs look at sizes and times of change, and hash what was changed since.
"""

__all__ = ["cached_splits"]

import contextlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.data.splits import SPLIT_NAMES, Columns, Splits
from pythae_fif.errors import DataError, StoreError
from pythae_fif.files import locked, read_json, set_aside, stored, whole_folder, write_json

_log = logging.getLogger(__name__)

_DAMAGE = (OSError, EOFError, DataError, ValueError, KeyError, TypeError)


def cached_splits(key: str, build: Callable[[], Splits], *, check: bool = True) -> Splits:
    """The splits of a key: mapped from the cache, or built and stored there.

    Processes may do this at once; one builds while the others wait. An entry whose content is not
    what was written is set aside, with ``.corrupt`` appended to its name, and built anew. Where no
    cache can be written, a warning is logged and the work goes on without one.

    Args:
        key: Digest of all that defines the splits.
        build: Reads them.
        check: Whether to hash images whose files were not changed, too.
    """
    folder = cache_home() / "images" / key
    with contextlib.suppress(*_DAMAGE):  # before the lock: the cache may be one that is only read
        return _mapped(folder, check)
    built: Splits | None = None
    try:
        with stored(f"make {folder.parent}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if folder.exists():
                try:
                    return _mapped(folder, check)  # another process has built it
                except _DAMAGE as error:
                    aside = set_aside(folder).name
                    _log.warning("%s cannot be used (%s): set aside as %s", folder, error, aside)
            built = build()
            _write(folder, built)
            return _mapped(folder, check=False)
    except StoreError as error:
        _log.warning("data are not cached (%s): choose another %s", error, CACHE_VARIABLE)
    return build() if built is None else built


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of each array."""
    found = {path.name: path.stat() for path in folder.glob("*.npy")}
    return {name: [of.st_size, of.st_mtime_ns] for name, of in found.items()}


def _write(folder: Path, splits: Splits) -> None:
    arrays = {split: splits[split] for split in SPLIT_NAMES}
    arrays |= {f"{split}-labels": of_split for split, of_split in (splits.labels or {}).items()}
    about = {
        "name": splits.name,
        "source": splits.source,
        "partial": splits.partial,
        "columns": splits.columns and asdict(splits.columns),
        "notes": splits.notes,
    }
    with whole_folder(folder) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        hashes = {"content_hash": splits.content_hash, "labels_hash": splits.labels_hash}
        stamps = _stamps(temporary)
        write_json(temporary / "about.json", {"splits": about, **hashes, "stamps": stamps})


def _mapped(folder: Path, check: bool) -> Splits:
    """The splits of an entry. Images are hashed if that is asked, or if their files were changed.

    Raises:
        OSError, ValueError, KeyError, TypeError: It is not whole, or not what was written.
    """
    about: Any = read_json(folder / "about.json")
    # Plain arrays: what pickles them, as Ray does, need not know that they are mapped.
    arrays: Any = {
        split: np.asarray(np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False))
        for split in SPLIT_NAMES
    }
    labels = None
    if about["labels_hash"]:  # small, and wanted as tensors that may be written to
        labels = {split: np.load(folder / f"{split}-labels.npy") for split in SPLIT_NAMES}
    how = {**about["splits"], "notes": tuple(about["splits"]["notes"])}
    how["columns"] = how["columns"] and Columns(**how["columns"])
    splits = Splits(**how, **arrays, labels=labels)
    if splits.labels_hash != about["labels_hash"]:
        raise ValueError("the labels are not those that were written")
    if not check and splits.columns is None and _stamps(folder) == about["stamps"]:
        vars(splits)["content_hash"] = about["content_hash"]
    elif splits.content_hash != about["content_hash"]:
        raise ValueError("the images are not those that were written")
    return splits
