"""What a model of the benchmark is: a YAML file, read into a validated entry, and built."""

__all__ = [
    "GRID_FLAGS",
    "HyperParameters",
    "ModelClasses",
    "ModelEntry",
    "SamplerName",
    "all_models",
    "build_model",
    "configs_dir",
    "names_in",
    "read_entry",
    "read_yaml",
    "shown",
]

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, model_validator

import pythae_fif
from pythae_fif.errors import ConfigError, did_you_mean, one_line
from pythae_fif.lazy import import_named
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import AtLeastOne, Checked, Each, flag_of, name_of, read_checked

if TYPE_CHECKING:
    from pythae.models import BaseAE

SamplerName = Annotated[str, name_of(lambda: SAMPLERS)]
Grid = dict[str, Each[Any]]
"""Hyper-parameter -> its values."""

GRID_FLAGS = ("beta", "hutchinson_samples")
"""Keys of FIF's grid whose values a flag gives."""
USUAL_SAMPLERS = ("normal", "gaussian", "gmm", "maf", "iaf")
"""Those of a model with a normal prior."""


class HyperParameters(Checked):
    """Those of a model, of its entry or of a profile.

    Attributes:
        grid: Hyper-parameter -> values; the configurations are their product.
        fixed: Hyper-parameters that every configuration has, unless it gives another value.
    """

    grid: Grid | None = None
    fixed: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fixed_or_varied(self) -> "HyperParameters":
        if both := self.fixed.keys() & (self.grid or {}).keys():
            raise ValueError(f"{min(both)} is in fixed and in grid: leave out one of the two")
        return self


class ModelClasses(Checked):
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
        conditional: Whether it is told the labels: a FIF whose `condition_dim` is the data's number
            of classes.
    """

    model: str
    config: str
    trainer: str = "pythae.trainers.BaseTrainerConfig"
    variational: bool = False
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    conditional: bool = False


class ModelEntry(HyperParameters, ModelClasses):
    """One model of the benchmark, from `models/<name>.yaml`.

    Attributes:
        label: Its name in tables.
        source: Where model and grid come from, and whether the grid is a paper's or ours.
        samplers: Those that make sense for it; the first draws from the model's own prior, which
            `normal` takes to be the standard normal whatever FIF's latent distribution is. By
            default those of :data:`USUAL_SAMPLERS`, and `two_stage` where it is variational.
        grid, fixed: As of :class:`HyperParameters`.
        configurations: The configurations one by one, where they are no product; empty otherwise.
        images_only: Whether it has no networks for rows of a table, or values in [0, 1] alone.
        max_latent_dim: Largest latent dimension that the model takes; None if any.
        in_all: Whether `all` names it too.
        notes: What is known to differ from the model's paper in the Pythae that runs it.
        Others: As of :class:`ModelClasses`.
    """

    label: str
    source: str
    samplers: Each[SamplerName]
    grid: Grid = Field(default_factory=dict)
    configurations: list[dict[str, Any]] = Field(default_factory=list)
    images_only: bool = False
    max_latent_dim: AtLeastOne | None = None
    in_all: bool = True
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _fill_samplers(cls, values: dict[str, Any]) -> dict[str, Any]:
        two_stage = ["two_stage"] if values.get("variational") else []
        return {"samplers": [*USUAL_SAMPLERS, *two_stage], **values}

    @model_validator(mode="after")
    def _one_kind_of_grid(self) -> "ModelEntry":
        if self.grid and self.configurations:
            raise ValueError("give grid or configurations, not both")
        return self

    @property
    def is_fif(self) -> bool:
        """Whether the flags of FIF's grid are for it."""
        return self.model == "pythae_fif.models.FIF"

    @property
    def classes(self) -> ModelClasses:
        """What the specification of a run embeds."""
        return ModelClasses(**self.model_dump(include=set(ModelClasses.model_fields)))

    def choices(self, overrides: Mapping[str, list[Any]] | None = None) -> list[dict[str, Any]]:
        """The configurations, or the grid's product with some keys' values given.

        The first key of the grid varies slowest; keys that it lacks come after its own.

        Raises:
            ConfigError: Values are given, and the configurations are no product.
        """
        if self.configurations and not overrides:
            return self.configurations
        if self.configurations:
            flags = " and ".join(map(flag_of, overrides or ()))
            raise ConfigError(f"{flags}: {self.label} has its configurations one by one, no grid")
        grid = dict(self.grid)
        for key, values in (overrides or {}).items():
            grid[key] = [_as_in(self.grid.get(key, []), value) for value in values]
        return [
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        ]

    def samplers_of(self, asked: list[str]) -> list[str]:
        """Those of the asked samplers that the model has, perhaps none.

        Where `normal` is asked of a model with another prior, that sampler stands in.

        Example:
            >>> read_entry("vamp").samplers_of(["normal", "gmm"])
            ['vamp', 'gmm']
            >>> read_entry("svae").samplers_of(["gmm"])
            []
        """
        wanted = [self.samplers[0] if name == "normal" else name for name in asked]
        return [name for name in dict.fromkeys(wanted) if name in self.samplers]


