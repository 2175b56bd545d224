"""What all studies share: their declaration, their options, their runs and their pages.

A study is an experiment that is one command and ends in a table and a figure. It is a file or a
folder in `studies`, of a clone of the repository or of the working directory. This module imports
neither torch nor pandas, so that the command line lists the studies at once.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pythae_fif.errors import ConfigError, FailedRunsError, check_choice
from pythae_fif.files import read_bytes, write_bytes
from pythae_fif.names import TOY_DATASETS, DataOptions, import_object
from pythae_fif.runs.launch import Engine, OnChange, run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.store import Record, Spec, Store

if TYPE_CHECKING:
    import pandas as pd

    from pythae_fif.runs.worker import Run

RESULT_FILE = "result.json"
CHECKOUT = Path(__file__).resolve().parents[1]
NO_STUDIES = (
    "no studies here: start it in a clone of the repository, or write a file studies/NAME.py in "
    "the working directory"
)
"""Said where there are none, as in a fresh folder when the package was installed from a wheel."""

STUDY_OF_DATASET = dict.fromkeys(TOY_DATASETS, "toy")
"""Data set that the benchmark does not have -> the study that has it.

`--dataset` with such a name starts that study.
"""

ProgressCallback = Callable[[float], None]
"""Called with the share of a run that is done, in [0, 1]."""


# ------------------------------------------------------------------ declaration and options


@dataclass(frozen=True)
class StudyOptions:
    """The options of a study.

    Attributes:
        results: Folder of the store; the study writes to `figures/` and `tables/` in it.
        location: Location of the data.
        dataset: Name of the data set; None for the study's default.
        seeds: Random seeds; empty for the profile's seeds.
        profile: `paper` for the full protocol, `quick` for minutes on two cores, and for some
            studies `medium`.
        latent_dim: Latent dimension; None for the study's default.
        engine: Executes the study's runs; None for this machine.
        on_change: Called when a run changes; :func:`run_study` sets it.
    """

    results: Path
    location: DataOptions = field(default_factory=DataOptions)
    dataset: str | None = None
    seeds: Sequence[int] = ()
    profile: str = "quick"
    latent_dim: int | None = None
    engine: Engine | None = None
    on_change: OnChange = lambda progress: None


@dataclass(frozen=True)
class Study:
    """The declaration of a study, which its file has as `STUDY`.

    Attributes:
        run: Makes the runs that are missing, and reports on all of them.
        seeds: Numbers of seeds of the profiles `quick`, `paper` and, if the study has it, `medium`.
        datasets: Valid data sets, the default first; empty if the study makes its own data.
        options: Further fields of :class:`StudyOptions`, or `data`, that this study takes and not
            every study does.
    """

    run: "Callable[[StudyOptions], Sequence[StudyPage]]"
    seeds: tuple[int, ...]
    datasets: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def profiles(self) -> dict[str, int]:
        """Name of each profile -> its number of seeds, which are then 0, 1, ..."""
        return dict(zip(("quick", "paper", "medium"), self.seeds, strict=False))


# ------------------------------------------------------------------ runs


class StudySpec(Spec):
    """A run of a study: one computation with one record, so that an interrupt loses only this run.

    The constants of a study's module are not in the id: raise `schema_version` when one changes.

    Attributes:
        result: Type of the result.
        on_cpu: Whether the run uses the CPU even if there is a GPU.
        location: Location of the data.
    """

    fields_outside_id: ClassVar[frozenset[str]] = frozenset({"location"})
    result: ClassVar[Any]
    on_cpu: ClassVar[bool] = False

    location: DataOptions = DataOptions()

    @property
    def folder(self) -> str:
        """`studies/<kind>`."""
        return f"studies/{self.kind}"

    @property
    def spec(self) -> "StudySpec":
        """The run of a study is its own job."""
        return self

    @property
    def title(self) -> str:
        """The run's name in messages."""
        return self.folder

    @property
    def outputs(self) -> Mapping[str, type]:
        """Name of a record's file -> type of its result. A run is done when all are there."""
        return {RESULT_FILE: self.result}

    def is_done(self, store: Store) -> bool:
        """Returns whether the store has the records of all outputs."""
        return store.has_records(self, self.outputs)

    def compute(self, report_progress: ProgressCallback) -> Any:
        """Computes the result, of the type `result`."""
        raise NotImplementedError

    def execute(self, run: "Run") -> None:
        """Computes the result and saves its record."""
        from pythae_fif.device import default_device  # imports torch

        run.device = "cpu" if self.on_cpu else default_device()
        run.report("training")
        run.save(RESULT_FILE, self.compute(lambda share: run.report("training", share)))


def collect_records(specs: Sequence[StudySpec], options: StudyOptions) -> list[Record[Any]]:
    """Executes the runs that are missing in the store and reads the records of all runs.

    Args:
        specs: The runs.
        options: The study's options: the store's folder, the engine and the callback.

    Returns:
        The record of every run, in their order.

    Raises:
        FailedRunsError: Runs failed; the results of the others are kept.
    """
    store = Store(options.results)
    engine = options.engine or LocalEngine(cpus_per_run=cores() if len(specs) == 1 else None)
    todo = [spec for spec in specs if not spec.is_done(store)]
    errors = run_all(todo, store, engine, options.on_change, done=len(specs) - len(todo))

    failed = {spec: error for spec, error in errors.items() if error}
    if failed:
        causes = [f"{spec.title}/{spec.spec.run_id}: {error}" for spec, error in failed.items()]
        raise FailedRunsError(f"{len(failed)} of {len(specs)} runs failed: {'; '.join(causes)}")
    records: list[Any] = [store.read_record(spec, RESULT_FILE, spec.result) for spec in specs]
    return records


