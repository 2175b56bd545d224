"""What an experiment is: YAML files and flags, read into a validated configuration."""

__all__ = [
    "Experiment",
    "ModelSettings",
    "Profile",
    "Shipped",
    "experiment_file",
    "length_of",
    "load_experiment",
    "shipped_of",
]

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pythae_fif.benchmark.model_entry import (
    GRID_FLAGS,
    HyperParameters,
    ModelName,
    SamplerName,
    all_models,
    read_model_entry,
)
from pythae_fif.benchmark.settings import (
    AtLeastTen,
    LearningRate,
    Precision,
    RunSettings,
    Settings,
    WeightDecay,
)
from pythae_fif.benchmark.yaml_files import config_file, names_in, own_model, read_yaml
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ConfigError, counted, did_you_mean
from pythae_fif.evaluation.names import own_extractor
from pythae_fif.files import safe_name
from pythae_fif.nn.names import ARCHITECTURES
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import (
    AbsolutePath,
    AtLeastOne,
    Duration,
    Each,
    Flag,
    Whole,
    name_of,
    parse_duration,
    read_checked,
)

ArchName = Annotated[str, name_of(lambda: ARCHITECTURES)]
USUAL = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""What every data set trains and samples with, unless its file or the user says otherwise."""
BUDGETS = ("epochs", "wall_clock")
OVERRIDES = (*BUDGETS, "batch_size", "learning_rate", "train_size", "num_samples", "precision")
ExtractorName = Annotated[str, AfterValidator(own_extractor)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Seeds = Each[Seed]


class ModelSettings(HyperParameters):
    """What a profile says of one model alone; None is the value that the profile has for all.

    Attributes:
        batch_size, learning_rate, weight_decay: As of :class:`Settings`.
        grid: In place of that of the model's entry, and of its configurations.
        fixed: Beside those of the model's entry.
    """

    batch_size: AtLeastOne | None = None
    learning_rate: LearningRate | None = None
    weight_decay: WeightDecay | None = None


class Profile(Settings):
    """How long and on how much data every model trains.

    Attributes:
        note: One sentence that the tables carry: what this is, and is not.
        wall_clock: The time that every model may train instead, see :func:`parse_duration`.
        models: Model -> what is different for it.
        configurations: Number of configurations of a model's grid that are used, from its start;
            all if None.
        extractor: In place of the data set's, unless the user names one.
        Others: As of :class:`Settings`.
    """

    note: str
    wall_clock: Duration | None = None
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict)
    configurations: AtLeastOne | None = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> "Profile":
        if (self.epochs is None) == (self.wall_clock is None):
            raise ValueError("give epochs, or wall_clock, and not both")
        return self

    def of(self, model: str) -> ModelSettings:
        """What is different for a model."""
        return self.models.get(model, ModelSettings())

    def settings_of(self, model: str) -> RunSettings:
        """The values of a run of a model."""
        of_model = self.of(model).model_dump(exclude={"grid", "fixed"}, exclude_none=True)
        values = {**self.model_dump(include=set(Settings.model_fields)), **of_model}
        values["compile"] &= read_model_entry(model).is_fif  # runs of others are the same without
        if self.wall_clock is not None:
            values["wall_clock"] = parse_duration(self.wall_clock)
        return RunSettings(**values)


class Experiment(TableOptions):
    """One call of the benchmark: a data set's YAML file with the flags on top.

    Beside the attributes, those of a user's table.

    Attributes:
        dataset: Name of the data set and of its YAML file.
        description: One line about it.
        arch: Name of the architecture.
        models, samplers, seeds: What to run.
        beta, hutchinson_samples: Values that replace those of FIF's grid.
        configurations: Replaces the profile's number of them.
        latent_dim: d.
        latent_dims: Model -> d where it has another; none of them counts if the user gives one d.
        image_size: Of data sets that are resized.
        extractor: Name of the feature extractor; of a file `<path>@<digest>`.
        profiles: Name -> :class:`Profile`.
        profile: Name of the one in use.
        wall_clock: Replaces the profile's number of epochs or wall clock.
        epochs, batch_size, learning_rate, train_size, num_samples, precision: Replace the
            profile's, and what it has for single models.
        data: Path of the user's own images or table.
        skip_undecodable: Leave out the images of a folder that cannot be decoded.
    """

    dataset: str
    description: str
    arch: Annotated[ArchName, Flag("architecture of `list`")]
    models: Annotated[Each[ModelName], Flag("models of `list`, or 'all'", "MODEL")]
    samplers: Annotated[Each[SamplerName], Flag("samplers of `list`, or 'all'", "SAMPLER")]
    seeds: Annotated[Seeds, Flag("one run a seed", "SEED")] = Field(default_factory=lambda: [0])
    configurations: Annotated[AtLeastOne | None, Flag("try the first N of every model", "N")] = None
    beta: Annotated[Each[float] | None, Flag("FIF's reconstruction weights")] = None
    hutchinson_samples: Annotated[Each[Whole] | None, Flag("FIF's K", "K")] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[ModelName, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("side that folder and celeba images are resized to", "PIXELS")
    ] = None
    extractor: Annotated[ExtractorName, Flag("of `list`, FILE.pt or module:function")]
    profiles: dict[str, Profile]
    profile: Annotated[str, Flag("quick, medium (a night), paper (published protocol) or full")]
    wall_clock: Annotated[
        Duration | None, Flag("in place of epochs: 5h, 10min; on CPUs one run at a time", "TIME")
    ] = None
    epochs: Annotated[AtLeastOne | None, Flag("in place of the profile's", "N")] = None
    batch_size: Annotated[AtLeastOne | None, Flag("in place of the profile's", "N")] = None
    learning_rate: Annotated[LearningRate | None, Flag("in place of the profile's", "RATE")] = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    num_samples: Annotated[AtLeastTen | None, Flag("samples scored, of each sampler", "N")] = None
    precision: Annotated[
        Precision | None, Flag("of training: float32, or bfloat16 (faster on GPUs and with AMX)")
    ] = None
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None
    skip_undecodable: Annotated[bool, Flag("leave out broken images")] = False

    @model_validator(mode="after")
    def _one_budget(self) -> "Experiment":
        if self.epochs is not None and self.wall_clock is not None:
            raise ConfigError("epochs (--epochs) and wall_clock (--wall-clock): give one of them")
        return self

    @field_validator("arch")
    @classmethod
    def _fits_the_data(cls, arch: str, info: ValidationInfo) -> str:
        if (arch == "tabular") != (info.data.get("dataset") == "csv"):
            raise ValueError("arch tabular is for tables (csv) and the others are for images")
        return arch

    @field_validator("profile")
    @classmethod
    def _is_defined(cls, name: str, info: ValidationInfo) -> str:
        valid = info.data.get("profiles")
        if valid is not None and name not in valid:
            raise ValueError(did_you_mean(name, valid))
        return name

    @field_validator(*GRID_FLAGS)
    @classmethod
    def _is_of_fif(cls, values: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        models = info.data.get("models", ("fif",))
        if values is not None and not any(read_model_entry(name).is_fif for name in models):
            raise ValueError("is for model fif, which is not in models")
        return values

    @property
    def things(self) -> str:
        """What its data are many of."""
        return "rows" if self.arch == "tabular" else "images"

    @property
    def settings(self) -> Profile:
        """The profile in use, with what is given in place of its keys; its crop is of CelebA
        alone."""
        profile, given = self.profiles[self.profile], self.overrides
        changed: dict[str, Any] = {} if self.dataset == "celeba" else {"crop": None}
        if given:
            of_all = dict.fromkeys(given.keys() & ModelSettings.model_fields.keys())
            models = {m: of.model_copy(update=of_all) for m, of in profile.models.items()}
            budget = dict.fromkeys(BUDGETS) if given.keys() & set(BUDGETS) else {}
            changed |= {"models": models, **budget, **given}
        if self.configurations is not None:
            changed["configurations"] = self.configurations
        return profile.model_copy(update=changed)

    @property
    def overrides(self) -> dict[str, Any]:
        """What is given in place of keys of the profile."""
        return {key: value for key in OVERRIDES if (value := getattr(self, key)) is not None}

    @property
    def name(self) -> str:
        """Of its tables, figures and page, with what is not the data set's usual.

        Example:
            >>> load_experiment("digits", None, {"latent_dim": 4}).name
            'digits-convnet-quick-d4'
        """
        usual = read_yaml(config_file(self.dataset))
        words = [self.dataset, self.arch, self.profile]
        shipped = shipped_of(self)
        if shipped is not None and not shipped.same:
            words.append("own")  # or its tables would replace those of the package's profile
        if self.data is not None:
            path = Path(self.data)
            words.insert(1, path.stem if path.suffix in (".csv", ".npz") else path.name)
            words += [self.missing] if self.missing != "drop" else []
        for key, value in self.overrides.items():  # in place of what the profile says
            name = "" if key in ("wall_clock", "precision") else key.replace("_", "")
            words.append(name + str(value).replace(" ", ""))
        dims = usual.get("latent_dims", {})
        if self.latent_dim != usual.get("latent_dim") or (dims and not self.latent_dims):
            words.append(f"d{self.latent_dim}")
        elif self.latent_dims != dims:
            own = {m: self.latent_dims.get(m, self.latent_dim) for m in {*dims, *self.latent_dims}}
            words += [f"{m}-d{d}" for m, d in sorted(own.items()) if d != dims.get(m)]
        if self.image_size != usual.get("image_size"):
            words.append(f"{self.image_size}px" if self.image_size else "as-they-are")
        if self.extractor != (self.settings.extractor or usual.get("extractor")):
            words.append(self.extractor_name)
        return safe_name("-".join(words))

    @property
    def extractor_name(self) -> str:
        """The extractor, of a file its name and digest: where it lies defines no result."""
        return PurePath(self.extractor).name

    def latent_dim_of(self, model: str) -> int:
        """d of a model: that of `latent_dims`, or the common one, within what it takes."""
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, read_model_entry(model).max_latent_dim or latent_dim)


@dataclass(frozen=True)
class Shipped:
    """What the package has under the name of an experiment's profile.

    Attributes:
        experiment: Of the same data set and architecture, with that profile.
        table: Number of the file that it is from, in `experiments/`; None for the data set's own.
        same: Whether the two profiles are the same.
    """

    experiment: Experiment
    table: int | None
    same: bool


def shipped_of(experiment: Experiment) -> Shipped | None:
    """The package's profile of that name, one that is the same if there is any; None if none."""
    flags = {"arch": experiment.arch, "profile": experiment.profile}
    wanted, found = experiment.profiles[experiment.profile], list[Shipped]()
    for table in (None, *experiment_tables()):
        file = None if table is None else experiment_file(table)
        with contextlib.suppress(ConfigError):  # it has no such profile
            usual = load_experiment(experiment.dataset, file, flags)
            found.append(Shipped(usual, table, usual.profiles[experiment.profile] == wanted))
    return next((one for one in found if one.same), found[0] if found else None)


