"""The local engine: a fresh process a run, as many at once as the machine has room for."""

__all__ = ["LocalEngine", "Slot"]

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, ClassVar

import torch

from pythae_fif.errors import ClaimLostError, ConfigError, StoreError
from pythae_fif.runs.claim import unclaimed_first
from pythae_fif.runs.engines.common import (
    Batch,
    OnChange,
    Outcome,
    cores,
    enter_run,
    settle,
)
from pythae_fif.runs.engines.options import LocalOptions
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Kind

POLL_SECONDS = 0.2
GRACE_SECONDS = 20
EXIT_GPU, EXIT_STORE, EXIT_LOST = 73, 74, 75
CAUSES = {
    -signal.SIGKILL: ": killed, perhaps for want of memory",
    EXIT_GPU: ": torch does not see its GPU, which may have failed",
    EXIT_STORE: ": its folder could not be written, perhaps for a full disk",
    EXIT_LOST: ": it stood still for so long that the run was given to another",
}


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    Attributes:
        device: ``cpu``, or what CUDA_VISIBLE_DEVICES names a GPU.
        threads: The run's share of the cores.
    """

    device: str
    threads: int


class LocalEngine(LocalOptions):
    """This machine's GPUs, or its cores where there is none.

    By default the cores are divided by the runs at once, which without GPUs are at most four.

    Attributes:
        gpus: As of its options, and empty for the cores of a machine with GPUs.
    """

    gpus: list[int] | None = None

    parting: ClassVar[str] = ""

    def slots(self) -> list[Slot]:
        """Room for the runs; a list of n runs n at once.

        Raises:
            ConfigError: A GPU that is not visible, or more threads than there are cores.
        """
        available = cores()
        if self.cpus_per_run is not None and self.cpus_per_run > available:
            raise ConfigError(
                f"--cpus-per-run {self.cpus_per_run}: this machine has {available} cores"
            )
        visible = _visible_gpus()
        for gpu in self.gpus or []:
            if not 0 <= gpu < len(visible):
                have = f"0 to {len(visible) - 1} are" if visible else "none is"
                raise ConfigError(f"--gpus {gpu}: {have} visible on this machine")
        chosen = visible if self.gpus is None else [visible[gpu] for gpu in self.gpus]
        if chosen:
            # One after the other, so that the first runs spread over all GPUs.
            devices = chosen * self.runs_per_gpu
        elif self.cpus_per_run is not None:
            devices = ["cpu"] * (available // self.cpus_per_run)
        else:
            devices = ["cpu"] * min(4, available)
        threads = self.cpus_per_run or max(1, available // len(devices))
        return [Slot(device, threads) for device in devices]

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        """See :class:`Engine`.

        On KeyboardInterrupt the processes are asked to stop, their runs are marked as interrupted,
        and the exception goes on.
        """
        context = _context(batch.kind)
        waiting, free = list(batch.run_dirs), self.slots()
        running: dict[Path, tuple[Any, Slot]] = {}
        outcomes: list[Outcome] = []
        shown = 0.0
        try:
            while waiting or running:
                while waiting and free:
                    run_dir = unclaimed_first(waiting)
                    waiting.remove(run_dir)
                    try:
                        batch.prepare(run_dir)
                    except StoreError as error:
                        outcomes.append(Outcome(run_dir, "failed", str(error)))
                        break  # perhaps one failure too many
                    slot = free.pop(0)
                    of_run = (batch.kind, run_dir, slot, batch.run_timeout)
                    process = context.Process(target=_child, args=of_run, daemon=False)
                    with _deferred_interrupts():
                        process.start()
                        running[run_dir] = (process, slot)
                ended = [d for d, (process, _) in running.items() if process.exitcode is not None]
                for run_dir in ended:
                    process, slot = running.pop(run_dir)
                    if process.exitcode == EXIT_GPU and (free or running):
                        waiting.insert(0, run_dir)  # for another GPU; this one is not used again
                        continue
                    outcomes.append(settle(batch, run_dir, *_end_of(process.exitcode)))
                    free.append(slot)
                if batch.is_lost(outcomes):
                    waiting.clear()
                if ended or time.monotonic() - shown > 0.5:
                    on_change({d: Status.read(d) for d in running}, outcomes)
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
                    settle(batch, run_dir, "interrupted", "")
            raise
        return outcomes


def _visible_gpus() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES gives, or would give, to the GPUs that torch sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if asked is None else map(str.strip, asked.split(","))
    return list(names)[:count]


def _context(kind: Kind[Any, Any]) -> Any:
    """A fork server that imports torch, Pythae and the drawing of pictures once.

    Its children are fresh in all else.
    """
    context: Any = multiprocessing.get_context("forkserver")
    # Each child executes the driver's main module again: what that imports of this package is
    # there already, too.
    ours = [name for name in sys.modules if name.startswith("pythae_fif.")]
    # The first optimizer of a process imports dynamo, which takes seconds.
    late = ["matplotlib.figure", "torch._dynamo"]
    context.set_forkserver_preload([kind.work.__module__, *late, *ours])
    with _signals(signal.SIG_IGN, signal.SIGINT):  # Ctrl-C is the parent's to pass on
        forkserver.ensure_running()
    return context


def _end_of(exitcode: int) -> tuple[str, str]:
    """State and error of a run whose process is gone, where neither record nor status says it."""
    if exitcode == 0:
        return "finished", ""
    cause = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    return "failed", f"the process ended by {cause}{CAUSES.get(exitcode, '')}"


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
    try:
        with _signals(lambda number, _: seen.append(number), signal.SIGINT, signal.SIGTERM):
            yield
    except (EOFError, OSError):  # the fork server had the signal, too
        if not seen:
            raise
    if seen:
        raise KeyboardInterrupt


def _child(kind: Kind[Any, Any], run_dir: Path, slot: Slot, timeout: float | None) -> None:
    """The process of one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _see_only(slot.device)
    enter_run(run_dir, slot.threads)
    try:
        execute(run_dir, kind, timeout=timeout)
    except KeyboardInterrupt:
        sys.exit(130)
    except ClaimLostError:
        sys.exit(EXIT_LOST)
    except StoreError:
        sys.exit(EXIT_STORE)  # `status.json` may not have taken the reason
    except BaseException:
        sys.exit(1)  # the traceback is in status.json


def _see_only(device: str) -> None:
    """Hides all GPUs but a slot's; ends this process where that is gone.

    Without a GPU the run would train on the CPU, for days and without a word.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
    if device != "cpu" and not (torch.cuda.is_available() and torch.cuda.device_count() == 1):
        sys.exit(EXIT_GPU)


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
