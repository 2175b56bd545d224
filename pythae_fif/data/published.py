"""MNIST, CIFAR-10 and CelebA in each of their layouts, downloaded where they are missing."""

__all__ = ["AbsentError", "celeba", "torchvision_set"]

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pythae_fif.data.images import decode_files, find_images, read_npz, to_labels, to_uint8
from pythae_fif.data.locations import DATA_VARIABLE
from pythae_fif.data.source import CELEBA_SIZE, Request, Source
from pythae_fif.data.splits import SPLIT_NAMES, Splits, by_sides, hold_out, sizes
from pythae_fif.errors import DataError, one_line
from pythae_fif.files import locked

T = TypeVar("T")

_SIZES = {
    "mnist": "50000/10000/10000",
    "cifar10": "40000/10000/10000",
    "celeba": "162770/19867/19962",
}
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_FOLDERS = {
    "mnist": "MNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "celeba": "celeba/img_align_celeba",
}
_BY_HAND = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
}


class AbsentError(DataError):
    """A published data set that is not there; one line that says why, and what to do.

    Attributes:
        url: Where it is from.
    """

    def __init__(self, request: Request, reason: str) -> None:
        name, root = request.name, request.path
        self.url = _BY_HAND[name]
        super().__init__(
            f"{name}: neither {name}/train_data.npz and eval_data.npz nor a whole {_FOLDERS[name]} "
            f"is below {root} ({reason}): unpack {self.url} into {root / _FOLDERS[name]}, or name "
            f"a folder that has the data with --data-root or {DATA_VARIABLE}"
        )


def torchvision_set(request: Request) -> Source:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download.

    Raises:
        DataError: There is nothing to read, and it cannot be downloaded.
    """
    if npz := _pythae_npz(request, _SHAPES[request.name]):
        return npz
    folder = request.path / _FOLDERS[request.name]

    def parts(download: bool) -> list[Any]:
        from torchvision import datasets  # takes seconds to import

        kind = getattr(datasets, request.name.upper())
        return [kind(str(request.path), train=train, download=download) for train in (True, False)]

    def load() -> list[Any]:
        with contextlib.suppress(Exception):  # torchvision raises many unrelated types
            return parts(download=False)
        return _downloaded(request, lambda: parts(download=True))

    def read() -> Splits:
        parts = load()
        images = [to_uint8(np.asarray(part.data), str(folder)) for part in parts]
        labels = [np.asarray(part.targets, np.int64) for part in parts]
        return _with_validation(request.name, "torchvision layout", images, labels)

    if not folder.is_dir() or not any(folder.iterdir()):  # a failed download leaves an empty one
        load()
    files = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    return Source(request, folder, files, read)


def _downloaded(request: Request, build: Callable[[], T]) -> T:
    """What torchvision downloads and builds, by one process at a time."""
    try:
        if request.options.offline:
            raise FileNotFoundError("--offline forbids the download")
        request.path.mkdir(parents=True, exist_ok=True)
        with locked(request.path / request.name):
            return build()
    except Exception as error:  # torchvision and gdown raise many unrelated types
        raise AbsentError(request, one_line(error)) from error


def _pythae_npz(request: Request, shape: tuple[int, int, int]) -> Source | None:
    """Pythae's ``<root>/<name>/{train,eval}_data.npz``; None where neither file is there."""
    name, folder = request.name, request.path / request.name
    paths = [folder / f"{part}_data.npz" for part in ("train", "eval")]
    if not any(path.exists() for path in paths):
        return None

    def read() -> Splits:
        images, labels = [], []
        for path in paths:
            content = read_npz(path)
            if "data" not in content:
                raise DataError(f"{path}: has keys {', '.join(content) or 'none'}; needs 'data'")
            images.append(to_uint8(content["data"], f"{path}, key 'data'"))
            if images[-1].shape[1:] != shape:
                sides = by_sides(images[-1].shape[1:])
                raise DataError(f"{path}: images are {sides}, {name} needs {by_sides(shape)}")
            if "labels" in content:
                where = f"{path}, key 'labels'"
                labels.append(to_labels(content["labels"], len(images[-1]), where))
        both = labels if len(labels) == len(paths) else None
        return _with_validation(name, "Pythae npz layout", images, both)

    return Source(request, folder, [path.name for path in paths], read)


