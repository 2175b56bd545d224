"""What an experiment is: YAML files and flags, merged and validated once."""

__all__ = [
    "Experiment",
    "ModelSettings",
    "Precision",
    "Profile",
    "Settings",
    "length_of",
    "load_experiment",
]

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pythae_fif.benchmark.models import (
    GRID_FLAGS,
    HyperParameters,
    ModelEntry,
    SamplerName,
    all_models,
    configs_dir,
    names_in,
    read_entry,
    read_yaml,
)
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ConfigError, counted, did_you_mean
from pythae_fif.evaluation.names import own_extractor
from pythae_fif.files import safe_name
from pythae_fif.nn.names import ARCHITECTURES
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import (
    AbsolutePath,
    AtLeastOne,
    Checked,
    Each,
    Flag,
    Whole,
    name_of,
    parse_duration,
    read_checked,
)

USUAL = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""What every data set trains and samples with, unless its file or the user says otherwise."""

Precision = Literal["float32", "bfloat16"]
LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]
AtLeastTen = Annotated[Whole, Field(ge=10)]
"""So many images at least: scores of fewer say nothing."""
Seconds = Annotated[
    float, BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v), Field(gt=0)
]
"""A number, or a text that :func:`parse_duration` takes."""
ArchName = Annotated[str, name_of(lambda: ARCHITECTURES)]
ExtractorName = Annotated[str, AfterValidator(own_extractor)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]


class Settings(Checked):
    """How a model trains and is scored: all of it defines the result of a run.

    Attributes:
        batch_size, learning_rate, weight_decay: Of Adam.
        num_samples: Generated for each sampler's score.
        epochs, wall_clock: One of the two; the clock in seconds.
        plateau_factor: The learning rate is multiplied by it when the evaluation loss has not
            fallen for ten epochs (appendix E.4); None for a constant learning rate.
        fit_steps: Of Adam, 100 codes each, in which a flow, second VAE or PixelCNN of a sampler is
            fitted; :data:`~pythae_fif.sampling.samplers.FIT_STEPS` if None.
        train_size, val_size, test_size: First images of a split that are used; all if None.
        crop: Of CelebA, see :func:`~pythae_fif.data.load_images`; other data sets have none.
        precision: Of the training.
    """

    batch_size: AtLeastOne
    learning_rate: LearningRate
    num_samples: AtLeastTen
    epochs: AtLeastOne | None = None
    wall_clock: Seconds | None = None
    weight_decay: WeightDecay | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    fit_steps: AtLeastOne | None = None
    train_size: AtLeastTen | None = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Whole, Field(ge=1, le=178)] | None = None
    precision: Precision = "float32"


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
        models: Model -> what is different for it.
        configurations: Number of configurations of a model's grid that are used, from its start;
            all if None.
        extractor: In place of the data set's, unless the user names one.
        Others: As of :class:`Settings`.
    """

    note: str
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    configurations: AtLeastOne | None = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> "Profile":
        if (self.epochs is None) == (self.wall_clock is None):
            raise ValueError("give epochs, or wall_clock, and not both")
        return self


