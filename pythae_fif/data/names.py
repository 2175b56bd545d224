"""The names of the data sets, and how tables are read, known without importing torch."""

__all__ = ["AS_USUAL", "DATASETS", "TABULAR_DATASETS", "TableOptions"]

from typing import Annotated

from pythae_fif.validation import Checked, Flag, name_of

DATASETS = {
    "digits": "1,797 digits of 1x8x8 that come with scikit-learn; nothing to download",
    "mnist": "70,000 digits of 1x28x28; the last 10,000 training images are validation",
    "cifar10": "60,000 photographs of 3x32x32; the last 10,000 training images are validation",
    "celeba": "202,599 faces of 3x64x64, cropped as the profile says; the official partition",
    "folder": "your images: a folder (--data), in train/ test/ (val/) or split 80/10/10",
    "npz": "your images: an .npz file (--data) with train and test (val), or data; labels",
    "csv": "your table of numbers (--data): .csv, .tsv, .csv.gz, .npy or .parquet",
}
"""Name of a data set of the benchmark -> one line about it."""

TABULAR_DATASETS = {
    "power": "household electricity, 6 columns, 2,049,280 rows; latent dimension 3",
    "gas": "gas sensors, 8 columns, 1,052,065 rows; latent dimension 2",
    "hepmass": "particle collisions, 21 columns, 525,123 rows; latent dimension 10",
    "miniboone": "neutrino events, 43 columns, 36,488 rows; latent dimension 21",
    "csv": "your table of numbers: a .csv, .npy or .parquet file (--data), with --latent-dim",
}
"""Name of a table -> one line about it."""

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
