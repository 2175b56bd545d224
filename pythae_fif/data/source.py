"""What was asked of `load_images`, and the files that answer it."""

__all__ = ["Request", "Source", "decode"]

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pythae_fif.data.images import BACKGROUND, Decoded, OnCount, decode_files
from pythae_fif.data.locations import data_home
from pythae_fif.data.names import AS_USUAL, DATASETS, TableOptions
from pythae_fif.data.splits import Splits, by_sides
from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.files import digest

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CELEBA_SIZE = (178, 218)
CELEBA_CROP = 148  # the usual one

# Part of the cache's keys: raise it when reading, decoding, cropping, resizing or splitting change.
_VERSION = 9


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`~pythae_fif.data.load.load_images`, checked.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data root that was asked for is not there.
    """

    name: str
    data_root: str | Path | None = None
    data: str | Path | None = None
    image_size: int | None = None
    crop: int | None = None
    download: bool = True
    skip_undecodable: bool = False
    progress: OnCount | None = None
    seed: int = 0
    table: TableOptions = AS_USUAL

    def __post_init__(self) -> None:
        name, crop = self.name, self.crop
        if name not in DATASETS:
            raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, DATASETS)}")
        of_user = name in ("folder", "npz", "csv")
        if of_user and self.data is None:
            what = "table" if name == "csv" else "images"
            raise ConfigError(f"data set {name!r} needs the path to your {what} (--data)")
        if name != "csv" and self.table != AS_USUAL:
            raise ConfigError(
                f"--missing, --separator and --no-header are for csv, not for {name!r}"
            )
        if not of_user and self.data is not None:
            raise ConfigError(
                f"data={str(self.data)!r} (--data) is for the data sets folder, npz and csv, not "
                f"for {name!r}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"image_size={self.image_size}: needs a positive number of pixels")
        if crop is not None and (name != "celeba" or not 1 <= crop <= CELEBA_SIZE[0]):
            raise ConfigError(
                f"crop={crop} of {name}: needs celeba and 1 to {CELEBA_SIZE[0]} pixels"
            )
        _ = self.path  # a data root that is not there
        if self.input_dim is not None:
            self.check_size(self.input_dim)

    @cached_property
    def path(self) -> Path:
        """The data root, or the user's folder or file."""
        if self.data is not None:
            return Path(self.data).expanduser()
        return Path() if self.name == "digits" else data_home(self.data_root)

    @property
    def side(self) -> int:
        """Side in pixels of resized images."""
        return 64 if self.image_size is None else self.image_size

    @property
    def crop_side(self) -> int:
        """Side in pixels of the square that is cut from CelebA's images."""
        return CELEBA_CROP if self.crop is None else self.crop

    @property
    def input_dim(self) -> tuple[int, ...] | None:
        """Channels, height and width of the images, where they are known without a look at them."""
        return {**SHAPES, "celeba": (3, self.side, self.side)}.get(self.name)

    def check_size(self, input_dim: tuple[int, ...]) -> None:
        """Raises a ConfigError where the images do not have the size that was asked for."""
        size = self.image_size
        if size is not None and input_dim[1:] != (size, size):
            raise ConfigError(
                f"image_size={size}: {self.name} images are {by_sides(input_dim[1:]) or 'rows'}, "
                "and stay so; only celeba and folder are resized"
            )


@dataclass(frozen=True)
class Source:
    """Where the images of a request are.

    Attributes:
        folder: Of the files.
        files: Their paths below it; none for images that are in no file of their own.
        read: Reads them all.
        image_bytes: Size in memory of all images, about.
    """

    folder: Path
    files: Sequence[str]
    read: Callable[[], Splits]
    image_bytes: int

    def key(self, request: Request) -> str:
        """Identifies request and files by folder, name, size and time of change.

        Raises:
            DataError: A file cannot be read.
        """
        stamps = []
        for name in self.files:
            path = os.path.join(self.folder, name)
            try:
                stat = os.stat(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            stamp = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
            stamps.append(stamp.encode("utf-8", "replace"))
        how = request.side, request.crop_side, request.skip_undecodable, request.seed
        how += (*vars(request.table).values(),)
        return digest(_VERSION, request.name, os.fsencode(request.path.absolute()), *how, *stamps)


def decode(
    request: Request, folder: Path, names: Sequence[str], crop: float = 1.0
) -> tuple[Decoded, list[str]]:
    """The images of a folder, and notes on those that could not be decoded or are transparent."""
    decoded = decode_files(
        folder, names, image_size=request.side, crop=crop, progress=request.progress
    )
    count = len(decoded.failed)
    if count and not request.skip_undecodable:
        raise DataError(
            f"{request.name}: {count} of {len(names)} images cannot be decoded, the first is "
            f"{folder / names[decoded.failed[0]]}; mend or remove them, or leave them out "
            "with --skip-undecodable"
        )
    notes = [f"{count} undecodable images left out"] if count else []
    if seen := int(decoded.transparent.sum()):
        notes.append(f"{seen} images with transparency, composed over {BACKGROUND}")
    return decoded, notes
