"""Data sets on disk as arrays that every process maps into its memory, without a copy.

An entry is a folder of .npy files with the hash of their content, named by a digest of the files
that they were read from (folder, names, sizes, times of change) and of what was asked. The process
of a command checks the hash, by :func:`cached_splits`. The processes of its runs then ask for the
hash that their plan names, by :func:`open_splits`; they check the files' sizes and read nothing.
A pointer, `<hash of the images>-<hash of the labels>.json`, names the folder of each.
"""

__all__ = ["cached_splits", "is_cached", "open_splits", "remember"]

import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.columns import Columns
from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.data.splits import SPLIT_NAMES, Splits
from pythae_fif.errors import DataError, StoreError
from pythae_fif.files import (
    checksum,
    locked,
    read_json,
    require_writable,
    set_aside,
    whole_folder,
    write_json,
)

ABOUT = "about.json"

_log = logging.getLogger(__name__)


def cached_splits(key: str, build: Callable[[], Splits]) -> Splits:
    """The splits of a key: mapped from the cache, or built and stored there.

    Processes may do this at once; one builds while the others wait. An entry whose content is not
    what was written is set aside, with ``.corrupt`` appended to its name, and built anew. Where no
    cache can be written, a warning is logged and the work goes on without one.

    Args:
        key: Digest of all that defines the splits.
        build: Reads them.
    """
    folder = _home() / key
    found: Splits | None = None
    try:
        # before the lock: the cache may be one that is only read
        found = _verified(folder, alone=False)
        if found is None:
            require_writable(folder.parent, f"choose another cache with {CACHE_VARIABLE}")
            with locked(folder):
                found = _verified(folder, alone=True)
                if found is None:
                    found = build()
                    _write(folder, found)
                    found = _mapped(folder)
        write_json(_pointer(found), {"folder": key})
    except StoreError as error:
        _log.warning("decoded images are not cached: %s", error)
    return build() if found is None else found


def is_cached(key: str) -> bool:
    """Whether there is an entry of this key."""
    return (_home() / key).is_dir()


def remember(part: Splits, whole: Splits) -> None:
    """Lets :func:`open_splits` find the first images of splits that are in the cache.

    Args:
        part: ``whole.subset(...)``.
        whole: What `cached_splits` gave; if it is not in the cache nothing happens.
    """
    if part is whole or not _pointer(whole).is_file():
        return
    rows = {split: len(part[split]) for split in SPLIT_NAMES}
    try:
        write_json(_pointer(part), {"of": _pointer(whole).name, "rows": rows})
    except StoreError as error:
        _log.warning("runs will read the images anew: %s", error)


def open_splits(data_hash: str, labels_hash: str | None = None) -> Splits | None:
    """The splits of a plan, mapped from the cache, or None where they are not there.

    Args:
        data_hash: Their `content_hash`.
        labels_hash: Of their labels, where the plan names it. Without it the images must be there
            with one set of labels alone, as nobody knows which of several is meant.
    """
    hashes = (data_hash,) if labels_hash is None else (data_hash, labels_hash)
    if any(re.fullmatch("[0-9a-f]{16}", of) is None for of in hashes):  # they name a file
        return None
    found = [*_home().glob(f"{data_hash}-{labels_hash or '*'}.json")]
    return _opened(found[0]) if len(found) == 1 else None


def _opened(pointer: Path) -> Splits | None:
    """The splits that a pointer leads to; None where these are not there."""
    data_hash, target = pointer.name.partition("-")[0], read_json(pointer)
    try:
        if "of" not in target:
            found = _mapped(_home() / target["folder"])
            return found if found.content_hash == data_hash else None
        whole = _opened(_home() / target["of"])
        return whole and whole.subset(**target["rows"]).known_as(data_hash)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pointer(splits: Splits) -> Path:
    """The file that tells :func:`open_splits` where splits are."""
    return _home() / f"{splits.content_hash}-{splits.labels_hash}.json"


def _home() -> Path:
    return cache_home() / "images"


def _write(folder: Path, splits: Splits) -> None:
    arrays = {split: splits[split] for split in SPLIT_NAMES}
    arrays |= {f"{split}-labels": of_split for split, of_split in (splits.labels or {}).items()}
    with whole_folder(folder) as temporary:
        for name, array in arrays.items():
            with open(temporary / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        about = {
            "name": splits.name,
            "source": splits.source,
            "partial": splits.partial,
            "hash": splits.content_hash,
            "bytes": {path.name: path.stat().st_size for path in temporary.iterdir()},
            "labels": _checksums(temporary),
            "columns": splits.columns and asdict(splits.columns),
        }
        write_json(temporary / ABOUT, about)


def _checksums(folder: Path) -> dict[str, str]:
    """Of the labels, which are no part of the content's hash."""
    return {path.name: checksum(path) for path in sorted(folder.glob("*-labels.npy"))}


def _mapped(folder: Path) -> Splits:
    """The splits of an entry, whose files have the sizes that were written.

    Raises:
        OSError, ValueError, KeyError, TypeError: It is not whole.
    """
    about: Any = read_json(folder / ABOUT)
    for name, size in about["bytes"].items():
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{name} has not the {size} bytes that were written")

    def array(name: str) -> np.ndarray:
        # A plain array: what pickles it, as Ray does, need not know that it is mapped.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    labels = None
    if about["labels"]:  # small, and wanted as tensors that may be written to
        labels = {split: np.load(folder / f"{split}-labels.npy") for split in SPLIT_NAMES}
    splits = Splits(
        about["name"],
        **{split: array(split) for split in SPLIT_NAMES},
        labels=labels,
        source=about["source"],
        partial=about["partial"],
        columns=about["columns"] and Columns(**about["columns"]),
    )
    return splits.known_as(about["hash"])


def _verified(folder: Path, *, alone: bool) -> Splits | None:
    """The splits of an entry whose every byte was checked, or None.

    Who is alone with a damaged one sets it aside.
    """
    if not folder.exists():
        return None
    try:
        splits = _mapped(folder)
        if replace(splits).content_hash != splits.content_hash:
            raise ValueError("the images are not those that were written")
        if _checksums(folder) != read_json(folder / ABOUT)["labels"]:
            raise ValueError("the labels are not those that were written")
    except (FileNotFoundError, DataError, ValueError, KeyError, TypeError) as error:
        if alone:
            aside = set_aside(folder)
            _log.warning("%s cannot be used (%s): set aside as %s", folder, error, aside.name)
        return None
    except OSError as error:
        raise StoreError(f"{folder} cannot be read ({error.strerror})") from error
    return splits