def collect_results(specs: Sequence[StudySpec], options: StudyOptions) -> list[Any]:
    """Returns the results of :func:`collect_records`."""
    return [record.result for record in collect_records(specs, options)]


def check_one_device(records: Sequence[Record[Any]]) -> None:
    """Checks that trainings with a time limit, which are compared, ran on one kind of device.

    Args:
        records: Their records.

    Raises:
        ConfigError: They did not, so that one second was worth more steps to some of them.
    """
    runs = {record.provenance.device: record.run_id for record in records}
    if len(runs) > 1:
        names = " and ".join(f"{run_id} on {device}" for device, run_id in sorted(runs.items()))
        raise ConfigError(
            f"runs with equal time limits were executed by unequal processors, {names}: delete "
            "their folders, and train all of them on one machine"
        )


# ------------------------------------------------------------------ pages


@dataclass(frozen=True)
class StudyPage:
    """The page, the figure and the numbers that a study ends in.

    Attributes:
        name: Name of the files, without suffix.
        text: The page in Markdown.
        numbers: Content of the CSV file; None if there is none.
        figure: A Matplotlib figure; None if there is none.
    """

    name: str
    text: str
    numbers: "pd.DataFrame | None" = None
    figure: Any = None

    @classmethod
    def of_table(
        cls,
        name: str,
        title: str,
        caption: str,
        table: "pd.DataFrame",
        numbers: "pd.DataFrame",
        figure: Any = None,
        notes: Sequence[str] = (),
    ) -> "StudyPage":
        """Returns a page with one table.

        Args:
            name: Name of the files, without suffix.
            title: Heading of the page.
            caption: Sentences below the table.
            table: Cells of the page's table.
            numbers: Content of the CSV file.
            figure: A Matplotlib figure; None if there is only a table.
            notes: Further sentences below the caption.
        """
        from pythae_fif.reports.tables import Table  # imports pandas

        cells = table.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else str(cell))
        text = Table(title, cells, notes=[caption, *notes]).to_markdown()
        if figure is not None:
            text += f"\n![{title}](../figures/{name}.png)\n"
        return cls(name, text, numbers, figure)

    def write(self, results: Path) -> list[Path]:
        """Writes `tables/<name>.md`, `tables/<name>.csv` and `figures/<name>.png`.

        Raises:
            StoreError: The results folder cannot be written.
        """
        from pythae_fif.pictures import figure_bytes

        files = {f"tables/{self.name}.md": self.text.encode()}
        if self.numbers is not None:
            text = self.numbers.to_csv(index=False, float_format="%.6g")
            files[f"tables/{self.name}.csv"] = text.encode()
        if self.figure is not None:
            files[f"figures/{self.name}.png"] = figure_bytes(self.figure)

        for name, content in files.items():
            write_bytes(results / name, content)
        return [results / name for name in files]


# ------------------------------------------------------------------ studies by name


def study_descriptions() -> dict[str, str]:
    """Returns the name of each study -> the first line of its file; imports no study."""
    first_lines = {name: code.partition("\n")[0] for name, code in _study_codes().items()}
    return {name: line.strip('".') for name, line in first_lines.items()}


def find_study(name: str) -> Study:
    """Returns a study of the repository's clone or of the working directory.

    Raises:
        ConfigError: There is no such study, or its file cannot be imported.
    """
    codes = _study_codes()
    if not codes:
        raise ConfigError(f"study {name!r}: {NO_STUDIES} ({Path.cwd()})")
    problem = (
        f"study {name!r} is neither a file in {Path('studies').absolute()} nor one of the "
        "repository's folder studies, which needs a clone"
    )
    check_choice(name, codes, problem)
    if str(CHECKOUT) not in sys.path:  # if the package is installed in editable mode
        sys.path.append(str(CHECKOUT))
    study: Study = import_object(f"studies.{name}:STUDY")
    return study


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
    problem = f"study {name} has no profile {options.profile!r}"
    check_choice(options.profile, study.profiles, problem)
    if study.datasets:
        check_choice(dataset, study.datasets, f"study {name} has no data set {dataset!r}")

    seeds = options.seeds or range(study.profiles[options.profile])
    options = replace(options, dataset=dataset, seeds=seeds, on_change=on_change)
    return [path for page in study.run(options) for path in page.write(options.results)]


def _study_codes() -> dict[str, str]:
    """Returns the name of each study -> its code, or the code of its folder's `__init__.py`.

    A file without the line `STUDY = ` is not a study, and is never imported. If both folders have a
    study of one name, it is the clone's.
    """
    codes = {}
    for folder in (Path("studies"), CHECKOUT / "studies"):
        for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
            name = path.parent.name if path.name == "__init__.py" else path.stem
            codes[name] = read_bytes(path).decode(errors="replace")
    return {name: code for name, code in sorted(codes.items()) if "\nSTUDY = " in code}
