"""The list of studies and their options.

A study `name` is a function `run_name` in a module of this package. It takes
:class:`StudyOptions` and returns a list of :class:`~pythae_fif.studies.spec.StudyReport`. This
module imports neither torch nor pandas, so that the command line can list the studies at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pythae_fif.benchmark.models import list_configs
from pythae_fif.errors import check_choice
from pythae_fif.names import TOY_DATASETS, DataOptions
from pythae_fif.runs.launch import Engine, OnChange

IMAGE_DATASETS = tuple(sorted(list_configs(), key=lambda name: name != "mnist"))  # default first
TABULAR_DATASETS = ("miniboone", "power", "gas", "hepmass", "csv")


@dataclass(frozen=True)
class Study:
    """The declaration of a study.

    Attributes:
        description: One line for `--help`.
        seeds: Numbers of seeds of the profiles `quick`, `paper` and, if the study has it, `medium`.
            None if the data set's YAML file defines the profiles; these have five seeds.
        datasets: Valid data sets, the default first; empty if the study makes its own data.
    """

    description: str
    seeds: tuple[int, ...] | None
    datasets: tuple[str, ...] = ()

    @property
    def profiles(self) -> dict[str, int]:
        """Name of each profile -> its number of seeds, which are then 0, 1, ..."""
        return dict(zip(("quick", "paper", "medium"), self.seeds or (), strict=False))

    @property
    def extra_options(self) -> set[str]:
        """The fields of :class:`StudyOptions` that this study takes and not every study does."""
        options_by_datasets: dict[tuple[str, ...], set[str]] = {
            (): set(),
            IMAGE_DATASETS: {"dataset", "latent_dim", "data"},
            TABULAR_DATASETS: {"dataset", "latent_dim", "data", "models"},
        }
        return options_by_datasets.get(self.datasets, {"dataset"})


STUDIES = {
    "sinusoid": Study("figures 3 and 7: what is learnt of a sinusoid", (20, 20), ("sinusoid",)),
    "linear": Study("appendix C: a linear model's directions, against theorem C.4", (1, 1)),
    "estimator": Study("figure 6: the noise of the trace estimator", (1, 1), IMAGE_DATASETS),
    "spectrum": Study("figures 8 and 9: what a conditional decoder spans", (2, 5), IMAGE_DATASETS),
    "toy": Study("densities on curves and surfaces (--dataset circle, ...)", (3, 20), TOY_DATASETS),
    "curvature": Study("figures 2, 12, 13: what training does to the manifold", (5, 20)),
    "when": Study("known densities: where FIF beats two stages (also profile medium)", (3, 10, 3)),
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
    if dataset not in list_configs()
}
"""Data set that the benchmark does not have -> the first study that has it.

`--dataset` with such a name starts that study.
"""


@dataclass(frozen=True)
class StudyOptions:
    """The options of a study.

    Attributes:
        results: Folder of the store; the study writes to `figures/` and `tables/` in it.
        location: Location of the data.
        dataset: Name of the data set; None for the study's default.
        models: Names of the models; None for the study's default.
        seeds: Random seeds; empty for the profile's seeds.
        profile: `paper` for the full protocol, `quick` for minutes on two cores; the studies of
            tables have more.
        latent_dim: Latent dimension; None for the study's default.
        engine: Executes the study's runs; None for this machine.
        on_change: Called when a run changes; :func:`run_study` sets it.
    """

    results: Path
    location: DataOptions = field(default_factory=DataOptions)
    dataset: str | None = None
    models: Sequence[str] | None = None
    seeds: Sequence[int] = ()
    profile: str = "quick"
    latent_dim: int | None = None
    engine: Engine | None = None
    on_change: OnChange = lambda progress: None


def run_study(name: str, options: StudyOptions, on_change: OnChange) -> list[Path]:
    """Runs a study and writes its tables and figures.

    Args:
        name: A key of `STUDIES`.
        options: The study's options.
        on_change: Called when a run changes.

    Returns:
        The paths of the written files.

    Raises:
        ConfigError: The study does not have this data set or profile.
        FailedRunsError: Runs failed.
        StoreError: The results folder cannot be written.
    """
    study = STUDIES[name]
    dataset = options.dataset or next(iter(study.datasets), "")
    if study.profiles:
        problem = f"study {name} has no profile {options.profile!r}"
        check_choice(options.profile, study.profiles, problem)
    if study.datasets:
        check_choice(dataset, study.datasets, f"study {name} has no data set {dataset!r}")

    seeds = options.seeds or range(study.profiles.get(options.profile, 5))
    options = replace(options, dataset=dataset, seeds=seeds, on_change=on_change)
    run = getattr(_import_study(name), f"run_{name}")
    return [path for report in run(options) for path in report.write(options.results)]


def import_studies() -> None:
    """Imports all studies, which registers their kinds of runs for readers of a store."""
    for name in STUDIES:
        _import_study(name)


def _import_study(name: str) -> ModuleType:
    """Imports the module of a study."""
    shared_modules = {"ablation": "tabular", "sinusoid": "toy"}
    return import_module(f"pythae_fif.studies.{shared_modules.get(name, name)}")
