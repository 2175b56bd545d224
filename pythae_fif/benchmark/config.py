"""What an experiment is: YAML files and flags, merged and validated once."""

__all__ = [
    "Experiment",
    "length_of",
    "load_experiment",
]

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from pythae_fif.benchmark.models import (
    GRID_FLAGS,
    ModelEntry,
    SamplerName,
    all_models,
    configs_dir,
    names_in,
    read_entry,
    read_yaml,
)
from pythae_fif.benchmark.settings import ExtractorName, ModelSettings, Profile, Settings
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ConfigError, counted, did_you_mean
from pythae_fif.files import safe_name
from pythae_fif.nn.names import ARCHITECTURES
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import (
    AbsolutePath,
    AtLeastOne,
    Each,
    Flag,
    Whole,
    flags_in,
    name_of,
    read_checked,
)

USUAL = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""What every data set trains and samples with, unless its file or the user says otherwise."""

ArchName = Annotated[str, name_of(lambda: ARCHITECTURES)]
Weight = Annotated[float, Field(ge=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]


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
        name: Of the tables, figures and page.
        data: Path of the user's own images or table.
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
    beta: Annotated[Each[Weight] | None, Flag("FIF's reconstruction weights")] = None
    hutchinson_samples: Annotated[Each[Whole] | None, Flag("FIF's K", "K")] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[str, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("side that folder and celeba images are resized to", "PIXELS")
    ] = None
    extractor: Annotated[ExtractorName, Flag("of `list`, or module:function")]
    profiles: dict[str, Profile]
    profile: Annotated[str, Flag("quick, medium (a night), paper (published protocol) or full")]
    name: Annotated[str, Flag("of tables, figures and page", "NAME")] = ""
    data: Annotated[AbsolutePath | None, Flag("yours, of folder, npz or csv", "PATH")] = None

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

    def settings_of(self, model: str) -> Settings:
        """How the runs of a model are trained and scored."""
        profile = self.in_use
        values = profile.model_dump(include=set(Settings.model_fields))
        own = profile.models.get(model, ModelSettings())
        values |= own.model_dump(exclude={"grid", "fixed"}, exclude_none=True)
        return Settings(**{**values, **({} if self.dataset == "celeba" else {"crop": None})})

    def latent_dim_of(self, model: str) -> int:
        """d of a model: that of `latent_dims`, or the common one, within what it takes."""
        entry = self.entries.get(model) or read_entry(model)
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, entry.max_latent_dim or latent_dim)

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
    changed = {k: v for k, v in {**own, **given}.items() if k in flags_in(Profile)}
    values = {"dataset": dataset, **USUAL, **usual, **own, **given}
    values = {key: value for key, value in values.items() if key not in changed}
    if "latent_dim" in {**own, **given}:
        values["latent_dims"] = own.get("latent_dims", {}) if "latent_dim" not in given else {}
    values["profiles"] = _overlaid(usual.get("profiles"), own.get("profiles", {}))
    _name_models(values)
    if values["samplers"] == ["all"]:
        values["samplers"] = list(SAMPLERS)
    profile = str(values.get("profile"))
    _change_profile(values, profile, changed)
    of_profile = values["profiles"].get(profile) if isinstance(values["profiles"], dict) else None
    if "extractor" not in {**own, **given} and isinstance(of_profile, dict):
        values["extractor"] = of_profile.get("extractor") or values.get("extractor")
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


def _change_profile(values: dict[str, Any], name: str, changed: Mapping[str, Any]) -> None:
    """Puts what the user asked for into the profile in use, and over what it has for one model."""
    profiles = values["profiles"]
    if not isinstance(profiles, Mapping) or not isinstance(profiles.get(name), Mapping):
        return  # the checked experiment says so
    if changed.keys() >= set(BUDGETS):
        raise ConfigError("epochs (--epochs) and wall_clock (--wall-clock): give one of them")
    budget = dict.fromkeys(BUDGETS) if changed.keys() & set(BUDGETS) else {}
    profile = {**profiles[name], **budget, **changed}
    models = profile.get("models")
    if isinstance(models, Mapping) and all(isinstance(of, Mapping) for of in models.values()):
        profile["models"] = {
            model: {key: value for key, value in of.items() if key not in changed}
            for model, of in models.items()
        }
    values["profiles"] = {**profiles, name: profile}


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
