"""MNIST, CIFAR-10 and CelebA in each of their layouts, downloaded where they are missing."""

__all__ = ["Missing", "absent", "celeba", "missing", "torchvision_set"]

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.arrays import read_npz, to_labels, to_uint8
from pythae_fif.data.download import CELEBA, CELEBA_PAGE, fetch, unpack_images
from pythae_fif.data.images import Decoded, find_images
from pythae_fif.data.locations import DATA_VARIABLE
from pythae_fif.data.source import CELEBA_SIZE, SHAPES, Request, Source, decode
from pythae_fif.data.splits import SPLIT_NAMES, Splits, by_sides, hold_out, sizes
from pythae_fif.errors import DataError, one_line
from pythae_fif.files import checksum, locked

_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}
_PUBLISHED = {
    "mnist": "50000/10000/10000",
    "cifar10": "40000/10000/10000",
    "celeba": "162770/19867/19962",
}
_TORCHVISION = {"mnist": ("MNIST", "MNIST/raw"), "cifar10": ("CIFAR10", "cifar-10-batches-py")}

_TORCHVISION_DOWNLOADS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", 70_000_000),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 360_000_000),
}
"""Where torchvision downloads it from, and the bytes that it then takes, about."""

_CELEBA_FOLDER = "celeba/img_align_celeba"
_CELEBA_LIST = "celeba/list_eval_partition.txt"
_CELEBA_ZIP = "celeba/img_align_celeba.zip"


@dataclass(frozen=True)
class Missing:
    """What a published data set needs that is not there.

    Attributes:
        url: From where it would be downloaded; None if it is only to be unpacked.
        disk_bytes: What that and what is unpacked of it take on the disk, about.
        image_bytes: Size in memory of all images.
    """

    url: str | None
    disk_bytes: int
    image_bytes: int


def missing(request: Request) -> Missing | None:
    """What must be downloaded or unpacked of a published data set; None if it can be read."""
    name, root = request.name, request.path
    if name not in _PUBLISHED or any(
        (root / name / f"{part}_data.npz").exists() for part in ("train", "eval")
    ):
        return None
    if name == "celeba":
        lacking, there = _lacking_of_celeba(root), (root / _CELEBA_FOLDER).is_dir()
        if there and not lacking:
            return None
        unpacked = 0 if there else CELEBA[Path(_CELEBA_ZIP).name].size
        return Missing(
            CELEBA[lacking[0].name].url if lacking else None,
            sum(CELEBA[path.name].size for path in lacking) + unpacked,
            202_599 * 3 * request.side**2,
        )
    folder = _TORCHVISION[name][1]
    if _has_files(root / folder):
        return None
    url, disk_bytes = _TORCHVISION_DOWNLOADS[name]
    count = sum(map(int, _PUBLISHED[name].split("/")))
    size = count * math.prod(SHAPES[name])
    return Missing(url, disk_bytes, size)