def _with_validation(
    name: str, layout: str, images: list[np.ndarray], labels: list[np.ndarray] | None
) -> Splits:
    """Holds validation images out of the first of two parts, training and test."""
    total = len(images[0])
    cut = total - hold_out(total)

    def three(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        return {"train": train[:cut], "val": train[cut:], "test": test}

    of_split = three(*labels) if labels else None
    splits = _splits(name, layout, three(*images), of_split)
    held = f"val is the last {total - cut} of {total} training images"
    return splits.with_notes(held) if splits.partial else splits


def _splits(
    name: str, layout: str, arrays: dict[str, Any], labels: dict[str, np.ndarray] | None = None
) -> Splits:
    """Splits of a published data set, marked as partial where they are not the whole of it."""
    partial = sizes(arrays) != _SIZES[name]
    title = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}[name]
    source = f"{title}, {layout}, {sizes(arrays)}"
    source += f"; partial (published: {_SIZES[name]})" if partial else ""
    return Splits(name, **arrays, labels=labels, source=source, partial=partial)


# ---------------------------------------------------------------- CelebA


def celeba(request: Request) -> Source:
    """CelebA, from Pythae's .npz layout, the official image folder, or a download.

    The folder needs celeba/img_align_celeba/ and celeba/list_eval_partition.txt (0 training,
    1 validation, 2 test), and none of the attribute files. From each face the centred square is cut
    that is the crop of the original's 178 pixels, at whatever resolution the files are, and
    resized.

    Raises:
        DataError: There is nothing to read, and it cannot be downloaded, or the folder lacks
            images that the partition lists.
    """
    if npz := _pythae_npz(request, (3, request.side, request.side)):
        return npz
    folder = request.path / "celeba/img_align_celeba"
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        _downloaded(request, lambda: _fetch_celeba(request.path))
    assigned = _read_partition(partition)
    names = [name for name in find_images(folder) if name in assigned]
    if len(names) < len(assigned):
        raise DataError(
            f"celeba: {folder} has {len(names):,} of the {len(assigned):,} images that {partition} "
            "lists: remove it to have it downloaded again, or the lines of absent images"
        )
    files = [partition.name, *(f"{folder.name}/{name}" for name in names)]
    return Source(
        request, folder.parent, files, lambda: _read_celeba(request, folder, names, assigned)
    )


def _fetch_celeba(root: Path) -> None:
    from torchvision.datasets import CelebA

    CelebA(str(root), download=True)


def _read_partition(path: Path) -> dict[str, int]:
    pairs = [line.split() for line in path.read_text("utf-8", "replace").splitlines()]
    for pair in pairs:
        if pair and (len(pair) != 2 or pair[1] not in ("0", "1", "2")):
            raise DataError(f"{path}: {' '.join(pair)!r}, needs a file and 0, 1 or 2")
    return {pair[0]: int(pair[1]) for pair in pairs if pair}


def _read_celeba(
    request: Request, folder: Path, names: list[str], assigned: dict[str, int]
) -> Splits:
    size, crop = request.side, request.crop_side
    decoded = decode_files(
        folder,
        names,
        image_size=size,
        crop=crop / CELEBA_SIZE[0],
        skip_undecodable=request.options.skip_undecodable,
        progress=request.progress,
    )
    width, height = decoded.sizes.T
    # A copy at another resolution rounds each side by half a pixel at most.
    wrong = np.flatnonzero(np.abs(height - width * (CELEBA_SIZE[1] / CELEBA_SIZE[0])) > 2)
    if len(wrong):
        raise DataError(
            f"celeba: {folder / decoded.names[wrong[0]]} is {by_sides(decoded.sizes[wrong[0]])} "
            "pixels, needs the aligned 178x218 or the same proportions; data set 'folder' (--data) "
            "takes other images"
        )
    codes = np.array([assigned[name] for name in decoded.names])
    arrays = {
        split: decoded.take(np.flatnonzero(codes == code)) for code, split in enumerate(SPLIT_NAMES)
    }
    layout = f"{size}x{size} of the central {crop}x{crop}, image folder"
    others = int((width != CELEBA_SIZE[0]).sum())
    notes = [f"{others} files at another resolution than 178x218"] if others else []
    splits = _splits("celeba", layout, arrays)
    return splits.with_notes(*decoded.notes, *notes, partial=others > 0)
