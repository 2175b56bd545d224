"""Loads MNIST, CIFAR-10 and CelebA in Pythae's or torchvision's layout, or downloads them."""

from typing import Any

import numpy as np

from pythae_fif.data.images import decode_files, read_labelled_npz, to_uint8
from pythae_fif.data.splits import Source, Splits, sizes, split_train_val_test
from pythae_fif.errors import DataError, format_error, requires_extra
from pythae_fif.names import DATA_VARIABLE, DataRequest

_SETS = {
    "mnist": (
        "MNIST", "50000/10000/10000", "MNIST/raw", "https://ossci-datasets.s3.amazonaws.com/mnist/"
    ),
    "cifar10": (
        "CIFAR-10", "40000/10000/10000", "cifar-10-batches-py",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "celeba": (
        "CelebA", "162770/19867/19962", "celeba/img_align_celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
}  # fmt: skip
"""Name -> title, published sizes, torchvision's folder, and address for a download by hand."""


def load_standard_dataset(request: DataRequest) -> Source:
    """Finds or downloads MNIST, CIFAR-10 or CelebA; returns the files and their reader.

    Raises:
        DataError: The data set is missing or incomplete and cannot be downloaded.
    """
    paths = [request.path / request.name / f"{part}_data.npz" for part in ("train", "eval")]
    if not any(path.exists() for path in paths):
        return _celeba(request) if request.name == "celeba" else _torchvision_set(request)

    def read() -> Splits:
        train_images, train_labels = read_labelled_npz(paths[0], [("data",)])
        test_images, test_labels = read_labelled_npz(paths[1], [("data",)])
        arrays = _split_off_validation(train_images["data"], test_images["data"])
        side = arrays["train"].shape[-1]
        if request.name == "celeba" and side != request.side:
            raise DataError(f"{paths[0]}: images of side {side}: --image-size {side} is needed")

        labels = None
        if train_labels and test_labels:
            labels = _split_off_validation(train_labels["data"], test_labels["data"])
        return _make_splits(request.name, "Pythae npz layout", arrays, labels)

    return paths, read


def _torchvision_set(request: DataRequest) -> Source:
    """Finds or downloads MNIST or CIFAR-10 in torchvision's layout."""
    folder = request.path / _SETS[request.name][2]

    def read() -> Splits:
        train, test = _by_torchvision(request)
        arrays = _split_off_validation(
            to_uint8(np.asarray(train.data), str(folder)),
            to_uint8(np.asarray(test.data), str(folder)),
        )
        labels = _split_off_validation(
            np.asarray(train.targets, np.int64), np.asarray(test.targets, np.int64)
        )
        return _make_splits(request.name, "torchvision layout", arrays, labels)

    if not any(folder.glob("*")):  # a failed download leaves an empty folder
        _by_torchvision(request)
    return sorted(folder.glob("*")), read


def _by_torchvision(request: DataRequest) -> list[Any]:
    """Returns torchvision's training and test part, or all of CelebA; downloads missing files."""
    with requires_extra("benchmark", f"data set {request.name!r}"):
        from torchvision import datasets  # takes seconds to import

    name = request.name
    offline = request.options.offline
    title, _, folder, address = _SETS[name]
    dataset_class = getattr(datasets, title.replace("-", ""))
    parts: list[Any] = [{}] if name == "celeba" else [{"train": True}, {"train": False}]
    try:  # torchvision does not download existing files again
        return [dataset_class(str(request.path), download=not offline, **part) for part in parts]
    except Exception as error:  # torchvision and gdown raise many unrelated types
        reason = "--offline forbids the download" if offline else format_error(error)
        raise DataError(
            f"{name}: {request.path / folder} is missing or incomplete ({reason}): unpack {address}"
            f" there, or give a folder with the data as --data-root or {DATA_VARIABLE}"
        ) from error


def _split_off_validation(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the three splits; validation has the last training rows."""
    return split_train_val_test({"train": train, "test": test}, shuffle=False)


def _make_splits(
    name: str, layout: str, arrays: dict[str, Any], labels: dict[str, np.ndarray] | None = None
) -> Splits:
    """Returns the splits of a published data set, marked as partial if images are missing."""
    title, published_sizes, *_ = _SETS[name]
    partial = sizes(arrays) != published_sizes
    source = f"{title}, {layout}, {sizes(arrays)}"
    if partial:
        source += f"; partial (published: {published_sizes})"
    return Splits(name, **arrays, labels=labels, source=source, partial=partial)


def _celeba(request: DataRequest) -> Source:
    """Finds or downloads CelebA's images and its partition; no other file of it is needed."""
    folder = request.path / _SETS["celeba"][2]
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        _by_torchvision(request)

    lines = [line.split() for line in partition.read_text("utf-8").splitlines()]
    entries = [fields for fields in lines if len(fields) == 2]
    names = {}
    for split, code in {"train": "0", "val": "1", "test": "2"}.items():
        names[split] = sorted(name for name, split_code in entries if split_code == code)

    def read() -> Splits:
        arrays = {
            split: decode_files(
                folder, split_names, request.side, request.progress, crop=request.crop / 178
            )
            for split, split_names in names.items()
        }
        layout = (
            f"{request.side}x{request.side} of the central {request.crop}x{request.crop}, "
            "image folder"
        )
        return _make_splits("celeba", layout, arrays)

    files = [partition]
    for split_names in names.values():
        files += [folder / name for name in split_names]
    return files, read
