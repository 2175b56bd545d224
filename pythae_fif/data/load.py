"""A data set's name becomes training, validation and test images: one loader a data set."""

__all__ = ["load_images"]

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.arrays import read_npz, to_labels, to_uint8
from pythae_fif.data.images import Decoded, Progress, decode_files, find_images
from pythae_fif.data.locations import DATA_VARIABLE, data_home
from pythae_fif.data.names import DATASETS
from pythae_fif.data.splits import SPLIT_NAMES, Splits, by_sides, hold_out, shuffled_split, sizes
from pythae_fif.errors import ConfigError, DataError, did_you_mean

_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_PUBLISHED = {
    "mnist": "50000/10000/10000",
    "cifar10": "40000/10000/10000",
    "celeba": "162770/19867/19962",
}
_TORCHVISION = {"mnist": ("MNIST", "MNIST/raw"), "cifar10": ("CIFAR10", "cifar-10-batches-py")}

_CELEBA_SIZE = (178, 218)
# The usual CenterCrop(148) of the 178 x 218 files, as a fraction of the width, so that copies of
# the files at other resolutions give the same region of the face.
_CELEBA_CROP = 148 / 178


@dataclass(frozen=True)
class _Request:
    """What was asked of `load_images`; `path` is the data root, or the user's folder or file."""

    name: str
    path: Path
    image_size: int
    download: bool
    skip_undecodable: bool
    progress: Progress | None
    seed: int


