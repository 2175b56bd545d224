"""What was asked of a data set, and the files that answer it."""

__all__ = ["OnCount", "Request", "Source"]

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pythae_fif.data.locations import data_home
from pythae_fif.data.names import DATASETS, DataOptions, TableOptions
from pythae_fif.data.splits import Splits
from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.files import digest

CELEBA_SIZE = (178, 218)
OF_USER = ("folder", "npz", "csv")

# Part of the cache's keys: raise it when reading, decoding, cropping, resizing or splitting change.
_VERSION = 10

OnCount = Callable[[int, int], None]
"""Called while files are read, with the number that is done and that of all."""


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`~pythae_fif.data.load.load`, checked.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data root that was asked for is not there.
    """

    name: str
    options: DataOptions
    image_size: int | None = None
    crop: int | None = None
    progress: OnCount | None = None

    def __post_init__(self) -> None:
        name, data, crop = self.name, self.options.data, self.crop
        if name not in DATASETS:
            raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, DATASETS)}")
        if name in OF_USER and data is None:
            what = "table" if name == "csv" else "images"
            raise ConfigError(f"data set {name!r} needs the path to your {what} (--data)")
        if name not in OF_USER and data is not None:
            raise ConfigError(f"data={data!r} (--data) is for folder, npz and csv, not {name!r}")
        if name != "csv" and self.options.of_table != TableOptions():
            flags = ", ".join(f"--{key}" for key in TableOptions.model_fields)
            raise ConfigError(f"{flags} are for csv, not {name!r}")
        if crop is not None and (name != "celeba" or not 1 <= crop <= CELEBA_SIZE[0]):
            raise ConfigError(f"crop={crop} of {name}: needs celeba and 1 to 178 pixels")
        _ = self.path  # a data root that is not there

    @cached_property
    def path(self) -> Path:
        """The data root, or the user's folder or file."""
        if self.options.data is not None:
            return Path(self.options.data)
        return Path() if self.name == "digits" else data_home(self.options.data_root)

    @property
    def side(self) -> int:
        """Side in pixels of resized images."""
        return self.image_size or 64

    @property
    def crop_side(self) -> int:
        """Side in pixels of the square that is cut from CelebA's images."""
        return self.crop or 148  # the usual one


@dataclass(frozen=True)
class Source:
    """Where the data of a request are.

    Attributes:
        request: What was asked.
        folder: Of the files.
        files: Their paths below it; none for images that are in no file of their own.
        read: Reads them all.
    """

    request: Request
    folder: Path
    files: Sequence[str]
    read: Callable[[], Splits]

    @property
    def key(self) -> str | None:
        """Identifies request and files by folder, name, size and time of change.

        Raises:
            DataError: A file cannot be read.
        """
        if not self.files:
            return None
        stamps = []
        for name in self.files:
            path = os.path.join(self.folder, name)
            try:
                stat = os.stat(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            stamp = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
            stamps.append(stamp.encode("utf-8", "replace"))
        request = self.request
        how = request.side, request.crop_side, request.options.skip_undecodable
        asked = request.name, os.fsencode(request.path.absolute()), *how, request.options.of_table
        return digest(_VERSION, *asked, *stamps)
