"""What an experiment is: YAML files and flags, one over the other, and validated once."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pythae_fif.benchmark.models import (
    FIF,
    GRID_FLAGS,
    Grid,
    ModelEntry,
    SamplerName,
    configs_dir,
    list_configs,
    read_entry,
    read_yaml,
)
from pythae_fif.errors import ConfigError, did_you_mean, pluralized
from pythae_fif.files import safe_name
from pythae_fif.names import ARCHITECTURES, SAMPLERS, DataOptions, Precision, check_extractor_name
from pythae_fif.validation import (
    AtLeastOne,
    Flag,
    Integer,
    StrictModel,
    UniqueList,
    flag_fields,
    flag_name,
    one_of,
    parse_duration,
    read_checked,
)

DEFAULTS = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""What every data set trains and samples with, unless its file or the user says otherwise."""
BUDGETS = {"epochs", "wall_clock", "steps"}

LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
AtLeastTen = Annotated[Integer, Field(ge=10)]
"""So many images at least: scores of fewer say nothing."""
Seconds = Annotated[
    float, BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v), Field(gt=0)
]
"""A number, or a text that :func:`parse_duration` takes."""
ExtractorName = Annotated[str, AfterValidator(check_extractor_name)]
Weight = Annotated[
    float, Field(ge=0, strict=False), AfterValidator(lambda of: int(of) if of.is_integer() else of)
]
"""A number as YAML files have it: a run has one id, 10 or 10.0."""


class DataLocation(DataOptions):
    """What a run needs but its result does not depend on: data, and the extractor's files."""

    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None


class Settings(StrictModel):
    """How a model trains and is scored: all of it defines the result of a run.

    Attributes:
        epochs, wall_clock: A training ends with the first of them; the clock in seconds.
        plateau_factor: The learning rate is multiplied by it when the evaluation loss has not
            fallen for ten epochs (appendix E.4); None for a constant learning rate.
        fit_steps: Of Adam, 100 codes each, in which a flow, second VAE or PixelCNN of a sampler is
            fitted; :data:`~pythae_fif.models.fitted_priors.FIT_STEPS` if None.
        train_size, val_size, test_size: First images of a split that are used; all if None.
        crop: Of CelebA, see :func:`~pythae_fif.data.load_images`.
        Others: As their flags say; weights decay by Adam.
    """

    batch_size: Annotated[AtLeastOne, Flag("in place of the profile's", "N")]
    learning_rate: Annotated[LearningRate, Flag("in place of the profile's", "RATE")]
    num_samples: Annotated[AtLeastTen, Flag("samples scored, of each sampler", "N")]
    epochs: Annotated[AtLeastOne | None, Flag("in place of the profile's length", "N")] = None
    wall_clock: Annotated[
        Seconds | None, Flag("training time: 5h, 10min; one run a device at a time", "TIME", str)
    ] = None
    weight_decay: WeightDecay | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    fit_steps: AtLeastOne | None = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Integer, Field(ge=1, le=178)] | None = None
    precision: Annotated[
        Precision, Flag("of training: float32, or bfloat16 (for processors with AMX)")
    ] = "float32"

    @property
    def data_subset(self) -> dict[str, Any]:
        """What is taken of the data, as :func:`~pythae_fif.data.load.load` is told."""
        return self.model_dump(include={"train_size", "val_size", "test_size", "crop"})


class ModelSettings(StrictModel):
    """What a profile says of one model alone; None is the value that the profile has for all.

    Attributes:
        grid: In place of that of the model's entry, and of its configurations.
        fixed: Beside those of the model's entry.
        Others: See :class:`Settings`.
    """

    grid: Grid | None = None
    fixed: dict[str, Any] = Field(default_factory=dict)
    batch_size: AtLeastOne | None = None
    learning_rate: LearningRate | None = None
    weight_decay: WeightDecay | None = None


class Profile(Settings):
    """How long and on how much data every model trains.

    Attributes:
        note: One sentence that the tables carry: what this is, and is not.
        steps: In place of epochs, of which it makes as many as the size of the data needs.
        models: Model -> what is different for it.
        max_configurations: Number of first configurations of a model's grid in use; all if None.
        extractor: In place of the data set's, unless the user names one.
        Others: See :class:`Settings`.
    """

    note: str
    steps: AtLeastOne | None = None
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    max_configurations: Annotated[
        AtLeastOne | None, Flag("try the first N of every model", "N")
    ] = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "Profile":
        lengths = [self.epochs, self.steps].count(None)
        if lengths == 0 or (lengths == 2 and self.wall_clock is None):
            raise ValueError("give epochs or steps, or a wall_clock, or one of each")
        return self


