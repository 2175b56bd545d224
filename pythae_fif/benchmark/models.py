"""What a model of the benchmark is: a YAML file, read into a validated entry."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

import pythae_fif
from pythae_fif.errors import ConfigError, did_you_mean, format_error
from pythae_fif.names import SAMPLERS
from pythae_fif.validation import AtLeastOne, StrictModel, UniqueList, one_of, read_checked

SamplerName = Annotated[str, one_of(lambda: SAMPLERS)]
Grid = dict[str, UniqueList[Any]]
"""Hyper-parameter -> its values."""

GRID_FLAGS = ("beta", "hutchinson_samples")
"""Keys of FIF's grid whose values a flag gives."""
FIF = "pythae_fif.models.FIF"


class ModelClasses(StrictModel):
    """Of a model's entry, what defines the results of its runs beside hyper-parameters.

    Attributes:
        model, config, trainer: Import paths of the three classes.
        variational: Whether its encoder also gives a log-variance.
        networks: Import path of a function of architecture, image shape and latent dimension, for
            encoders and decoders of another kind than those of `pythae_fif.nn.build_networks`;
            `own` if the model builds its own from its configuration.
        discriminator: Import path of a discriminator, called with the image shape.
        keep_last: Whether the last weights are kept, not those of the lowest evaluation loss: for
            models whose loss does not fall as they learn.
        conditional: Whether it is told the labels: a FIF with a `condition_dim` of all classes.
    """

    model: str
    config: str
    trainer: str = "pythae.trainers.BaseTrainerConfig"
    variational: bool = False
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    conditional: bool = False


class ModelEntry(ModelClasses):
    """One model of the benchmark, from `models/<name>.yaml`.

    Attributes:
        label: Its name in tables.
        source: Where model and grid come from, and whether the grid is a paper's or ours.
        samplers: Those that make sense for it; the first is that of its usual prior, for `normal`.
        grid: Hyper-parameter -> values; the configurations are their product.
        configurations: The configurations one by one, in place of a grid.
        fixed: Hyper-parameters that every configuration has, unless it gives another value.
        images_only: Whether it has no networks for rows of a table, or values in [0, 1] alone.
        max_latent_dim: Largest latent dimension that the model takes; None if any.
        in_all, archs: Whether `all` names it too, and of which architectures; None if of any.
        notes: What is known to differ from the model's paper in the Pythae that runs it.
        Others: See :class:`ModelClasses`.
    """

    label: str
    source: str
    samplers: UniqueList[SamplerName] = Field(
        default_factory=lambda: ["normal", "gaussian", "gmm", "maf", "iaf", "flow"]
    )
    grid: Grid = Field(default_factory=dict)
    configurations: list[dict[str, Any]] = Field(default_factory=list)
    fixed: dict[str, Any] = Field(default_factory=dict)
    images_only: bool = False
    max_latent_dim: AtLeastOne | None = None
    include_in_all: bool = True
    architectures: list[str] | None = None
    notes: list[str] = Field(default_factory=list)

    @property
    def classes(self) -> ModelClasses:
        """What the specification of a run embeds."""
        return ModelClasses(**self.model_dump(include=set(ModelClasses.model_fields)))

    def choices(self, given: Mapping[str, list[Any]] | None = None) -> list[dict[str, Any]]:
        """The configurations, or the grid's product with some keys' values given. The first key of
        the grid varies slowest; keys that it lacks come after its own."""
        if self.configurations and not given:
            return self.configurations
        grid = {**self.grid, **(given or {})}
        return [dict(zip(grid, of, strict=True)) for of in itertools.product(*grid.values())]

    def compatible_samplers(self, asked: list[str]) -> list[str]:
        """Those of the asked samplers that the model has, perhaps none. Where `normal` is asked of
        a model with another prior, that sampler stands in."""
        wanted = [self.samplers[0] if name == "normal" else name for name in asked]
        return [name for name in dict.fromkeys(wanted) if name in self.samplers]


def read_entry(name: str) -> ModelEntry:
    """The entry of a model by name, or of one's own by the path of its YAML file. It imports none
    of the classes, which takes seconds."""
    path = Path(name).expanduser()
    if path.suffix != ".yaml":
        if name not in list_configs("models"):
            raise ConfigError(
                f"model {name!r} is unknown: {did_you_mean(name, list_configs('models'))}"
            )
        path = configs_dir() / "models" / f"{name}.yaml"
    return read_checked(ModelEntry, read_yaml(path), path.name)


def configs_dir() -> Path:
    """The folder of YAML files: the checkout's, or the copy inside an installed wheel."""
    package = Path(pythae_fif.__file__).parent
    checkout = package.parent / "benchmark_configs"
    return checkout if checkout.is_dir() else package / "configs"


def list_configs(folder: str = "") -> list[str]:
    """Names of the YAML files below `benchmark_configs/<folder>`."""
    return sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping; a ConfigError if it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # it may be no text, and a date no date
        raise ConfigError(f"{path} is not YAML: {format_error(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return content
