"""The one driver: runs are handed to an engine until each has its records, or has failed."""

__all__ = ["Ended", "Engine", "OnChange", "Outcome", "Progress", "run_all"]

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pythae_fif.errors import StoreError
from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import STATUS_FILE, Status, Task

CAUSES = {
    -signal.SIGKILL: "killed, perhaps for want of memory",
    73: "torch does not see its GPU, which may have failed",
    74: "its folder could not be written, perhaps for a full disk",
}
"""Exit code of a run's process -> what that means."""


@dataclass(frozen=True)
class Ended:
    """A run whose process is gone.

    Attributes:
        task: The run.
        cause: Why it may have no records: what the engine knows of the process.
    """

    task: Task
    cause: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        spec: The run.
        error: One line; empty if it has all its records.
    """

    spec: Spec
    error: str = ""


@dataclass(frozen=True)
class Progress:
    """How far all runs are.

    Attributes:
        total: Number of runs that were asked for.
        done: Of those that had their records before.
        outcomes: Of those that have ended since.
        running: Those under way, with their status.
    """

    total: int
    done: int
    outcomes: list[Outcome] = field(default_factory=list)
    running: dict[Spec, Status] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The part of all runs that is done, in [0, 1]."""
        under_way = sum(status.share for status in self.running.values())
        return (self.done + len(self.outcomes) + under_way) / max(1, self.total)


OnChange = Callable[[Progress], None]


class Engine(Protocol):
    """Where runs are executed."""

    @property
    def timeout_seconds(self) -> float | None:
        """End a run that has told nothing for so long."""

    @property
    def parting(self) -> str:
        """What to say when runs go on after :meth:`execute`; else empty."""

    def check(self, root: Path) -> None:
        """Refuses what is missing or wrong, before any work.

        Args:
            root: Folder of the store.

        Raises:
            ConfigError: A package, command, GPU or cluster is not there, or an option is wrong.
        """

    def execute(self, waiting: deque[Task]) -> Generator[Ended | None, None, None]:
        """Starts tasks from the left of the queue, each in a process of its own.

        Who takes the tasks out of the queue prevents those from being started. Closing the
        generator ends the runs under way, except for those of jobs that outlive this process.

        Yields:
            A run whose process is gone; None at least twice a second.
        """
        ...


def run_all(
    specs: Sequence[Spec],
    store: Store,
    engine: Engine,
    on_change: OnChange = lambda progress: None,
    max_failures: int | None = None,
) -> list[Outcome]:
    """Does the runs that have no records yet.

    Args:
        specs: The runs.
        store: Where they are.
        engine: Executes them.
        on_change: Is told about it twice a second.
        max_failures: Once so many have failed, no other is started.

    Returns:
        The outcomes of the runs that were started and have ended.

    Raises:
        KeyboardInterrupt: The runs under way were ended; the same call goes on with them.
    """
    todo = [spec for spec in specs if not _is_done(spec, store)]
    root, command, timeout = store.root.absolute(), command_line(), engine.timeout_seconds
    waiting = deque(Task(spec, root, command, timeout) for spec in todo)
    progress = Progress(len(specs), len(specs) - len(todo))
    if not todo:
        return []
    ended: set[Spec] = set()
    with contextlib.closing(engine.execute(waiting)) as ends:
        for end in ends:
            if end is not None:
                ended.add(end.task.spec)
                progress.outcomes.append(_outcome(end, store))
                failed = sum(bool(outcome.error) for outcome in progress.outcomes)
                if max_failures is not None and failed >= max_failures:
                    waiting.clear()
            begun = [spec for spec in todo if spec not in ended | {t.spec for t in waiting}]
            statuses = {spec: Status.read(store.folder(spec)) for spec in begun}
            progress.running.clear()
            progress.running.update({k: v for k, v in statuses.items() if v.state == "running"})
            on_change(progress)
    return progress.outcomes


def _is_done(spec: Spec, store: Store) -> bool:
    """Whether a run has its records; one whose folder cannot be read fails by itself."""
    try:
        return store.is_done(spec)
    except StoreError:
        return False


def _outcome(end: Ended, store: Store) -> Outcome:
    """Whether a run has its records decides, whatever its process said."""
    spec = end.task.spec
    try:
        if store.is_done(spec):
            return Outcome(spec)
    except StoreError as error:
        return Outcome(spec, str(error))
    status = Status.read(store.folder(spec))
    if status.state in ("failed", "interrupted"):
        return Outcome(spec, status.error or status.state)
    cause = end.cause or "the process ended without a record"
    if end.task.timeout is not None and _silence(end, store) >= end.task.timeout:
        cause = f"nothing new for {end.task.timeout:g} s (--run-timeout)"
    if status.stage:
        cause += f" (at {status.stage!r}; see output.log)"
    return Outcome(spec, cause)


def _silence(end: Ended, store: Store) -> float:
    """Seconds since a run last said something; none if it never did."""
    try:
        return time.time() - (store.folder(end.task.spec) / STATUS_FILE).stat().st_mtime
    except OSError:
        return 0.0
