"""Names that users choose from, such as architectures and samplers, and options of data.

The module does not import torch, so that the command line shows its `--help` at once.
"""

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pythae_fif.errors import ConfigError, DataError, format_error
from pythae_fif.validation import AbsolutePath, Flag, StrictModel, UniqueList

CodeSource = Literal["encoder", "mode"]
"""Codes of data: f(x), or the modes of the posteriors of codes."""

TOY_DATASETS = (
    "sinusoid", "two_moons", "circle", "von_mises_circle", "spiral", "swiss_roll", "torus",
    "sphere",
)  # fmt: skip
"""Toy data sets: the keys of :data:`~pythae_fif.data.toy.TOY_DATA`."""

ARCHITECTURES: dict[str, str] = {
    "convnet": "Pythae's ConvNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "resnet": "Pythae's ResNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "small_convnet": "a ConvNet without BatchNorm that grows with the size of images",
    "small_resnet": "a ResNet without BatchNorm that grows with the size, the default of folders",
    "fif_convnet": "ConvNet of the FIF paper's table 11 for MNIST and CelebA; a small one for "
    "other images",
    "tabular": "feed-forward networks for tables of numbers, from the FIF paper's appendix E.2, "
    "with SiLU as in its authors' code",
    "tabular_relu": "the same with ReLU, as in the paper's text",
    "tabular_small": "the same with fewer units, for short trainings",
} | {
    f"{arch}_fc{count}": f"{arch} with {count} fully connected residual blocks after the encoder "
    f"and {count} before the decoder"
    for arch in ("convnet", "resnet")
    for count in (2, 4)
}
"""Name of an architecture -> a one-line description."""


USER_OBJECT = r"[\w.]+:[\w.]+"
"""Pattern of the names of users' own data sets, samplers, extractors and scores."""

Precision = Literal["float32", "bfloat16"]
SkipBroken = Annotated[bool, Flag("leave out images that cannot be read")]

DATA_VARIABLE = "PYTHAE_FIF_DATA"
"""Environment variable with the folder of the data sets."""
CACHE_VARIABLE = "PYTHAE_FIF_CACHE"
"""Environment variable with the folder of caches."""


def cache_home() -> Path:
    """Returns the cache folder, which need not exist.

    It is ``PYTHAE_FIF_CACHE`` if that is set, and ``~/.cache/pythae-fif`` otherwise.
    """
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/pythae-fif").expanduser()


def data_home(data_root: str | Path | None = None) -> Path:
    """Returns the folder of the data sets. Downloads are written there, too.

    It is the first of `data_root`, ``PYTHAE_FIF_DATA`` and ``~/.cache/pythae-fif/data`` that is
    set. The last one is the default and need not exist.

    Raises:
        DataError: The folder that the user set does not exist.
    """
    user_root = data_root or os.environ.get(DATA_VARIABLE)
    root = Path(user_root or "~/.cache/pythae-fif/data").expanduser()
    if user_root and not root.is_dir():
        raise DataError(
            f"the data folder {root} (--data-root or {DATA_VARIABLE}) does not exist: create it"
        )
    return root


class DataOptions(StrictModel):
    """Options that say where data are and how they are read.

    They are not part of a run's id, which contains the hash of the loaded data.

    Attributes:
        data_root: Folder of the data sets; see :func:`data_home` for the default.
        data: The user's folder or file, for ``folder``, ``npz`` and ``csv`` only.
        offline: Never download.
        columns: Columns of a table to model; see :func:`~pythae_fif.data.load_table`.
        drop: Columns of a table to leave out.
        label: Column of a table with the class.
        skip_broken: Whether images that cannot be read are left out; otherwise they are an error.
        reader: `module:object` of a user's :class:`~pythae_fif.data.DataSource`; None for a
            built-in data set.
    """

    data_root: Annotated[
        str | None, Flag("folder of the data sets (default: PYTHAE_FIF_DATA)", "DIR")
    ] = None
    data: Annotated[
        AbsolutePath | None,
        Flag("your folder or file, for --dataset folder, npz or csv", "PATH"),
    ] = None
    offline: Annotated[bool, Flag("never download anything")] = False
    columns: Annotated[UniqueList[str] | None, Flag("columns of a table to model", "COLUMN")] = None
    drop: Annotated[UniqueList[str] | None, Flag("columns of a table to leave out", "COLUMN")] = (
        None
    )
    label: Annotated[str | None, Flag("column of a table with the class", "COLUMN")] = None
    skip_broken: SkipBroken = False
    reader: str | None = None


def is_user_object(name: str) -> bool:
    """Returns whether a name is that of a user's object, `module:object`."""
    return re.fullmatch(USER_OBJECT, name) is not None


def import_object(path: str) -> Any:
    """Imports a user's object by `module:object`, or a class by its dotted path.

    Besides installed packages, modules in the working directory can be imported.

    Raises:
        ConfigError: The module cannot be imported or has no such object.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())

    module_name, _, object_name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module_name), object_name)
    except Exception as error:  # the user's own module may raise any exception
        raise ConfigError(f"cannot import {path!r} ({format_error(error)})") from error
