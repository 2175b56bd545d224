"""A data set's name becomes training, validation and test images."""

__all__ = ["SOURCES", "load", "load_images"]

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pythae_fif.data.arrays import read_npz, to_labels, to_uint8
from pythae_fif.data.cache import cached_splits
from pythae_fif.data.images import SUFFIXES, OnCount, find_images
from pythae_fif.data.names import AS_USUAL, TableOptions
from pythae_fif.data.published import celeba, torchvision_set
from pythae_fif.data.source import Request, Source, decode
from pythae_fif.data.splits import SPLIT_NAMES, Splits, hold_out, shuffled_split, sizes
from pythae_fif.data.tabular import read_user_table
from pythae_fif.errors import DataError


def load_images(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    image_size: int | None = None,
    crop: int | None = None,
    download: bool = True,
    skip_undecodable: bool = False,
    progress: OnCount | None = None,
    seed: int = 0,
    table: TableOptions = AS_USUAL,
) -> Splits:
    """Loads a data set as uint8 images in three splits, or a user's table as float32 rows.

    MNIST, CIFAR-10 and CelebA are looked for below the data root, first in Pythae's layout
    (``<root>/<name>/train_data.npz`` and ``eval_data.npz``), then in torchvision's own, and are
    downloaded if neither is there. What is read from files is cached as arrays that are mapped into
    memory (:mod:`pythae_fif.data.cache`): read-only, and shared by all processes.

    Args:
        name: One of ``DATASETS``.
        data_root: The folder to look in; None for the environment variable ``PYTHAE_FIF_DATA``,
            else ``~/.cache/pythae-fif/data``.
        data: Your folder or file, for ``folder``, ``npz`` and ``csv``, and for those only.
        image_size: Side in pixels that ``celeba`` and ``folder`` images are resized to (default
            64); the others keep the size they have.
        crop: Side of the centred square of CelebA's 178 x 218 pixels, 148 if None; 140 in the
            code of Sorrenson et al. Images in Pythae's layout are cropped already.
        download: False to never reach for the network.
        skip_undecodable: Leave out the images of a folder that cannot be decoded, and count them
            in ``source``, instead of failing.
        progress: Called as ``progress(done, total)`` while a folder of images is decoded.
        seed: Seed of the 80/10/10 shuffle of your own data; no other data set uses it.
        table: How ``csv`` is read.

    Returns:
        The splits.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not what the name promises.

    Example:
        >>> splits = load_images("digits")
        >>> splits.input_dim, splits.source
        ((1, 8, 8), 'digits of scikit-learn, 8x8, 1197/300/300')
    """
    return load(
        Request(
            name,
            data_root,
            data=data,
            image_size=image_size,
            crop=crop,
            download=download,
            skip_undecodable=skip_undecodable,
            progress=progress,
            seed=seed,
            table=table,
        )
    )


def load(request: Request) -> Splits:
    """The splits of a checked request; see :func:`load_images`."""
    source = SOURCES[request.name](request)
    splits = cached_splits(source.key(request), source.read) if source.files else source.read()
    request.check_size(splits.input_dim)
    return splits


def _folder(request: Request) -> Source:
    """Every image below a folder; its subfolders train, test and perhaps val are the splits, if
    there. Below these, or the folder, subfolders are classes if every image is in one."""
    path = request.path
    if not path.is_dir():
        raise DataError(f"folder: {path} is not a folder; needs a folder of images (--data)")
    present = [split for split in SPLIT_NAMES if (path / split).is_dir()]
    if present and not {"train", "test"} <= {*present}:
        raise DataError(
            f"folder: {path} has a subfolder {' and '.join(present)} only; "
            "needs train and test, perhaps val, or none of them"
        )
    names = everything = find_images(path)
    if present:
        # Listed one by one, for a split may be a link to a folder, which os.walk does not follow.
        names = sorted(f"{split}/{name}" for split in present for name in find_images(path / split))
    if not names:
        raise DataError(f"folder: no {', '.join(SUFFIXES)} images below {path}")
    outside = len(set(everything) - set(names))

    def read() -> Splits:
        return _read_folder(request, names, outside if present else None)

    return Source(path, names, read, len(names) * 3 * request.side**2)


