"""The one driver: runs are handed to an engine until each has its records, or has failed."""

__all__ = ["Engine", "OnChange", "Outcome", "Progress", "run_all"]

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        spec: The run.
        error: One line; empty if it has all its records.
    """

    spec: Spec
    error: str = ""


@dataclass
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
Ends = Generator[tuple[Spec, str] | None, None, None]
"""A run whose process is gone, and what is known of why; None at least twice a second."""


class Engine(Protocol):
    """Where runs are executed."""

    @property
    def parting(self) -> str:
        """What to say when runs go on after :meth:`execute`; else empty."""

    def check(self, root: Path) -> None:
        """Refuses what is missing or wrong, before any work.

        Args:
            root: Folder of the store.

        Raises:
            ConfigError: A package, command or cluster is not there, or an option is wrong.
        """

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> Ends:
        """Calls :func:`~pythae_fif.runs.worker.work` for each, in a process of its own.

        Closing the generator ends the runs under way, but for jobs that outlive this process.
        """
        ...


def run_all(
    specs: Sequence[Spec],
    store: Store,
    engine: Engine,
    on_change: OnChange = lambda progress: None,
) -> list[Outcome]:
    """Does the runs that have no records yet.

    Args:
        specs: The runs.
        store: Where they are.
        engine: Executes them.
        on_change: Is told about it twice a second.

    Returns:
        The outcomes of the runs that have ended.

    Raises:
        KeyboardInterrupt: The runs under way were ended; the same call goes on with them.
        StoreError: A record cannot be read.
    """
    before = {spec: Status.read(store.folder(spec)) for spec in specs if not store.is_done(spec)}
    progress = Progress(len(specs), len(specs) - len(before))
    if not before:
        return []
    with contextlib.closing(engine.execute(list(before), store, command_line())) as ends:
        for end in ends:
            if end is not None:
                spec, cause = end
                progress.outcomes.append(Outcome(spec, _error(spec, cause, store)))
                del before[spec]
            now = {spec: Status.read(store.folder(spec)) for spec in before}
            progress.running = {  # what an earlier start said is as it was
                spec: status
                for spec, status in now.items()
                if status.state == "running" and status != before[spec]
            }
            on_change(progress)
    return progress.outcomes


def _error(spec: Spec, cause: str, store: Store) -> str:
    """Why a run failed: whether it has its records decides, whatever its process said."""
    if store.is_done(spec):
        return ""
    status = Status.read(store.folder(spec))
    if status.state in ("failed", "interrupted"):
        return status.error or status.state
    cause = cause or "the process ended without a record"
    return f"{cause} (at {status.stage!r}; see output.log)" if status.stage else cause
