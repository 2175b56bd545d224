"""Tables of numbers: the four data sets of Papamakarios et al. 2017, and a user's files."""

__all__ = [
    "ARCHIVE_FILES",
    "download_tabular",
    "load_tabular",
    "read_user_table",
]

import functools
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pythae_fif.data.columns import Columns
from pythae_fif.data.download import Download, fetch
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.locations import DATA_VARIABLE, data_home
from pythae_fif.data.names import AS_USUAL, TABULAR_DATASETS, TableOptions
from pythae_fif.data.splits import MIN_IMAGES, SPLIT_NAMES, Splits, shuffled_split, sizes
from pythae_fif.data.tables import check_finite, read_npy, read_table
from pythae_fif.errors import ConfigError, DataError, did_you_mean, one_line
from pythae_fif.files import write_whole

ARCHIVE = Download(
    "https://zenodo.org/record/1161203/files/data.tar.gz",
    "9b9c9b0375315ad270eba4ce80c093ab",
    820_000_000,
)
ARCHIVE_LICENCE = "CC BY 4.0, doi 10.5281/zenodo.1161203"

ARCHIVE_FILES = {
    "power": ("power/data.npy",),
    "gas": ("gas/ethylene_CO.pickle",),
    "hepmass": ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
    "miniboone": ("miniboone/data.npy",),
}

_COLUMNS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}
_PUBLISHED = {
    "power": (1_659_917, 184_435, 204_928),
    "gas": (852_174, 94_685, 105_206),
    "hepmass": (315_123, 35_013, 174_987),
    "miniboone": (29_556, 3_284, 3_648),
}


