"""What an experiment is: YAML files and flags, read into a validated configuration."""

__all__ = [
    "Experiment",
    "Profile",
    "experiment_file",
    "length_of",
    "load_experiment",
    "parse_duration",
]

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.model_entry import check_grid, load_model_entry
from pythae_fif.benchmark.settings import RunSettings
from pythae_fif.benchmark.yaml_files import build_checked, config_file, names_in, read_yaml
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.sampling import SAMPLERS

_DURATION = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s)?")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 5h, 1h30m, 10min or 90s.

    Raises:
        ConfigError: It is none, or not above zero.

    Example:
        >>> parse_duration("5h"), parse_duration("1h30m"), parse_duration("90s")
        (18000.0, 5400.0, 90.0)
    """
    match = _DURATION.fullmatch(text.replace(" ", ""))
    try:
        numbers = [float(part or 0) for part in match.groups()] if match else [0.0]
    except ValueError:
        numbers = [0.0]
    seconds = sum(n * unit for n, unit in zip(numbers, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise ConfigError(
            f"{text!r} is no duration: a number above 0 with a unit is needed, such as 5h, 1h30m, "
            f"10min or 90s"
        )
    return seconds


@dataclass(frozen=True)
class OwnSettings:
    """What one model has for itself in a profile; None is the profile's own value.

    Attributes:
        batch_size, learning_rate, weight_decay: As of :class:`Profile`.
        grid: In place of that of the model's entry, and of its configurations.
        fixed: Beside those of the model's entry.
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    grid: dict[str, list] | None = None
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> dict[str, Any]:
        """Those of the settings of training that are its own."""
        values = dataclasses.asdict(self)
        del values["grid"], values["fixed"]
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Profile:
    """How long and on how much data every model trains.

    Attributes:
        note: One sentence that the tables carry: what this is, and is not.
        epochs: Of every model; None under a wall clock.
        wall_clock: The time that every model may train instead, see :func:`parse_duration`.
        batch_size, learning_rate, weight_decay: Of Adam, for every model.
        models: Model -> what is its own in this profile.
        num_samples: Generated for each sampler's score.
        plateau_patience, plateau_factor: The learning rate is multiplied by the factor when the
            evaluation loss has not fallen for that many epochs (appendix E.4).
        fit_steps: Of Adam, 100 codes each, in which a flow, second VAE or PixelCNN of a sampler is
            fitted; :data:`~pythae_fif.sampling.samplers.FIT_STEPS` if None.
        train_size, val_size, test_size: First images of a split that are used; all if None.
        configurations: Number of configurations of a model's grid that are used, from its start;
            all if None.
        extractor: In place of the data set's, unless the user names one.
    """

    note: str
    batch_size: int
    learning_rate: float
    num_samples: int
    epochs: int | None = None
    wall_clock: str | None = None
    weight_decay: float | None = None
    models: dict[str, OwnSettings] = field(default_factory=dict)
    plateau_patience: int = 10
    plateau_factor: float = 0.5
    fit_steps: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    configurations: int | None = None
    extractor: str | None = None

    def own_of(self, model: str) -> OwnSettings:
        """What is a model's own."""
        return self.models.get(model, OwnSettings())

    def settings_of(self, model: str) -> RunSettings:
        """The values of a run of a model."""
        values = {**dataclasses.asdict(self), **self.own_of(model).training}
        del values["models"]
        if self.wall_clock is not None:
            values |= {"wall_clock": parse_duration(self.wall_clock), "epochs": None}
        return RunSettings(**values)


