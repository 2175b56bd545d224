"""The driver: hands runs to an engine until each one has its records or has failed."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pythae_fif.files import os_errors_as_store_error
from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import AnyJob, Status
from pythae_fif.validation import AtLeastOne, Flag, StrictModel


@dataclass
class Progress:
    """The progress of all jobs of a command.

    Attributes:
        total: Number of jobs of the command.
        done: Number of jobs that were done before the command.
        outcomes: Jobs that have ended since -> their error line, empty if they are done.
        running: Jobs under way -> the status of their runs.
    """

    total: int
    done: int
    outcomes: dict[AnyJob, str] = field(default_factory=dict)
    running: dict[AnyJob, Status] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of all jobs that is done, in [0, 1]."""
        under_way = sum(status.share for status in self.running.values())
        return (self.done + len(self.outcomes) + under_way) / max(1, self.total)


OnChange = Callable[[Progress], None]
"""A callback that shows the progress."""

FinishedRuns = Generator[tuple[AnyJob, str] | None, None, None]
"""Yields a job when its process has ended, with the cause as far as the engine knows it, and None
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
    def execute(self, jobs: Sequence[AnyJob], store: Store, command: str) -> FinishedRuns:
        """Executes each job in its own process, by :func:`~pythae_fif.runs.worker.execute_run`.

        Closing the generator ends the runs under way, except jobs that outlive this process.

        Args:
            jobs: The jobs.
            store: The store that receives their records.
            command: The user's command line, for the records.

        Raises:
            ConfigError: Something that the engine needs is missing.
        """


def run_all(
    jobs: Sequence[AnyJob],
    store: Store,
    engine: Engine,
    on_change: OnChange = lambda progress: None,
    done: int = 0,
) -> dict[AnyJob, str]:
    """Executes jobs.

    Args:
        jobs: The jobs that are not done yet.
        store: The store with their records.
        engine: Where they are executed.
        on_change: Called every few seconds with the progress.
        done: Number of jobs of the command that are done already; the progress counts them.

    Returns:
        The jobs -> their error line, empty for a job that is done now.

    Raises:
        KeyboardInterrupt: The user interrupted. Runs under way were ended, except Slurm's jobs; the
            same call resumes them.
        StoreError: The store cannot be written, or a record in it cannot be read.
    """
    if not jobs:
        return {}
    earlier = {job: Status.read(store.folder(job.spec)) for job in jobs}
    progress = Progress(total=done + len(jobs), done=done)

    with os_errors_as_store_error(f"write {store.root}"):
        store.runs.mkdir(parents=True, exist_ok=True)

    with contextlib.closing(engine.execute(list(jobs), store, command_line())) as finished_runs:
        for finished in finished_runs:
            if finished is not None:
                job, cause = finished
                progress.outcomes[job] = _error_line(job, store, cause, earlier.pop(job))
            progress.running = _running(earlier, store)
            on_change(progress)

    return progress.outcomes


def _error_line(job: AnyJob, store: Store, cause: str, earlier: Status) -> str:
    """Returns why a job failed, as one line; empty if it is done.

    Args:
        cause: What the engine knows of the cause. It is used if the run reported nothing itself.
        earlier: The run's status before this command; its error belongs to an earlier attempt.
    """
    if job.is_done(store):
        return ""
    status = Status.read(store.folder(job.spec))
    new_error = "" if status == earlier else status.error
    return new_error or f"{cause} at {status.stage or 'its start'}; see output.log"


def _running(earlier: dict[AnyJob, Status], store: Store) -> dict[AnyJob, Status]:
    """Returns the jobs under way: those whose runs have reported since their earlier status."""
    statuses = {job: Status.read(store.folder(job.spec)) for job in earlier}
    return {
        job: status
        for job, status in statuses.items()
        if status.state == "running" and status != earlier[job]
    }
