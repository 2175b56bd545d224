"""The tabular studies' protocol: configurations, net sizes, profiles, and the data with them."""

__all__ = [
    "BETA",
    "CONFIGURATIONS",
    "NETS_NOTE",
    "NOISE",
    "SEEDS",
    "WEIGHT_DECAY",
    "Budget",
    "Configuration",
    "Nets",
    "Profile",
    "Table",
    "load_table",
]

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pythae_fif.benchmark.yaml_files import config_file, names_in, read_yaml
from pythae_fif.data.tabular import TabularSplits, load_tabular
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.models.hutchinson import HutchinsonModel
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.output import data_name
from pythae_fif.validation import AtLeastOne, Checked, Each, read_checked

SEEDS = [0, 1, 2, 3, 4]
BETA, NOISE, WEIGHT_DECAY = 10.0, 0.01, 1e-4  # appendix E.2
FREE_FORM: dict[str, type[nn.Module]] = {"free-form": nn.ReLU, "free-form, SiLU": nn.SiLU}
"""The free-form nets by the paper's text, and by its authors' released code."""
NETS_NOTE = (
    "The text gives FIF's free-form nets ReLU, the authors' released code SiLU; which of them the "
    "published numbers are of is not told."
)


@dataclass(frozen=True)
class Configuration:
    """A row of tables 1 and 6, with the free-form nets of the text or of the code.

    Attributes:
        label: Its name in tables.
        model: ``fif`` or ``rectangular_flow``, whose estimator it uses.
        net: Of `FREE_FORM`, or ``coupling``.
        jacobian_at: ``data`` (off-manifold) or ``reconstruction`` (on-manifold).
    """

    label: str
    model: str
    net: str
    jacobian_at: str

    @property
    def title(self) -> str:
        """Its name where no column tells its net."""
        return f"{self.label}, SiLU" if FREE_FORM.get(self.net) is nn.SiLU else self.label

    @property
    def place(self) -> str:
        """Where the Jacobian is taken, in the words of table 6."""
        return "off manifold" if self.jacobian_at == "data" else "on manifold"

    def build(self, input_dim: tuple[int, ...], latent_dim: int, nets: "Nets") -> HutchinsonModel:
        """A freshly initialised model; seed torch before calling."""
        shape: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim}
        choices: dict[str, Any] = {"beta": BETA, "noise": NOISE, "jacobian_at": self.jacobian_at}
        if self.net in FREE_FORM:
            activation = FREE_FORM[self.net]
            sizes: dict[str, Any] = {"hidden_dim": nets.hidden_dim, "activation": activation}
            networks = TabularEncoder(**shape, **sizes), TabularDecoder(**shape, **sizes)
            return FIF(FIFConfig(**shape, **choices), *networks)
        flow = build_coupling(
            **shape,
            data_blocks=nets.data_blocks,
            latent_blocks=nets.latent_blocks,
            hidden_dim=nets.block_dim,
        )
        if self.model == "rectangular_flow":
            return RectangularFlow(RectangularFlowConfig(**shape, **choices), *flow)
        return FIF(FIFConfig(**shape, **choices), *flow)


CONFIGURATIONS = {
    "fif": Configuration("FIF", "fif", "free-form", "data"),
    "fif_on": Configuration("FIF", "fif", "free-form", "reconstruction"),
    "fif_silu": Configuration("FIF", "fif", "free-form, SiLU", "data"),
    "fif_silu_on": Configuration("FIF", "fif", "free-form, SiLU", "reconstruction"),
    "fif_coupling": Configuration("FIF", "fif", "coupling", "data"),
    "rectangular_flow_off": Configuration("RF", "rectangular_flow", "coupling", "data"),
    "fif_coupling_on": Configuration("FIF", "fif", "coupling", "reconstruction"),
    "rectangular_flow": Configuration("RF", "rectangular_flow", "coupling", "reconstruction"),
}
"""In the order of table 6; ``fif``, ``fif_silu`` and ``rectangular_flow`` are table 1's."""