class _Rows(NamedTuple):
    """Rows of each split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def load_tabular(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    latent_dim: int,
    seed: int = 0,
) -> Splits:
    """Loads a table, cleans, splits and standardises it.

    The four public data sets come from the files of their archive (``ARCHIVE``) below the data
    root, cleaned and split exactly as by Papamakarios et al. 2017: the last tenth is the test
    split and the last tenth of the rest is for validation; HEPMASS has a test file. A user's table
    is shuffled, cut 80/10/10 and standardised by its training rows.

    Args:
        name: One of ``TABULAR_DATASETS``.
        data_root: The folder to look in; None for ``PYTHAE_FIF_DATA``, else
            ``~/.cache/pythae-fif/data``. Nothing is downloaded: see
            `download_tabular`.
        data: Your file, for ``csv`` and that only.
        latent_dim: d of the model: at most D, and every split must have more rows than d.
        seed: Seed of the shuffle of ``csv``; no other data set uses it.

    Raises:
        ConfigError: An unknown name, or an argument that does not fit the data set.
        DataError: A file is missing or not what its name promises, or has too few rows.
    """
    if name not in TABULAR_DATASETS:
        raise ConfigError(f"unknown table {name!r}: {did_you_mean(name, TABULAR_DATASETS)}")
    if (name == "csv") != (data is not None):
        raise ConfigError(
            "data set 'csv' needs the path to your table (--data)"
            if name == "csv"
            else f"data={str(data)!r} (--data) is for the data set csv, not for {name!r}"
        )
    if name == "csv":
        assert data is not None
        path = Path(data).expanduser()
        # without columns, which the hash of a study's data leaves out
        splits, where = replace(read_user_table(path, seed), columns=None), str(path)
    else:
        where = f"{name} data"
        paths = [data_home(data_root) / file for file in ARCHIVE_FILES[name]]
        for path in paths:
            if not path.is_file():
                raise DataError(
                    f"no {name} data: {path} is missing; set --data-root or {DATA_VARIABLE} to the "
                    f"folder that holds it, or fetch {ARCHIVE.url} ({ARCHIVE_LICENCE}) by "
                    'python -c "from pythae_fif.data.tabular import download_tabular as get; '
                    f"get('{data_home(data_root)}')\""
                )
        rows = _LOADERS[name](*paths)
        if rows.train.shape[1] != _COLUMNS[name]:
            raise DataError(
                f"{paths[0]}: {rows.train.shape[1]} columns are left after cleaning, not the "
                f"{_COLUMNS[name]} of {name}"
            )
        counts, published = (
            "/".join(f"{count:,}" for count in of) for of in (map(len, rows), _PUBLISHED[name])
        )
        source = f"{name.upper()}, {_COLUMNS[name]} columns, {counts} rows in "
        source += "training/validation/test"
        if partial := counts != published:
            source += f": a part of the published {published}"
        arrays = _arrays(rows, where)
        splits = Splits(name, **arrays, labels=None, source=source, partial=partial, columns=None)
    _check_latent_dim(splits, where, latent_dim)
    return splits


def _arrays(rows: _Rows, where: str | Path) -> dict[str, np.ndarray]:
    """Split -> its standardised rows as float32."""
    with np.errstate(over="ignore"):  # is found below
        arrays = {split: of.astype(np.float32) for split, of in rows._asdict().items()}
    for split, of_split in arrays.items():
        check_finite(of_split, f"{where}, standardised {split} rows")
    return arrays


def _check_latent_dim(splits: Splits, where: str, latent_dim: int) -> None:
    columns, fewest = splits.train.shape[1], min(len(splits[split]) for split in SPLIT_NAMES)
    if not 1 <= latent_dim <= columns:
        raise ConfigError(
            f"latent_dim={latent_dim} (--latent-dim): {where} has {columns} columns, so 1 to "
            f"{columns} is needed"
        )
    if fewest <= latent_dim:
        raise DataError(
            f"{where}: its smallest split has {fewest} rows, too few for latent dimension "
            f"{latent_dim}; at least {latent_dim + 1} are needed, about {10 * (latent_dim + 1)} "
            "in all"
        )


def download_tabular(root: str | Path) -> list[Path]:
    """Downloads the public archive and unpacks the four data sets' files; nothing else calls this.

    The archive, of about 820 MB, is `ARCHIVE`, under ``ARCHIVE_LICENCE``. It holds, among others,
    the files that `load_tabular` reads.

    Args:
        root: Folder to unpack to, made if needed.

    Returns:
        The files written.

    Raises:
        DataError: The download failed, the checksum differs, or a file is not in the archive.
        StoreError: The disk does not take a file.
    """
    root = Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    wanted = [file for files in ARCHIVE_FILES.values() for file in files]
    by_hand = f"fetch it by hand and unpack {', '.join(wanted)} into {root}"
    written: list[Path] = []
    with tempfile.TemporaryDirectory(dir=root) as folder:
        archive = Path(folder) / "data.tar.gz"
        fetch(ARCHIVE, archive, by_hand)
        with tarfile.open(archive) as tar:
            # Plain files, read one by one to places of our own choosing.
            members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}
            for name in wanted:
                member = members.get(f"data/{name}") or members.get(name)
                content = tar.extractfile(member) if member else None
                if content is None:
                    raise DataError(f"{ARCHIVE.url}: {name} is not in the archive")
                path = root / name
                path.parent.mkdir(exist_ok=True)
                write_whole(path, functools.partial(shutil.copyfileobj, content))
                written.append(path)
    return written


# ---------------------------------------------------------------- the four data sets


def _load_power(path: Path) -> _Rows:
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
    return _standardised(_tenths(rows, path), path)


def _load_gas(path: Path) -> _Rows:
    """Drops concentrations and time, then columns of correlation above 0.98 with another.

    As in the original, all rows give the mean and (unbiased) standard deviation.
    """
    columns = read_frame_pickle(path)
    for column in ("Meth", "Eth", "Time"):
        if column not in columns:
            raise DataError(f"{path}: column {column!r} is missing")
        del columns[column]
    rows = np.stack(list(columns.values()), axis=1)
    check_finite(rows, path)
    while True:
        related = (np.corrcoef(rows, rowvar=False) > 0.98).sum(axis=1) > 1
        if not related.any():
            break
        rows = np.delete(rows, int(related.argmax()), axis=1)
    mean, std = _moments(rows, path, ddof=1)
    return _tenths((rows - mean) / std, path)


def _load_hepmass(train_path: Path, test_path: Path) -> _Rows:
    """Keeps the signal class; drops columns whose smallest value occurs more than five times."""
    train, test = (_read_hepmass(path) for path in (train_path, test_path))
    mean, std = _moments(train, train_path, ddof=1)
    train, test = (train - mean) / std, (test - mean) / std
    # The original takes the first count in order of value for the largest one: kept as it is.
    kept = (train == train.min(axis=0)).sum(axis=0) <= 5
    train, test = train[:, kept], test[:, kept]
    held_out = _tenth(len(train), train_path)
    return _Rows(train[:-held_out], train[-held_out:], test)


def _load_miniboone(path: Path) -> _Rows:
    """The archive's file is clean already."""
    check_finite(rows := read_npy(path), path)
    return _standardised(_tenths(rows, path), path)


