"""Images from files: found, decoded in parallel, cropped and resized; a user's folder and .npz."""

import math
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits, sizes, split_train_val_test
from pythae_fif.errors import DataError, format_error
from pythae_fif.names import DataRequest

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_images(folder: Path) -> list[str]:
    """Sorted paths, relative to ``folder``, of all below it that ends in one of `SUFFIXES`. What is
    hidden is passed over; a link to a folder further down is not followed."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = (path.relative_to(folder).as_posix() for path in paths if not path.is_dir())
    return sorted(name for name in names if not f"/{name}".count("/."))


def decode_files(
    folder: Path,
    names: Sequence[str],
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
    crop: float = 1.0,
) -> np.ndarray:
    """Decodes image files to RGB squares, as Pillow's ``convert("RGB")`` makes them.

    A centred square, which may begin between pixels, is cut and resized with Pillow's bilinear
    filter, with antialiasing.

    Args:
        folder, names: The N files.
        image_size: Side S of the result in pixels.
        progress: Called as ``progress(done, total)`` all along.
        crop: Side of the square as a fraction of the shorter side, in (0, 1].

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        DataError: Files are grey of more than 8 bits or are damaged.
    """
    images = np.zeros((len(names), 3, image_size, image_size), np.uint8)

    def work(index: int) -> None:
        path = folder / names[index]
        try:
            images[index] = _decode(path, image_size, crop)
        except Exception as error:  # Pillow's plugins raise a dozen unrelated types
            raise DataError(f"{path}: cannot be decoded ({format_error(error)})") from error

    # Threads and not processes: Pillow lets go of the interpreter lock while it decodes.
    with ThreadPool() as pool:
        for index, _ in enumerate(pool.imap(work, range(len(names)), chunksize=64)):
            if progress is not None:
                progress(index + 1, len(names))
    return images


def _decode(path: Path, image_size: int, crop: float) -> np.ndarray:
    """Pixels (3, S, S); any error if it cannot be decoded."""
    with Image.open(path) as file:
        if file.mode[0] in "IF":  # Pillow would cut them off at 255
            raise ValueError(f"mode {file.mode}, needs 8 bits a channel: convert it")
        image = ImageOps.exif_transpose(file).convert("RGB")
    width, height = image.size
    # Rounded, so that 148 / 178 of 178 is 148 and not a hair more, which would round up below.
    side = round(crop * min(width, height), 6)
    left, top = (width - side) / 2, (height - side) / 2
    # Cut to whole pixels first: resize alone would let the filter reach outside of the square.
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(left + side), math.ceil(top + side))).resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,
        box=(left - x, top - y, left - x + side, top - y + side),
    )
    return np.asarray(image).transpose(2, 0, 1)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, by key; a DataError if it is none or holds pickled objects."""
    try:
        with np.load(path) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # of a header that claims more than there is, a MemoryError
        raise DataError(f"{path}: not a readable .npz file ({format_error(error)})") from error


def to_uint8(array: np.ndarray, where: str) -> np.ndarray:
    """Images (N, C, H, W), (N, H, W, C) or (N, H, W) of uint8 or floats in [0, 1], as uint8
    (N, C, H, W); for others a DataError that begins with `where`.

    A four-dimensional array with 1 or 3 at its second place is N x C x H x W.
    """
    images = array[:, None] if array.ndim == 3 else array
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        needed = "N x C x H x W or N x H x W x C with C = 1 or 3, or N x H x W"
        raise DataError(f"{where}: shape {array.shape}, needs {needed}")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    low, high = (images.min(), images.max()) if images.dtype.kind in "biuf" else (np.nan, np.nan)
    if images.dtype.kind != "f" or not (low >= 0 and high <= 1):
        found = f"{images.dtype} from {low} to {high}"
        raise DataError(f"{where}: {found}, needs uint8, or floats in [0, 1]")
    return np.rint(images * 255.0).astype(np.uint8)


