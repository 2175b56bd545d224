"""One loader a published data set: from files below the data root, or a download, to splits."""

__all__ = ["load_celeba", "load_digits", "load_torchvision"]

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pythae_fif.data.arrays import read_npz, to_labels, to_uint8
from pythae_fif.data.images import Decoded, Progress, decode_files, find_images, undecodable_note
from pythae_fif.data.locations import DATA_VARIABLE
from pythae_fif.data.splits import (
    SPLIT_NAMES,
    Splits,
    by_sides,
    counts,
    hold_out,
    source_line,
    take,
)
from pythae_fif.errors import DataError

_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_PUBLISHED = {
    "mnist": (50_000, 10_000, 10_000),
    "cifar10": (40_000, 10_000, 10_000),
    "celeba": (162_770, 19_867, 19_962),
}
_TORCHVISION = {"mnist": ("MNIST", "MNIST/raw"), "cifar10": ("CIFAR10", "cifar-10-batches-py")}

_CELEBA_SIZE = (178, 218)
# The usual CenterCrop(148) of the 178 x 218 files, as a fraction of the width, so that copies of
# the files at other resolutions give the same region of the face.
_CELEBA_CROP = 148 / 178


def load_digits() -> Splits:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, 0..16 scaled to 0..255, 1,197/300/300.

    The shuffle is fixed: one test set for everyone.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # takes a second to import

    digits = sklearn_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    index = dict(zip(SPLIT_NAMES, np.split(order, [1197, 1497]), strict=True))
    return Splits(
        name="digits",
        **{split: images[rows] for split, rows in index.items()},
        labels={split: digits.target[rows].astype(np.int64) for split, rows in index.items()},
        source="digits of scikit-learn, 8x8, 1197/300/300",
    )


