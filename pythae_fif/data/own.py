"""A user's own images: a folder, or an .npz file."""

__all__ = ["folder_of_images", "npz_file"]

from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.images import (
    SUFFIXES,
    decode_files,
    find_images,
    read_npz,
    to_labels,
    to_uint8,
)
from pythae_fif.data.source import Request, Source
from pythae_fif.data.splits import SPLIT_NAMES, Splits, hold_out, shuffled_split, sizes
from pythae_fif.errors import DataError

SHUFFLED = "shuffled 80/10/10 with seed 0"


def folder_of_images(request: Request) -> Source:
    """Every image below a folder; its subfolders train, test and perhaps val are the splits, if
    there. Below these, or the folder, subfolders are classes if every image is in one."""
    path = request.path
    present = [split for split in SPLIT_NAMES if (path / split).is_dir()]
    if present and not {"train", "test"} <= {*present}:
        raise DataError(
            f"folder: {path} has a subfolder {' and '.join(present)} only; "
            "needs train and test, perhaps val, or none of them"
        )
    names = find_images(path)
    if present:  # a split may be a link to a folder, which find_images does not follow
        names = sorted(f"{split}/{name}" for split in present for name in find_images(path / split))
    if not names:
        raise DataError(f"folder: {path} is no folder with images ({', '.join(SUFFIXES)}) below it")
    return Source(request, path, names, lambda: _read_folder(request, names, bool(present)))


def _read_folder(request: Request, names: list[str], by_subfolder: bool) -> Splits:
    side = request.side
    decoded = decode_files(
        request.path,
        names,
        image_size=side,
        skip_undecodable=request.options.skip_undecodable,
        progress=request.progress,
    )
    names, notes, how = decoded.names, decoded.notes, SHUFFLED
    if by_subfolder:  # no class comes first: a profile may cut to the first images
        order = np.random.RandomState(0).permutation(len(names))
        split_of = np.array([names[row].split("/", 1)[0] for row in order], str)
        # Train and test are there even without images: the error line then names them.
        of_names = [split for split in SPLIT_NAMES if split != "val" or split in split_of]
        index = {split: order[split_of == split] for split in of_names}
        how = "split by subfolder" + _held_out(index)
    else:
        index = shuffled_split(len(names))
    arrays: dict[str, Any] = {split: decoded.take(rows) for split, rows in index.items()}
    if all((of == of[:, :1]).all() for of in arrays.values()):
        arrays = {split: np.ascontiguousarray(of[:, :1]) for split, of in arrays.items()}
        notes.append("grey")
    classes = np.array([(name.split("/")[by_subfolder:-1] or [""])[0] for name in names], object)
    labels, note = _labels({split: classes[rows] for split, rows in index.items()})
    source = f"folder {request.path.name}, {side}x{side}, {how}, {sizes(arrays)}"
    notes += [note] if note else []
    return Splits("folder", **arrays, labels=labels, source=source, notes=tuple(notes))


def _labels(classes: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray] | None, str]:
    """Labels by subfolder, if every image is in one that has training images, and a note."""
    found = {name for of_split in classes.values() for name in of_split}
    known = sorted({*classes["train"]})
    if len(found) < 2:
        return None, ""
    if "" in found or not found <= {*known}:
        return None, "no labels: not every image is in a subfolder that has training images"
    number = {name: row for row, name in enumerate(known)}
    labels = {
        split: np.array([number[name] for name in of_split], np.int64)
        for split, of_split in classes.items()
    }
    shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
    return labels, f"{len(known)} classes by subfolder: {shown}"


def _held_out(parts: dict[str, np.ndarray]) -> str:
    """Takes the validation split out of the training one where there is none, and says so."""
    if "val" in parts or "train" not in parts:
        return ""
    count = len(parts["train"])
    order = np.random.RandomState(0).permutation(count)
    rows = np.split(order, [count - hold_out(count)])
    parts["train"], parts["val"] = (parts["train"][np.sort(of_split)] for of_split in rows)
    return f", val {len(rows[1])} of the training images by seed 0"


def npz_file(request: Request) -> Source:
    """An .npz file with keys train, test, perhaps val, and train_labels, or data and labels."""
    path = request.path
    files = [path.name] if path.is_file() else []
    return Source(request, path.parent, files, lambda: _read_npz(path))


def _read_npz(path: Path) -> Splits:
    content = read_npz(path)
    keys = {split: f"{split}_labels" for split in SPLIT_NAMES if split in content}
    if not {"train", "test"} <= keys.keys():
        keys = {"data": "labels"}
    if not keys.keys() <= content.keys():
        raise DataError(
            f"{path}: has keys {', '.join(content) or 'none'}; needs train and test, or data"
        )
    arrays: dict[str, Any] = {
        part: to_uint8(content[part], f"{path}, key {part!r}") for part in keys
    }
    labels = {
        part: to_labels(content[key], len(arrays[part]), f"{path}, key {key!r}")
        for part, key in keys.items()
        if key in content
    }
    if labels and (lacking := keys.keys() - labels.keys()):
        raise DataError(f"{path}: has labels of {', '.join(labels)}, but none of {lacking.pop()}")
    if "data" in arrays:
        index = shuffled_split(len(arrays["data"]))
        arrays = {split: arrays["data"][rows] for split, rows in index.items()}
        labels = labels and {split: labels["data"][rows] for split, rows in index.items()}
        how = SHUFFLED
    else:
        how = "split by key" + _held_out(arrays)
        _held_out(labels)
    source = f"npz {path.name}, {how}, {sizes(arrays)}"
    return Splits("npz", **arrays, labels=labels or None, source=source)