class Experiment(DataLocation):
    """One call of the benchmark: a data set's YAML file with the user's file and flags on top.

    Attributes:
        models, samplers, seeds: What to run; a model of one's own by its YAML file.
        entries: Name of a model -> its entry.
        beta, hutchinson_samples: Values that replace those of FIF's grid.
        latent_dims: Model -> d of its own; all are ignored if the user gives one d.
        profiles: Name -> :class:`Profile`; the values that the user gave are in the one in use.
        overridden_keys: Keys of the profile that the user set. They also override the profile's
            settings for single models.
        Others: See :class:`DataLocation`, and their flags.
    """

    dataset: str
    description: str
    arch: Annotated[str, one_of(lambda: ARCHITECTURES), Flag("architecture of `list`")]
    models: Annotated[UniqueList[str], Flag("models of `list`, FILE.yaml, or 'all'", "MODEL")]
    entries: dict[str, ModelEntry]
    samplers: Annotated[UniqueList[SamplerName], Flag("samplers of `list`, or 'all'", "SAMPLER")]
    seeds: Annotated[UniqueList[Seed], Flag("one run a seed", "SEED")] = Field(
        default_factory=lambda: [0]
    )
    beta: Annotated[
        UniqueList[Weight | Literal["auto"]] | None,
        Flag("FIF's reconstruction weights, or auto"),
    ] = None
    hutchinson_samples: Annotated[UniqueList[Integer] | None, Flag("FIF's K", "K")] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[str, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("side that folder and celeba images are resized to", "PIXELS")
    ] = None
    extractor: Annotated[ExtractorName, Flag("of `list`, or module:function")]
    profiles: dict[str, Profile]
    profile: Annotated[str, Flag("quick, medium (a night), paper (published protocol) or full")]
    overridden_keys: list[str] = Field(default_factory=list)
    name: Annotated[str, Flag("of tables, figures and page", "NAME")]

    @property
    def active_profile(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]

    @property
    def profile_summary(self) -> str:
        """The profile in use by its name, and what the user gave in place of its values."""
        changed = ", ".join(
            f"{key} {getattr(self.active_profile, key)}" for key in self.overridden_keys
        )
        return f"`{self.profile}`" + (f" with {changed}" if changed else "")

    def settings_for(self, model: str, train: int = 1) -> Settings:
        """How the runs of a model are trained and scored, with so many training samples."""
        profile = self.active_profile
        values = profile.model_dump(include=set(Settings.model_fields))
        alone = profile.models.get(model, ModelSettings())
        values |= alone.model_dump(
            exclude={"grid", "fixed", *self.overridden_keys}, exclude_none=True
        )
        if profile.steps is not None:
            size = values["batch_size"]
            batches = math.ceil(max(1, train - (size > 1)) / size)  # as `BatchLoader`'s
            values["epochs"] = math.ceil(profile.steps / batches)
        return Settings(**values)

    def entry_for(self, model: str) -> ModelEntry:
        """A model's entry, with what the profile fixes beside it, or varies in place of its grid;
        of a model that is not run, such as one of the leaderboard, the entry of its file."""
        entry, alone = (
            self.entries.get(model),
            self.active_profile.models.get(model, ModelSettings()),
        )
        entry = entry or read_entry(model)
        grid = {} if alone.grid is None else {"grid": alone.grid, "configurations": []}
        return entry.model_copy(update={**grid, "fixed": {**entry.fixed, **alone.fixed}})

    def latent_dim_for(self, model: str) -> int:
        """d of a model: that of `latent_dims`, or the common one, within what it takes."""
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, self.entry_for(model).max_latent_dim or latent_dim)

    def configurations_for(self, model: str) -> list[dict[str, Any]]:
        """The varied hyper-parameters of a model's runs: its first configurations in the profile.
        Flags in place of values of the grid are those of FIF (another model's parameter of the same
        name is its own), and all of their configurations are run."""
        entry = self.entry_for(model)
        asked = {key: values for key in GRID_FLAGS if (values := getattr(self, key))}
        if asked and entry.model == FIF:
            return entry.choices(asked)
        return entry.choices()[: self.active_profile.max_configurations]


