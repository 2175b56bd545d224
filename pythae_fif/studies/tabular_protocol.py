"""The tabular studies' protocol: configurations, net sizes, profiles, and the data with them."""

__all__ = [
    "APPENDIX",
    "CONFIGURATIONS",
    "COUPLING",
    "SOURCES_NOTE",
    "TABLE_ONE",
    "Budget",
    "Configuration",
    "Nets",
    "Profile",
    "Table",
    "load_table",
]

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pythae_fif.benchmark.yaml_files import config_file, names_in, read_yaml
from pythae_fif.data.splits import Splits
from pythae_fif.data.tabular import load_tabular
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.output import data_name
from pythae_fif.validation import AtLeastOne, Checked, Each, name_of, read_checked
from pythae_fif.volume_change.hutchinson import HutchinsonKind

FREE_FORM: dict[str, type[nn.Module]] = {"free-form": nn.ReLU, "free-form, SiLU": nn.SiLU}
"""The free-form nets by the paper's text, and by its authors' released code."""
COUPLING = {"coupling": "ReLU", "coupling, tanh": "Tanh"}
SOURCES_NOTE = (
    "Settings of: FIF's text is appendix E.2 of the paper, with ReLU; FIF's code is what its "
    "authors released, with SiLU; which of the two the published numbers are of is not told. RF's "
    "code is what its own authors released; the other RF rows train as FIF does. Epochs and rates "
    "are the profile's. On manifold, eq. 10 as it is written has gradient through the projection, "
    "with ReLU none; to detach it is ours. The released code has no on-manifold training."
)


@dataclass(frozen=True)
class Settings:
    """What does not depend on the data set in the training of one model.

    The defaults are appendix E.2's.

    Attributes:
        beta, noise, weight_decay: As everywhere.
        hutchinson_kind: See :func:`~pythae_fif.volume_change.sample_hutchinson`.
        one_cycle: Whether the learning rate goes through one cycle, or is constant.
        data_hidden, latent_hidden: Hidden layers of the coupling flow's nets in data and in latent
            space at the paper's sizes, narrower where the other nets are.
    """

    beta: float = 10.0
    noise: float = 0.01
    weight_decay: float = 1e-4
    hutchinson_kind: HutchinsonKind = "orthogonal"
    one_cycle: bool = True
    data_hidden: tuple[int, ...] = ()
    latent_hidden: tuple[int, ...] = ()


APPENDIX = Settings()
RF_CODE = Settings(50.0, 0.0, 0.0, "gaussian", False, (128,) * 4, (32,) * 2)
"""Of layer6ai-labs/rectangular-flows, RNFs-ML; its batch and warm-up are in the profiles."""


@dataclass(frozen=True)
class Configuration:
    """A row of tables 1 and 6, with the settings of the text or of somebody's code.

    Attributes:
        label: Its name in tables.
        model: ``fif`` or ``rectangular_flow``, whose estimator it uses.
        net: Of `FREE_FORM` or `COUPLING`.
        jacobian_at: As of :class:`~pythae_fif.models.FIFConfig`.
        settings: Of its training.
    """

    label: str
    model: str
    net: str
    jacobian_at: str
    settings: Settings = APPENDIX

    @property
    def title(self) -> str:
        """Its name where no column tells its net."""
        return f"{self.label}, SiLU" if FREE_FORM.get(self.net) is nn.SiLU else self.label

    @property
    def place(self) -> str:
        """Where the Jacobian is taken, in the words of table 6."""
        at = {"data": "off manifold", "reconstruction": "on manifold"}
        return at.get(self.jacobian_at, "on manifold, detached")

    @property
    def source(self) -> str:
        """Whose settings it has, see `SOURCES_NOTE`."""
        if self.settings is RF_CODE:
            return "RF's code"
        if self.jacobian_at == "detached_reconstruction":
            return "ours"
        code = "FIF's code" if self.jacobian_at == "data" else "FIF's code, eq. 10"
        return code if FREE_FORM.get(self.net) is nn.SiLU else "FIF's text"

    def identity(self) -> dict[str, Any]:
        """What a run's id is made of; the settings count where they are not the appendix's."""
        content = asdict(self)
        if self.settings == APPENDIX:
            del content["settings"]
        return content

    def build(self, input_dim: tuple[int, ...], latent_dim: int, nets: "Nets") -> FIF:
        """A freshly initialised model; seed torch before calling."""
        shape: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim}
        settings = self.settings
        choices: dict[str, Any] = {"jacobian_at": self.jacobian_at, "beta": settings.beta}
        choices |= {"noise": settings.noise, "hutchinson_kind": settings.hutchinson_kind}
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
            data_hidden=nets.scaled(settings.data_hidden),
            latent_hidden=nets.scaled(settings.latent_hidden),
            activation=COUPLING[self.net],
        )
        if self.model == "rectangular_flow":
            return RectangularFlow(RectangularFlowConfig(**shape, **choices), *flow)
        return FIF(FIFConfig(**shape, **choices), *flow)