def load_images(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    image_size: int | None = None,
    download: bool = True,
    skip_undecodable: bool = False,
    progress: Progress | None = None,
    seed: int = 0,
) -> Splits:
    """Loads a data set as uint8 images in three splits.

    MNIST, CIFAR-10 and CelebA are looked for below the data root, first in Pythae's layout
    (``<root>/<name>/train_data.npz`` and ``eval_data.npz``), then in torchvision's own, and are
    downloaded by torchvision if neither is there.

    Args:
        name: A key of ``DATASETS``.
        data_root: The folder to look in; None for the environment variable ``PYTHAE_FIF_DATA``,
            else ``~/.cache/pythae-fif/data``.
        data: Your folder or file, for ``folder`` and ``npz``, and for those only.
        image_size: Side in pixels that ``celeba`` and ``folder`` images are resized to (default
            64); the others keep the size they have.
        download: False to never reach for the network.
        skip_undecodable: Leave out the images of a folder that cannot be decoded, and count them
            in ``source``, instead of failing.
        progress: Called as ``progress(done, total)`` while a folder of images is decoded.
        seed: Seed of the 80/10/10 shuffle of ``folder`` and ``npz``; no other data set uses it.

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
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, DATASETS)}")
    of_user = name in ("folder", "npz")
    if of_user and data is None:
        raise ConfigError(f"data set {name!r} needs the path to your images (--data)")
    if not of_user and data is not None:
        raise ConfigError(
            f"data={str(data)!r} (--data) is for the data sets folder and npz, not for {name!r}"
        )
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size={image_size}: needs a positive number of pixels")
    if data is not None:
        path = Path(data).expanduser()
    else:
        path = Path() if name == "digits" else data_home(data_root)
    size = 64 if image_size is None else image_size
    request = _Request(name, path, size, download, skip_undecodable, progress, seed)
    splits = _LOADERS[name](request)
    if image_size is not None and splits.input_dim[1:] != (image_size, image_size):
        raise ConfigError(
            f"image_size={image_size}: {name} images are {by_sides(splits.input_dim[1:])}, "
            "and stay so; only celeba and folder are resized"
        )
    return splits


def _load_folder(request: _Request) -> Splits:
    """Every image below a folder; its subfolders train, val and test are the splits, if there."""
    path = request.path
    if not path.is_dir():
        raise DataError(f"folder: {path} is not a folder; needs a folder of images (--data)")
    present = [split for split in SPLIT_NAMES if (path / split).is_dir()]
    if 0 < len(present) < len(SPLIT_NAMES):
        raise DataError(
            f"folder: {path} has a subfolder {' and '.join(present)} only; "
            "needs train, val and test, or none of them"
        )
    names = everything = find_images(path)
    if present:
        # Listed one by one, for a split may be a link to a folder, which os.walk does not follow.
        names = sorted(f"{split}/{name}" for split in present for name in find_images(path / split))
    if not names:
        raise DataError(f"folder: no jpg, jpeg, png, webp or bmp images below {path}")
    decoded, notes = _decode(request, path, names)
    kept = decoded.kept
    if present:
        split_of = np.array([names[row].split("/", 1)[0] for row in kept])
        index = {split: kept[split_of == split] for split in SPLIT_NAMES}
        how = "split by subfolder"
        outside = len(set(everything) - set(names))
        if outside:
            notes.append(f"{outside} images outside train, val and test left out")
    else:
        index = {
            split: kept[rows] for split, rows in shuffled_split(len(kept), request.seed).items()
        }
        how = f"shuffled 80/10/10 with seed {request.seed}"
    arrays = {split: decoded.take(rows) for split, rows in index.items()}
    title = f"folder {path.name}, {request.image_size}x{request.image_size}, {how}"
    source = "; ".join([f"{title}, {sizes(arrays)}", *notes])
    return Splits("folder", **arrays, labels=None, source=source, partial=False)


def _load_npz(request: _Request) -> Splits:
    """An .npz file with keys train, val and test, or data and perhaps labels."""
    path, content = request.path, read_npz(request.path)
    labels = None
    if set(SPLIT_NAMES) <= set(content):
        arrays = to_uint8({split: content[split] for split in SPLIT_NAMES}, path)
        how = "split by key"
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
            f"{path}: has keys {', '.join(content) or 'none'}; needs train, val and test, or data"
        )
    source = f"npz {path.name}, {how}, {sizes(arrays)}"
    return Splits("npz", **arrays, labels=labels, source=source, partial=False)


def _decode(
    request: _Request, folder: Path, names: Sequence[str], crop: float = 1.0
) -> tuple[Decoded, list[str]]:
    """The images of a folder, and a note if some of them could not be decoded."""
    decoded = decode_files(
        folder, names, image_size=request.image_size, crop=crop, progress=request.progress
    )
    count = len(decoded.failed)
    if count and not request.skip_undecodable:
        raise DataError(
            f"{request.name}: {count} of {len(names)} images cannot be decoded, the first is "
            f"{folder / names[decoded.failed[0]]}; mend or remove them, or skip undecodable images"
        )
    return decoded, [f"{count} undecodable images left out"] if count else []


def _load_digits(request: _Request) -> Splits:
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


def _load_torchvision(request: _Request) -> Splits:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download."""
    name, root = request.name, request.path
    npz = _pythae_npz(request, _SHAPES[name])
    if npz is not None:
        return npz
    import torchvision  # takes seconds to import

    class_name, folder = _TORCHVISION[name]
    dataset = getattr(torchvision.datasets, class_name)

    def read(fetch: bool) -> list[Any]:
        return [dataset(str(root), train=train, download=fetch) for train in (True, False)]

    try:
        train, test = read(False)
    except Exception:  # torchvision raises many unrelated types on damaged files
        there = (root / folder).is_dir()
        damaged = [f"{folder} is there, but incomplete or damaged"] if there else []
        train, test = _download(request, f"{folder}/", lambda: read(True), damaged)
    images = to_uint8(
        {"train": np.asarray(train.data), "test": np.asarray(test.data)}, root / folder
    )
    labels = [np.asarray(train.targets), np.asarray(test.targets)]
    return _with_validation(name, "torchvision layout", list(images.values()), labels)


