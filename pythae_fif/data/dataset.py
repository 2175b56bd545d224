"""What the benchmark knows of a data set: one record for each, built in or a user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import DataOptions, data_home, import_object

if TYPE_CHECKING:  # it imports torch, which the command line does not need at its start
    from pythae_fif.data.splits import Source


@dataclass(frozen=True)
class DataRequest:
    """A request to load a data set.

    Attributes:
        name: Name of the data set.
        options: Where the data are and how they are read.
        side: Side of resized images, in pixels.
        crop: Side of CelebA's centre crop, in pixels.
        progress: Callback ``progress(done, total)``, called while images are decoded.
    """

    name: str
    options: DataOptions
    side: int
    crop: int
    progress: Callable[[int, int], None] | None

    @property
    def path(self) -> Path:
        """The user's folder or file, or the folder of the data sets."""
        return Path(self.options.data) if self.options.data else data_home(self.options.data_root)


@dataclass(frozen=True)
class Dataset:
    """A data set of the benchmark.

    Attributes:
        find: Finds or downloads the files. Returns them and a function that reads them as
            :class:`~pythae_fif.data.Splits`.
        needs_path: Whether the user gives the folder or file (`--data`).
        takes_image_size: Whether images are resized to a side that the user may choose.
        takes_crop: Whether a centred square is cut out of images.
        is_table: Whether it has rows of numbers instead of images, and takes `label`, `columns`
            and `drop`.
        is_cached: Whether what was read is cached until the size or time of a file changes.
    """

    find: Callable[[DataRequest], "Source"]
    needs_path: bool = False
    takes_image_size: bool = False
    takes_crop: bool = False
    is_table: bool = False
    is_cached: bool = True


BUILT_IN = sorted(path.stem for path in Path(__file__).parent.glob("sets/[a-z]*.py"))
"""Names of the built-in data sets: the modules of :mod:`pythae_fif.data.sets`."""


def find_dataset(name: str) -> Dataset:
    """Returns the record of a data set.

    Args:
        name: A module of :mod:`pythae_fif.data.sets`, which defines `DATASET`; or
            `module:object` for a user's :class:`Dataset`.

    Raises:
        ConfigError: The name is unknown, or the object cannot be imported or is no data set.
    """
    if name in BUILT_IN:
        dataset = import_module(f"pythae_fif.data.sets.{name}").DATASET
    elif ":" in name:
        dataset = import_object(name.replace(":", "."))
    else:
        raise ConfigError(
            f"unknown data set {name!r}: {did_you_mean(name, BUILT_IN)}, or module:object"
        )

    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"data set {name!r} is a {type(dataset).__name__}: a pythae_fif.data.Dataset is needed"
        )
    return dataset
