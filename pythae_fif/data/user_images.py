"""A user's images, a folder or an .npz file, as splits."""

__all__ = ["load_folder", "load_npz"]

from pathlib import Path

import numpy as np

from pythae_fif.data.arrays import read_npz, to_labels, to_uint8
from pythae_fif.data.images import Progress, decode_files, find_images, undecodable_note
from pythae_fif.data.splits import SPLIT_NAMES, Splits, shuffled_split, source_line, take
from pythae_fif.errors import DataError


def load_folder(
    path: Path,
    *,
    image_size: int,
    skip_undecodable: bool,
    progress: Progress | None,
    seed: int,
) -> Splits:
    """Every image below a folder, RGB, cropped to the centred square and resized.

    Args:
        path: The folder; its subfolders ``train``, ``val`` and ``test``, where it has all three,
            are the splits. Otherwise the sorted names are shuffled and cut 80/10/10.
        image_size: Side of the images in pixels.
        skip_undecodable: Leave undecodable files out instead of failing.
        progress: See ``decode_files``.
        seed: Seed of the shuffle.

    Returns:
        Splits without labels.

    Raises:
        DataError: No such folder, no images, one or two of the three subfolders, undecodable files.
    """
    if not path.is_dir():
        raise DataError(f"folder: {path} is not a folder; needs a folder of images (--data)")
    present = [split for split in SPLIT_NAMES if (path / split).is_dir()]
    if 0 < len(present) < len(SPLIT_NAMES):
        raise DataError(
            f"folder: {path} has a subfolder {' and '.join(present)} only; "
            "needs train, val and test, or none of them"
        )
    everything = find_images(path)
    # Listed one by one, for a split may be a link to a folder, which os.walk does not follow.
    groups = {split: find_images(path / split) for split in present}
    names = sorted(f"{split}/{name}" for split in present for name in groups[split])
    if not present:
        names = everything
    if not names:
        raise DataError(f"folder: no jpg, jpeg, png, webp or bmp images below {path}")
    decoded = decode_files(path, names, image_size=image_size, progress=progress)
    notes = undecodable_note("folder", path, names, decoded, skip_undecodable)
    kept = np.setdiff1d(np.arange(len(names)), decoded.failed)
    if present:
        split_of = np.array([names[row].split("/", 1)[0] for row in kept])
        index = {split: kept[split_of == split] for split in SPLIT_NAMES}
        how = "split by subfolder"
        outside = len(set(everything) - set(names))
        if outside:
            notes.append(f"{outside} images outside train, val and test left out")
    else:
        index = {split: kept[rows] for split, rows in shuffled_split(len(kept), seed).items()}
        how = f"shuffled 80/10/10 with seed {seed}"
    arrays = {split: take(decoded.images, rows) for split, rows in index.items()}
    title = f"folder {path.name}, {image_size}x{image_size}, {how}"
    source = source_line(title, arrays, notes)
    return Splits("folder", **arrays, labels=None, source=source, partial=False)


def load_npz(path: Path, *, seed: int) -> Splits:
    """Images from a user's .npz file.

    Args:
        path: The file, with keys ``train``, ``val`` and ``test``, or ``data`` (shuffled and cut
            80/10/10) and optionally ``labels`` beside it. See ``to_uint8`` for what images may be.
        seed: Seed of the shuffle.

    Returns:
        Splits, with labels if there are ``labels`` beside ``data``.

    Raises:
        DataError: The file is missing or damaged, or its keys, shapes or values are wrong.
    """
    content = read_npz(path)
    labels = None
    if set(SPLIT_NAMES) <= set(content):
        arrays = to_uint8({split: content[split] for split in SPLIT_NAMES}, path)
        how = "split by key"
    elif "data" in content:
        images = to_uint8({"data": content["data"]}, path)["data"]
        index = shuffled_split(len(images), seed)
        arrays = {split: images[rows] for split, rows in index.items()}
        if "labels" in content:
            whole = to_labels(content["labels"], len(images), f"{path}, key 'labels'")
            labels = {split: whole[rows] for split, rows in index.items()}
        how = f"shuffled 80/10/10 with seed {seed}"
    else:
        raise DataError(
            f"{path}: has keys {', '.join(content) or 'none'}; needs train, val and test, or data"
        )
    source = source_line(f"npz {path.name}, {how}", arrays, [])
    return Splits("npz", **arrays, labels=labels, source=source, partial=False)