def _load_celeba(request: _Request) -> Splits:
    """CelebA, from Pythae's .npz layout, the official image folder, or a download.

    The folder needs celeba/img_align_celeba/ and celeba/list_eval_partition.txt (0 training,
    1 validation, 2 test), and none of the attribute files. The centred square of 148/178 of the
    width is cut from each face, at whatever resolution the files are, and resized.
    """
    root, size = request.path, request.image_size
    npz = _pythae_npz(request, (3, size, size))
    if npz is not None:
        return npz
    folder, partition = root / "celeba/img_align_celeba", root / "celeba/list_eval_partition.txt"
    if not _both("celeba", folder, partition):
        import torchvision  # takes seconds to import

        _download(
            request,
            "celeba/img_align_celeba/*.jpg with celeba/list_eval_partition.txt",
            lambda: torchvision.datasets.CelebA(str(root), split="all", download=True),
        )
    assigned = _read_partition(partition)
    present = find_images(folder)
    names = [name for name in present if name in assigned]
    decoded, notes = _decode(request, folder, names, _CELEBA_CROP)
    if len(names) < len(present):
        notes.append(f"{len(present) - len(names)} files that the partition lacks left out")
    if len(names) < len(assigned):
        notes.append(f"{len(assigned) - len(names)} files of the partition are absent")
    smaller = _check_celeba_sizes(folder, names, decoded)
    codes = np.array([assigned[names[row]] for row in decoded.kept], np.int64)
    arrays = {
        split: decoded.take(decoded.kept[codes == code]) for code, split in enumerate(SPLIT_NAMES)
    }
    title = f"CelebA {size}x{size}, image folder"
    return _published("celeba", title, arrays, None, [*notes, *smaller], lesser=bool(smaller))


_LOADERS: dict[str, Callable[[_Request], Splits]] = {
    "digits": _load_digits,
    "mnist": _load_torchvision,
    "cifar10": _load_torchvision,
    "celeba": _load_celeba,
    "folder": _load_folder,
    "npz": _load_npz,
}


def _pythae_npz(request: _Request, shape: tuple[int, int, int]) -> Splits | None:
    """``<root>/<name>/{train,eval}_data.npz``; None where neither file is there."""
    name, folder = request.name, request.path / request.name
    paths = {file: folder / f"{file}_data.npz" for file in ("train", "eval")}
    if not _both(name, *paths.values()):
        return None
    content = {file: read_npz(path) for file, path in paths.items()}
    for file, path in paths.items():
        if "data" not in content[file]:
            raise DataError(f"{path}: has keys {', '.join(content[file]) or 'none'}; needs 'data'")
    where = f"{folder}/{{train,eval}}_data.npz"
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
    return Splits(name, **arrays, labels=labels, source=source, partial=lesser or cut)


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
    expected = width * (_CELEBA_SIZE[1] / _CELEBA_SIZE[0])
    wrong = decoded.kept[np.abs(height - expected) > 2]
    if len(wrong):
        raise DataError(
            f"celeba: {folder / names[wrong[0]]} is {by_sides(decoded.sizes[wrong[0]])} pixels, "
            "needs the aligned 178x218 or the same proportions; data set 'folder' (--data) takes "
            "other images"
        )
    others = decoded.sizes[decoded.kept[width != _CELEBA_SIZE[0]]]
    first = f"(first {by_sides(others[0])})" if len(others) else ""
    return [f"{len(others)} files at another resolution than 178x218 {first}"] if first else []


def _both(name: str, *paths: Path) -> bool:
    """Whether two paths are there; one alone is a mistake to name, and no reason to download."""
    there = [path for path in paths if path.exists()]
    if len(there) == 1:
        (lacking,) = set(paths) - set(there)
        raise DataError(f"{name}: {there[0]} is there, but {lacking} is not; both are needed")
    return bool(there)


def _download(
    request: _Request, looked_for: str, fetch: Callable[[], Any], reasons: Sequence[str] = ()
) -> Any:
    """What `fetch` downloads, or, where it may not or cannot, one line that says what to do."""
    name, remedy, failure = request.name, "allow the download (no --offline)", None
    if request.download:
        try:
            return fetch()
        except Exception as error:  # torchvision raises many unrelated types
            text = " ".join(str(error).split())[:160]
            reasons, failure = [*reasons, f"the download failed ({text})"], error
            remedy = "connect to download it"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise DataError(
        f"{name}: neither {name}/train_data.npz and eval_data.npz nor {looked_for} could be read "
        f"below {request.path}{why}: {remedy}, "
        f"or name a folder that has one with --data-root or {DATA_VARIABLE}"
    ) from failure
