"""What studies are: their declarations and their options.

A study `name` is a function `run_name` of a module of this package, from :class:`StudyOptions` to a
list of :class:`~pythae_fif.studies.spec.StudyReport`. This module imports neither torch nor pandas,
so that a command line can list the studies at once.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import DATASETS as OF_BENCHMARK
from pythae_fif.names import TOY_DATASETS, DataOptions
from pythae_fif.runs.launch import Engine, OnChange

IMAGE_DATASETS = ("mnist", "digits", "cifar10")  # those with classes
TABULAR_DATASETS = ("miniboone", "power", "gas", "hepmass", "csv")


@dataclass(frozen=True)
class Study:
    """What a study is, and what it can be asked.

    Attributes:
        description: One line.
        seeds: Numbers of seeds of profiles `quick` and `paper`; None where the profiles are those
            of the data set's YAML file, with five seeds.
        datasets: Those that it can be asked for, the usual one first; empty where it makes its own.
    """

    description: str
    seeds: tuple[int, int] | None
    datasets: tuple[str, ...] = ()

    @property
    def profiles(self) -> dict[str, int]:
        """Name of a profile -> its number of seeds, which then are 0, 1, ..."""
        return dict(zip(("quick", "paper"), self.seeds or (), strict=False))

    @property
    def extra_options(self) -> set[str]:
        """The fields of :class:`StudyOptions` that it takes and not every study does."""
        others = {
            IMAGE_DATASETS: {"latent_dim"},
            TABULAR_DATASETS: {"latent_dim", "data", "models"},
        }
        return {"dataset"} | others.get(self.datasets, set()) if self.datasets else set()


STUDIES = {
    "sinusoid": Study("figures 3 and 7: what is learnt of a sinusoid", (20, 20), ("sinusoid",)),
    "linear": Study("appendix C: a linear model's directions, against theorem C.4", (1, 1)),
    "estimator": Study("figure 6: the noise of the trace estimator", (1, 1), IMAGE_DATASETS),
    "spectrum": Study("figures 8 and 9: what a conditional decoder spans", (2, 5), IMAGE_DATASETS),
    "toy": Study("densities on curves and surfaces (--dataset circle, ...)", (3, 20), TOY_DATASETS),
    "curvature": Study("figures 2, 12, 13: what training does to the manifold", (5, 20)),
    "tabular": Study(
        "tables 1 and 5: FIF against rectangular flows on tables", None, TABULAR_DATASETS
    ),
    "ablation": Study(
        "tables 6 and 7: estimator, network, on or off the manifold", None, TABULAR_DATASETS
    ),
}

DATASETS: dict[str, str] = {
    dataset: name
    for name, study in reversed(STUDIES.items())
    for dataset in study.datasets
    if dataset not in OF_BENCHMARK
}
"""Data set that is not of the benchmark -> the first study that has it: `--dataset` starts that."""


@dataclass(frozen=True)
class StudyOptions:
    """What a study is asked for.

    Attributes:
        results: Folder of the store, whose `figures/` and `tables/` are written to.
        location: The data.
        dataset, models, latent_dim: None for the study's usual ones.
        seeds: Empty for the profile's own.
        profile: `paper` for the full protocol, `quick` for minutes on two cores; tables have more.
        engine: Does the study's runs; None for this machine, as the study shares it out.
    """

    results: Path
    location: DataOptions = field(default_factory=DataOptions)
    dataset: str | None = None
    models: Sequence[str] | None = None
    seeds: Sequence[int] = ()
    profile: str = "quick"
    latent_dim: int | None = None
    engine: Engine | None = None


def run_study(name: str, options: StudyOptions, on_change: OnChange) -> list[Path]:
    """Runs a study, and writes its tables and figures, of which these are the paths.

    Raises:
        ConfigError, RunsLeftError, StoreError: A data set or profile that the study does not have;
            runs that failed; a folder of results that cannot be written.
    """
    profiles, datasets = STUDIES[name].profiles, STUDIES[name].datasets
    dataset, profile = options.dataset or next(iter(datasets), ""), options.profile
    for what, asked, valid in (("profile", profile, profiles), ("data set", dataset, datasets)):
        if valid and asked not in valid:
            hint = did_you_mean(asked, valid)
            raise ConfigError(f"study {name} has no {what} {asked!r}: {hint}")
    seeds = options.seeds or range(profiles.get(profile, 5))
    options = dataclasses.replace(options, dataset=dataset, seeds=seeds)
    findings = getattr(_module(name), f"run_{name}")(options, on_change)
    return [path for finding in findings for path in finding.write(options.results)]


def import_studies() -> None:
    """Imports all studies, so that their kinds of runs are known to who reads a store."""
    for name in STUDIES:
        _module(name)


def _module(name: str) -> ModuleType:
    shared = {"ablation": "tabular", "sinusoid": "toy"}
    return import_module(f"pythae_fif.studies.{shared.get(name, name)}")
