"""What an experiment is: YAML files and flags, one over the other, and validated once."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pythae_fif.benchmark.models import (
    GRID_FLAGS,
    ModelEntry,
    SamplerName,
    configs_dir,
    names_in,
    read_entry,
    read_yaml,
)
from pythae_fif.benchmark.settings import (
    ExtractorName,
    ModelSettings,
    Profile,
    Seed,
    Settings,
    Where,
)
from pythae_fif.errors import ConfigError, counted, did_you_mean
from pythae_fif.files import safe_name
from pythae_fif.nn import ARCHITECTURES
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import (
    AtLeastOne,
    Each,
    Flag,
    Whole,
    flag_of,
    flags_in,
    name_of,
    read_checked,
)

USUAL = {
    "models": ["fif", "ae", "vae", "beta_vae", "wae_imq", "rae_l2"],
    "samplers": ["normal", "gaussian", "gmm"],
}
"""What every data set trains and samples with, unless its file or the user says otherwise."""
BUDGETS = {"epochs", "wall_clock", "steps"}

ArchName = Annotated[str, name_of(lambda: ARCHITECTURES)]


Weight = Annotated[float, Field(ge=0)]


class Experiment(Where):
    """One call of the benchmark: a data set's YAML file with the user's file and flags on top.

    Attributes:
        models, samplers, seeds: What to run; a model of one's own by its YAML file.
        entries: Name of a model -> its entry.
        beta, hutchinson_samples: Values that replace those of FIF's grid.
        latent_dims: Model -> d where it has another; none of them counts if the user gives one d.
        profiles: Name -> :class:`Profile`; the values that the user gave are in the one in use.
        given: Keys of a profile that the user gave: they go over what it has for one model, too.
        Others: As of :class:`Where`, and as their flags say.
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
    given: list[str] = Field(default_factory=list)
    name: Annotated[str, Flag("of tables, figures and page", "NAME")]

    @property
    def things(self) -> str:
        """What its data are many of."""
        return "rows" if self.arch == "tabular" else "images"

    @property
    def in_use(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]

    @property
    def where(self) -> Where:
        """What its runs need but their results do not depend on."""
        return Where(**self.model_dump(include=set(Where.model_fields)))

    def settings_of(self, model: str, train: int = 1) -> Settings:
        """How the runs of a model are trained and scored, with so many training samples."""
        profile = self.in_use
        values = profile.model_dump(include=set(Settings.model_fields))
        values |= self._of(model).model_dump(
            exclude={"grid", "fixed", *self.given}, exclude_none=True
        )
        if profile.steps is not None:
            values["epochs"] = math.ceil(profile.steps / math.ceil(train / values["batch_size"]))
        return Settings(**{**values, **({} if self.dataset == "celeba" else {"crop": None})})

    def _of(self, model: str) -> ModelSettings:
        """What the profile says of a model alone."""
        return self.in_use.models.get(model, ModelSettings())

    def latent_dim_of(self, model: str) -> int:
        """d of a model: that of `latent_dims`, or the common one, within what it takes."""
        entry = self.entries.get(model) or read_entry(model)
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, entry.max_latent_dim or latent_dim)

    def fixed_of(self, model: str) -> dict[str, Any]:
        """Hyper-parameters of a model that count where its configuration has no other value."""
        return {**self.entries[model].fixed, **self._of(model).fixed}

    def configurations_of(self, model: str) -> list[dict[str, Any]]:
        """The varied hyper-parameters of a model's runs: its first configurations in the profile.

        Flags in place of values of the grid are those of FIF (another model's parameter of the
        same name is its own), and all of their configurations are run.
        """
        entry, grid = self.entries[model], self._of(model).grid
        if grid is not None:
            entry = entry.model_copy(update={"grid": grid, "configurations": []})
        asked = {key: values for key in GRID_FLAGS if (values := getattr(self, key))}
        if asked and entry.is_fif:
            return entry.choices(asked)
        return entry.choices()[: self.in_use.configurations]


