"""MNIST, CIFAR-10 and CelebA in each of their layouts, downloaded where they are missing."""

__all__ = ["AbsentError", "celeba", "torchvision_set"]

import contextlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.images import decode_files, find_images, read_npz, to_labels, to_uint8
from pythae_fif.data.locations import DATA_VARIABLE
from pythae_fif.data.source import CELEBA_SIZE, Request, Source
from pythae_fif.data.splits import SPLIT_NAMES, Splits, by_sides, hold_out, sizes
from pythae_fif.errors import DataError, one_line
from pythae_fif.files import locked

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
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (with its partition's list)",
}


class AbsentError(DataError):
    """A published data set that is not there; one line that says why, and what to do.

    Attributes:
        url: Where it is from.
    """

    def __init__(self, request: Request, reason: object) -> None:
        name, root = request.name, request.path
        self.url = _BY_HAND[name].split()[0]
        reason = "--offline forbids the download" if request.options.offline else reason
        super().__init__(
            f"{name}: neither {name}/train_data.npz and eval_data.npz nor a whole {_FOLDERS[name]} "
            f"is below {root} ({reason}): unpack {_BY_HAND[name]} into {root / _FOLDERS[name]}, or "
            f"name a folder that has the data with --data-root or {DATA_VARIABLE}"
        )


def torchvision_set(request: Request) -> Source:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download.

    Raises:
        DataError: There is nothing to read, and it cannot be downloaded.
    """
    name, root = request.name, request.path
    if npz := _pythae_npz(request, _SHAPES[name]):
        return npz
    folder = root / _FOLDERS[name]

    def load() -> list[Any]:
        from torchvision import datasets  # takes seconds to import

        def parts(download: bool) -> list[Any]:
            kind = getattr(datasets, name.upper())
            return [kind(str(root), train=train, download=download) for train in (True, False)]

        try:
            with contextlib.suppress(Exception):  # torchvision raises many unrelated types
                return parts(download=False)
            if request.options.offline:
                raise FileNotFoundError(folder)
            root.mkdir(parents=True, exist_ok=True)
            with locked(root / name):  # torchvision downloads where others read
                return parts(download=True)
        except Exception as error:
            raise AbsentError(request, one_line(error)) from error

    def read() -> Splits:
        parts = load()
        images = [to_uint8(np.asarray(part.data), str(folder)) for part in parts]
        labels = [np.asarray(part.targets, np.int64) for part in parts]
        return _with_validation(name, "torchvision layout", images, labels)

    if not folder.is_dir() or not any(folder.iterdir()):  # a failed download leaves an empty one
        load()
    files = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    return Source(folder, files, read)


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

    return Source(folder, [path.name for path in paths], read)


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
    1 validation, 2 test), and none of the attribute files; in place of the first,
    celeba/img_align_celeba.zip is unpacked. From each face the centred square is cut that is the
    crop of the original's 178 pixels, at whatever resolution the files are, and resized.

    Raises:
        DataError: There is nothing to read, and it cannot be downloaded, or the folder lacks
            images that the partition lists.
    """
    if npz := _pythae_npz(request, (3, request.side, request.side)):
        return npz
    folder = request.path / "celeba/img_align_celeba"
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        _fetch_celeba(request, folder, partition)
    assigned = _read_partition(partition)
    present = find_images(folder)
    names = [name for name in present if name in assigned]
    if len(names) < len(assigned):
        raise DataError(
            f"celeba: {folder} has {len(names):,} of the {len(assigned):,} images that {partition} "
            "lists: remove it to have it unpacked again, or the lines of absent images"
        )
    others = len(present) - len(names)

    def read() -> Splits:
        splits = _read_celeba(request, folder, names, assigned)
        left_out = f"{others} files that the partition lacks left out"
        return splits.with_notes(left_out) if others else splits

    files = [partition.name, *(f"{folder.name}/{name}" for name in names)]
    return Source(folder.parent, files, read)


def _fetch_celeba(request: Request, folder: Path, partition: Path) -> None:
    """Downloads and unpacks what is missing; a file with the right checksum is not missing."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import check_integrity, download_file_from_google_drive

    archive = folder.with_suffix(".zip")
    missing = [partition] * (not partition.is_file()) + [archive] * (not folder.is_dir())
    files = {name: (drive_id, md5) for drive_id, md5, name in CelebA.file_list}
    try:
        if request.options.offline:
            missing = [path for path in missing if not check_integrity(path, files[path.name][1])]
            if missing:
                raise FileNotFoundError(missing[0])
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for path in missing:
                drive_id, md5 = files[path.name]
                download_file_from_google_drive(drive_id, folder.parent, path.name, md5)
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
                    zipfile.ZipFile(archive).extractall(unpacked)
                    os.replace(Path(unpacked, folder.name), folder)
    except Exception as error:  # torchvision and gdown raise many unrelated types
        raise AbsentError(request, one_line(error)) from error


def _read_partition(path: Path) -> dict[str, int]:
    assigned = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        match line.split():
            case [name, "0" | "1" | "2" as code]:
                assigned[name] = int(code)
            case [_, *_]:
                raise DataError(f"{path}, line {number}: {line!r}, needs a file and 0, 1 or 2")
    return assigned


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
