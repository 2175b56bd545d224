"""What a model of the benchmark is: a YAML file, read into a validated entry."""

__all__ = [
    "GRID_FLAGS",
    "IMPORTED",
    "Grid",
    "HyperParameters",
    "ModelEntry",
    "ModelName",
    "SamplerName",
    "all_models",
    "model_hash",
    "read_model_entry",
    "shown",
]

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pythae_fif.benchmark.yaml_files import config_file, configs_dir, names_in, read_yaml
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.lazy import own_code
from pythae_fif.runs.kind import run_id_of
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import AtLeastOne, Checked, Each, flag_of, name_of, read_checked

ModelName = Annotated[str, name_of(lambda: names_in("models"))]
SamplerName = Annotated[str, name_of(lambda: SAMPLERS)]
Grid = dict[str, Each[Any]]
"""Hyper-parameter -> its values."""

GRID_FLAGS = ("beta", "hutchinson_samples")
"""Keys of FIF's grid whose values a flag gives."""
IMPORTED = ("model", "config", "trainer", "networks", "discriminator")
"""Keys of an entry that hold import paths."""
_DEFINING = {*IMPORTED, "variational", "keep_last"}
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


class ModelEntry(HyperParameters):
    """One model of the benchmark, from `models/<name>.yaml`.

    Attributes:
        label: Its name in tables.
        model, config, trainer: Import paths of the three classes.
        variational: Whether its encoder also gives a log-variance.
        source: Where model and grid come from, and whether the grid is a paper's or ours.
        samplers: Those that make sense for it; the first draws from the model's own prior, which
            `normal` takes to be the standard normal whatever FIF's latent distribution is. By
            default those of :data:`USUAL_SAMPLERS`, and `two_stage` where it is variational.
        grid, fixed: As of :class:`HyperParameters`.
        configurations: The configurations one by one, where they are no product; empty otherwise.
        networks: Import path of a function of architecture, image shape and latent dimension, for
            encoders and decoders of another kind than those of `pythae_fif.nn.build_networks`;
            `own` if the model builds its own from its configuration.
        discriminator: Import path of a discriminator, called with the image shape.
        keep_last: Whether the last weights are kept, not those of the lowest evaluation loss: for
            models whose loss does not fall as they learn.
        conditional: Whether it is told the labels: a FIF whose `condition_dim` is the data's number
            of classes.
        images_only: Whether it has no networks for rows of a table, or values in [0, 1] alone.
        max_latent_dim: Largest latent dimension that the model takes; None if any.
        in_all: Whether `all` names it too.
        notes: What is known to differ from the model's paper in the Pythae that runs it.
    """

    label: str
    model: str
    config: str
    source: str
    trainer: str = "pythae.trainers.BaseTrainerConfig"
    variational: bool = False
    samplers: Each[SamplerName]
    grid: Grid = Field(default_factory=dict)
    configurations: list[dict[str, Any]] = Field(default_factory=list)
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    conditional: bool = False
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
            >>> read_model_entry("vamp").samplers_of(["normal", "gmm"])
            ['vamp', 'gmm']
            >>> read_model_entry("svae").samplers_of(["gmm"])
            []
        """
        of_prior = self.samplers[0]
        wanted = [of_prior if name == "normal" else name for name in asked]
        return [name for name in dict.fromkeys(wanted) if name in self.samplers]


def _as_in(values: list[Any], value: float) -> Any:
    """A flag's number as the grid has it, or YAML would: a run has one id, 10 or 10.0."""
    whole = int(value) if float(value).is_integer() else value
    return next((known for known in values if known == value), whole)


def read_model_entry(name: str) -> ModelEntry:
    """Reads `models/<name>.yaml`; imports none of its classes, which takes seconds.

    Raises:
        ConfigError: Unknown model, or a key or value of the file that is not right.
    """
    path = config_file(f"models/{name}")
    if not path.is_file():
        raise ConfigError(f"model {name!r} is unknown: {did_you_mean(name, names_in('models'))}")
    return _read(path, path.stat().st_mtime_ns)


def model_hash(name: str) -> str | None:
    """Of what the file of a user's own model says it is, beside hyper-parameters; else None.

    The user's own code that the file names is part of it; see :func:`~pythae_fif.lazy.own_code`.

    Raises:
        ConfigError: As of :func:`read_model_entry`.
    """
    if config_file(f"models/{name}").is_relative_to(configs_dir()):
        return None
    content = read_model_entry(name).model_dump(include=_DEFINING)
    modules = {str(content[key]).rpartition(".")[0] for key in IMPORTED}
    code = {module: text for module in modules if (text := own_code(module)) is not None}
    return run_id_of({**content, **({"code": code} if code else {})})


def all_models() -> list[str]:
    """The models that `--models all` means.

    Raises:
        ConfigError: As of :func:`read_model_entry`.
    """
    return [name for name in names_in("models") if read_model_entry(name).in_all]


@functools.cache
def _read(path: Path, changed: int) -> ModelEntry:
    """A plan of many runs asks for the same few files again and again."""
    return read_checked(ModelEntry, read_yaml(path), str(path))


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