def load_experiment(
    dataset: str | None, flags: Mapping[str, Any], file: str | Path | None = None
) -> Experiment:
    """The data set's YAML file, overlaid by the user's YAML file, overlaid by the flags.

    Args:
        dataset: Name of a YAML file in `benchmark_configs/`; that of the file, or digits, if None.
        flags: Keys of :class:`Experiment`, and of the profile in use; None means not given.
        file: A YAML file of the user's with the same keys.

    Raises:
        ConfigError: Unknown name, key or value; the message says which, where, and what is valid.
    """
    own = {} if file is None else read_yaml(Path(file))
    dataset = str(dataset or own.get("dataset", "digits"))
    if dataset not in list_configs():
        raise ConfigError(
            f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, list_configs())}"
        )
    given = {key: value for key, value in flags.items() if value is not None}
    asked, where = _deep_merge(own, given), str(file or f"{dataset}.yaml")
    valid = {*Experiment.model_fields, *flag_fields(Profile)} - {"entries", "overridden_keys"}
    for key in sorted(map(str, asked.keys() - valid)):
        raise ConfigError(f"{where}: unknown key {key!r}: {did_you_mean(key, sorted(valid))}")
    values = _deep_merge({**DEFAULTS, **read_yaml(configs_dir() / f"{dataset}.yaml")}, asked)
    values["dataset"] = dataset
    for key, kind in {"profiles": dict, "models": list, "samplers": list}.items():
        if not isinstance(values[key], kind):
            raise ConfigError(f"{where}: {key}={values[key]!r}: a {kind.__name__} is needed")
    if "latent_dim" in asked:
        values["latent_dims"] = {} if "latent_dim" in given else own.get("latent_dims", {})
    if values["samplers"] == ["all"]:
        values["samplers"] = list(SAMPLERS)
    values["entries"] = entries = _read_entries(values)
    names = [Path(str(word)).stem for word in values["models"]]  # none twice, as `UniqueList` says
    values["models"] = list(entries) if names == ["all"] else names
    if asked.keys() & set(GRID_FLAGS) and all(of.model != FIF for of in entries.values()):
        flags_of_fif = " and ".join(map(flag_name, GRID_FLAGS))
        raise ConfigError(f"{flags_of_fif} are for model fif, which is not in models")
    profiles, profile = values["profiles"], str(values["profile"])
    if not isinstance(profiles.get(profile), dict):
        raise ConfigError(f"{where}: profile {profile!r}: {did_you_mean(profile, profiles)}")
    if dataset not in ("celeba", own.get("dataset", dataset)):  # a file of it for other images
        profiles[profile].pop("crop", None)
    if "extractor" not in asked:
        values["extractor"] = profiles[profile].get("extractor") or values["extractor"]
    changed = {key: values.pop(key) for key in flag_fields(Profile) if key in values}
    values["profiles"] = _deep_merge(profiles, {profile: changed})
    values["overridden_keys"] = sorted(changed)
    values["name"] = safe_name(str(values.get("name", f"{dataset}-{values['arch']}-{profile}")))
    experiment, known = read_checked(Experiment, values, where, flags=given), list_configs("models")
    for name in {*experiment.latent_dims, *experiment.active_profile.models} - {*known, *entries}:
        raise ConfigError(f"{where}: model {name!r} is unknown: {did_you_mean(name, known)}")
    return experiment


def _deep_merge(below: Any, above: Any) -> Any:
    """A mapping over another, key by key and inside of both; a budget replaces another one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    gone = BUDGETS if above.keys() & BUDGETS else set()
    kept = {key: value for key, value in below.items() if key not in gone}
    return {**kept, **{key: _deep_merge(kept.get(key, of), of) for key, of in above.items()}}


def _read_entries(values: Mapping[str, Any]) -> dict[str, ModelEntry]:
    """Name of each model -> its entry; a file of one's own has the name of its stem."""
    words, known, of_rows = values["models"], list_configs("models"), values["dataset"] == "csv"
    if words != ["all"]:
        for word in map(str, words):
            if word.endswith(".yaml") and Path(word).stem in known:
                raise ConfigError(f"--models {word}: that is a model already: rename the file")
        return {Path(word).stem: read_entry(word) for word in map(str, words)}
    return {
        name: entry
        for name, entry in zip(known, map(read_entry, known), strict=True)
        if entry.include_in_all and entry.compatible_samplers(values["samplers"])
        if not (of_rows and entry.images_only)
        if entry.architectures is None or values["arch"] in entry.architectures
    }


def describe_length(profile: Profile) -> str:
    """How long a model trains, such as `2,000 steps or 10 min`."""
    counts = {"step": profile.steps, "epoch": profile.epochs}
    parts = [pluralized(count, thing) for thing, count in counts.items() if count]
    clock = [] if profile.wall_clock is None else [f"{profile.wall_clock / 60:g} min"]
    return " or ".join(parts + clock)
