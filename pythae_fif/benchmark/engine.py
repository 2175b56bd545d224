"""The local engine: a fresh process a run, as many at once as the machine has room for."""

__all__ = ["Outcome", "run_all", "slots_of_this_machine"]

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.trainers import keep_freed_memory

from .claim import is_claimed, unclaimed_first
from .store import read_json, write_json

POLL_SECONDS = 0.2
GRACE_SECONDS = 20
EXIT_STORE, EXIT_LOST = 74, 75
CAUSES = {
    -signal.SIGKILL: ": killed, perhaps for want of memory",
    EXIT_STORE: ": its folder could not be written, perhaps for a full disk",
    EXIT_LOST: ": it stood still for so long that the run was given to another",
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is `finished`, `failed` or `interrupted`."""

    run_dir: Path
    state: str
    error: str = ""


@dataclass(frozen=True)
class Slot:
    """Room for one run: a GPU, or a share of the cores."""

    device: str
    threads: int


def slots_of_this_machine() -> list[Slot]:
    """One slot a GPU; without one, up to four that share the cores."""
    if torch.cuda.is_available():
        return [Slot(str(index), 0) for index in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = max(1, min(4, cores or 1))
    return [Slot("cpu", max(1, (cores or 1) // count))] * count


def run_all(
    run_dirs: list[Path],
    slots: list[Slot],
    on_change: Callable[[dict[Path, dict[str, Any]], list[Outcome]], None],
    max_failures: int | None = None,
) -> list[Outcome]:
    """Runs every folder in a process of its own and tells `on_change` about it, twice a second.

    A process that fails or is killed costs its own run only. On KeyboardInterrupt the processes
    are asked to stop, their runs are marked as interrupted, and the exception goes on.

    Args:
        run_dirs: Folders made by :meth:`Store.prepare`.
        slots: Room; a list of n runs n at once.
        on_change: Called with the status of the runs under way and the outcomes so far.
        max_failures: Once so many runs have failed, no other is started.

    Returns:
        The outcomes of the runs that were started.
    """
    # A fork server imports torch, Pythae and the drawing of pictures once; its children are fresh
    # in all else.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["pythae_fif.benchmark.run", "matplotlib.figure"])
        from multiprocessing import forkserver

        with _signals(signal.SIG_IGN, signal.SIGINT):  # Ctrl-C is the parent's to pass on
            forkserver.ensure_running()
    waiting, free = list(run_dirs), list(slots)
    running: dict[Path, tuple[Any, Slot]] = {}
    outcomes: list[Outcome] = []
    shown = 0.0
    try:
        while waiting or running:
            while waiting and free:
                run_dir, slot = unclaimed_first(waiting), free.pop(0)
                waiting.remove(run_dir)
                process = context.Process(target=_child, args=(run_dir, slot), daemon=False)
                with _deferred_interrupts():
                    process.start()
                    running[run_dir] = (process, slot)
            ended = [d for d, (process, _) in running.items() if process.exitcode is not None]
            for run_dir in ended:
                process, slot = running.pop(run_dir)
                outcomes.append(_outcome(run_dir, process.exitcode))
                free.append(slot)
            failed = sum(outcome.state != "finished" for outcome in outcomes)
            if max_failures is not None and failed >= max_failures:
                waiting.clear()
            if ended or time.monotonic() - shown > 0.5:
                on_change({d: read_json(d / "status.json") or {} for d in running}, outcomes)
                shown = time.monotonic()
            if not ended:  # until one ends, but no longer than the display can wait
                wait([process.sentinel for process, _ in running.values()], POLL_SECONDS)
    except BaseException:
        with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
            for process, _ in running.values():
                process.terminate()
            for run_dir, (process, _) in running.items():
                process.join(GRACE_SECONDS)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                _settle(run_dir, "interrupted", "")
        raise
    return outcomes


def _outcome(run_dir: Path, exitcode: int) -> Outcome:
    """What a process left behind; one that was killed could not write its own status."""
    cause = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    cause += CAUSES.get(exitcode, "")
    status = _settle(run_dir, "failed", f"the process ended by {cause}")
    return Outcome(run_dir, status["state"], status.get("error", ""))


def _settle(run_dir: Path, state: str, error: str) -> dict[str, Any]:
    """The status of a run whose process is gone, mended where that left it at `running`."""
    status = read_json(run_dir / "status.json") or {}
    if status.get("state") not in ("finished", "failed", "interrupted"):
        status |= {"state": state, "error": error}
        if not is_claimed(run_dir):  # or it is the state of another driver's process
            with contextlib.suppress(StoreError):
                write_json(run_dir / "status.json", status)
    return status


@contextlib.contextmanager
def _signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Within the block these signals go to another handler."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def _deferred_interrupts() -> Iterator[None]:
    """An interrupt within the block is raised at its end: no process is started unnoticed."""
    seen: list[int] = []
    with _signals(lambda number, _: seen.append(number), signal.SIGINT, signal.SIGTERM):
        yield
    if seen:
        raise KeyboardInterrupt


def _child(run_dir: Path, slot: Slot) -> None:
    """The process of one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if slot.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(slot.threads)
        keep_freed_memory()
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.device
    log = open(run_dir / "output.log", "a", buffering=1)  # noqa: SIM115 - for the whole process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    from .run import execute

    try:
        execute(run_dir)
    except KeyboardInterrupt:
        sys.exit(130)
    except ClaimLostError:
        sys.exit(EXIT_LOST)
    except StoreError:
        sys.exit(EXIT_STORE)  # `status.json` may not have taken the reason
    except BaseException:
        sys.exit(1)  # the traceback is in status.json


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Interrupts this process when its driver is gone, SIGKILL included; ends it if need be."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)