def load_torchvision(name: str, root: Path, *, download: bool) -> Splits:
    """MNIST or CIFAR-10, from Pythae's .npz layout, torchvision's own, or a download.

    Args:
        name: ``mnist`` or ``cifar10``.
        root: The data root.
        download: Whether torchvision may download what is not there.

    Returns:
        Splits; validation are the last training images (see ``hold_out``), test is the test part.

    Raises:
        DataError: Nothing was found, the download failed, or what is there is damaged.
    """
    npz = _pythae_npz(name, root, _SHAPES[name])
    if npz is not None:
        return npz
    import torchvision  # takes seconds to import

    class_name, folder = _TORCHVISION[name]
    dataset = getattr(torchvision.datasets, class_name)

    def read(fetch: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        loaded = [dataset(str(root), train=train, download=fetch) for train in (True, False)]
        return [(np.asarray(of.data), np.asarray(of.targets)) for of in loaded]

    try:
        train, test = read(False)
    except Exception as error:  # torchvision raises many unrelated types on damaged files
        damaged = (
            f"{folder} is there, but incomplete or damaged" if (root / folder).is_dir() else ""
        )
        if not download:
            raise _not_found(name, root, f"{folder}/", damaged) from error
        try:
            train, test = read(True)
        except Exception as failure:
            raise _not_found(name, root, f"{folder}/", damaged, failure) from failure
    arrays = to_uint8({"train": train[0], "test": test[0]}, root / folder)
    labels = {"train": train[1], "test": test[1]}
    return _with_validation(name, "torchvision layout", arrays, labels)


def load_celeba(
    root: Path,
    *,
    image_size: int,
    download: bool,
    skip_undecodable: bool,
    progress: Progress | None,
) -> Splits:
    """CelebA, from Pythae's .npz layout, the official image folder, or a download.

    The folder needs ``celeba/img_align_celeba/`` and ``celeba/list_eval_partition.txt`` (0
    training, 1 validation, 2 test), and none of the attribute files. The centred square of 148/178
    of the width is cut from each face, at whatever resolution the files are, and resized.

    Args:
        root: The data root.
        image_size: Side of the images in pixels.
        download: Whether torchvision may download what is not there.
        skip_undecodable: Leave undecodable files out instead of failing.
        progress: See ``decode_files``.

    Returns:
        Splits without labels.

    Raises:
        DataError: Nothing was found, the download failed, or what is there is damaged.
    """
    npz = _pythae_npz("celeba", root, (3, image_size, image_size))
    if npz is not None:
        return npz
    folder, partition = root / "celeba/img_align_celeba", root / "celeba/list_eval_partition.txt"
    looked_for = "celeba/img_align_celeba/*.jpg with celeba/list_eval_partition.txt"
    # One of the two alone is a mistake to name, and no reason to download 1.4 GB once more.
    if folder.is_dir() != partition.is_file():
        there, lacking = (folder, partition) if folder.is_dir() else (partition, folder)
        raise DataError(f"celeba: {there} is there, but {lacking} is not; both are needed")
    if not folder.is_dir():
        if not download:
            raise _not_found("celeba", root, looked_for)
        import torchvision  # takes seconds to import

        try:
            torchvision.datasets.CelebA(str(root), split="all", download=True)
        except Exception as failure:
            raise _not_found("celeba", root, looked_for, failure=failure) from failure
    assigned = _read_partition(partition)
    present = find_images(folder)
    names = [name for name in present if name in assigned]
    decoded = decode_files(
        folder, names, image_size=image_size, crop=_CELEBA_CROP, progress=progress
    )
    notes = undecodable_note("celeba", folder, names, decoded, skip_undecodable)
    if len(names) < len(present):
        notes.append(f"{len(present) - len(names)} files that the partition lacks left out")
    if len(names) < len(assigned):
        notes.append(f"{len(assigned) - len(names)} files of the partition are absent")
    smaller = _check_celeba_sizes(folder, names, decoded)
    if smaller:
        notes.append(smaller)
    kept = np.setdiff1d(np.arange(len(names)), decoded.failed)
    codes = np.array([assigned[names[row]] for row in kept], np.int64)
    arrays = {
        split: take(decoded.images, kept[codes == code]) for code, split in enumerate(SPLIT_NAMES)
    }
    title = f"CelebA {image_size}x{image_size}, image folder"
    return _published("celeba", title, arrays, None, notes, lesser=bool(smaller))


def _pythae_npz(name: str, root: Path, shape: tuple[int, int, int]) -> Splits | None:
    """``<root>/<name>/{train,eval}_data.npz``; None where neither file is there."""
    paths = {file: root / name / f"{file}_data.npz" for file in ("train", "eval")}
    present = [path for path in paths.values() if path.is_file()]
    if not present:
        return None
    if len(present) == 1:
        (lacking,) = set(paths.values()) - set(present)
        raise DataError(f"{name}: {present[0]} is there, but {lacking} is not; both are needed")
    content = {file: read_npz(path) for file, path in paths.items()}
    for file, path in paths.items():
        if "data" not in content[file]:
            raise DataError(f"{path}: has keys {', '.join(content[file]) or 'none'}; needs 'data'")
    where = f"{root / name}/{{train,eval}}_data.npz"
    whole = to_uint8({file: content[file]["data"] for file in paths}, where)
    for file, path in paths.items():
        if whole[file].shape[1:] != shape:
            raise DataError(
                f"{path}: images are {by_sides(whole[file].shape[1:])}, "
                f"{name} needs {by_sides(shape)}"
            )
    labels = None
    if all("labels" in content[file] for file in paths):
        labels = {
            split: to_labels(
                content[file]["labels"], len(whole[file]), f"{paths[file]}, key 'labels'"
            )
            for split, file in (("train", "train"), ("test", "eval"))
        }
    arrays = {"train": whole["train"], "test": whole["eval"]}
    return _with_validation(name, "Pythae npz layout", arrays, labels)


def _with_validation(
    name: str,
    layout: str,
    arrays: dict[str, np.ndarray],
    labels: dict[str, np.ndarray] | None,
) -> Splits:
    """Holds validation images out of a training part."""
    total = len(arrays["train"])
    held = hold_out(total)
    cut = total - held

    def three(two: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"train": two["train"][:cut], "val": two["train"][cut:], "test": two["test"]}

    splits = three(arrays)
    notes = []
    if counts(splits) != _PUBLISHED[name]:
        notes.append(f"val is the last {held} of {total} training images")
    cut_labels = labels and {split: of.astype(np.int64) for split, of in three(labels).items()}
    return _published(name, f"{_TITLES[name]}, {layout}", splits, cut_labels, notes)


def _published(
    name: str,
    title: str,
    arrays: dict[str, np.ndarray],
    labels: dict[str, np.ndarray] | None,
    notes: Sequence[str],
    lesser: bool = False,
) -> Splits:
    """Splits of a published data set, marked as partial where they are not the whole of it."""
    partial = lesser or counts(arrays) != _PUBLISHED[name]
    if counts(arrays) != _PUBLISHED[name]:
        published = "/".join(map(str, _PUBLISHED[name]))
        notes = [f"partial (published: {published})", *notes]
    source = source_line(title, arrays, notes)
    return Splits(name, **arrays, labels=labels, source=source, partial=partial)


def _read_partition(path: Path) -> dict[str, int]:
    assigned = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise DataError(
                    f"{path}, line {number}: {line.strip()!r}, needs a file name and 0, 1 or 2"
                )
            assigned[words[0]] = int(words[1])
    return assigned


def _check_celeba_sizes(folder: Path, names: Sequence[str], decoded: Decoded) -> str:
    """A note if the files are not of the original size; an error if they are cropped already."""
    good = np.setdiff1d(np.arange(len(names)), decoded.failed)
    width, height = decoded.sizes[good].T
    # A copy at another resolution rounds each side by half a pixel at most.
    expected = width * (_CELEBA_SIZE[1] / _CELEBA_SIZE[0])
    wrong = good[np.abs(height - expected) > 2]
    if len(wrong):
        first = decoded.sizes[wrong[0]]
        raise DataError(
            f"celeba: {folder / names[wrong[0]]} is {by_sides(first)} pixels, needs the aligned "
            "178x218 or the same proportions; data set 'folder' (--data) takes other images"
        )
    others = np.flatnonzero(width != _CELEBA_SIZE[0])
    if not len(others):
        return ""
    first = decoded.sizes[good[others[0]]]
    return f"{len(others)} files at another resolution than 178x218 (first {by_sides(first)})"


def _not_found(
    name: str, root: Path, looked_for: str, damaged: str = "", failure: Exception | None = None
) -> DataError:
    reason = damaged
    if failure is not None:
        text = " ".join(str(failure).split())[:160]
        reason = "; ".join(filter(None, [damaged, f"the download failed ({text})"]))
    remedy = (
        "connect to download it" if failure is not None else "allow the download (no --offline)"
    )
    return DataError(
        f"{name}: neither {name}/train_data.npz and eval_data.npz nor {looked_for} "
        f"could be read below {root}{f' ({reason})' if reason else ''}: {remedy}, "
        f"or name a folder that has one with --data-root or {DATA_VARIABLE}"
    )
