"""The four tables of Papamakarios et al. 2017, cleaned and split exactly as by these authors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pythae_fif.columns import Columns
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import FilesAndReader, Splits, describe_sizes
from pythae_fif.data.tables import standardize
from pythae_fif.errors import DataError, check_choice, format_error
from pythae_fif.names import DATA_VARIABLE, data_home

ARCHIVE = "https://zenodo.org/record/1161203/files/data.tar.gz"

CleanedTable = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
"""Split -> rows (N, D), and the mean and standard deviation of each column, (D,)."""


@dataclass(frozen=True)
class ArchivedTable:
    """A table of the archive.

    Attributes:
        name: Its name in the benchmark.
        clean: Reads and cleans its files.
        row_count: Its number of rows after cleaning.
        files: Its files, below the data root.
        column_names: Names of its columns after cleaning; c1, c2, ... if there are none.
    """

    name: str
    clean: Callable[..., CleanedTable]
    row_count: int
    files: tuple[str, ...]
    column_names: tuple[str, ...] = ()

    def find(self, request: DataRequest) -> FilesAndReader:
        """Returns the files and their reader.

        Raises:
            DataError: A file is missing.
        """
        paths = [request.path / file for file in self.files]
        for path in paths:
            if not path.is_file():
                raise self._error(request.path, "it is missing")
        return paths, lambda: self.read(request.path)

    def read(self, root: Path) -> Splits:
        """Reads the table from the folder of the data sets.

        Raises:
            DataError: A file is missing or not what its name promises.
        """
        try:
            split_rows, mean, std = self.clean(*(root / file for file in self.files))
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise self._error(root, format_error(error)) from error

        try:
            arrays = standardize(split_rows, mean, std)
        except DataError as error:
            raise DataError(f"{self.name} data: {error}") from error
        sizes = describe_sizes(arrays)
        names = self.column_names or [f"c{number}" for number in range(1, len(mean) + 1)]
        return Splits(
            self.name,
            **arrays,
            labels=None,
            source=f"{self.name.upper()}, {len(mean)} columns, {sizes} of {self.row_count:,} rows",
            columns=Columns([*names], mean.tolist(), std.tolist()),
            partial=sum(map(len, arrays.values())) < self.row_count,
        )

    def _error(self, root: Path, reason: str) -> DataError:
        return DataError(
            f"no {self.name} data in {root / self.files[0]} ({reason}): unpack {ARCHIVE} there, or "
            f"set --data-root or {DATA_VARIABLE}"
        )


def _split_80_10_10_in_order(rows: np.ndarray) -> CleanedTable:
    """Takes the last tenth as test data, and the last tenth of the others as validation data.

    Mean and standard deviation are computed from the training and validation data.
    """
    train_and_val, test = np.split(rows, [len(rows) - int(0.1 * len(rows))])
    cut = len(train_and_val) - int(0.1 * len(train_and_val))
    train, val = np.split(train_and_val, [cut])
    splits = {"train": train, "val": val, "test": test}
    return splits, train_and_val.mean(axis=0), train_and_val.std(axis=0)


def _clean_power(path: Path) -> CleanedTable:
    """Drops reactive power and intensity; adds uniform noise of each column's resolution."""
    rows = np.load(path).astype(np.float64)
    rng = np.random.RandomState(42)
    rng.shuffle(rows)
    rows = rows[:, [0, 2, 4, 5, 6, 7]]
    voltage_noise = 0.01 * rng.rand(len(rows), 1)  # in the archive's order of draws
    power_noise = 0.001 * rng.rand(len(rows), 1)
    metering_noise = rng.rand(len(rows), 3)
    time_noise = np.zeros((len(rows), 1))
    noise = np.hstack([power_noise, voltage_noise, metering_noise, time_noise])
    return _split_80_10_10_in_order(rows + noise)


def _clean_gas(path: Path) -> CleanedTable:
    """Drops concentrations and time, then columns with a correlation above 0.98 with another.

    Mean and (unbiased) standard deviation are computed from all rows, as in the original.
    """
    columns = read_frame_pickle(path)
    rows = np.stack(
        [columns[name] for name in columns if name not in ("Meth", "Eth", "Time")], axis=1
    )
    while True:
        related_counts = (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1)
        is_redundant = related_counts > 1  # every column is related to itself
        if not is_redundant.any():
            break
        rows = np.delete(rows, int(is_redundant.argmax()), axis=1)

    splits, *_ = _split_80_10_10_in_order(rows)
    return splits, rows.mean(axis=0), rows.std(axis=0, ddof=1)


def _clean_hepmass(train_path: Path, test_path: Path) -> CleanedTable:
    """Keeps the signal class; drops columns with a smallest value that occurs over five times."""
    train = _read_signal_rows(train_path)
    test = _read_signal_rows(test_path)
    mean = train.mean(axis=0)
    std = train.std(axis=0, ddof=1)

    # The original counts the smallest value where it means the most frequent one: kept as it is.
    standardized = (train - mean) / std
    smallest_counts = (standardized == standardized.min(axis=0)).sum(axis=0)
    columns = smallest_counts <= 5
    train = train[:, columns]
    test = test[:, columns]

    cut = len(train) - int(0.1 * len(train))
    splits = {"train": train[:cut], "val": train[cut:], "test": test}
    return splits, mean[columns], std[columns]


def _read_signal_rows(path: Path) -> np.ndarray:
    """Reads the rows of HEPMASS' signal class, without the column of the class."""
    # The columns are given, as the header of the test file has a name too many.
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(28), ndmin=2)
    return rows[rows[:, 0] == 1, 1:]


def _clean_miniboone(path: Path) -> CleanedTable:
    """Keeps everything."""
    return _split_80_10_10_in_order(np.load(path))


ARCHIVED = {
    table.name: table
    for table in (
        ArchivedTable(
            "power",
            _clean_power,
            2_049_280,
            ("power/data.npy",),
            (
                "active_power",
                "voltage",
                "sub_metering_1",
                "sub_metering_2",
                "sub_metering_3",
                "minute",
            ),
        ),
        ArchivedTable("gas", _clean_gas, 1_052_065, ("gas/ethylene_CO.pickle",)),
        ArchivedTable(
            "hepmass", _clean_hepmass, 525_123, ("hepmass/1000_train.csv", "hepmass/1000_test.csv")
        ),
        ArchivedTable("miniboone", _clean_miniboone, 36_488, ("miniboone/data.npy",)),
    )
}
"""Name of a table -> the table: household electricity (6 columns), gas sensors (8), particle
collisions (21) and neutrino events (43)."""

DATASETS = {name: DataSource(table.find, is_table=True) for name, table in ARCHIVED.items()}


def load_tabular(name: str, data_root: str | Path | None = None) -> Splits:
    """Loads a table of the archive for studies: without the columns' names and units.

    The hash of a study's data is that of the rows alone.

    Args:
        name: A key of ``ARCHIVED``.
        data_root: The folder of the archive's files; None for ``PYTHAE_FIF_DATA``.

    Raises:
        ConfigError: An unknown name.
        DataError: A file is missing or not what its name promises.
    """
    check_choice(name, ARCHIVED, f"table {name!r} is unknown")
    return replace(ARCHIVED[name].read(data_home(data_root)), columns=None)
