"""What all engines share: how runs end, who is told, and what a process of a run begins with."""

__all__ = [
    "Engine",
    "OnChange",
    "Outcome",
    "Prepare",
    "cores",
    "enter_run",
    "no_preparation",
    "open_statuses",
    "settle",
]

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from pythae_fif.data import Splits
from pythae_fif.errors import StoreError
from pythae_fif.files import read_json, write_json
from pythae_fif.runs.claim import is_claimed

OnChange = Callable[[dict[Path, dict[str, Any]], list["Outcome"]], None]
"""Called with the status of the runs under way and the outcomes so far."""

Prepare = Callable[[Path], object]
"""Called with the folder of a run before that is started; makes it with :meth:`Store.prepare`."""


def no_preparation(run_dir: Path) -> None:
    """For folders that are prepared already."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is `finished`, `failed` or `interrupted`."""

    run_dir: Path
    state: str
    error: str = ""


class Engine(Protocol):
    """Where runs are executed.

    Attributes:
        parting: What to say when :meth:`run_all` returned while runs go on; else empty.
    """

    parting: str

    def run_all(
        self,
        run_dirs: list[Path],
        on_change: OnChange,
        max_failures: int | None = None,
        splits: Splits | None = None,
        prepare: Prepare = no_preparation,
    ) -> list[Outcome]:
        """Calls `execute` for every folder, each in a process of its own.

        A process that fails or is killed costs its own run only.

        Args:
            run_dirs: Where the runs are, or will be once they are prepared.
            on_change: Told about it, twice a second or as often as is cheap.
            max_failures: Once so many runs have failed, no other is started.
            splits: The images of all these runs, for an engine that hands them to its machines.
            prepare: Prepares a run, at the latest just before it is started: thousands would keep
                the first waiting.

        Returns:
            The outcomes of the runs that were started and have ended.
        """
        ...


def settle(run_dir: Path, state: str, error: str) -> Outcome:
    """How a run ended whose process is gone; the status is mended where that left it open."""
    status = read_json(run_dir / "status.json") or {}
    if status.get("state") not in ("finished", "failed", "interrupted"):
        status |= {"state": state, "error": error}
        if not is_claimed(run_dir):  # or it is the state of another driver's process
            with contextlib.suppress(StoreError):
                write_json(run_dir / "status.json", status)
    return Outcome(run_dir, status["state"], status.get("error", ""))


def open_statuses(run_dirs: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """The status of those runs that are under way."""
    statuses = {run_dir: read_json(run_dir / "status.json") or {} for run_dir in run_dirs}
    return {d: status for d, status in statuses.items() if status.get("state") == "running"}


def enter_run(run_dir: Path, threads: int) -> None:
    """Makes this process that of a run: its output goes to `output.log`, its threads are set."""
    log = open(run_dir / "output.log", "a", buffering=1)  # noqa: SIM115 - for the whole process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of the linear algebra of numpy and scipy


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
