"""Published data sets of images, in Pythae's or torchvision's layout, or downloaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pythae_fif.data.images import read_labelled_npz, to_uint8
from pythae_fif.data.source import DataRequest
from pythae_fif.data.splits import (
    SPLIT_NAMES,
    FilesAndReader,
    Splits,
    describe_sizes,
    split_train_val_test,
)
from pythae_fif.errors import DataError, DownloadError, format_error, requires_extra
from pythae_fif.names import DATA_VARIABLE

PLACEHOLDERS = 500
"""Random images in each split that replace missing data."""


@dataclass(frozen=True)
class PublishedSet:
    """A published data set of images.

    Attributes:
        name: Its name in the benchmark.
        title: Its usual name. Without hyphens it is the name of torchvision's class.
        sizes: The published numbers of images in the three splits.
        folder: torchvision's folder of its files, below the data root.
        address: Address for a download by hand.
        megabytes: Size of the download.
        shape: Shape (C, H, W) of an image; the side is the user's unless `fixed_side`.
        classes: Number of classes; None if the benchmark reads no labels.
        fixed_side: Whether all images of Pythae's layout have one side, which the user cannot
            choose.
    """

    name: str
    title: str
    sizes: str
    folder: str
    address: str
    megabytes: int
    shape: tuple[int, int, int]
    classes: int | None = None
    fixed_side: bool = True

    def find(self, request: DataRequest) -> FilesAndReader:
        """Finds or downloads the files; returns them and their reader.

        Raises:
            DataError: The data set is missing or incomplete and cannot be downloaded.
        """
        return self.find_pythae_layout(request) or self._find_torchvision_layout(request)

    def find_pythae_layout(self, request: DataRequest) -> FilesAndReader | None:
        """Returns the files and the reader of Pythae's layout; None if there are no such files."""
        paths = [request.path / self.name / f"{part}_data.npz" for part in ("train", "eval")]
        if not any(path.exists() for path in paths):
            return None

        def read() -> Splits:
            train_images, train_labels = read_labelled_npz(paths[0], [("data",)])
            test_images, test_labels = read_labelled_npz(paths[1], [("data",)])
            arrays = _split_off_validation(train_images["data"], test_images["data"])
            side = arrays["train"].shape[-1]
            if not self.fixed_side and side != request.image_size:
                raise DataError(f"{paths[0]}: images of side {side}: --image-size {side} is needed")

            labels = None
            if train_labels and test_labels:
                labels = _split_off_validation(train_labels["data"], test_labels["data"])
            return self.make_splits("Pythae npz layout", arrays, labels)

        return paths, read

    def _find_torchvision_layout(self, request: DataRequest) -> FilesAndReader:
        """Finds or downloads the files of a data set with a training and a test part."""
        folder = request.path / self.folder
        parts = [{"train": True}, {"train": False}]

        def read() -> Splits:
            train, test = self.load_by_torchvision(request, parts)
            arrays = _split_off_validation(
                to_uint8(np.asarray(train.data), str(folder)),
                to_uint8(np.asarray(test.data), str(folder)),
            )
            labels = _split_off_validation(
                np.asarray(train.targets, np.int64), np.asarray(test.targets, np.int64)
            )
            return self.make_splits("torchvision layout", arrays, labels)

        if not any(folder.glob("*")):  # a failed download leaves an empty folder
            self.load_by_torchvision(request, parts)
        return sorted(folder.glob("*")), read

    def load_by_torchvision(
        self, request: DataRequest, parts: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """Loads parts of the data set by torchvision's class; downloads missing files.

        Args:
            request: The request.
            parts: Keywords of torchvision's class for each part.

        Raises:
            DataError: The data set is missing or incomplete and cannot be downloaded.
        """
        with requires_extra("benchmark", f"data set {self.name!r}"):
            from torchvision import datasets  # takes seconds to import

        offline = request.options.offline
        dataset_class = getattr(datasets, self.title.replace("-", ""))
        root = str(request.path)
        try:  # torchvision does not download existing files again
            return [dataset_class(root, download=not offline, **part) for part in parts]
        except Exception as error:  # torchvision and gdown raise many unrelated types
            reason = "--offline forbids the download" if offline else format_error(error)
            raise DownloadError(
                f"{self.name}: {request.path / self.folder} is missing or incomplete ({reason}): "
                f"unpack {self.address} there, or give a folder with the data as --data-root or "
                f"{DATA_VARIABLE}",
                download=f"{self.title}, {self.megabytes:,} MB, to {request.path / self.folder}",
                substitute={"reader": f"pythae_fif.data.sets.{self.name}:PLACEHOLDER"},
                num_train=int(self.sizes.partition("/")[0]),
            ) from error

    def find_placeholder(self, request: DataRequest) -> FilesAndReader:
        """Returns no files, and a reader of random images that replace missing ones for timing."""
        side = self.shape[-1] if self.fixed_side else request.image_size

        def read() -> Splits:
            shape = (PLACEHOLDERS, self.shape[0], side, side)
            rng = np.random.default_rng(0)
            arrays: dict[str, Any] = {
                split: rng.integers(0, 256, shape, np.uint8) for split in SPLIT_NAMES
            }
            classes = np.arange(PLACEHOLDERS) % (self.classes or 1)
            labels = dict.fromkeys(SPLIT_NAMES, classes) if self.classes else None
            return Splits(self.name, **arrays, labels=labels, source="random images")

        return [], read

    def make_splits(
        self, layout: str, arrays: dict[str, Any], labels: dict[str, np.ndarray] | None = None
    ) -> Splits:
        """Returns the splits, marked as partial if images are missing.

        Args:
            layout: Where the images are from, for the description of the source.
            arrays: Split -> images.
            labels: Split -> classes, if there are any.
        """
        partial = describe_sizes(arrays) != self.sizes
        source = f"{self.title}, {layout}, {describe_sizes(arrays)}"
        if partial:
            source += f"; partial (published: {self.sizes})"
        return Splits(self.name, **arrays, labels=labels, source=source, partial=partial)


def _split_off_validation(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the three splits; validation has the last training rows."""
    return split_train_val_test({"train": train, "test": test}, shuffle=False)
