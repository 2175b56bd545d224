"""The driver: hands runs to an engine until each one has its records or has failed."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pythae_fif.files import os_errors_as_store_error
from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.store import Spec, Store
from pythae_fif.runs.worker import Status
from pythae_fif.validation import AtLeastOne, Flag, StrictModel


@dataclass
class Progress:
    """The progress of all runs of a command.

    Attributes:
        total: Number of runs that the command needs.
        done: Number of runs that had their records before the command.
        outcomes: Runs that have ended since -> their error line, empty if all records are there.
        running: Runs under way -> their status.
    """

    total: int
    done: int
    outcomes: dict[Spec, str] = field(default_factory=dict)
    running: dict[Spec, Status] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of all runs that is done, in [0, 1]."""
        under_way = sum(status.share for status in self.running.values())
        return (self.done + len(self.outcomes) + under_way) / max(1, self.total)


OnChange = Callable[[Progress], None]
"""A callback that shows the progress."""

FinishedRuns = Generator[tuple[Spec, str] | None, None, None]
"""Yields a run when its process has ended, with the cause as far as the engine knows it, and None
every few seconds in between."""


class Engine(StrictModel):
    """Where and how runs are executed. Results do not depend on it.

    Attributes:
        cpus_per_run: Cores and threads of a run; None lets the engine choose.
    """

    cpus_per_run: Annotated[AtLeastOne | None, Flag("CPU cores and threads per run", "N")] = None

    @property
    def threads_per_run(self) -> int:
        """Number of CPU threads of a run."""
        return self.cpus_per_run or 1

    @abstractmethod
    def parallel_runs(self) -> int | None:
        """Returns how many runs the engine executes at once; None if a scheduler decides.

        Raises:
            ConfigError: Something that the engine needs is missing.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describes in one line where runs are executed, and how many at once.

        Raises:
            ConfigError: Something that the engine needs is missing.
        """

    def without_sharing(self) -> "Engine":
        """Returns an engine for trainings on a wall clock: by default no run shares its device."""
        return self

    @abstractmethod
    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> FinishedRuns:
        """Executes each run in its own process, by :func:`~pythae_fif.runs.worker.execute_run`.

        Closing the generator ends the runs under way, except jobs that outlive this process.

        Args:
            specs: The runs.
            store: The store that receives their records.
            command: The user's command line, for the records.

        Raises:
            ConfigError: Something that the engine needs is missing.
        """


def run_all(
    specs: Sequence[Spec], store: Store, engine: Engine, on_change: OnChange = lambda progress: None
) -> dict[Spec, str]:
    """Executes the runs that have no records yet.

    Args:
        specs: All runs of the command.
        store: The store with their records.
        engine: Where the runs are executed.
        on_change: Called every few seconds with the progress.

    Returns:
        The executed runs -> their error line, empty for a run that has all its records.

    Raises:
        KeyboardInterrupt: The user interrupted. Runs under way were ended, except Slurm's jobs; the
            same call resumes them.
        StoreError: The store cannot be written, or a record in it cannot be read.
    """
    earlier = {spec: Status.read(store.folder(spec)) for spec in specs if not store.is_done(spec)}
    progress = Progress(total=len(specs), done=len(specs) - len(earlier))
    if not earlier:
        return {}

    with os_errors_as_store_error(f"write {store.root}"):
        store.runs.mkdir(parents=True, exist_ok=True)

    with contextlib.closing(engine.execute(list(earlier), store, command_line())) as finished_runs:
        for finished in finished_runs:
            if finished is not None:
                spec, cause = finished
                progress.outcomes[spec] = _error_line(spec, store, cause, earlier.pop(spec))
            progress.running = _running(earlier, store)
            on_change(progress)

    return progress.outcomes


def _error_line(spec: Spec, store: Store, cause: str, earlier: Status) -> str:
    """Returns why a run failed, as one line; empty if all its records are there.

    Args:
        cause: What the engine knows of the cause. It is used if the run reported nothing itself.
        earlier: The run's status before this command; its error belongs to an earlier attempt.
    """
    if store.is_done(spec):
        return ""
    status = Status.read(store.folder(spec))
    new_error = "" if status == earlier else status.error
    return new_error or f"{cause} at {status.stage or 'its start'}; see output.log"


def _running(earlier: dict[Spec, Status], store: Store) -> dict[Spec, Status]:
    """Returns the runs under way: those that have reported since their earlier status."""
    statuses = {spec: Status.read(store.folder(spec)) for spec in earlier}
    return {
        spec: status
        for spec, status in statuses.items()
        if status.state == "running" and status != earlier[spec]
    }
