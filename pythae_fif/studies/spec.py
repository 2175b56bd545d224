"""A run of a study, the results of all its runs, and the files that they end in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from pythae_fif.device import default_device
from pythae_fif.errors import RunsLeftError
from pythae_fif.files import write_bytes
from pythae_fif.names import DataOptions
from pythae_fif.pictures import figure_bytes
from pythae_fif.reports.tables import Table
from pythae_fif.runs.launch import OnChange, run_all
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.study import StudyOptions

RESULT_FILE = "result.json"

ProgressCallback = Callable[[float], None]
"""Is told the share of a run that is done, in [0, 1]."""


class StudySpec(Spec):
    """A run of a study: one computation with one record, so that an interrupt loses it alone.

    The constants of a study's module are not in the id: raise `schema_version` when one changes.

    Attributes:
        result: Type of what it finds.
        on_cpu: Whether it computes on the processor whatever else there is.
        location: The data.
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
    def outputs(self) -> Mapping[str, type]:
        return {RESULT_FILE: self.result}

    def compute(self, report_progress: ProgressCallback) -> Any:
        """What it finds, of the type `result`."""
        raise NotImplementedError

    def run(self, run: Run) -> None:
        """Computes, and saves the record."""
        run.device = "cpu" if self.on_cpu else default_device()
        run.report("training")
        run.save(RESULT_FILE, self.compute(lambda share: run.report("training", share)))


def collect_results(
    specs: Sequence[StudySpec], options: StudyOptions, on_change: OnChange
) -> list[Any]:
    """The results of all outputs of runs, after the missing ones are made.

    Raises:
        RunsLeftError: Runs failed; the others are kept.
    """
    store = Store(options.results)
    engine = options.engine or LocalEngine(cpus_per_run=cores() if len(specs) == 1 else None)
    errors = run_all(specs, store, engine, on_change)
    left = [spec for spec in specs if not store.is_done(spec)]
    if left:
        causes = [f"{of.title}/{of.run_id}: {errors.get(of) or 'no record'}" for of in left]
        raise RunsLeftError(f"{len(left)} of {len(specs)} runs failed: {'; '.join(causes)}")
    records: list[Any] = [store.record(spec, *of) for spec in specs for of in spec.outputs.items()]
    return [record.result for record in records]


@dataclass(frozen=True)
class StudyReport:
    """What a study ends in: the name of its files; the heading and the sentences below the table;
    the table, and the rows of the CSV file; a Matplotlib figure, or None for a table alone."""

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
            StoreError: The folder of results does not take them.
        """
        cells = self.table.map(lambda of: f"{of:.3g}" if isinstance(of, float) else str(of))
        page = Table(self.title, cells, notes=[self.caption, *self.notes]).to_markdown()
        paths = [results / f"tables/{self.name}.{suffix}" for suffix in ("md", "csv")]
        if self.figure is not None:
            paths.append(results / f"figures/{self.name}.png")
            write_bytes(paths[-1], figure_bytes(self.figure))
            page += f"\n![{self.title}](../figures/{self.name}.png)\n"
        write_bytes(paths[0], page.encode())
        write_bytes(paths[1], self.rows.to_csv(index=False, float_format="%.6g").encode())
        return paths
