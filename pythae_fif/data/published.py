"""MNIST, CIFAR-10 and CelebA in each of their layouts, downloaded where they are missing."""

__all__ = ["absent", "celeba", "torchvision_set"]

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pythae_fif.data.images import decode_files, labelled, to_uint8
from pythae_fif.data.names import DATA_VARIABLE, DataOptions, Request, data_home
from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits, hold_out, sizes
from pythae_fif.errors import DataError, one_line
from pythae_fif.files import locked

_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}
_SIZES = {
    "mnist": "50000/10000/10000",
    "cifar10": "40000/10000/10000",
    "celeba": "162770/19867/19962",
}
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


def absent(name: str, options: DataOptions) -> DataError | None:
    """The error of a published data set that is not there: before any work."""
    root = data_home(options.data_root)
    folders = (name, _FOLDERS.get(name, ""))
    there = any(any((root / folder).glob("*")) for folder in folders)
    why = "--offline forbids the download" if options.offline else "it would be downloaded"
    return None if there or name not in _FOLDERS else _lacking(name, root, why)


def _lacking(name: str, root: Path, why: str) -> DataError:
    return DataError(
        f"{name}: no whole {root / _FOLDERS[name]} ({why}): unpack {_BY_HAND[name]} there, or "
        f"name a folder that has the data with --data-root or {DATA_VARIABLE}"
    )


def torchvision_set(request: Request) -> Source:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download."""
    if npz := _pythae_npz(request):
        return npz
    folder = request.path / _FOLDERS[request.name]

    def read() -> Splits:
        parts = _by_torchvision(request)
        images = _held_out([to_uint8(np.asarray(part.data), str(folder)) for part in parts])
        labels = _held_out([np.asarray(part.targets, np.int64) for part in parts])
        return _splits(request.name, "torchvision layout", images, labels)

    if not any(folder.glob("*")):  # a failed download leaves an empty one
        _by_torchvision(request)
    return sorted(folder.glob("*")), read


def _by_torchvision(request: Request) -> list[Any]:
    """Training and test part, of CelebA all in one; what is missing is downloaded first."""
    from torchvision import datasets  # takes seconds to import

    kind = getattr(datasets, _TITLES[request.name].replace("-", ""))
    parts: list[Any] = [{}] if request.name == "celeba" else [{"train": True}, {"train": False}]
    with contextlib.suppress(Exception):  # torchvision and gdown raise many unrelated types
        return [kind(str(request.path), **part) for part in parts]
    try:
        if request.options.offline:
            raise FileNotFoundError("--offline forbids the download")
        request.path.mkdir(parents=True, exist_ok=True)
        with locked(request.path / request.name):
            return [kind(str(request.path), download=True, **part) for part in parts]
    except Exception as error:
        raise _lacking(request.name, request.path, one_line(error)) from error


def _pythae_npz(request: Request) -> Source | None:
    """Pythae's ``<root>/<name>/{train,eval}_data.npz``; None where neither file is there."""
    paths = [request.path / request.name / f"{part}_data.npz" for part in ("train", "eval")]
    if not any(path.exists() for path in paths):
        return None

    def read() -> Splits:
        parts = [labelled(path, {"data": "labels"}) for path in paths]
        images = _held_out([of["data"] for of, _ in parts])
        labels = _held_out([of["data"] for _, of in parts]) if all(of for _, of in parts) else None
        return _splits(request.name, "Pythae npz layout", images, labels)

    return paths, read


def _held_out(parts: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Three parts of training and test part: the last training images are for validation."""
    train, test = parts
    cut = len(train) - hold_out(len(train))
    return {"train": train[:cut], "val": train[cut:], "test": test}


def _splits(
    name: str, layout: str, arrays: dict[str, Any], labels: dict[str, np.ndarray] | None = None
) -> Splits:
    """Splits of a published data set, marked as partial where they are not the whole of it."""
    partial = sizes(arrays) != _SIZES[name]
    source = f"{_TITLES[name]}, {layout}, {sizes(arrays)}"
    source += f"; partial (published: {_SIZES[name]})" if partial else ""
    return Splits(name, **arrays, labels=labels, source=source, partial=partial)


def celeba(request: Request) -> Source:
    """CelebA, from Pythae's .npz layout, the official image folder, or a download.

    The folder needs celeba/img_align_celeba/ and celeba/list_eval_partition.txt (0 training,
    1 validation, 2 test), and none of the attribute files.
    """
    side, crop = request.side, request.crop
    if npz := _pythae_npz(request):
        return npz
    folder = request.path / _FOLDERS["celeba"]
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        _by_torchvision(request)
    pairs = [line.split() for line in partition.read_text("utf-8").splitlines() if line.strip()]
    names = {
        split: sorted(name for name, of in pairs if of == str(code))
        for code, split in enumerate(SPLIT_NAMES)
    }

    def read() -> Splits:
        how = side, request.progress, crop / 178
        arrays = {split: decode_files(folder, of, *how) for split, of in names.items()}
        first = folder / names["train"][0]
        with Image.open(first) as image:
            if not math.isclose(image.width / image.height, 178 / 218, rel_tol=0.02):
                raise DataError(f"celeba: {first} is no image of 178 by 218 pixels")
        layout = f"{side}x{side} of the central {crop}x{crop}, image folder"
        return _splits("celeba", layout, arrays)

    return [partition, *(folder / name for of in names.values() for name in of)], read