@dataclass(frozen=True)
class Experiment:
    """One call of the benchmark: a data set's YAML file with the flags on top.

    Attributes:
        dataset: Name of the data set and of its YAML file.
        description: One line about it.
        architectures: Those that are defined for it.
        arch: The one in use.
        latent_dim: d.
        latent_dims: Model -> d where it has another; none of them counts if the user gives one d.
        extractor: Name of the feature extractor.
        models, samplers, seeds: What to run.
        profile: Name of one of `profiles`.
        profiles: Name -> :class:`Profile`.
        image_size: Of data sets that are resized.
        beta, hutchinson_samples: Values that replace those of FIF's grid.
        wall_clock: Replaces the profile's number of epochs or wall clock.
        data: Path of the user's own images.
    """

    dataset: str
    description: str
    architectures: list[str]
    arch: str
    latent_dim: int
    extractor: str
    models: list[str]
    samplers: list[str]
    profile: str
    profiles: dict[str, Profile]
    seeds: list[int] = field(default_factory=lambda: [0])
    latent_dims: dict[str, int] = field(default_factory=dict)
    image_size: int | None = None
    beta: list[float] | None = None
    hutchinson_samples: list[int] | None = None
    wall_clock: str | None = None
    data: str | None = None

    @property
    def settings(self) -> Profile:
        """The profile in use, with the wall clock if there is one."""
        profile = self.profiles[self.profile]
        if self.wall_clock is None:
            return profile
        return dataclasses.replace(profile, wall_clock=self.wall_clock, epochs=None)

    @property
    def name(self) -> str:
        """Of its tables, figures and page, with what is not the data set's usual.

        Example:
            >>> load_experiment("digits", None, {"latent_dim": 4}).name
            'digits-convnet-quick-d4'
        """
        usual = read_yaml(config_file(self.dataset))
        parts = [self.dataset, self.arch, self.profile]
        if self.data is not None:
            parts.insert(1, re.sub(r"[^\w.]+", "_", Path(self.data).stem))
        if self.wall_clock is not None:  # in place of what the profile says
            parts.append(self.wall_clock.replace(" ", ""))
        if self.latent_dim != usual["latent_dim"]:
            parts.append(f"d{self.latent_dim}")
        if self.image_size != usual.get("image_size"):
            parts.append(f"{self.image_size}px")
        if self.extractor != (self.settings.extractor or usual["extractor"]):
            parts.append(self.extractor)
        return "-".join(parts)

    def latent_dim_of(self, model: str) -> int:
        """d of a model: its own, or the common one, within what it takes."""
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, load_model_entry(model).max_latent_dim or latent_dim)


def length_of(profile: Profile) -> str:
    """How long a profile trains, for people.

    Example:
        >>> length_of(Profile("", batch_size=1, learning_rate=1, num_samples=1, wall_clock="5h"))
        'wall clock 5h'
    """
    return (
        f"{profile.epochs} epochs"
        if profile.wall_clock is None
        else (f"wall clock {profile.wall_clock}")
    )


def experiment_file(table: int) -> Path:
    """The keys of an experiment that makes a table of the paper, on any data set.

    Raises:
        ConfigError: There is none for the table.
    """
    path = config_file(f"experiments/table{table}")
    if not path.is_file():
        known = [name.removeprefix("table") for name in names_in("experiments")]
        raise ConfigError(f"--table {table}: is no experiment; valid: {', '.join(known)}")
    return path


def load_experiment(dataset: str, file: str | Path | None, flags: Mapping[str, Any]) -> Experiment:
    """The data set's YAML file, overlaid by the user's YAML file, overlaid by the flags.

    Args:
        dataset: Name of a YAML file in `benchmark_configs/`.
        file: A YAML file of the user's with keys of :class:`Experiment`, or None.
        flags: The same keys; None means not given.

    Raises:
        ConfigError: Unknown name, key or value; the message says which, where, and what is valid.
    """
    if dataset not in names_in():
        raise ConfigError(f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, names_in())}")
    where, extra = f"{dataset}.yaml", {}
    values = {"dataset": dataset, **read_yaml(config_file(dataset))}
    if file is not None:
        where = str(file)
        extra = read_yaml(Path(file))
        if extra.get("dataset", dataset) != dataset:
            raise ConfigError(f"{file}: dataset {extra['dataset']!r} is not --dataset {dataset!r}")
        profiles = extra.get("profiles", {})
        if isinstance(profiles, Mapping):  # added to those of the data set
            extra["profiles"] = {**values["profiles"], **profiles}
        values |= extra
    given = {key: value for key, value in flags.items() if value is not None}
    if "latent_dim" in {**extra, **given}:
        values["latent_dims"] = extra.get("latent_dims", {})
    values |= given
    profiles = values["profiles"]
    profile = profiles.get(str(values["profile"])) if isinstance(profiles, Mapping) else None
    if isinstance(profile, Mapping) and "extractor" not in {**extra, **given}:
        values["extractor"] = profile.get("extractor", values["extractor"])
    for key, every in (("models", names_in("models")), ("samplers", list(SAMPLERS))):
        if values[key] == ["all"]:
            values[key] = every
    experiment = build_checked(Experiment, values, where)

    def origin(key: str) -> str:
        return f"--{key.replace('_', '-')}" if key in given else f"{where}: {key}"

    _check_experiment(experiment, origin)
    return experiment