def length_of(profile: Profile) -> str:
    """How long a profile trains, for people.

    Example:
        >>> length_of(load_experiment("digits", None, {"wall_clock": "5h"}).settings)
        'wall clock 5h'
    """
    if profile.epochs is not None:
        return counted(profile.epochs, "epoch")
    return f"wall clock {profile.wall_clock}"


def experiment_tables() -> list[int]:
    """Numbers of the paper's tables that are experiments."""
    named = (re.fullmatch(r"table(\d+)", name) for name in names_in("experiments"))
    return sorted(int(found[1]) for found in named if found)


def experiment_file(table: int) -> Path:
    """The keys of an experiment that makes a table of the paper, on any data set.

    Raises:
        ConfigError: There is none for the table.
    """
    path = config_file(f"experiments/table{table}")
    if not path.is_file():
        known = ", ".join(map(str, experiment_tables()))
        raise ConfigError(f"--table {table}: is no experiment; valid: {known}")
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
    values = {"dataset": dataset, **USUAL, **read_yaml(config_file(dataset))}
    if file is not None:
        where = str(file)
        extra = read_yaml(Path(file))
        if extra.get("dataset", dataset) != dataset:
            raise ConfigError(f"{file}: dataset {extra['dataset']!r} is not --dataset {dataset!r}")
        if "profiles" in values and "profiles" in extra:
            extra["profiles"] = _overlaid(values["profiles"], extra["profiles"])
        values |= extra
    given = {key: value for key, value in flags.items() if value is not None}
    if "latent_dim" in given:
        values["latent_dims"] = {}
    elif "latent_dim" in extra:
        values["latent_dims"] = extra.get("latent_dims", {})
    values |= given
    # No key is there for certain: the checked model says below which one is missing.
    profiles = values.get("profiles")
    profile = profiles.get(str(values.get("profile"))) if isinstance(profiles, Mapping) else None
    if (
        isinstance(profile, Mapping)
        and "extractor" in profile
        and "extractor" not in {**extra, **given}
    ):
        values["extractor"] = profile["extractor"]
    samplers, models = values.get("samplers"), values.get("models")
    if samplers == ["all"]:
        values["samplers"] = list(SAMPLERS)
    if models == ["all"]:
        entries = {name: read_model_entry(name) for name in all_models()}
        known = isinstance(samplers, list) and all(isinstance(name, str) for name in samplers)
        asked = values["samplers"] if known else list(SAMPLERS)
        values["models"] = [
            name
            for name, entry in entries.items()
            if entry.samplers_of(asked) and not (dataset == "csv" and entry.images_only)
        ]
    elif isinstance(models, list):
        values["models"] = [own_model(name) for name in models]
    return read_checked(Experiment, values, where, flags=given)


def _overlaid(usual: Any, own: Any) -> Any:
    """A data set's profiles with the user's on top, key by key; a budget replaces the other."""
    if not (isinstance(usual, Mapping) and isinstance(own, Mapping)):
        return own
    found = {**usual, **own}
    for name in usual.keys() & own.keys():
        if isinstance(usual[name], Mapping) and isinstance(own[name], Mapping):
            other = BUDGETS if own[name].keys() & set(BUDGETS) else ()
            kept = {key: value for key, value in usual[name].items() if key not in other}
            found[name] = {**kept, **own[name]}
    return found
