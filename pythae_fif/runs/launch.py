"""The one driver: runs are handed to an engine until each has its records, or has failed."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import PrivateAttr

from pythae_fif.runs.provenance import command_line
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status
from pythae_fif.validation import AtLeastOne, Checked, Flag


class Outcome(NamedTuple):
    """How a run ended: the error is one line, empty if the run has all its records."""

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


class Engine(Checked):
    """Where and how runs are executed; no result depends on it.

    Attributes:
        cpus_per_run: Cores and threads of a run; None for the engine's choice.
    """

    cpus_per_run: Annotated[AtLeastOne | None, Flag("cores and threads of a run", "N")] = None

    _parting: str = PrivateAttr("")

    @property
    def parting(self) -> str:
        """What to say when runs go on after :meth:`execute`; else empty."""
        return self._parting

    def check(self, root: Path) -> None:
        """Raises a ConfigError where something is missing or wrong, before any work in a store."""

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> Ends:
        """Calls :func:`~pythae_fif.runs.worker.work` for each, in a process of its own.

        Closing the generator ends the runs under way, but for jobs that outlive this process.
        """
        raise NotImplementedError


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
                progress.outcomes.append(_outcome(*end, store))
                del before[end[0]]
            now = {spec: Status.read(store.folder(spec)) for spec in before}
            begun = [spec for spec in now if now[spec] != before[spec]]
            progress.running = {s: now[s] for s in begun if now[s].state == "running"}
            on_change(progress)
    return progress.outcomes


def _outcome(spec: Spec, cause: str, store: Store) -> Outcome:
    """Whether a run has its records decides, whatever its process said."""
    if store.is_done(spec):
        return Outcome(spec)
    status = Status.read(store.folder(spec))
    if status.state in ("failed", "interrupted"):
        return Outcome(spec, status.error or status.state)
    at = f" (at {status.stage!r}; see output.log)" if status.stage else ""
    return Outcome(spec, (cause or "the process ended without a record") + at)
