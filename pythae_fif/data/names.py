"""The names of the data sets, and what may be asked of them, known without importing NumPy."""

__all__ = ["DATASETS", "TABULAR_DATASETS", "TOY_DATASETS", "DataOptions", "TableOptions"]

from typing import Annotated

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
        skip_undecodable: Leave out the images of a folder that cannot be decoded, and count them in
            a note, instead of failing.
    """

    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None
    offline: Annotated[bool, Flag("never download")] = False
    skip_undecodable: Annotated[bool, Flag("leave out broken images")] = False

    @property
    def of_table(self) -> TableOptions:
        """Those of a user's table."""
        return TableOptions(**{key: getattr(self, key) for key in TableOptions.model_fields})
