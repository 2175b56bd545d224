"""What the package knows of a data set: one record for each, built in or a user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pythae_fif.names import DataOptions, data_home

if TYPE_CHECKING:  # it imports torch, which the command line does not need at its start
    from pythae_fif.data.splits import FilesAndReader


@dataclass(frozen=True)
class DataRequest:
    """A request to load a data set.

    Attributes:
        name: Name of the data set.
        options: Where the data are and how they are read.
        image_size: Side of resized images, in pixels.
        crop: Side of CelebA's centre crop, in pixels.
        progress: Callback ``progress(done, total)``, called while images are decoded.
    """

    name: str
    options: DataOptions
    image_size: int
    crop: int
    progress: Callable[[int, int], None] | None

    @property
    def path(self) -> Path:
        """The user's folder or file, or the folder of the data sets."""
        return Path(self.options.data) if self.options.data else data_home(self.options.data_root)


@dataclass(frozen=True)
class DataSource:
    """A data set: how its files are found and read, and which options it takes.

    Attributes:
        find: Finds or downloads the files. Returns them and a function that reads them as
            :class:`~pythae_fif.data.Splits`.
        needs_path: Whether the user gives the folder or file (`--data`).
        takes_image_size: Whether images are resized to a side that the user may choose.
        takes_crop: Whether a centred square is cut out of images.
        is_table: Whether it has rows of numbers instead of images.
        takes_columns: Whether it takes the options of a table, such as `label` and `drop`.
        is_cached: Whether what was read is cached until the size or time of a file changes.
    """

    find: Callable[[DataRequest], "FilesAndReader"]
    needs_path: bool = False
    takes_image_size: bool = False
    takes_crop: bool = False
    is_table: bool = False
    takes_columns: bool = False
    is_cached: bool = True