def load_experiment(
    dataset: str | None, flags: Mapping[str, Any], file: str | Path | None = None
) -> Experiment:
    """The data set's YAML file, overlaid by the user's YAML file, overlaid by the flags.

    Args:
        dataset: Name of a YAML file in `benchmark_configs/`; that of the file, or digits, if None.
        flags: Keys of :class:`Experiment`, and of a profile for the one in use; None means not
            given.
        file: A YAML file of the user's with the same keys.

    Raises:
        ConfigError: Unknown name, key or value; the message says which, where, and what is valid.
    """
    own = {} if file is None else read_yaml(Path(file))
    dataset = str(dataset or own.get("dataset", "digits"))
    if dataset not in names_in():
        raise ConfigError(f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, names_in())}")
    usual, where = read_yaml(configs_dir() / f"{dataset}.yaml"), str(file or f"{dataset}.yaml")
    given = {key: value for key, value in flags.items() if value is not None}
    asked = {**own, **given}
    values = {**USUAL, **usual, **asked, "dataset": dataset}
    for key, kind in {"profiles": dict, "models": list, "samplers": list}.items():
        if not isinstance(values[key], kind):
            raise ConfigError(f"{where}: {key}={values[key]!r}: a {kind.__name__} is needed")
    if "latent_dim" in asked:
        values["latent_dims"] = {} if "latent_dim" in given else own.get("latent_dims", {})
    if values["samplers"] == ["all"]:
        values["samplers"] = list(SAMPLERS)
    values["entries"] = _entries(values)
    values["models"] = list(values["entries"])
    if asked.keys() & set(GRID_FLAGS) and not any(e.is_fif for e in values["entries"].values()):
        flags_of_fif = " and ".join(map(flag_of, GRID_FLAGS))
        raise ConfigError(f"{flags_of_fif} are for model fif, which is not in models")
    profiles, profile = _over(usual["profiles"], own.get("profiles", {})), str(values["profile"])
    if profile not in profiles:
        raise ConfigError(f"{where}: profile {profile!r}: {did_you_mean(profile, profiles)}")
    changed = {key: values.pop(key) for key in flags_in(Profile) if key in values}
    if isinstance(profiles[profile], dict):
        profiles = _over(profiles, {profile: changed})
        if "extractor" not in asked:
            values["extractor"] = profiles[profile].get("extractor") or values["extractor"]
    values |= {"profiles": profiles, "given": sorted(changed)}
    values["name"] = safe_name(str(values.get("name", f"{dataset}-{values['arch']}-{profile}")))
    return read_checked(Experiment, values, where, flags=given)


def _over(below: Any, above: Any) -> Any:
    """A mapping over another, key by key and inside of both; a budget replaces another one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    gone = BUDGETS if above.keys() & BUDGETS else set()
    kept = {key: value for key, value in below.items() if key not in gone}
    return {**kept, **{key: _over(kept.get(key, of), of) for key, of in above.items()}}


def _entries(values: Mapping[str, Any]) -> dict[str, ModelEntry]:
    """Name of each model -> its entry; a file of one's own has the name of its stem."""
    words, samplers = ([str(word) for word in values[key]] for key in ("models", "samplers"))
    if words == ["all"]:
        entries = {name: read_entry(name) for name in names_in("models")}
        of_rows = values["dataset"] == "csv"
        return {
            name: entry
            for name, entry in entries.items()
            if entry.in_all and entry.samplers_of(samplers) and not (of_rows and entry.images_only)
        }
    for word in words:
        if word.endswith(".yaml") and Path(word).stem in names_in("models"):
            raise ConfigError(f"--models {word}: that is a model already: rename the file")
    return {Path(word).stem: read_entry(word) for word in words}


def length_of(profile: Profile) -> str:
    """How long a model trains, for people.

    Example:
        >>> length_of(load_experiment("digits", {"wall_clock": "5h"}).in_use)
        'wall clock 5 h'
    """
    if profile.wall_clock is None:
        steps, epochs = profile.steps, profile.epochs
        return counted(steps, "step") if steps else counted(epochs or 0, "epoch")
    hours = profile.wall_clock / 3600
    return f"wall clock {hours:g} h" if hours >= 1 else f"wall clock {profile.wall_clock:g} s"
