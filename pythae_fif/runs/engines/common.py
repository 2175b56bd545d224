"""What all engines share: how runs end, who is told, and what a process of a run begins with."""

__all__ = [
    "Batch",
    "Engine",
    "OnChange",
    "Outcome",
    "cores",
    "enter_run",
    "has_hung",
    "open_statuses",
    "settle",
]

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits

from pythae_fif.errors import StoreError
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.execute import is_done
from pythae_fif.runs.folder import STATUS, Status
from pythae_fif.runs.kind import Kind
from pythae_fif.training import keep_freed_memory

OnChange = Callable[[dict[Path, Status], list["Outcome"]], None]
"""Called with the status of the runs under way and the outcomes so far."""

NO_RECORD = "the process ended without a record"


@dataclass(frozen=True)
class Batch:
    """Runs that an engine is to execute.

    Attributes:
        kind: Of all of them.
        run_dirs: Where they are, or will be once they are prepared.
        prepare: Prepares a run, at the latest just before it is started: thousands would keep the
            first waiting. By default they are prepared.
        lent: The data of all of them, for an engine that hands them to its machines.
        max_failures: Once so many runs have failed, no other is started.
        run_timeout: A run that has told nothing new for so many seconds is ended.
    """

    kind: Kind[Any, Any]
    run_dirs: Sequence[Path]
    prepare: Callable[[Path], object] = lambda run_dir: None
    lent: object = None
    max_failures: int | None = None
    run_timeout: float | None = None

    def is_lost(self, outcomes: Iterable["Outcome"]) -> bool:
        """Whether so many runs have failed that no other is to be started."""
        failed = sum(outcome.state != "finished" for outcome in outcomes)
        return self.max_failures is not None and failed >= self.max_failures


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is `finished`, `failed` or `interrupted`."""

    run_dir: Path
    state: str
    error: str = ""


class Engine(Protocol):
    """Where runs are executed."""

    @property
    def parting(self) -> str:
        """What to say when :meth:`run_all` returned while runs go on; else empty."""

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        """Calls :func:`~pythae_fif.runs.execute.execute` for every folder, in a process a run.

        A process that fails or is killed costs its own run only.

        Args:
            batch: The runs.
            on_change: Told about it, twice a second or as often as is cheap.

        Returns:
            The outcomes of the runs that were started and have ended.
        """
        ...


def settle(batch: Batch, run_dir: Path, state: str, error: str) -> Outcome:
    """How a run ended whose process is gone: finished if its record is there, whatever was said.

    The status is mended where the process left it open.

    Args:
        batch: What the run belongs to.
        run_dir: Its folder.
        state: How the process ended, for a run without a record whose status does not say it.
        error: Why.
    """
    try:
        done = is_done(run_dir, batch.kind)
    except StoreError as problem:
        return Outcome(run_dir, "failed", str(problem))
    status = Status.read(run_dir)
    if done:
        mended = dataclasses.replace(status, state="finished", error="", traceback="")
    elif status.state in ("failed", "interrupted"):
        mended = status
    elif has_hung(batch, run_dir):
        error = f"nothing new for {batch.run_timeout:g} s at {status.stage!r} (--run-timeout); "
        error += "the end of output.log shows where it stood"
        mended = dataclasses.replace(status, state="failed", error=error)
    elif state == "finished":
        mended = dataclasses.replace(status, state="failed", error=NO_RECORD)
    else:
        mended = dataclasses.replace(status, state=state, error=error)
    if mended != status and not is_claimed(run_dir):  # or it is another driver's process
        with contextlib.suppress(StoreError):
            mended.write(run_dir)
    return Outcome(run_dir, mended.state, mended.error)


def has_hung(batch: Batch, run_dir: Path) -> bool:
    """Whether a run whose process is gone was ended because it told nothing new for too long."""
    if batch.run_timeout is None or Status.read(run_dir).state != "running":
        return False
    return time.time() - (run_dir / STATUS).stat().st_mtime >= batch.run_timeout


def open_statuses(run_dirs: Iterable[Path]) -> dict[Path, Status]:
    """The status of those runs that are under way."""
    statuses = {run_dir: Status.read(run_dir) for run_dir in run_dirs}
    return {d: status for d, status in statuses.items() if status.state == "running"}


def enter_run(run_dir: Path, threads: int) -> None:
    """Makes this process that of a run: its output goes to `output.log`, its threads are set.

    Without a GPU it keeps the memory that it frees.
    """
    log = open(run_dir / "output.log", "a", buffering=1)  # noqa: SIM115 - for the whole process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of the linear algebra of numpy and scipy
    if not torch.cuda.is_available():
        keep_freed_memory()


def cores() -> int:
    """The number of cores that this process may use, within the limits of a container, too."""
    return int(cpu_count())
