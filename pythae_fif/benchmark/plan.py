"""An experiment expanded into runs, each with an id made of what defines its result."""

__all__ = [
    "SCHEMA",
    "Announced",
    "RunSpec",
    "build_model",
    "check_classes",
    "configurations",
    "expand",
    "rebuild_model",
]

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from pythae.models import BaseAE

from pythae_fif.benchmark.config import Experiment, Profile
from pythae_fif.benchmark.model_entry import (
    GRID_FLAGS,
    IMPORTED,
    ModelEntry,
    model_hash,
    read_model_entry,
    shown,
)
from pythae_fif.benchmark.settings import RunSettings
from pythae_fif.benchmark.yaml_files import import_class
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError, did_you_mean, first_line
from pythae_fif.nn import build_networks
from pythae_fif.runs.kind import run_id_of
from pythae_fif.validation import as_config_error, flag_of

SCHEMA = 2
"""Version of records; it is part of every run id, so that old records are never misread."""
OF_PLAN = ("note", "configurations", "extractor", "runs_per_gpu")
"""Keys of a profile that older specifications have among their settings; no run reads them."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines the result of one run, and the samplers that are asked of it.

    Attributes:
        dataset, arch, model: Names.
        parameters: Hyper-parameters of the model, the varied and the fixed ones.
        varied: Names of those that the grid varies.
        latent_dim, image_size, seed, extractor: As in the experiment.
        samplers: Those whose scores are wanted; not in the id, since the trained model and the
            score of each are the same whatever the others are.
        profile: Name of the profile.
        settings: Its values for this model.
        data_hash: Of the images in use, after the profile's cut.
        labels_hash: Of their labels, if the model is told them; else None.
        model_hash: Of what the YAML file of a model of the user's own names, and of the user's
            own code there; else None.
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
    settings: RunSettings
    data_hash: str
    labels_hash: str | None = None
    model_hash: str | None = None

    @functools.cached_property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of the specification and the schema version."""
        values = self.to_dict()
        del values["samplers"]
        return run_id_of({"schema": SCHEMA, **values})

    @property
    def folder(self) -> str:
        """`<dataset>/<arch>/<model>`."""
        return f"{self.dataset}/{self.arch}/{self.model}"

    @property
    def configuration(self) -> str:
        """The varied hyper-parameters as `name=value`, or a dash."""
        return ", ".join(f"{n}={shown(self.parameters[n])}" for n in self.varied) or "–"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON or YAML."""
        # Not by `asdict`, whose copies would cost a plan of 10,000 runs a second.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["settings"] = self.settings.to_dict()
        for key in ("labels_hash", "model_hash"):
            if values[key] is None:  # as in most records, which are older than these keys
                del values[key]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunSpec":
        """The inverse of :meth:`to_dict`."""
        tuples = {key: tuple(values[key]) for key in ("varied", "samplers")}
        settings = {k: v for k, v in values["settings"].items() if k not in OF_PLAN}
        return cls(**{**values, **tuples, "settings": RunSettings(**settings)})


@dataclass(frozen=True)
class Announced:
    """Images that are not loaded yet: enough for a plan whose ids do not count.

    Attributes:
        input_dim: Shape of one.
        content_hash: No hash of images.
    """

    input_dim: tuple[int, ...]
    content_hash: str = ""


def expand(experiment: Experiment, splits: Splits | Announced) -> list[RunSpec]:
    """All runs of an experiment, in the order of its models, their grids and the seeds.

    Raises:
        ConfigError: An architecture that is not defined for the images, or a hyper-parameter that
            the model's configuration class does not take; the message names the YAML file or flag.
    """
    given = {key: getattr(experiment, key) for key in GRID_FLAGS}
    overrides = {key: values for key, values in given.items() if values is not None}
    check_classes(experiment.models)
    plan, profile = [], experiment.settings
    for name in experiment.models:
        changed, settings = profile.of(name), profile.settings_of(name)
        entry = read_model_entry(name)
        if entry.images_only and experiment.arch == "tabular":
            raise ConfigError(f"model {name} takes images alone, and {experiment.dataset} is rows")
        samplers = tuple(entry.samplers_of(experiment.samplers))
        if not samplers:
            raise ConfigError(
                f"--samplers {' '.join(experiment.samplers)}: model {name} has none of them; it "
                f"has {', '.join(entry.samplers)}"
            )
        latent_dim = experiment.latent_dim_of(name)
        flows = " ".join(sampler for sampler in samplers if sampler in ("maf", "iaf"))
        if flows and latent_dim == 1:
            raise ConfigError(
                f"--samplers {flows}: need at least two latent dimensions, and model {name} has one"
            )
        fixed = {**entry.fixed, **changed.fixed}
        labels_hash = None
        if entry.conditional:
            if not isinstance(splits, Splits) or splits.labels is None:
                raise ConfigError(
                    f"model {name} is told class labels, and {experiment.dataset} has none: they "
                    "are the names of subfolders, or `train_labels` of an .npz file"
                )
            fixed["condition_dim"], labels_hash = splits.classes, splits.labels_hash
        entry_hash = model_hash(name)
        networks: list[torch.nn.Module] = []
        for varied in configurations(profile, name, overrides):
            spec = RunSpec(
                dataset=experiment.dataset,
                arch=experiment.arch,
                model=name,
                parameters={**fixed, **varied},
                varied=tuple(varied),
                latent_dim=latent_dim,
                image_size=experiment.image_size,
                seed=experiment.seeds[0],
                extractor=experiment.extractor_name,
                samplers=samplers,
                profile=experiment.profile,
                settings=settings,
                data_hash=splits.content_hash,
                labels_hash=labels_hash,
                model_hash=entry_hash,
            )
            origins = [f"models/{name}.yaml"]
            if changed.grid is not None or changed.fixed:
                origins.append(f"profile {experiment.profile}")
            if entry.is_fif and overrides:
                origins.append("/".join(map(flag_of, overrides)))
            _check_buildable(spec, entry, splits.input_dim, " or ".join(origins), networks)
            plan += [dataclasses.replace(spec, seed=seed) for seed in experiment.seeds]
    return plan


def check_classes(models: Iterable[str]) -> None:
    """Imports all that the files of some models name.

    Raises:
        ConfigError: A class or function is not there.
    """
    for name in models:
        entry = read_model_entry(name)
        for key in IMPORTED:
            if getattr(entry, key) not in (None, "own"):
                import_class(getattr(entry, key), f"{name}.yaml: {key}")


def configurations(
    profile: Profile, name: str, overrides: Mapping[str, list[Any]] | None = None
) -> list[dict[str, Any]]:
    """The varied hyper-parameters of a model's runs: its first configurations in a profile.

    What the profile fixes is not varied, unless a flag varies it.

    Args:
        profile: Of the experiment.
        name: Of the model.
        overrides: Flags in place of values of the grid. They are those of FIF (another model's
            parameter of the same name is its own), and all of their configurations are run.
    """
    entry, changed = read_model_entry(name), profile.of(name)
    if changed.grid is not None:
        entry = entry.model_copy(update={"grid": changed.grid, "configurations": []})
    asked = overrides if overrides and entry.is_fif else {}
    fixed = changed.fixed.keys() - asked.keys()
    choices: list[dict[str, Any]] = []
    for choice in entry.choices(asked):
        varied = {key: value for key, value in choice.items() if key not in fixed}
        choices += [] if varied in choices else [varied]
    return choices if asked else choices[: profile.configurations]


def _check_buildable(
    spec: RunSpec,
    entry: ModelEntry,
    input_dim: tuple[int, ...],
    origin: str,
    networks: list[torch.nn.Module],
) -> None:
    """Builds the model, without weights where that can be, to ask whether it can be built.

    Args:
        spec, input_dim: As of :func:`build_model`.
        entry: Of the model.
        origin: Where the parameters come from, for the message.
        networks: Those of the model's other configurations; filled by the first.
    """
    config_class = import_class(entry.config, entry.label)
    try:
        known = [field.name for field in dataclasses.fields(config_class) if field.init]
        if unknown := [key for key in spec.parameters if key not in known]:
            # Pythae's classes would drop it.
            raise ValueError(f"unknown key {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        config = _model_config(spec, entry, input_dim)
    except ValidationError as error:
        raise as_config_error(error, origin, config_class) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{origin}: {first_line(error)}") from error

    def build(device: str) -> None:
        with torch.device(device):
            networks[:] = networks or _networks(spec, entry, input_dim)
            _assemble(entry, config, networks)

    try:
        with contextlib.suppress(RuntimeError):
            build("meta")
            return
        networks.clear()  # some read numbers of tensors, which need tensors that have some
        build("cpu")
    except ConfigError as error:
        raise ConfigError(f"model {spec.model}: {error}") from error
    except Exception as error:  # the user's own function of networks raises anything
        raise ConfigError(f"{origin}: {first_line(error)}") from error


def build_model(spec: RunSpec, input_dim: tuple[int, ...]) -> BaseAE:
    """A fresh model of a run; seed torch before.

    Raises:
        ConfigError: The architecture does not serve the images or the model.
    """
    entry = read_model_entry(spec.model)
    # First the parameters: of a wrong one and a wrong architecture it is the nearer mistake.
    config = _model_config(spec, entry, input_dim)
    return _assemble(entry, config, _networks(spec, entry, input_dim))


def rebuild_model(spec: RunSpec, input_dim: tuple[int, ...], folder: Path) -> BaseAE:
    """The trained model of a run, from its specification and its weights.

    No pickle of `folder` is opened, since one can run code.

    Args:
        spec, input_dim: As of :func:`build_model`.
        folder: Where the model was saved.
    """
    model = build_model(spec, input_dim)
    saved = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model_state_dict"])
    return model


def _model_config(spec: RunSpec, entry: ModelEntry, input_dim: tuple[int, ...]) -> Any:
    """Pythae's configuration of a run's model."""
    return import_class(entry.config, entry.label)(
        input_dim=input_dim, latent_dim=spec.latent_dim, **spec.parameters
    )


def _networks(
    spec: RunSpec, entry: ModelEntry, input_dim: tuple[int, ...]
) -> list[torch.nn.Module]:
    """Encoder, decoder and, for models with one, discriminator: no hyper-parameter is in them.

    None of a model that builds its own.
    """
    if entry.networks == "own":
        return []
    if entry.networks is None:
        found = build_networks(
            spec.arch,
            input_dim,
            spec.latent_dim,
            variational=entry.variational,
            condition_dim=spec.parameters.get("condition_dim", 0) if entry.conditional else 0,
        )
    else:
        found = import_class(entry.networks, entry.label)(spec.arch, input_dim, spec.latent_dim)
    if entry.discriminator is not None:
        return [*found, import_class(entry.discriminator, entry.label)(input_dim)]
    return list(found)


def _assemble(entry: ModelEntry, config: Any, networks: list[torch.nn.Module]) -> BaseAE:
    """The model of a configuration and its networks."""
    names = ("encoder", "decoder", "discriminator")
    model_class = import_class(entry.model, entry.label)
    return model_class(config, **dict(zip(names, networks, strict=False)))
