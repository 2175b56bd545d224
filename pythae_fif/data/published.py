"""MNIST, CIFAR-10 and CelebA in each of their layouts, downloaded where they are missing."""

from typing import Any

import numpy as np

from pythae_fif.data.images import decode_files, read_labelled_npz, to_uint8
from pythae_fif.data.splits import SPLIT_NAMES, Source, Splits, sizes, split_train_val_test
from pythae_fif.errors import DataError, format_error
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
"""Name -> title, published sizes, torchvision's folder, and where to get that by hand."""


def load_standard_dataset(request: DataRequest) -> Source:
    """MNIST, CIFAR-10 or CelebA, in Pythae's or torchvision's layout, or a download."""
    paths = [request.path / request.name / f"{part}_data.npz" for part in ("train", "eval")]
    if not any(path.exists() for path in paths):
        return _celeba(request) if request.name == "celeba" else _torchvision_set(request)

    def read() -> Splits:
        images, labels = zip(*(read_labelled_npz(of, [("data",)]) for of in paths), strict=True)
        arrays = _split_off_validation(*(of["data"] for of in images))
        if request.name == "celeba" and (side := arrays["train"].shape[-1]) != request.side:
            raise DataError(f"{paths[0]}: images of side {side}: --image-size {side} is needed")
        known = _split_off_validation(*(of["data"] for of in labels)) if all(labels) else None
        return _splits(request.name, "Pythae npz layout", arrays, known)

    return paths, read


def _torchvision_set(request: DataRequest) -> Source:
    folder = request.path / _SETS[request.name][2]

    def read() -> Splits:
        parts = _by_torchvision(request)
        images = _split_off_validation(
            *(to_uint8(np.asarray(part.data), str(folder)) for part in parts)
        )
        labels = _split_off_validation(*(np.asarray(part.targets, np.int64) for part in parts))
        return _splits(request.name, "torchvision layout", images, labels)

    if not any(folder.glob("*")):  # a failed download leaves an empty one
        _by_torchvision(request)
    return sorted(folder.glob("*")), read


def _by_torchvision(request: DataRequest) -> list[Any]:
    """Training and test part, of CelebA all in one; what is missing is downloaded first."""
    from torchvision import datasets  # takes seconds to import

    name, offline = request.name, request.options.offline
    title, _, folder, address = _SETS[name]
    kind = getattr(datasets, title.replace("-", ""))
    parts: list[Any] = [{}] if name == "celeba" else [{"train": True}, {"train": False}]
    try:  # what is there is not downloaded again
        return [kind(str(request.path), download=not offline, **part) for part in parts]
    except Exception as error:  # torchvision and gdown raise many unrelated types
        why = "--offline forbids the download" if offline else format_error(error)
        raise DataError(
            f"{name}: no whole {request.path / folder} ({why}): unpack {address} there, or name a "
            f"folder that has the data with --data-root or {DATA_VARIABLE}"
        ) from error


def _split_off_validation(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    return split_train_val_test({"train": train, "test": test}, shuffle=False)


def _splits(
    name: str, layout: str, arrays: dict[str, Any], labels: dict[str, np.ndarray] | None = None
) -> Splits:
    """Splits of a published data set, marked as partial where they are not the whole of it."""
    title, whole, *_ = _SETS[name]
    source = f"{title}, {layout}, {sizes(arrays)}"
    source += f"; partial (published: {whole})" if sizes(arrays) != whole else ""
    return Splits(name, **arrays, labels=labels, source=source, partial=sizes(arrays) != whole)


def _celeba(request: DataRequest) -> Source:
    """CelebA's images with its partition (0 training, 1 validation, 2 test), which are enough."""
    side, crop, folder = request.side, request.crop, request.path / _SETS["celeba"][2]
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        _by_torchvision(request)
    pairs = [line.split() for line in partition.read_text("utf-8").splitlines() if line.strip()]
    names = {
        split: sorted(name for name, *of in pairs if of == [str(code)])
        for code, split in enumerate(SPLIT_NAMES)
    }

    def read() -> Splits:
        how = side, request.progress, crop / 178
        arrays = {split: decode_files(folder, of, *how) for split, of in names.items()}
        layout = f"{side}x{side} of the central {crop}x{crop}, image folder"
        return _splits("celeba", layout, arrays)

    return [partition, *(folder / name for of in names.values() for name in of)], read