class Experiment(TableOptions):
    """One call of the benchmark: a data set's YAML file with the user's file and flags on top.

    Attributes:
        dataset: Name of the data set and of its YAML file.
        description: One line about it.
        arch: Name of the architecture.
        models, samplers, seeds: What to run; a model of one's own by its YAML file.
        entries: Name of a model -> its entry.
        beta, hutchinson_samples: Values that replace those of FIF's grid.
        latent_dim: d.
        latent_dims: Model -> d where it has another; none of them counts if the user gives one d.
        image_size: Of data sets that are resized.
        extractor: Name of the feature extractor; of a file `<path>@<digest>`.
        profiles: Name -> :class:`Profile`; the values that the user gave are in the one in use.
        profile: Name of the one in use.
        configurations, epochs, ..., precision: In place of the profile's, for all models.
        name: Of the tables, figures and page.
        data: Path of the user's own images or table.
        skip_undecodable: Leave out the images of a folder that cannot be decoded.
        Others: Of the user's table.
    """

    dataset: str
    description: str
    arch: Annotated[ArchName, Flag("architecture of `list`")]
    models: Annotated[Each[str], Flag("models of `list`, FILE.yaml, or 'all'", "MODEL")]
    entries: dict[str, ModelEntry]
    samplers: Annotated[Each[SamplerName], Flag("samplers of `list`, or 'all'", "SAMPLER")]
    seeds: Annotated[Each[Seed], Flag("one run a seed", "SEED")] = Field(
        default_factory=lambda: [0]
    )
    configurations: Annotated[AtLeastOne | None, Flag("try the first N of every model", "N")] = None
    beta: Annotated[Each[float] | None, Flag("FIF's reconstruction weights")] = None
    hutchinson_samples: Annotated[Each[Whole] | None, Flag("FIF's K", "K")] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[str, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("side that folder and celeba images are resized to", "PIXELS")
    ] = None
    extractor: Annotated[ExtractorName, Flag("of `list`, FILE.pt or module:function")]
    profiles: dict[str, Profile]
    profile: Annotated[str, Flag("quick, medium (a night), paper (published protocol) or full")]
    wall_clock: Annotated[
        Seconds | None,
        Flag("in place of epochs: 5h, 10min; on CPUs one run at a time", "TIME", str),
    ] = None
    epochs: Annotated[AtLeastOne | None, Flag("in place of the profile's", "N")] = None
    batch_size: Annotated[AtLeastOne | None, Flag("in place of the profile's", "N")] = None
    learning_rate: Annotated[LearningRate | None, Flag("in place of the profile's", "RATE")] = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    num_samples: Annotated[AtLeastTen | None, Flag("samples scored, of each sampler", "N")] = None
    precision: Annotated[
        Precision | None, Flag("of training: float32, or bfloat16 (for processors with AMX)")
    ] = None
    name: Annotated[str, Flag("of tables, figures and page", "NAME")] = ""
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None
    skip_undecodable: Annotated[bool, Flag("leave out broken images")] = False

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
        entries = info.data.get("entries", {}).values()
        if values is not None and not any(entry.is_fif for entry in entries):
            raise ValueError("is for model fif, which is not in models")
        return values

    @property
    def things(self) -> str:
        """What its data are many of."""
        return "rows" if self.arch == "tabular" else "images"

    @property
    def in_use(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]

    @property
    def extractor_name(self) -> str:
        """The extractor, of a file its name and digest: where it lies defines no result."""
        return PurePath(self.extractor).name

    def settings_of(self, model: str) -> Settings:
        """How the runs of a model are trained and scored."""
        profile = self.in_use
        values = profile.model_dump(include=set(Settings.model_fields))
        own = profile.models.get(model, ModelSettings()).model_dump(exclude_none=True)
        given = {key: getattr(self, key) for key in own.keys() & type(self).model_fields.keys()}
        own |= {key: value for key, value in given.items() if value is not None}
        crop = {} if self.dataset == "celeba" else {"crop": None}
        return Settings(**{**values, **{k: v for k, v in own.items() if k in values}, **crop})

    def latent_dim_of(self, model: str) -> int:
        """d of a model: that of `latent_dims`, or the common one, within what it takes."""
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, self.entries[model].max_latent_dim or latent_dim)

    def fixed_of(self, model: str) -> dict[str, Any]:
        """Hyper-parameters of a model that no configuration varies, unless a flag does."""
        profile = self.in_use.models.get(model, ModelSettings())
        return {**self.entries[model].fixed, **profile.fixed}

    def configurations_of(self, model: str) -> list[dict[str, Any]]:
        """The varied hyper-parameters of a model's runs: its first configurations in the profile.

        What the profile fixes is not varied, unless a flag varies it. Flags in place of values of
        the grid are those of FIF (another model's parameter of the same name is its own), and all
        of their configurations are run.

        Raises:
            ConfigError: As of :meth:`ModelEntry.choices`.
        """
        entry, profile = self.entries[model], self.in_use.models.get(model, ModelSettings())
        if profile.grid is not None:
            entry = entry.model_copy(update={"grid": profile.grid, "configurations": []})
        given = {key: getattr(self, key) for key in GRID_FLAGS}
        asked = {key: values for key, values in given.items() if values and entry.is_fif}
        fixed = profile.fixed.keys() - asked.keys()
        choices: list[dict[str, Any]] = []
        for choice in entry.choices(asked):
            varied = {key: value for key, value in choice.items() if key not in fixed}
            choices += [] if varied in choices else [varied]
        return choices if asked else choices[: self.in_use.configurations]


OF_PROFILE = (
    "configurations", "wall_clock", "epochs", "batch_size", "learning_rate", "train_size",
    "num_samples", "precision",
)  # fmt: skip
"""Keys of an experiment that replace the profile's."""
BUDGETS = ("epochs", "wall_clock")


