"""The names of the data sets, and how tables are read, known without importing torch."""

__all__ = ["AS_USUAL", "DATASETS", "TABULAR_DATASETS", "TOY_DATASETS", "TableOptions"]

from typing import Annotated

from pythae_fif.validation import Checked, Flag, name_of

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
    """How a user's table is read.

    Attributes:
        missing: What becomes of missing values: `drop` their rows, or `impute` the mean of the
            column's training rows; None to refuse them.
        separator: Between values of a text file; None for a tab in .tsv and a comma otherwise.
        no_header: Whether the first line is numbers; columns are then c1, c2, ...
    """

    missing: Annotated[
        Annotated[str, name_of(lambda: MISSING)] | None, Flag("values of a table: drop or impute")
    ] = None
    separator: Annotated[str | None, Flag("of a table, if no comma", "TEXT")] = None
    no_header: Annotated[bool, Flag("the table's first line is numbers")] = False


AS_USUAL = TableOptions()