CONFIGURATIONS = {
    "fif": Configuration("FIF", "fif", "free-form", "data"),
    "fif_on": Configuration("FIF", "fif", "free-form", "reconstruction"),
    "fif_on_detached": Configuration("FIF", "fif", "free-form", "detached_reconstruction"),
    "fif_silu": Configuration("FIF", "fif", "free-form, SiLU", "data"),
    "fif_silu_on": Configuration("FIF", "fif", "free-form, SiLU", "reconstruction"),
    "fif_silu_on_detached": Configuration(
        "FIF", "fif", "free-form, SiLU", "detached_reconstruction"
    ),
    "fif_coupling": Configuration("FIF", "fif", "coupling", "data"),
    "rectangular_flow_off": Configuration("RF", "rectangular_flow", "coupling", "data"),
    "fif_coupling_on": Configuration("FIF", "fif", "coupling", "reconstruction"),
    "rectangular_flow": Configuration("RF", "rectangular_flow", "coupling", "reconstruction"),
    "rectangular_flow_published": Configuration(
        "RF", "rectangular_flow", "coupling, tanh", "reconstruction", RF_CODE
    ),
}
"""In the order of table 6; those of `TABLE_ONE` are table 1's."""
TABLE_ONE = ("fif", "fif_silu", "rectangular_flow", "rectangular_flow_published")


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

    def scaled(self, hidden: Sequence[int]) -> list[int]:
        """Widths given at the paper's sizes, narrower as the coupling flow's nets here are."""
        return [max(1, width * self.block_dim // Nets().block_dim) for width in hidden]


class Budget(Checked):
    """What one training may spend.

    Attributes:
        epochs, batch_size: Of Adam.
        train_size: First training rows that are used; all if None.
        nets: Sizes.
        warmup: The epochs between which the likelihood's weight rises from 0 to 1; 1 all the time
            if None.
    """

    epochs: AtLeastOne
    batch_size: AtLeastOne
    train_size: AtLeastOne | None = None
    nets: Nets = Nets()
    warmup: Annotated[tuple[AtLeastOne, AtLeastOne] | None, Field(strict=False)] = None

    def likelihood_weight(self, epoch: int) -> float:
        """The likelihood's factor in the loss of an epoch, from 1."""
        return 1.0 if self.warmup is None else float(np.interp(epoch, self.warmup, (0, 1)))

    def identity(self) -> dict[str, Any]:
        """What a run's id is made of; a warm-up counts where there is one."""
        return self.model_dump(exclude={"warmup"} if self.warmup is None else None)


class Profile(Budget):
    """How long every configuration trains, and at which learning rates.

    Attributes:
        note: What this is, and is not.
        learning_rates: The cycle's highest learning rate, ascending. Of several, each configuration
            takes the one at which its first seed has the lowest FID-like score on validation rows.
        of: Configuration -> keys of this class that are others for it.
    """

    note: str
    learning_rates: Each[float]
    of: dict[Annotated[str, name_of(lambda: CONFIGURATIONS)], dict[str, Any]] = Field(default={})

    def own(self, configuration: str) -> "Profile":
        """That of one configuration."""
        return Profile(**{**dict(self), **self.of.get(configuration, {})})

    def budget(self) -> Budget:
        """What it lets a training spend."""
        return Budget(**{name: getattr(self, name) for name in Budget.model_fields})


class _File(Checked):
    latent_dim: AtLeastOne | None
    profiles: dict[str, Profile]


@dataclass(frozen=True)
class Table:
    """A loaded data set with the protocol that it is trained by.

    Attributes:
        splits: Its rows.
        latent_dim: d.
        profile: The protocol.
        name: Of the data in the names of files: with file and content if it is your own, and with d
            if that is not the data set's own.
    """

    splits: Splits
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
    latent_dim = file.latent_dim if options.latent_dim is None else options.latent_dim
    if latent_dim is None:
        raise ConfigError(f"--dataset {dataset} needs --latent-dim")
    splits = load_tabular(dataset, options.data_root, data=options.data, latent_dim=latent_dim)
    if options.data is not None:
        stem = re.sub(r"[^\w.]+", "_", Path(options.data).stem)
        dataset += f"-{stem}-{splits.content_hash[:6]}"
    name = data_name(dataset, latent_dim, file.latent_dim)
    return Table(splits, latent_dim, file.profiles[options.profile], name)