def torchvision_set(request: Request) -> Source:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download."""
    name, root = request.name, request.path
    npz = _pythae_npz(request, SHAPES[name])
    if npz is not None:
        return npz
    class_name, below = _TORCHVISION[name]
    folder = root / below

    def load(download: bool) -> list[Any]:
        import torchvision  # takes seconds to import

        dataset = getattr(torchvision.datasets, class_name)
        return [dataset(str(root), train=train, download=download) for train in (True, False)]

    def fetch_it(*reasons: str) -> list[Any]:
        if not request.download:
            raise absent(request, *reasons)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with locked(root / name):  # torchvision looks again, and downloads where others read
                return load(download=True)
        except Exception as error:  # torchvision raises many unrelated types
            failure = f"the download failed: {one_line(error)}"
            raise absent(request, *reasons, failure) from error

    def read() -> Splits:
        try:
            train, test = load(download=False)
        except Exception:  # of a damaged file, too
            train, test = fetch_it(f"{folder} is there, but incomplete or damaged: remove it")
        arrays = {"train": np.asarray(train.data), "test": np.asarray(test.data)}
        labels = [np.asarray(train.targets), np.asarray(test.targets)]
        images = to_uint8(arrays, folder)
        return _with_validation(name, "torchvision layout", list(images.values()), labels)

    if not _has_files(folder):
        fetch_it()
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return Source(folder, [path.name for path in files], read, size)


def _has_files(folder: Path) -> bool:
    """Whether there is more than the empty folder that a failed download leaves."""
    return folder.is_dir() and any(folder.iterdir())


def celeba(request: Request) -> Source:
    """CelebA, from Pythae's .npz layout, the official image folder, or a download.

    The folder needs celeba/img_align_celeba/ and celeba/list_eval_partition.txt (0 training,
    1 validation, 2 test), and none of the attribute files; in place of the first,
    celeba/img_align_celeba.zip is unpacked. From each face the centred square is cut that is the
    crop of the original's 178 pixels, at whatever resolution the files are, and resized.

    Raises:
        DataError: There is nothing to read, or the folder lacks images that the partition lists.
    """
    root, size = request.path, request.side
    npz = _pythae_npz(request, (3, size, size))
    if npz is not None:
        return npz
    _fetch_celeba(request)
    folder, partition = root / _CELEBA_FOLDER, root / _CELEBA_LIST
    assigned = _read_partition(partition)
    present = find_images(folder)
    names = [name for name in present if name in assigned]
    if len(names) < len(assigned):
        raise DataError(
            f"celeba: {folder} has {len(names):,} of the {len(assigned):,} images that {partition} "
            f"lists: unpacked or copied in part? Remove it to have {_CELEBA_ZIP} unpacked again, "
            "or the lines of absent images from the list"
        )
    others = len(present) - len(names)
    notes = [f"{others} files that the partition lacks left out"] if others else []
    return Source(
        root,
        [_CELEBA_LIST, *(f"{_CELEBA_FOLDER}/{name}" for name in names)],
        lambda: _read_celeba(request, names, assigned, notes),
        len(names) * 3 * size**2,
    )


def _fetch_celeba(request: Request) -> None:
    """Downloads and unpacks what is missing of CelebA."""
    root, by_hand = request.path, _by_hand(request)
    folder, archive = root / _CELEBA_FOLDER, root / _CELEBA_ZIP
    lacking = _lacking_of_celeba(root)
    if lacking and not request.download:
        raise absent(request, *(f"{path} is missing" for path in lacking if len(lacking) == 1))
    if not lacking and folder.is_dir():
        return
    (root / "celeba").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for path in _lacking_of_celeba(root):
            fetch(CELEBA[path.name], path, by_hand, request.progress)
        if not folder.is_dir():
            if archive not in lacking and checksum(archive, "md5") != CELEBA[archive.name].md5:
                raise DataError(
                    f"{archive} has not MD5 checksum {CELEBA[archive.name].md5}: it is incomplete "
                    f"or another file; remove it, and if it cannot be downloaded {by_hand}"
                )
            unpack_images(archive, folder, request.progress)


def _lacking_of_celeba(root: Path) -> list[Path]:
    """The files to download."""
    archive = [] if (root / _CELEBA_FOLDER).is_dir() else [root / _CELEBA_ZIP]
    return [path for path in (root / _CELEBA_LIST, *archive) if not path.is_file()]


def _by_hand(request: Request) -> str:
    """What to fetch where the program cannot, and where to put it."""
    name, root = request.name, request.path
    if name == "celeba":
        what, url, place = " and ".join(CELEBA), CELEBA_PAGE, root / "celeba"
    elif name == "mnist":
        what, url, place = "the four files", _TORCHVISION_DOWNLOADS[name][0], root / "MNIST/raw"
    else:
        url, place = _TORCHVISION_DOWNLOADS[name][0], root
        what = url.rpartition("/")[2]
    return (
        f"fetch {what} by hand from {url} and put that into {place}, or name a folder that has the "
        f"data with --data-root or {DATA_VARIABLE}"
    )


def absent(request: Request, *reasons: str) -> DataError:
    """One line that says what to do where there are no data, and why they are not downloaded."""
    name = request.name
    if name == "celeba":
        looked_for = f"{_CELEBA_FOLDER}/*.jpg with {_CELEBA_LIST}"
    else:
        looked_for = f"{_TORCHVISION[name][1]}/"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    remedy = "" if request.download else "allow the download (no --offline), or "
    return DataError(
        f"{name}: neither {name}/train_data.npz and eval_data.npz nor {looked_for} could be read "
        f"below {request.path}{why}: {remedy}{_by_hand(request)}"
    )


def _read_celeba(
    request: Request, names: Sequence[str], assigned: dict[str, int], notes: Sequence[str]
) -> Splits:
    folder, size, crop = request.path / _CELEBA_FOLDER, request.side, request.crop_side
    decoded, undecodable = decode(request, folder, names, crop / CELEBA_SIZE[0])
    smaller = _check_celeba_sizes(folder, names, decoded)
    codes = np.array([assigned[names[row]] for row in decoded.kept], np.int64)
    arrays = {
        split: decoded.take(decoded.kept[codes == code]) for code, split in enumerate(SPLIT_NAMES)
    }
    title = f"CelebA {size}x{size} of the central {crop}x{crop}, image folder"
    notes = [*undecodable, *notes, *smaller]
    return _published("celeba", title, arrays, None, notes, lesser=bool(smaller))


def _pythae_npz(request: Request, shape: tuple[int, int, int]) -> Source | None:
    """``<root>/<name>/{train,eval}_data.npz``; None where neither file is there."""
    name, folder = request.name, request.path / request.name
    paths = {file: folder / f"{file}_data.npz" for file in ("train", "eval")}
    there = [path for path in paths.values() if path.exists()]
    if not there:
        return None
    if len(there) == 1:  # a mistake to name, and no reason to download
        (lacking,) = set(paths.values()) - set(there)
        raise DataError(f"{name}: {there[0]} is there, but {lacking} is not; both are needed")
    size = sum(path.stat().st_size for path in there)
    files = [path.relative_to(request.path).as_posix() for path in there]
    return Source(request.path, files, lambda: _read_pythae_npz(name, paths, shape), size)


def _read_pythae_npz(name: str, paths: dict[str, Path], shape: tuple[int, int, int]) -> Splits:
    content = {file: read_npz(path) for file, path in paths.items()}
    for file, path in paths.items():
        if "data" not in content[file]:
            raise DataError(f"{path}: has keys {', '.join(content[file]) or 'none'}; needs 'data'")
    where = f"{paths['train'].parent}/{{train,eval}}_data.npz"
    images = to_uint8({file: content[file]["data"] for file in paths}, where)
    for file, path in paths.items():
        if images[file].shape[1:] != shape:
            raise DataError(
                f"{path}: images are {by_sides(images[file].shape[1:])}, "
                f"{name} needs {by_sides(shape)}"
            )
    labels = None
    if all("labels" in content[file] for file in paths):
        labels = [
            to_labels(content[file]["labels"], len(images[file]), f"{path}, key 'labels'")
            for file, path in paths.items()
        ]
    return _with_validation(name, "Pythae npz layout", list(images.values()), labels)


def _with_validation(
    name: str, layout: str, images: list[np.ndarray], labels: list[np.ndarray] | None
) -> Splits:
    """Holds validation images out of the first of two parts, training and test."""
    total = len(images[0])
    cut = total - hold_out(total)

    def three(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        return {"train": train[:cut], "val": train[cut:], "test": test}

    of_split = None
    if labels is not None:
        of_split = {split: of.astype(np.int64) for split, of in three(*labels).items()}
    title = f"{_TITLES[name]}, {layout}"
    arrays = three(*images)
    partial = sizes(arrays) != _PUBLISHED[name]
    notes = [f"val is the last {total - cut} of {total} training images"] if partial else []
    return _published(name, title, arrays, of_split, notes)


def _published(
    name: str,
    title: str,
    arrays: dict[str, np.ndarray],
    labels: dict[str, np.ndarray] | None,
    notes: Sequence[str],
    lesser: bool = False,
) -> Splits:
    """Splits of a published data set, marked as partial where they are not the whole of it."""
    cut = sizes(arrays) != _PUBLISHED[name]
    published = [f"partial (published: {_PUBLISHED[name]})"] if cut else []
    source = "; ".join([f"{title}, {sizes(arrays)}", *published, *notes])
    return Splits(name, **arrays, labels=labels, source=source, partial=lesser or cut, columns=None)


def _read_partition(path: Path) -> dict[str, int]:
    assigned = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").split("\n"), 1):
        if match := re.fullmatch(r"\s*(\S+)\s+([012])\s*", line):
            assigned[match[1]] = int(match[2])
        elif line.strip():
            raise DataError(
                f"{path}, line {number}: {line.strip()!r}, needs a file name and 0, 1 or 2"
            )
    return assigned


def _check_celeba_sizes(folder: Path, names: Sequence[str], decoded: Decoded) -> list[str]:
    """A note if the files are not of the original size; an error if they are cropped already."""
    width, height = decoded.sizes[decoded.kept].T
    # A copy at another resolution rounds each side by half a pixel at most.
    expected = width * (CELEBA_SIZE[1] / CELEBA_SIZE[0])
    wrong = decoded.kept[np.abs(height - expected) > 2]
    if len(wrong):
        raise DataError(
            f"celeba: {folder / names[wrong[0]]} is {by_sides(decoded.sizes[wrong[0]])} pixels, "
            "needs the aligned 178x218 or the same proportions; data set 'folder' (--data) takes "
            "other images"
        )
    others = decoded.sizes[decoded.kept[width != CELEBA_SIZE[0]]]
    first = f"(first {by_sides(others[0])})" if len(others) else ""
    return [f"{len(others)} files at another resolution than 178x218 {first}"] if first else []
