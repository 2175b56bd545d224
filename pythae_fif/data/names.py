"""The names of the data sets, what may be asked of them and where they are, without NumPy."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pythae_fif.errors import DataError
from pythae_fif.validation import AbsolutePath, Checked, Each, Flag

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

DATA_VARIABLE = "PYTHAE_FIF_DATA"
CACHE_VARIABLE = "PYTHAE_FIF_CACHE"


def cache_home() -> Path:
    """The cache folder: ``PYTHAE_FIF_CACHE``, else ``~/.cache/pythae-fif``; it need not exist."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/pythae-fif").expanduser()


def data_home(data_root: str | Path | None = None) -> Path:
    """The folder below which data sets are looked for and downloaded to.

    It is the data root, else ``PYTHAE_FIF_DATA``, else ``~/.cache/pythae-fif/data``; a DataError
    says that one of the former two does not exist.
    """
    asked = data_root or os.environ.get(DATA_VARIABLE)
    root = Path(asked or "~/.cache/pythae-fif/data").expanduser()
    if asked and not root.is_dir():
        raise DataError(
            f"the data folder {root} (--data-root or {DATA_VARIABLE}) does not exist: create it"
        )
    return root


class DataOptions(Checked):
    """Where data are and how they are read; the hash of the data tells what came of it.

    Attributes:
        data_root: The folder to look in; None for ``PYTHAE_FIF_DATA``, else
            ``~/.cache/pythae-fif/data``.
        data: The user's folder or file, for ``folder``, ``npz`` and ``csv``, and for those only.
        offline: Never download.
        columns, drop, label: Of a table, see :func:`~pythae_fif.data.load_table`.
    """

    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None
    offline: Annotated[bool, Flag("never download")] = False
    columns: Annotated[Each[str] | None, Flag("take these alone", "COLUMN")] = None
    drop: Annotated[Each[str] | None, Flag("leave these out", "COLUMN")] = None
    label: Annotated[str | None, Flag("the column of the classes", "COLUMN")] = None


@dataclass(frozen=True)
class Request:
    """What is asked of a data set: with the sides of resized images and of CelebA's crop in pixels,
    and who is told as ``progress(done, total)`` how many images are decoded."""

    name: str
    options: DataOptions
    side: int
    crop: int
    progress: Callable[[int, int], None] | None

    @property
    def path(self) -> Path:
        """The data root, or the user's folder or file."""
        return Path(self.options.data) if self.options.data else data_home(self.options.data_root)