_LOADERS: dict[str, Callable[..., _Rows]] = {
    "power": _load_power,
    "gas": _load_gas,
    "hepmass": _load_hepmass,
    "miniboone": _load_miniboone,
}


def read_user_table(path: Path, seed: int, options: TableOptions = AS_USUAL) -> Splits:
    """A user's table: shuffled, cut 80/10/10, standardised by its training rows.

    Raises:
        DataError: It is none, has too few rows, or a column that cannot be standardised.
    """
    (names, rows), notes = read_table(path, options), []
    gaps = np.isnan(rows)
    if gaps.any() and options.missing == "drop":
        rows = rows[~gaps.any(axis=1)]
        notes.append(f"{len(gaps) - len(rows):,} rows with missing values left out")
    elif gaps.any():
        notes.append(f"{int(gaps.sum()):,} missing values are their column's mean in training rows")
    _require(len(rows), 10 * MIN_IMAGES, path)
    split = _Rows(**{name: rows[i] for name, i in shuffled_split(len(rows), seed).items()})
    train = np.ma.masked_invalid(split.train)
    constant = np.flatnonzero((train.max(axis=0) == train.min(axis=0)).filled(True))
    if len(constant):
        name = names[constant[0]]
        raise DataError(f"{path}: column {name!r} is constant in the training rows: leave it out")
    mean, std = _moments(train, path)
    scaled = _Rows(*(np.nan_to_num(part, nan=0.0) for part in _scaled(split, mean, std)))
    arrays = _arrays(scaled, path)
    title = f"{path.name}, {len(names)} columns, standardised by training rows"
    how = f"shuffled 80/10/10 with seed {seed}, {sizes(arrays)}"
    source = "; ".join([f"{title}, {how}", *notes])
    columns = Columns(names, mean.tolist(), std.tolist())
    return Splits("csv", **arrays, labels=None, source=source, partial=False, columns=columns)


def _require(count: int, fewest: int, where: Path) -> None:
    if count < fewest:
        raise DataError(f"{where}: {count} rows, too few to split; at least {fewest} are needed")


def _tenth(count: int, where: Path) -> int:
    _require(count, 20, where)
    return int(0.1 * count)


def _tenths(rows: np.ndarray, where: Path) -> _Rows:
    """Training, validation and test rows: the last tenth, and the last tenth of the rest."""
    rest, test = np.split(rows, [len(rows) - _tenth(len(rows), where)])
    train, val = np.split(rest, [len(rest) - int(0.1 * len(rest))])
    return _Rows(train, val, test)


def _moments(rows: np.ndarray, where: Path, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, by which it can be standardised."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = (np.asarray(of) for of in (rows.mean(axis=0), rows.std(axis=0, ddof=ddof)))
    bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(std) & (std > 0)))
    if len(bad):
        raise DataError(
            f"{where}: column {bad[0] + 1} has mean {mean[bad[0]]:g} and standard deviation "
            f"{std[bad[0]]:g}, needs finite ones, the latter above 0: scale the column"
        )
    return mean, std


def _scaled(rows: _Rows, mean: np.ndarray, std: np.ndarray) -> _Rows:
    return _Rows(*((of_split - mean) / std for of_split in rows))


def _standardised(rows: _Rows, where: Path) -> _Rows:
    """By the mean and standard deviation of training and validation rows together."""
    return _scaled(rows, *_moments(np.vstack([rows.train, rows.val]), where))


def _read_hepmass(path: Path) -> np.ndarray:
    """The 27 features of the rows with label 1; the test file's header has a name too many."""
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(28), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        line = one_line(error)
        raise DataError(f"{path}: needs a label and 27 numbers a line ({line})") from error
    check_finite(rows, path)
    return rows[rows[:, 0] == 1, 1:]
