"""The list of studies and their options.

The studies `toy` and `tabular` are in this package. Every other study is a file in the folder
`studies` of the working directory, such as `studies/linear.py` of the repository. This module
imports neither torch nor pandas, so that the command line can list the studies at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pythae_fif.benchmark.models import list_configs
from pythae_fif.errors import check_choice
from pythae_fif.files import read_bytes
from pythae_fif.names import TOY_DATASETS, DataOptions, import_object
from pythae_fif.runs.launch import Engine, OnChange

LABELLED_DATASETS = tuple(
    sorted({*list_configs()} - {"celeba", "csv"}, key=lambda name: (name != "mnist", name))
)
"""Data sets of images that can have class labels, the default first."""
TABULAR_DATASETS = ("miniboone", "power", "gas", "hepmass", "csv")


@dataclass(frozen=True)
class Study:
    """The declaration of a study.

    Attributes:
        run: Import path of a function that takes :class:`StudyOptions` and returns a list of
            :class:`~pythae_fif.studies.spec.StudyReport`.
        seeds: Numbers of seeds of the profiles `quick`, `paper` and, if the study has it, `medium`.
            None if the data set's YAML file defines the profiles; these have five seeds.
        datasets: Valid data sets, the default first; empty if the study makes its own data.
        description: One line for `--help`. Files in `studies` say it in their first line.
    """

    run: str
    seeds: tuple[int, ...] | None
    datasets: tuple[str, ...] = ()
    description: str = ""

    @property
    def profiles(self) -> dict[str, int]:
        """Name of each profile -> its number of seeds, which are then 0, 1, ..."""
        return dict(zip(("quick", "paper", "medium"), self.seeds or (), strict=False))

    @property
    def extra_options(self) -> set[str]:
        """The fields of :class:`StudyOptions` that this study takes and not every study does."""
        options_by_datasets: dict[tuple[str, ...], set[str]] = {
            (): set(),
            LABELLED_DATASETS: {"dataset", "latent_dim", "data"},
            TABULAR_DATASETS: {"dataset", "latent_dim", "data", "models"},
        }
        return options_by_datasets.get(self.datasets, {"dataset"})


STUDIES = {
    "toy": Study(
        run="pythae_fif.studies.toy:run_toy",
        seeds=(3, 20),
        datasets=TOY_DATASETS,
        description="densities on curves and surfaces (--dataset circle, ...)",
    ),
    "tabular": Study(
        run="pythae_fif.studies.tabular:run_tabular",
        seeds=None,
        datasets=TABULAR_DATASETS,
        description="tables 1 and 5: FIF against rectangular flows on tables",
    ),
}
"""The studies of this package."""

DATASETS: dict[str, str] = {
    dataset: name
    for name, study in STUDIES.items()
    for dataset in study.datasets
    if dataset not in list_configs()
}
"""Data set that the benchmark does not have -> the study that has it.

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


def find_study(name: str) -> Study:
    """Returns a study of this package or of the folder `studies`.

    Raises:
        ConfigError: There is no such study, or its file cannot be imported.
    """
    problem = f"study {name!r} is neither built in nor a file in {Path('studies').absolute()}"
    check_choice(name, study_descriptions(), problem)
    study: Study = STUDIES.get(name) or import_object(f"studies.{name}:STUDY")
    return study


def study_descriptions() -> dict[str, str]:
    """Returns the name of each study -> a one-line description; imports no study."""
    descriptions = {name: study.description for name, study in STUDIES.items()}
    for name, code in _study_files().items():
        descriptions[name] = code.partition("\n")[0].strip('".')
    return descriptions


def run_study(name: str, options: StudyOptions, on_change: OnChange) -> list[Path]:
    """Runs a study and writes its tables and figures.

    Args:
        name: The name of the study.
        options: The study's options.
        on_change: Called when a run changes.

    Returns:
        The paths of the written files.

    Raises:
        ConfigError: There is no such study, or it does not have this data set or profile.
        FailedRunsError: Runs failed.
        StoreError: The results folder cannot be written.
    """
    study = find_study(name)
    dataset = options.dataset or next(iter(study.datasets), "")
    if study.profiles:
        problem = f"study {name} has no profile {options.profile!r}"
        check_choice(options.profile, study.profiles, problem)
    if study.datasets:
        check_choice(dataset, study.datasets, f"study {name} has no data set {dataset!r}")

    seeds = options.seeds or range(study.profiles.get(options.profile, 5))
    options = replace(options, dataset=dataset, seeds=seeds, on_change=on_change)
    reports = import_object(study.run)(options)
    return [path for report in reports for path in report.write(options.results)]


def _study_files() -> dict[str, str]:
    """Returns the name of each study in the folder `studies` of the working directory -> its code.

    A file without the line `STUDY = ` is not a study, and is never imported.
    """
    paths = sorted(Path("studies").glob("*.py"))
    codes = {path.stem: read_bytes(path).decode(errors="replace") for path in paths}
    return {name: code for name, code in codes.items() if "\nSTUDY = " in code}
