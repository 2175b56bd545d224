"""The names of the data sets, and what may be asked of them, known without importing NumPy."""

__all__ = ["DATASETS", "TABULAR_DATASETS", "TOY_DATASETS", "DataOptions", "Request", "TableOptions"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pythae_fif.data.locations import data_home
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.validation import AbsolutePath, Checked, Each, Flag, name_of

DATASETS = ("digits", "mnist", "cifar10", "celeba", "folder", "npz", "csv")
"""Data sets of the benchmark; `benchmark_configs/` has a file of each that describes it."""

TABULAR_DATASETS = ("power", "gas", "hepmass", "miniboone", "csv")
"""Tables of the studies: household electricity (6 columns), gas sensors (8), particle collisions
(21), neutrino events (43), and your own."""

TOY_DATASETS = (
    "sinusoid", "two_moons", "circle", "von_mises_circle", "spiral", "swiss_roll", "torus",
    "sphere",
)  # fmt: skip
"""Those of :data:`~pythae_fif.data.toy.TOY_DATA`."""

MISSING = ("drop", "impute")


class TableOptions(Checked):
    """What is taken of a user's table.

    Attributes:
        columns: The columns to model; None for all that can be.
        drop: Columns to leave out.
        label: The column that holds the class of a row.
        missing: What becomes of missing values: `drop` their rows, or `impute` the mean of the
            column's training rows.
    """

    columns: Annotated[Each[str] | None, Flag("take these alone", "COLUMN")] = None
    drop: Annotated[Each[str] | None, Flag("leave these out", "COLUMN")] = None
    label: Annotated[str | None, Flag("the column of the classes", "COLUMN")] = None
    missing: Annotated[
        Annotated[str, name_of(lambda: MISSING)], Flag("values of a table: drop (rows) or impute")
    ] = "drop"


class DataOptions(TableOptions):
    """Where data are and how they are read; the hash of the data tells what came of it.

    Attributes:
        data_root: The folder to look in; None for ``PYTHAE_FIF_DATA``, else
            ``~/.cache/pythae-fif/data``.
        data: The user's folder or file, for ``folder``, ``npz`` and ``csv``, and for those only.
        offline: Never download.
    """

    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None
    offline: Annotated[bool, Flag("never download")] = False


@dataclass(frozen=True)
class Request:
    """What is asked of a data set of the benchmark.

    Attributes:
        name: One of `DATASETS`.
        options: Where its files are, and how a table is read.
        side: Of resized images, in pixels.
        crop: Side of the square that is cut from CelebA's images, in pixels.
        progress: Called as ``progress(done, total)`` while images are decoded.

    Raises:
        ConfigError: An unknown name, or a path that it does not take or needs.
    """

    name: str
    options: DataOptions
    side: int = 64
    crop: int = 148
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise ConfigError(
                f"unknown data set {self.name!r}: {did_you_mean(self.name, DATASETS)}"
            )
        if (self.name in ("folder", "npz", "csv")) != (self.options.data is not None):
            raise ConfigError(f"data set {self.name!r}: folder, npz and csv need --data, no others")

    @property
    def path(self) -> Path:
        """The data root, or the user's folder or file."""
        return Path(self.options.data) if self.options.data else data_home(self.options.data_root)
