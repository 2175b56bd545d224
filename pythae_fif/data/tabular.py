"""The four tables of Papamakarios et al. 2017, cleaned and split as they published it."""

__all__ = ["ARCHIVE_FILES", "load_tabular"]

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.locations import DATA_VARIABLE, data_home
from pythae_fif.data.names import TABULAR_DATASETS
from pythae_fif.data.splits import SPLIT_NAMES, Splits
from pythae_fif.data.tables import as_float32, check_finite, load_table, moments, read_npy
from pythae_fif.errors import ConfigError, DataError, did_you_mean, one_line

ARCHIVE = "https://zenodo.org/record/1161203/files/data.tar.gz"

ARCHIVE_FILES = {
    "power": ("power/data.npy",),
    "gas": ("gas/ethylene_CO.pickle",),
    "hepmass": ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
    "miniboone": ("miniboone/data.npy",),
}

_COLUMNS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}
_PUBLISHED = {
    "power": "1,659,917/184,435/204,928",
    "gas": "852,174/94,685/105,206",
    "hepmass": "315,123/35,013/174,987",
    "miniboone": "29,556/3,284/3,648",
}


Rows = dict[str, np.ndarray]
"""Split -> rows (N, D)."""


def load_tabular(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    latent_dim: int,
) -> Splits:
    """Loads a table, cleans, splits and standardises it.

    The four public data sets come from the files of their archive (``ARCHIVE``) below the data
    root, cleaned and split exactly as by Papamakarios et al. 2017: the last tenth is the test
    split and the last tenth of the rest is for validation; HEPMASS has a test file.

    Args:
        name: One of ``TABULAR_DATASETS``.
        data_root: The folder to look in; None for ``PYTHAE_FIF_DATA``, else
            ``~/.cache/pythae-fif/data``. Nothing is downloaded.
        data: Your file, for ``csv`` and that only, see :func:`~pythae_fif.data.load_table`.
        latent_dim: d of the model: at most D, and every split must have more rows than d.

    Raises:
        ConfigError: An unknown name, or an argument that does not fit the data set.
        DataError: A file is missing or not what its name promises, or has too few rows.
    """
    if name not in TABULAR_DATASETS:
        raise ConfigError(f"unknown table {name!r}: {did_you_mean(name, TABULAR_DATASETS)}")
    if (name == "csv") != (data is not None):
        raise ConfigError(f"table {name!r} with --data {data}: csv needs a path, and it alone")
    if data is None:
        where, splits = f"{name} data", _published(name, data_root)
    else:  # without columns, which the hash of a study's data leaves out
        where, splits = str(data), replace(load_table(data), columns=None)
    columns, fewest = splits.train.shape[1], min(len(splits[split]) for split in SPLIT_NAMES)
    if not 1 <= latent_dim <= columns:
        raise ConfigError(
            f"latent_dim={latent_dim} (--latent-dim): {where} has {columns} columns, so 1 to "
            f"{columns} is needed"
        )
    if fewest <= latent_dim:
        raise DataError(
            f"{where}: its smallest split has {fewest} rows, too few for latent dimension "
            f"{latent_dim}; about {10 * (latent_dim + 1)} are needed in all"
        )
    return splits


def _published(name: str, data_root: str | Path | None) -> Splits:
    """A table of the archive."""
    root = data_home(data_root)
    paths = [root / file for file in ARCHIVE_FILES[name]]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"no {name} data: {path} is missing; unpack {ARCHIVE} there, or set --data-root or "
                f"{DATA_VARIABLE}"
            )
    arrays = as_float32(_LOADERS[name](*paths), f"{name} data")
    columns, wanted = arrays["train"].shape[1], _COLUMNS[name]
    if columns != wanted:
        raise DataError(
            f"{paths[0]}: {columns} columns are left after cleaning, not the {wanted} of {name}"
        )
    counts = "/".join(f"{len(arrays[split]):,}" for split in SPLIT_NAMES)
    source = f"{name.upper()}, {columns} columns, {counts} rows in training/validation/test"
    if partial := counts != _PUBLISHED[name]:
        source += f": a part of the published {_PUBLISHED[name]}"
    return Splits(name, **arrays, labels=None, source=source, partial=partial)


def _load_power(path: Path) -> Rows:
    """Drops reactive power and intensity; adds uniform noise of each column's resolution."""
    rows = read_npy(path)
    if rows.shape[1] != 8:
        raise DataError(f"{path}: {rows.shape[1]} columns, needs the 8 of the archive")
    check_finite(rows, path)
    draws = np.random.RandomState(42)
    draws.shuffle(rows)
    rows = rows[:, [0, 2, 4, 5, 6, 7]]
    voltage = 0.01 * draws.rand(len(rows), 1)  # in the archive's order of draws
    power = 0.001 * draws.rand(len(rows), 1)
    metering = draws.rand(len(rows), 3)
    rows = rows + np.hstack([power, voltage, metering, np.zeros((len(rows), 1))])
    return _standardised(_tenths(rows), path)


def _load_gas(path: Path) -> Rows:
    """Drops concentrations and time, then columns of correlation above 0.98 with another.

    As in the original, all rows give the mean and (unbiased) standard deviation.
    """
    columns = read_frame_pickle(path)
    used = [of for name, of in columns.items() if name not in ("Meth", "Eth", "Time")]
    rows = np.stack(used, axis=1)
    check_finite(rows, path)
    while True:
        related = (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1) > 1
        if not related.any():
            break
        rows = np.delete(rows, int(related.argmax()), axis=1)
    mean, std = moments(rows, path, ddof=1)
    return _tenths((rows - mean) / std)


def _load_hepmass(train_path: Path, test_path: Path) -> Rows:
    """Keeps the signal class; drops columns whose smallest value occurs more than five times."""
    train, test = (_read_hepmass(path) for path in (train_path, test_path))
    mean, std = moments(train, train_path, ddof=1)
    train, test = (train - mean) / std, (test - mean) / std
    # The original takes the first count in order of value for the largest one: kept as it is.
    kept = (train == train.min(axis=0)).sum(axis=0) <= 5
    train, test = train[:, kept], test[:, kept]
    cut = len(train) - int(0.1 * len(train))
    return {"train": train[:cut], "val": train[cut:], "test": test}


def _read_hepmass(path: Path) -> np.ndarray:
    """The 27 features of the rows with label 1; the test file's header has a name too many."""
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(28), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        line = one_line(error)
        raise DataError(f"{path}: needs a label and 27 numbers a line ({line})") from error
    check_finite(rows, path)
    return rows[rows[:, 0] == 1, 1:]


def _load_miniboone(path: Path) -> Rows:
    """The archive's file is clean already."""
    check_finite(rows := read_npy(path), path)
    return _standardised(_tenths(rows), path)


_LOADERS: dict[str, Callable[..., Rows]] = {
    "power": _load_power,
    "gas": _load_gas,
    "hepmass": _load_hepmass,
    "miniboone": _load_miniboone,
}


def _tenths(rows: np.ndarray) -> Rows:
    """Training, validation and test rows: the last tenth, and the last tenth of the rest."""
    rest, test = np.split(rows, [len(rows) - int(0.1 * len(rows))])
    train, val = np.split(rest, [len(rest) - int(0.1 * len(rest))])
    return {"train": train, "val": val, "test": test}


def _standardised(rows: Rows, where: Path) -> Rows:
    """By the mean and standard deviation of training and validation rows together."""
    mean, std = moments(np.vstack([rows["train"], rows["val"]]), where)
    return {split: (of_split - mean) / std for split, of_split in rows.items()}
