"""Models of the benchmark: YAML files, read into validated entries."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

import pythae_fif
from pythae_fif.errors import ConfigError, check_choice, format_error
from pythae_fif.files import read_bytes
from pythae_fif.names import import_object, is_user_object
from pythae_fif.sampling.catalog import check_sampler_name
from pythae_fif.validation import AtLeastOne, StrictModel, UniqueList, read_checked

SamplerName = Annotated[str, AfterValidator(check_sampler_name)]
Grid = dict[str, UniqueList[Any]]
"""Parameter -> its values."""
LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast loader of libyaml, with which not every PyYAML was built."""

FIF_FLAGS = ("beta", "hutchinson_samples")
"""Parameters of FIF that have a flag each: fields of the same names in `Experiment`."""


class ModelEntry(StrictModel):
    """One model of the benchmark, from `models/<name>.yaml`, overlaid by the profile.

    Attributes:
        label: Its name in tables.
        source: Paper of the model, and whether the grid is a paper's or ours.
        model: Import path of the model's class.
        config: Import path of its configuration's class.
        trainer: Import path of the class of its training configuration.
        variational: Whether its encoder also returns a log-variance.
        networks: Import path of a function `(arch, input_dim, latent_dim)` that builds encoder and
            decoder; None for :func:`pythae_fif.nn.build_networks`; `own` if the model builds its
            networks from its configuration.
        discriminator: Import path of a discriminator, called with the image shape (C, H, W).
        keep_last: Keep the last weights and not the ones of lowest evaluation loss, because
            the model's loss does not fall as it learns.
        conditional: Whether it takes labels, as a FIF with one condition per class does.
        samplers: Samplers that make sense for it. The first one samples its usual prior and
            replaces `normal`.
        grid: Parameter, or `learning_rate`, -> values; the configurations are their product.
        configurations: The configurations one by one, in place of a grid.
        fixed: Parameters of every configuration, unless it gives another value.
        batch_size: Batch size that replaces the profile's.
        learning_rate: Learning rate that replaces the profile's.
        weight_decay: Weight decay that replaces the profile's.
        images_only: Whether it takes images in [0, 1] only, not rows of a table.
        rows_only: Whether it takes rows of a table only, not images.
        max_latent_dim: Largest latent dimension that the model takes; None if any.
        all_dims: Whether its codes have all D dimensions of the data, whatever the latent dimension
            of the experiment.
        include_in_all: Whether `all` includes it.
        architectures: Architectures for which `all` includes it; None for every architecture.
        notes: Known differences between the model's paper and its code.
    """

    label: str
    source: str
    model: str
    config: str
    trainer: str = "pythae.trainers.BaseTrainerConfig"
    variational: bool = False
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    conditional: bool = False
    samplers: UniqueList[SamplerName] = Field(
        default_factory=lambda: ["normal", "gaussian", "gmm", "maf", "iaf", "flow", "flow_matching"]
    )
    grid: Grid = Field(default_factory=dict)
    configurations: list[dict[str, Any]] = Field(default_factory=list)
    fixed: dict[str, Any] = Field(default_factory=dict)
    batch_size: AtLeastOne | None = None
    learning_rate: LearningRate | None = None
    weight_decay: WeightDecay | None = None
    images_only: bool = False
    rows_only: bool = False
    max_latent_dim: AtLeastOne | None = None
    all_dims: bool = False
    include_in_all: bool = True
    architectures: list[str] | None = None
    notes: list[str] = Field(default_factory=list)

    @property
    def takes_fif_flags(self) -> bool:
        """Whether its configuration is FIF's, or a subclass of it, with FIF's parameters.

        Parameters of the same name in other models, such as beta in a VAE, mean something else.
        """
        from pythae_fif.models import FIFConfig  # imported here, because it takes seconds

        return issubclass(import_object(self.config), FIFConfig)

    def varied_in(self, parameters: Mapping[str, Any]) -> list[str]:
        """Returns the names of those parameters of a run that the model varies.

        These are the ones of the grid, the configurations and FIF's flags, unless a parameter has
        the value that is fixed for the model.

        Args:
            parameters: All parameters of the run.
        """
        names = [*self.grid]
        for configuration in self.configurations:
            names += configuration
        if self.takes_fif_flags:
            names += FIF_FLAGS
        return [
            name
            for name in dict.fromkeys(names)
            if name in parameters
            and (name not in self.fixed or parameters[name] != self.fixed[name])
        ]

    def choices(self, overrides: Mapping[str, list[Any]] | None = None) -> list[dict[str, Any]]:
        """Returns the configurations, or the product of the grid.

        The first key of the grid varies slowest. Keys of `overrides` that the grid lacks come last.

        Args:
            overrides: Parameter -> values to use in place of the grid's.
        """
        if self.configurations and not overrides:
            return self.configurations
        grid = {**self.grid, **(overrides or {})}
        combinations = itertools.product(*grid.values())
        return [dict(zip(grid, combination, strict=True)) for combination in combinations]

    def compatible_samplers(self, requested: list[str]) -> list[str]:
        """Returns the requested samplers that the model has, and a user's own; may be empty.

        If the model has another prior than the standard normal, its usual sampler replaces
        `normal`.
        """
        names = [self.samplers[0] if name == "normal" else name for name in requested]
        return [
            name for name in dict.fromkeys(names) if name in self.samplers or is_user_object(name)
        ]


def read_entry(name: str, changes: Mapping[str, Any] | None = None, source: str = "") -> ModelEntry:
    """Reads the entry of a model, given its name or the path of the user's YAML file.

    None of the model's classes is imported, since that takes seconds.

    Args:
        name: The name or the path.
        changes: Keys of the entry that a profile changes. Its `fixed` is merged with the model's;
            its `grid` replaces the model's grid and configurations.
        source: The file of the profile, for error messages.

    Raises:
        ConfigError: Unknown name, file that cannot be read, or wrong key or value.
    """
    path = Path(name).expanduser()
    if path.suffix != ".yaml":
        check_choice(name, list_configs("models"), f"model {name!r} is unknown")
        path = configs_dir() / "models" / f"{name}.yaml"
    values = read_yaml(path)
    entry = read_checked(ModelEntry, values, path.name)
    if not changes:
        return entry

    merged = {**values, **changes}
    if "grid" in changes:
        merged["configurations"] = []
    if isinstance(changes.get("fixed"), Mapping):
        merged["fixed"] = {**entry.fixed, **changes["fixed"]}
    return read_checked(ModelEntry, merged, f"{source}: model {path.stem}")


def configs_dir() -> Path:
    """Returns the folder of YAML files: the checkout's, or the copy in an installed wheel."""
    package = Path(pythae_fif.__file__).parent
    checkout = package.parent / "benchmark_configs"
    return checkout if checkout.is_dir() else package / "configs"


def list_configs(folder: str = "") -> list[str]:
    """Returns the names of the YAML files in `benchmark_configs/<folder>`, sorted."""
    return sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file with a mapping at its top level.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or its top level is not a mapping.
    """
    try:
        content = yaml.load(read_bytes(path), Loader=YAML_LOADER)
        json.dumps(content, default=str)  # a ValueError for a mapping that contains itself
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # or a date such as 2024-13-40
        raise ConfigError(f"{path} is not YAML: {format_error(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return content


def format_value(value: Any) -> str:
    """Formats a parameter for people: 0.5 for 0.50, Planar+Radial for a list."""
    if isinstance(value, list):
        return "+".join(map(format_value, value))
    return f"{value:g}" if type(value) in (int, float) else str(value)
