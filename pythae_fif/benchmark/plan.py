"""An experiment expanded into runs, each with an id made of what defines its result."""

__all__ = ["SCHEMA", "RunSpec", "expand"]

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError
from pythae_fif.nn import build_networks

from .config import Experiment, import_class, load_model_entry

SCHEMA = 1
"""Version of records; it is part of every run id, so that old records are never misread."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines the result of one run, and nothing else.

    Attributes:
        dataset, arch, model: Names.
        parameters: Hyper-parameters of the model, the varied and the fixed ones.
        varied: Names of those that the grid varies.
        latent_dim, image_size, seed, extractor, samplers: As in the experiment.
        profile: Name of the profile.
        settings: Its values.
        data_hash: Of the images in use, after the profile's cut.
    """

    dataset: str
    arch: str
    model: str
    parameters: dict[str, Any]
    varied: tuple[str, ...]
    latent_dim: int
    image_size: int | None
    seed: int
    extractor: str
    samplers: tuple[str, ...]
    profile: str
    settings: dict[str, Any]
    data_hash: str

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of the specification and the schema version."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        content["settings"] = {k: v for k, v in self.settings.items() if k != "note"}
        text = json.dumps(content, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def configuration(self) -> str:
        """The varied hyper-parameters as `name=value`, or a dash."""
        shown = (f"{name}={self.parameters[name]:g}" for name in self.varied)
        return ", ".join(shown) or "–"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunSpec":
        """The inverse of :func:`dataclasses.asdict`, after a way through JSON or YAML."""
        tuples = {key: tuple(values[key]) for key in ("varied", "samplers")}
        return cls(**{**values, **tuples})


def expand(experiment: Experiment, splits: Splits) -> list[RunSpec]:
    """All runs of an experiment, in the order of its models, their grids and the seeds.

    Raises:
        ConfigError: An architecture that is not defined for the images, or a hyper-parameter that
            the model's configuration class does not take; the message names the YAML file or flag.
    """
    with torch.device("meta"):  # builds no weights: this asks only whether it can be built
        build_networks(experiment.arch, splits.input_dim, experiment.latent_dim)
    overrides: dict[str, list] = {}
    if experiment.beta is not None:
        overrides["beta"] = experiment.beta
    if experiment.hutchinson_samples is not None:
        overrides["hutchinson_samples"] = experiment.hutchinson_samples
    settings = dataclasses.asdict(experiment.settings)
    plan = []
    for name in experiment.models:
        entry = load_model_entry(name)
        # The flags are those of FIF; another model's parameter of the same name is its own.
        chosen = entry.configurations(overrides if name == "fif" else None)
        if not (name == "fif" and overrides):
            chosen = chosen[: experiment.settings.configurations]
        config_class = import_class(entry.config, f"{name}.yaml: config")
        for varied in chosen:
            parameters = {**entry.fixed, **varied}
            try:
                config_class(
                    input_dim=splits.input_dim, latent_dim=experiment.latent_dim, **parameters
                )
            except (ValueError, TypeError) as error:
                flagged = name == "fif" and overrides
                origin = "--beta/--hutchinson-samples" if flagged else f"models/{name}.yaml"
                raise ConfigError(f"{origin}: {_first_line(error)}") from error
            for seed in experiment.seeds:
                plan.append(
                    RunSpec(
                        dataset=experiment.dataset,
                        arch=experiment.arch,
                        model=name,
                        parameters=parameters,
                        varied=tuple(varied),
                        latent_dim=experiment.latent_dim,
                        image_size=experiment.image_size,
                        seed=seed,
                        extractor=experiment.extractor,
                        samplers=tuple(experiment.samplers),
                        profile=experiment.profile,
                        settings=settings,
                        data_hash=splits.content_hash,
                    )
                )
    return plan


def _first_line(error: Exception) -> str:
    """The gist of an error: pydantic wraps its own in several lines."""
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        message = detail["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return str(error).splitlines()[0]