def read_labelled_npz(
    path: Path, choices: Sequence[Sequence[str]] = (SPLIT_NAMES, ("train", "test"), ("data",))
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The images of an .npz file, by the first choice of keys that are there, such as `data`; and
    their int64 labels, of `train_labels` or `labels`, if any."""
    content = read_npz(path)
    keys = next((keys for keys in choices if content.keys() >= {*keys}), None)
    if keys is None:
        raise DataError(f"{path}: has keys {', '.join(content)}; needs data, or train and test")
    images = {key: to_uint8(content[key], f"{path}, key {key!r}") for key in keys}
    found = {key: content.get("labels" if key == "data" else f"{key}_labels") for key in keys}
    labels = {key: of for key, of in found.items() if of is not None}
    count = sum(map(len, images.values()))
    for key, of in labels.items():
        if of.shape != (len(images[key]),) or not np.isin(of, range(count)).all():
            raise DataError(f"{path}: labels of {key!r}, needs a class from 0 on of each image")
    return images, {key: of.astype(np.int64) for key, of in labels.items()}


def npz_file(request: DataRequest) -> Source:
    """A user's .npz file, see :func:`read_labelled_npz`."""

    def read() -> Splits:
        images, known = read_labelled_npz(request.path)
        arrays, whole = split_train_val_test(images), len(known) == len(images)
        labels = split_train_val_test(known) if whole else None
        notes = () if whole or not known else (f"no labels: only {', '.join(known)} has some",)
        source = f"npz {request.path.name}, {sizes(arrays)}"
        return Splits("npz", **arrays, labels=labels, source=source, notes=notes)

    return [request.path], read


def folder_of_images(request: DataRequest) -> Source:
    """Every image below a folder; its subfolders train, test and perhaps val are the splits, if
    there. Below these, or the folder, subfolders are classes if every image is in one."""
    path = request.path
    folders = [part.name for part in path.glob("*") if part.is_dir()]
    present = {name.lower(): name for name in sorted(folders) if name.lower() in SPLIT_NAMES}
    if present and not {"train", "test"} <= {*present}:
        raise DataError(f"folder: {path} has {[*present]}, needs train and test, or none of them")
    # a split may be a link to a folder, which find_images does not follow
    below = ((part, of) for part in present.values() or [""] for of in find_images(path / part))
    names = sorted(Path(part, of).as_posix() for part, of in below)
    if not names:
        raise DataError(f"folder: {path} is no folder with images ({', '.join(SUFFIXES)}) below it")

    def read() -> Splits:
        parts = {"data": np.array(names)}
        if present:  # no class comes first: a profile may cut to the first images
            shuffled = parts["data"][np.random.RandomState(0).permutation(len(names))]
            split_of = np.array([name.split("/", 1)[0] for name in shuffled])
            parts = {split: shuffled[split_of == name] for split, name in present.items()}
        of_splits, labels = split_train_val_test(parts), None
        how = request.side, request.progress
        arrays: Any = {split: decode_files(path, of, *how) for split, of in of_splits.items()}
        if all((image == image[:1]).all() for of in arrays.values() for image in of):
            arrays = {split: of[:, :1] for split, of in arrays.items()}
        classes = {
            split: [(name.split("/")[bool(present) : -1] or [""])[0] for name in of]
            for split, of in of_splits.items()
        }
        known, notes = sorted(set().union(*classes.values())), []
        if len(known) > 1 and "" not in known and {*known} == {*classes["train"]}:
            labels = {split: np.searchsorted(known, of) for split, of in classes.items()}
        elif len(known) > 1:
            notes = ["no labels: not every image is in a subfolder that has training images"]
        others = {*folders} - {*present.values()}
        if present and (unread := sorted(name for name in others if name[0] != ".")):
            notes.append(f"not read: {', '.join(unread)}")
        source = f"folder {path.name}, {request.side}x{request.side}, {sizes(arrays)}"
        return Splits("folder", **arrays, labels=labels, source=source, notes=tuple(notes))

    return [path / name for name in names], read