def _read_folder(request: Request, names: list[str], outside: int | None) -> Splits:
    """The images of a folder; `outside` is how many are in no subfolder, None without these."""
    decoded, notes = decode(request, request.path, names)
    kept = decoded.kept
    if outside is not None:  # no class comes first: a profile may cut to the first images
        kept = np.random.RandomState(request.seed).permutation(kept)
        split_of = np.array([names[row].split("/", 1)[0] for row in kept], str)
        # Train and test are there even without images: the error line then names them.
        of_names = [split for split in SPLIT_NAMES if split != "val" or split in split_of]
        index = {split: kept[split_of == split] for split in of_names}
        how = "split by subfolder" + _held_out(index, request.seed)
        if outside:
            notes.append(f"{outside} images outside train, val and test left out")
    else:
        index = {
            split: kept[rows] for split, rows in shuffled_split(len(kept), request.seed).items()
        }
        how = f"shuffled 80/10/10 with seed {request.seed}"
    arrays = {split: decoded.take(rows) for split, rows in index.items()}
    if all((of == of[:, :1]).all() for of in arrays.values()):
        arrays = {split: np.ascontiguousarray(of[:, :1]) for split, of in arrays.items()}
        notes.append("grey")
    width, height = decoded.sizes[kept].T
    if others := int((width != height).sum()):
        notes.append(f"of {others} that are not square the centred square (an .npz keeps others)")
    labels, depth = None, 0 if outside is None else 1
    classes = [(name.split("/")[depth:-1] or [""])[0] for name in names]
    known = sorted({classes[row] for row in index["train"]})
    if len(known) > 1 and {*known} == {classes[row] for row in kept} and "" not in known:
        of_row = np.array([known.index(of) if of in known else -1 for of in classes], np.int64)
        labels = {split: of_row[rows] for split, rows in index.items()}
        shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        notes.append(f"{len(known)} classes by subfolder: {shown}")
    title = f"folder {request.path.name}, {request.side}x{request.side}, {how}"
    source = "; ".join([f"{title}, {sizes(arrays)}", *notes])
    return Splits("folder", **arrays, labels=labels, source=source, partial=False, columns=None)


def _held_out(parts: dict[str, np.ndarray], seed: int) -> str:
    """Takes the validation split out of the training one where there is none, and says so."""
    if "val" in parts:
        return ""
    count = len(parts["train"])
    order = np.random.RandomState(seed).permutation(count)
    rows = np.split(order, [count - hold_out(count)])
    parts["train"], parts["val"] = (parts["train"][np.sort(of_split)] for of_split in rows)
    return f", val {len(rows[1])} of the training images by seed {seed}"


def _npz(request: Request) -> Source:
    """An .npz file with keys train, test, perhaps val, and train_labels, or data and labels."""
    path = request.path
    if not path.is_file() or path.suffix in (".csv", ".tsv"):
        what = "a table (choose --dataset csv)" if path.is_file() else "no such file"
        what = "a folder (choose --dataset folder)" if path.is_dir() else what
        raise DataError(f"{path}: {what}, needs an .npz file")
    return Source(path.parent, [path.name], lambda: _read_npz(request), path.stat().st_size)


def _read_npz(request: Request) -> Splits:
    path, content = request.path, read_npz(request.path)
    labels = None
    if {"train", "test"} <= set(content):
        arrays = to_uint8({s: content[s] for s in SPLIT_NAMES if s in content}, path)
        keys = {split: f"{split}_labels" for split in arrays if f"{split}_labels" in content}
        if keys:
            if lacking := arrays.keys() - keys.keys():
                raise DataError(
                    f"{path}: has {', '.join(keys.values())}, but no {lacking.pop()}_labels"
                )
            labels = {
                split: to_labels(content[key], len(arrays[split]), f"{path}, key {key!r}")
                for split, key in keys.items()
            }
            _held_out(labels, request.seed)
        how = "split by key" + _held_out(arrays, request.seed)
    elif "data" in content:
        images = to_uint8({"data": content["data"]}, path)["data"]
        index = shuffled_split(len(images), request.seed)
        arrays = {split: images[rows] for split, rows in index.items()}
        if "labels" in content:
            whole = to_labels(content["labels"], len(images), f"{path}, key 'labels'")
            labels = {split: whole[rows] for split, rows in index.items()}
        how = f"shuffled 80/10/10 with seed {request.seed}"
    else:
        raise DataError(
            f"{path}: has keys {', '.join(content) or 'none'}; needs train and test, or data"
        )
    source = f"npz {path.name}, {how}, {sizes(arrays)}"
    return Splits("npz", **arrays, labels=labels, source=source, partial=False, columns=None)


def _table(request: Request) -> Source:
    """A user's table of numbers."""
    path = request.path
    size = path.stat().st_size if path.is_file() else 0

    def read() -> Splits:
        return read_user_table(path, request.seed, request.table)

    return Source(path.parent, [path.name] if size else (), read, size)


def _read_digits() -> Splits:
    """The 0..16 of scikit-learn's digits scaled to 0..255; the same test images for everyone."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    index = dict(zip(SPLIT_NAMES, np.split(order, [1197, 1497]), strict=True))
    return Splits(
        name="digits",
        **{split: images[rows] for split, rows in index.items()},
        labels={split: digits.target[rows].astype(np.int64) for split, rows in index.items()},
        source="digits of scikit-learn, 8x8, 1197/300/300",
    )


SOURCES: dict[str, Callable[[Request], Source]] = {
    "digits": lambda request: Source(request.path, (), _read_digits, 0),
    "mnist": torchvision_set,
    "cifar10": torchvision_set,
    "celeba": celeba,
    "folder": _folder,
    "npz": _npz,
    "csv": _table,
}
"""Name of a data set -> finds its files, and downloads them where they are missing."""
