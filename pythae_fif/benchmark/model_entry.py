"""What a model of the benchmark is: a YAML file, read into a validated entry."""

__all__ = ["ModelEntry", "check_grid", "load_model_entry"]

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.yaml_files import (
    build_checked,
    config_file,
    import_class,
    names_in,
    read_yaml,
)
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.sampling import SAMPLERS


@dataclass(frozen=True)
class ModelEntry:
    """One model of the benchmark, from `models/<name>.yaml`.

    Attributes:
        label: Its name in tables.
        model, config, trainer: Import paths of the three classes.
        variational: Whether its encoder also gives a log-variance.
        source: Where model and grid come from, and whether the grid is a paper's or ours.
        samplers: Those that make sense for it; the first draws from the model's own prior.
        grid: Hyper-parameter -> values; the configurations are their product.
        configurations: The configurations one by one, where they are no product; empty otherwise.
        fixed: Hyper-parameters that every configuration has.
        networks: Import path of a function of architecture, image shape and latent dimension, for
            encoders and decoders of another kind than those of `pythae_fif.nn.build_networks`;
            `own` if the model builds its own from its configuration.
        discriminator: Import path of a discriminator, called with the image shape.
        keep_last: Whether the last weights are kept, not those of the lowest evaluation loss: for
            models whose loss does not fall as they learn.
        max_latent_dim: Largest latent dimension that the model takes; None if any.
        notes: What is known to differ from the model's paper in the Pythae that runs it.
    """

    label: str
    model: str
    config: str
    trainer: str
    variational: bool
    source: str
    samplers: list[str]
    grid: dict[str, list] = field(default_factory=dict)
    configurations: list[dict[str, Any]] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    max_latent_dim: int | None = None
    notes: list[str] = field(default_factory=list)

    def choices(self, overrides: Mapping[str, list] | None = None) -> list[dict[str, Any]]:
        """The configurations, or the grid's product with some keys' values replaced.

        The first key of the grid varies slowest.
        """
        if self.configurations:
            return self.configurations
        grid = dict(self.grid)
        for key, values in (overrides or {}).items():
            if key in grid:
                grid[key] = [_as_in(self.grid[key], value) for value in values]
        return [
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        ]

    def samplers_of(self, asked: list[str]) -> list[str]:
        """Those of the asked samplers that the model has.

        Where `normal` is asked of a model with another prior, and where it has none of those
        asked, its own prior's sampler stands in.

        Example:
            >>> load_model_entry("vamp").samplers_of(["normal", "gmm"])
            ['vamp', 'gmm']
            >>> load_model_entry("svae").samplers_of(["gmm"])
            ['hypersphere']
        """
        own = self.samplers[0]
        wanted = [own if name == "normal" else name for name in asked]
        found = [name for name in dict.fromkeys(wanted) if name in self.samplers]
        return found or [own]


def _as_in(values: list, value: float) -> float:
    """A flag's number as the grid has it, or YAML would: a run has one id, 10 or 10.0."""
    whole = int(value) if float(value).is_integer() else value
    return next((own for own in values if own == value), whole)


def check_grid(grid: Mapping[str, list], where: str) -> None:
    """Raises ConfigError where a hyper-parameter has no value, or one twice."""
    for name, values in grid.items():
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise ConfigError(f"{where}: {name} {values}: give at least one value, and none twice")


def load_model_entry(name: str) -> ModelEntry:
    """Reads `models/<name>.yaml`.

    Raises:
        ConfigError: Unknown model, or a key or value of the file that is not right.
    """
    path = config_file(f"models/{name}")
    if not path.is_file():
        raise ConfigError(f"model {name!r} is unknown: {did_you_mean(name, names_in('models'))}")
    return _read_model_entry(path, path.stat().st_mtime_ns)


@functools.cache
def _read_model_entry(path: Path, changed: int) -> ModelEntry:
    """A plan of many runs asks for the same few files again and again."""
    entry = build_checked(ModelEntry, read_yaml(path), str(path.name))
    for key in ("model", "config", "trainer", "networks", "discriminator"):
        if getattr(entry, key) not in (None, "own"):
            import_class(getattr(entry, key), f"{path.name}: {key}")
    if not entry.samplers:
        raise ConfigError(f"{path.name}: samplers: at least one is needed")
    for sampler in entry.samplers:
        if sampler not in SAMPLERS:
            hint = did_you_mean(sampler, SAMPLERS)
            raise ConfigError(f"{path.name}: samplers: {sampler!r} is unknown: {hint}")
    check_grid(entry.grid, f"{path.name}: grid")
    if entry.grid and entry.configurations:
        raise ConfigError(f"{path.name}: give grid or configurations, not both")
    return entry
