"""The run of a study, the collected results of its runs, and the report written from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from pythae_fif.device import default_device
from pythae_fif.errors import FailedRunsError
from pythae_fif.files import write_bytes
from pythae_fif.names import DataOptions
from pythae_fif.pictures import figure_bytes
from pythae_fif.reports.tables import Table
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.store import Spec, Store
from pythae_fif.runs.worker import AnyJob, Run
from pythae_fif.studies.study import StudyOptions

RESULT_FILE = "result.json"

ProgressCallback = Callable[[float], None]
"""Called with the share of a run that is done, in [0, 1]."""


class StudySpec(Spec):
    """A run of a study: one computation with one record, so that an interrupt loses only this run.

    The constants of a study's module are not in the id: raise `schema_version` when one changes.

    Attributes:
        result: Type of the result.
        on_cpu: Whether the run uses the CPU even if there is a GPU.
        location: Location of the data.
    """

    kind: ClassVar[str] = "study"
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

    def execute(self, run: Run) -> None:
        """Computes the result and saves its record."""
        run.device = "cpu" if self.on_cpu else default_device()
        run.report("training")
        run.save(RESULT_FILE, self.compute(lambda share: run.report("training", share)))


def collect_results(specs: Sequence[StudySpec], options: StudyOptions) -> list[Any]:
    """Executes the runs that are missing in the store and reads the results of all runs.

    Args:
        specs: The runs.
        options: The study's options: the store's folder, the engine and the callback.

    Returns:
        The result of every output of every run, in their order.

    Raises:
        FailedRunsError: Runs failed; the results of the others are kept.
    """
    store = Store(options.results)
    engine = options.engine or LocalEngine(cpus_per_run=cores() if len(specs) == 1 else None)
    todo = [spec for spec in specs if not spec.is_done(store)]
    errors = run_all(todo, store, engine, options.on_change, done=len(specs) - len(todo))
    _check_errors(errors, len(specs))

    return [result for spec in specs for result in _read_results(store, spec)]


def _check_errors(errors: Mapping[AnyJob, str], total: int) -> None:
    """Raises a FailedRunsError if a run has an error."""
    causes = [f"{job.title}/{job.spec.run_id}: {error}" for job, error in errors.items() if error]
    if causes:
        raise FailedRunsError(f"{len(causes)} of {total} runs failed: {'; '.join(causes)}")


def _read_results(store: Store, spec: StudySpec) -> list[Any]:
    """Reads the result of every output of a run that is done."""
    records: list[Any] = [
        store.read_record(spec, file_name, result_type)
        for file_name, result_type in spec.outputs.items()
    ]
    return [record.result for record in records]


@dataclass(frozen=True)
class StudyReport:
    """The table, the figure and the numbers that a study ends in.

    Attributes:
        name: Name of the files, without suffix.
        title: Heading of the page.
        caption: Sentences below the table.
        table: Cells of the page's table.
        rows: Rows of the CSV file.
        figure: A Matplotlib figure; None if there is only a table.
        notes: Further sentences below the caption.
    """

    name: str
    title: str
    caption: str
    table: pd.DataFrame
    rows: pd.DataFrame
    figure: Any = None
    notes: Sequence[str] = ()

    def write(self, results: Path) -> list[Path]:
        """Writes `tables/<name>.md`, `tables/<name>.csv` and `figures/<name>.png`.

        Raises:
            StoreError: The results folder cannot be written.
        """
        cells = self.table.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else str(cell))
        page = Table(self.title, cells, notes=[self.caption, *self.notes]).to_markdown()
        pictures = {}
        if self.figure is not None:
            pictures[f"figures/{self.name}.png"] = figure_bytes(self.figure)
            page += f"\n![{self.title}](../figures/{self.name}.png)\n"

        files = {
            f"tables/{self.name}.md": page.encode(),
            f"tables/{self.name}.csv": self.rows.to_csv(index=False, float_format="%.6g").encode(),
            **pictures,
        }
        for name, content in files.items():
            write_bytes(results / name, content)
        return [results / name for name in files]
