"""The one driver: runs are handed to an engine until each has its records, or has failed."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pythae_fif.files import os_errors_as_store_error
from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status
from pythae_fif.validation import AtLeastOne, Flag, StrictModel


@dataclass
class Progress:
    """How far all runs are.

    Attributes:
        total: Number of runs that were asked for.
        done: Of those that had their records before.
        ended: Those that have ended since -> a line on what failed; empty if all records are there.
        running: Those under way, with their status.
    """

    total: int
    done: int
    outcomes: dict[Spec, str] = field(default_factory=dict)
    running: dict[Spec, Status] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The part of all runs that is done, in [0, 1]."""
        under_way = sum(status.share for status in self.running.values())
        return (self.done + len(self.outcomes) + under_way) / max(1, self.total)


OnChange = Callable[[Progress], None]
FinishedRuns = Generator[tuple[Spec, str] | None, None, None]
"""A run whose process is gone, and what is known of why; None in between."""


class Engine(StrictModel):
    """Where and how runs are executed; no result depends on it.

    Attributes:
        cpus_per_run: Cores and threads of a run; None for the engine's choice.
    """

    cpus_per_run: Annotated[AtLeastOne | None, Flag("cores and threads of a run", "N")] = None

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> FinishedRuns:
        """Calls :func:`~pythae_fif.runs.worker.execute_run` for each, in a process of its own.

        Closing the generator ends the runs under way, but for jobs that outlive this process. A
        ConfigError says what is missing.
        """
        raise NotImplementedError


def run_all(
    specs: Sequence[Spec], store: Store, engine: Engine, on_change: OnChange = lambda progress: None
) -> dict[Spec, str]:
    """Does the runs that have no records yet, and tells every few seconds how far they are.

    Returns:
        Those that were to do -> a line on what failed; empty for one that has all its records.

    Raises:
        KeyboardInterrupt: Runs under way, but for Slurm's jobs, ended; the same call resumes them.
        StoreError: The store cannot be written, or a record in it cannot be read.
    """
    before = {spec: Status.read(store.folder(spec)) for spec in specs if not store.is_done(spec)}
    progress = Progress(len(specs), len(specs) - len(before))
    if not before:
        return {}
    with os_errors_as_store_error(f"write {store.root}"):
        store.runs.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(engine.execute(list(before), store, command_line())) as ends:
        for end in ends:
            if end is not None:
                spec, cause = end
                told = Status.read(store.folder(spec))
                usual = f"{cause} at {told.stage or 'its start'}; see output.log"
                why = told.error if told != before.pop(spec) else ""  # not of an earlier start
                progress.outcomes[spec] = "" if store.is_done(spec) else why or usual
            now = {spec: Status.read(store.folder(spec)) for spec in before}
            begun = [spec for spec in now if now[spec] != before[spec]]
            progress.running = {s: now[s] for s in begun if now[s].state == "running"}
            on_change(progress)
    return progress.outcomes