def load_experiment(
    dataset: str, flags: Mapping[str, Any], file: str | Path | None = None
) -> Experiment:
    """The data set's YAML file, overlaid by the user's YAML file, overlaid by the flags.

    Args:
        dataset: Name of a YAML file in `benchmark_configs/`.
        flags: Keys of :class:`Experiment`; None means not given.
        file: A YAML file of the user's with the same keys.

    Raises:
        ConfigError: Unknown name, key or value; the message says which, where, and what is valid.
    """
    if dataset not in names_in():
        raise ConfigError(f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, names_in())}")
    usual = read_yaml(configs_dir() / f"{dataset}.yaml")
    own = {} if file is None else read_yaml(Path(file))
    if own.get("dataset", dataset) != dataset:
        raise ConfigError(f"{file}: dataset {own['dataset']!r} is not --dataset {dataset!r}")
    given = {key: value for key, value in flags.items() if value is not None}
    values = {"dataset": dataset, **USUAL, **usual, **own, **given}
    if "latent_dim" in {**own, **given}:
        values["latent_dims"] = own.get("latent_dims", {}) if "latent_dim" not in given else {}
    values["profiles"] = _overlaid(usual.get("profiles"), own.get("profiles", {}))
    _name_models(values)
    if values["samplers"] == ["all"]:
        values["samplers"] = list(SAMPLERS)
    profile = str(values.get("profile"))
    _change_profile(values, profile, asked={**own, **given})
    values.setdefault("name", f"{dataset}-{values.get('arch')}-{profile}")
    values["name"] = safe_name(str(values["name"]))
    where = f"{dataset}.yaml" if file is None else str(file)
    return read_checked(Experiment, values, where, flags=given)


def _name_models(values: dict[str, Any]) -> None:
    """Reads the entries of the models; one's own file has the name of its stem from here on."""
    for key in ("models", "samplers"):
        if not isinstance(values[key], list) or not all(isinstance(w, str) for w in values[key]):
            raise ConfigError(f"{key}={values[key]!r}: a list of names is needed")
    words, asked = values["models"], values["samplers"]
    if words == ["all"]:
        entries = {name: read_entry(name) for name in all_models()}
        samplers = list(SAMPLERS) if asked == ["all"] else asked
        values["entries"] = {
            name: entry
            for name, entry in entries.items()
            if entry.samplers_of(samplers)
            and not (values["dataset"] == "csv" and entry.images_only)
        }
    else:
        values["entries"] = {Path(word).stem: read_entry(word) for word in words}
        for word in words:
            if word.endswith(".yaml") and Path(word).stem in names_in("models"):
                raise ConfigError(f"--models {word}: that is a model already: rename the file")
    values["models"] = list(values["entries"])


def _change_profile(values: dict[str, Any], name: str, asked: Mapping[str, Any]) -> None:
    """Puts what the user asked for into the profile in use."""
    profiles = values["profiles"]
    if not isinstance(profiles, Mapping) or not isinstance(profiles.get(name), Mapping):
        return  # the checked experiment says so
    changed = {key: asked[key] for key in OF_PROFILE if key in asked}
    if len(changed.keys() & set(BUDGETS)) == 2:
        raise ConfigError("epochs (--epochs) and wall_clock (--wall-clock): give one of them")
    budget = dict.fromkeys(BUDGETS) if changed.keys() & set(BUDGETS) else {}
    values["profiles"] = {**profiles, name: {**profiles[name], **budget, **changed}}
    if "extractor" in profiles[name] and "extractor" not in asked:
        values["extractor"] = profiles[name]["extractor"]


def _overlaid(usual: Any, own: Any) -> Any:
    """A data set's profiles with the user's on top, key by key; a budget replaces the other."""
    if not (isinstance(usual, Mapping) and isinstance(own, Mapping)):
        return own or usual
    found = {**usual, **own}
    for name in usual.keys() & own.keys():
        if isinstance(usual[name], Mapping) and isinstance(own[name], Mapping):
            other = BUDGETS if own[name].keys() & set(BUDGETS) else ()
            kept = {key: value for key, value in usual[name].items() if key not in other}
            found[name] = {**kept, **own[name]}
    return found


def length_of(settings: Settings) -> str:
    """How long a model trains, for people.

    Example:
        >>> length_of(load_experiment("digits", {"wall_clock": "5h"}).in_use)
        'wall clock 5 h'
    """
    if settings.epochs is not None:
        return counted(settings.epochs, "epoch")
    seconds = settings.wall_clock or 0
    return f"wall clock {seconds / 3600:g} h" if seconds >= 3600 else f"wall clock {seconds:g} s"