class Nets(Checked):
    """Sizes of the free-form and the coupling nets; the defaults are the paper's.

    Attributes:
        hidden_dim: Width of the free-form nets.
        data_blocks, latent_blocks, block_dim: Of the coupling flow, about as many parameters.
    """

    hidden_dim: AtLeastOne = 256
    data_blocks: AtLeastOne = 10
    latent_blocks: AtLeastOne = 5
    block_dim: AtLeastOne = 160


class Budget(Checked):
    """What one training may spend.

    Attributes:
        epochs, batch_size: Of Adam with one cycle of the learning rate.
        train_size: First training rows that are used; all if None.
        nets: Sizes.
    """

    epochs: AtLeastOne
    batch_size: AtLeastOne
    train_size: AtLeastOne | None = None
    nets: Nets = Nets()


class Profile(Budget):
    """How long every configuration trains, and at which learning rates.

    Attributes:
        note: What this is, and is not.
        epochs_of: Configuration -> its own number of epochs.
        learning_rates: The cycle's highest learning rate, ascending. Of several, each configuration
            takes the one at which its first seed has the lowest FID-like score on validation rows.
    """

    note: str
    learning_rates: Each[float]
    epochs_of: dict[str, AtLeastOne] = Field(default_factory=dict)

    def budget_of(self, configuration: str) -> Budget:
        """What one configuration may spend."""
        return Budget(
            epochs=self.epochs_of.get(configuration, self.epochs),
            batch_size=self.batch_size,
            train_size=self.train_size,
            nets=self.nets,
        )


class _File(Checked):
    description: str
    latent_dim: AtLeastOne | None
    profiles: dict[str, Profile]


@dataclass(frozen=True)
class Table:
    """A loaded data set with the protocol that it is trained by.

    Attributes:
        splits: Its rows.
        latent_dim: d.
        profile: The protocol.
        name: Of the data in the names of files: with the file if it is your own, and with d if
            that is not the data set's own.
    """

    splits: TabularSplits
    latent_dim: int
    profile: Profile
    name: str

    @property
    def train(self) -> Tensor:
        """The rows that are trained on, (N, D)."""
        return torch.from_numpy(self.splits.train[: self.profile.train_size])

    @property
    def val(self) -> Tensor:
        """The rows that learning rates are chosen on."""
        return torch.from_numpy(self.splits.val)

    @property
    def test(self) -> Tensor:
        """The rows that are scored on."""
        return torch.from_numpy(self.splits.test)


def load_table(dataset: str, options: StudyOptions) -> Table:
    """A data set by its YAML file in ``benchmark_configs/tabular`` and the command's options.

    Raises:
        ConfigError: An unknown data set or profile, or no latent dimension for ``csv``.
        DataError: See :func:`~pythae_fif.data.tabular.load_tabular`.
    """
    path = config_file(f"tabular/{dataset}")
    if not path.is_file():
        hint = did_you_mean(dataset, names_in("tabular"))
        raise ConfigError(f"table {dataset!r} is unknown: {hint}")
    file = read_checked(_File, read_yaml(path), path.name)
    if options.profile not in file.profiles:
        raise ConfigError(
            f"profile {options.profile!r} of {dataset}: "
            f"{did_you_mean(options.profile, file.profiles)}"
        )
    for name in file.profiles[options.profile].epochs_of:
        if name not in CONFIGURATIONS:
            raise ConfigError(
                f"{path.name}: epochs_of: {name!r} is unknown: {did_you_mean(name, CONFIGURATIONS)}"
            )
    latent_dim = file.latent_dim if options.latent_dim is None else options.latent_dim
    if latent_dim is None:
        raise ConfigError(f"--dataset {dataset} needs --latent-dim")
    splits = load_tabular(dataset, options.data_root, data=options.data, latent_dim=latent_dim)
    if options.data is not None:
        dataset += "-" + re.sub(r"[^\w.]+", "_", Path(options.data).stem)
    name = data_name(dataset, latent_dim, file.latent_dim)
    return Table(splits, latent_dim, file.profiles[options.profile], name)