def _as_in(values: list[Any], value: float) -> Any:
    """A flag's number as the grid has it, or YAML would: a run has one id, 10 or 10.0."""
    whole = int(value) if float(value).is_integer() else value
    return next((known for known in values if known == value), whole)


def read_entry(name: str) -> ModelEntry:
    """The entry of a model by name, or of one's own by the path of its YAML file.

    It imports none of the classes, which takes seconds.

    Raises:
        ConfigError: Unknown model, or a key or value of the file that is not right.
    """
    own = name.endswith(".yaml")
    path = Path(name).expanduser() if own else configs_dir() / "models" / f"{name}.yaml"
    if not own and not path.is_file():
        raise ConfigError(f"model {name!r} is unknown: {did_you_mean(name, names_in('models'))}")
    return read_checked(ModelEntry, read_yaml(path), path.name if own else f"models/{name}.yaml")


def all_models() -> list[str]:
    """The models that `--models all` means."""
    return [name for name in names_in("models") if read_entry(name).in_all]


def build_model(
    classes: ModelClasses,
    parameters: Mapping[str, Any],
    arch: str,
    input_dim: tuple[int, ...],
    latent_dim: int,
) -> "BaseAE":
    """A fresh model of the benchmark; seed torch before.

    Args:
        classes: Of its entry.
        parameters: Its hyper-parameters.
        arch: Name of its architecture.
        input_dim: Shape of a sample.
        latent_dim: d.

    Raises:
        ConfigError: The architecture does not serve the data or the model; pydantic's and Pythae's
            own errors for a hyper-parameter that is not right.
    """
    # First the parameters: of a wrong one and a wrong architecture it is the nearer mistake.
    config = import_named(classes.config)(input_dim=input_dim, latent_dim=latent_dim, **parameters)
    networks: tuple[Any, ...] = ()
    if classes.networks is None:
        from pythae_fif.nn import build_networks

        condition_dim = parameters.get("condition_dim", 0) if classes.conditional else 0
        networks = build_networks(
            arch,
            input_dim,
            latent_dim,
            variational=classes.variational,
            condition_dim=condition_dim,
        )
    elif classes.networks != "own":
        networks = import_named(classes.networks)(arch, input_dim, latent_dim)
    if classes.discriminator is not None:
        networks = (*networks, import_named(classes.discriminator)(input_dim))
    names = ("encoder", "decoder", "discriminator")
    model: BaseAE = import_named(classes.model)(config, **dict(zip(names, networks, strict=False)))
    return model


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, as in YAML 1.2, and no text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def configs_dir() -> Path:
    """The folder of YAML files: the checkout's, or the copy inside an installed wheel."""
    package = Path(pythae_fif.__file__).parent
    checkout = package.parent / "benchmark_configs"
    return checkout if checkout.is_dir() else package / "configs"


def names_in(folder: str = "") -> list[str]:
    """Names of the YAML files below `benchmark_configs/<folder>`."""
    return sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        ConfigError: It is missing, not YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # it may be no text, and a date no date
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return content


def shown(value: Any) -> str:
    """A hyper-parameter as tables show it.

    Example:
        >>> shown(0.50), shown(["Planar", "Radial"]), shown(True)
        ('0.5', 'Planar+Radial', 'True')
    """
    if isinstance(value, list):
        return "+".join(map(shown, value))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)