def _check_experiment(experiment: Experiment, origin: Callable[[str], str]) -> None:
    """Every name must be known, every number in range; `origin` says where a key was given."""
    from pythae_fif.evaluation import EXTRACTORS

    names = {
        "arch": ([experiment.arch], experiment.architectures),
        "profile": ([experiment.profile], list(experiment.profiles)),
        "extractor": ([experiment.extractor], list(EXTRACTORS)),
        "models": (experiment.models, names_in("models")),
        "samplers": (experiment.samplers, list(SAMPLERS)),
    }
    for key, (chosen, valid) in names.items():
        for name in chosen:
            if name not in valid:
                raise ConfigError(f"{origin(key)} {name!r} is unknown: {did_you_mean(name, valid)}")
    for key in ("models", "samplers", "seeds", "beta", "hutchinson_samples"):
        values = getattr(experiment, key)
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ConfigError(f"{origin(key)} {values}: give at least one value, and none twice")
        if key in ("beta", "hutchinson_samples") and values and "fif" not in experiment.models:
            raise ConfigError(f"{origin(key)} {values}: is for model fif, which is not in models")
    for seed in experiment.seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"{origin('seeds')} {seed}: a seed is at least 0 and below 2^32")
    for key in ("latent_dim", "image_size"):
        value = getattr(experiment, key)
        if value is not None and value < 1:
            raise ConfigError(f"{origin(key)} {value}: at least 1 is needed")
    _check_profile(experiment, origin)


def _check_profile(experiment: Experiment, origin: Callable[[str], str]) -> None:
    """The numbers of the profile in use, and of its models."""
    settings = experiment.settings
    where = f"profile {experiment.profile!r}: "
    _check_numbers(dataclasses.asdict(settings), where)
    if (settings.epochs is None) == (settings.wall_clock is None):
        raise ConfigError(f"{where}give epochs, or wall_clock, and not both")
    if settings.wall_clock is not None:
        try:
            parse_duration(settings.wall_clock)
        except ConfigError as error:
            raise ConfigError(f"{origin('wall_clock')}: {error}") from error
    for name in (*settings.models, *experiment.latent_dims):
        if name not in names_in("models"):
            hint = did_you_mean(name, names_in("models"))
            raise ConfigError(f"{origin('models')}: model {name!r} is unknown: {hint}")
    for name, own in settings.models.items():
        _check_numbers(own.training, f"{where}models: {name}: ")
        check_grid(own.grid or {}, f"{where}models: {name}: grid")


def _check_numbers(values: Mapping[str, Any], where: str) -> None:
    for key, low in (
        ("epochs", 1), ("batch_size", 1), ("num_samples", 10), ("plateau_patience", 0),
        ("fit_steps", 1), ("train_size", 10), ("val_size", 10), ("test_size", 10),
        ("configurations", 1), ("weight_decay", 0),
    ):  # fmt: skip
        value = values.get(key)
        if value is not None and not value >= low:
            raise ConfigError(f"{where}{key}={value}: at least {low}")
    for key, high in (("learning_rate", 10), ("plateau_factor", 1)):
        value = values.get(key)
        if value is not None and not 0 < value < high:
            raise ConfigError(f"{where}{key}={value}: a number above 0 and below {high} is needed")
