"""The local engine: a fresh process a run, as many at once as the machine has room for."""

__all__ = ["EngineOptions", "LocalEngine", "Slot", "cores"]

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

from pydantic import PrivateAttr

from pythae_fif.errors import ConfigError, StoreError
from pythae_fif.runs.launch import CAUSES, Ended
from pythae_fif.runs.worker import Task, is_locked
from pythae_fif.validation import AtLeastOne, Checked, Duration, Flag, Whole, parse_duration

POLL_SECONDS = 0.3
GRACE_SECONDS = 20
EXIT_GPU, EXIT_STORE = 73, 74
RUN_BYTES = 6 * 2**30
"""Room on a GPU for a run whose need is not known."""


def _numbers(text: str) -> list[int]:
    """`0,1` as numbers."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not I,J") from None


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    Attributes:
        device: `cpu`, or what CUDA_VISIBLE_DEVICES names a GPU.
        threads: The run's share of the cores.
    """

    device: str
    threads: int


class EngineOptions(Checked):
    """Where and how runs are executed, of every engine; no result depends on it.

    Attributes:
        cpus_per_run: Cores and threads of a run; None for a fair share.
        run_timeout: A run that tells nothing new for so long, neither an epoch nor a stage, is
            ended and counts as failed; None for never.
    """

    cpus_per_run: Annotated[AtLeastOne | None, Flag("cores and threads of a run", "N")] = None
    run_timeout: Annotated[Duration | None, Flag("end a run silent for 1h, 90min", "TIME")] = None

    _parting: str = PrivateAttr("")

    @property
    def timeout_seconds(self) -> float | None:
        """`run_timeout` in seconds."""
        return None if self.run_timeout is None else parse_duration(self.run_timeout)

    @property
    def parting(self) -> str:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        return self._parting


class LocalEngine(EngineOptions):
    """This machine's GPUs, or its cores where there is none.

    By default the cores are divided by the runs at once, which without GPUs are at most four.

    Attributes:
        gpus: The GPUs in use, counted among the visible ones; all if None, and empty for the cores
            of a machine with GPUs.
        runs_per_gpu: Runs at once on a GPU; if None as many as memory and cores allow, at most 4.
    """

    gpus: Annotated[list[Whole] | None, Flag("visible GPUs to use", "I,J", _numbers)] = None
    runs_per_gpu: Annotated[AtLeastOne | None, Flag("runs at once on a GPU", "N")] = None

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
            devices = chosen * (self.runs_per_gpu or _runs_per_gpu(available // len(chosen)))
        elif self.cpus_per_run is not None:
            devices = ["cpu"] * (available // self.cpus_per_run)
        else:
            devices = ["cpu"] * min(4, available)
        threads = self.cpus_per_run or max(1, available // len(devices))
        return [Slot(device, threads) for device in devices]

    def check(self, root: Path) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        self.slots()

    def execute(self, waiting: deque[Task]) -> Generator[Ended | None, None, None]:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        context, free = _context(waiting), self.slots()
        running: dict[Task, tuple[Any, Slot]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    task = _unlocked_first(waiting)
                    waiting.remove(task)
                    process = context.Process(target=_child, args=(task, free[0]), daemon=False)
                    with _deferred_interrupts():
                        process.start()
                        running[task] = (process, free.pop(0))
                wait([process.sentinel for process, _ in running.values()], POLL_SECONDS)
                for task, (process, slot) in list(running.items()):
                    if process.exitcode is None:
                        continue
                    del running[task]
                    if process.exitcode == EXIT_GPU and (free or running):
                        waiting.appendleft(task)  # for another GPU; this one is not used again
                        continue
                    free.append(slot)
                    yield Ended(task, _cause(process.exitcode))
                yield None
        finally:
            with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
                for process, _ in running.values():
                    process.terminate()
                for process, _ in running.values():
                    process.join(GRACE_SECONDS)
                    if process.exitcode is None:
                        process.kill()
                        process.join()


def cores() -> int:
    """The number of cores that this process may use, within the limits of a container, too."""
    from joblib import cpu_count  # here, for `--help` needs none of it

    return int(cpu_count())


def _visible_gpus() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES gives, or would give, to the GPUs that torch sees."""
    import torch  # here, for `--help` needs none of it

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if asked is None else map(str.strip, asked.split(","))
    return list(names)[:count]


def _runs_per_gpu(cores_of_gpu: int) -> int:
    """As many runs as the memory of the smallest GPU and the cores allow, at most 4."""
    import torch

    devices = range(torch.cuda.device_count())
    memory = min(torch.cuda.get_device_properties(device).total_memory for device in devices)
    return max(1, min(4, memory // RUN_BYTES, cores_of_gpu))


def _unlocked_first(waiting: deque[Task]) -> Task:
    """The first task that no other process works on; if there is none, the first."""
    from pythae_fif.runs.store import Store

    store = Store(waiting[0].root)
    return next((t for t in waiting if not is_locked(store.folder(t.spec))), waiting[0])


def _context(tasks: deque[Task]) -> Any:
    """A fork server that imports torch, Pythae and the drawing of pictures once.

    Its children are fresh in all else.
    """
    context: Any = multiprocessing.get_context("forkserver")
    # Each child executes the driver's main module again: what that imports of this package is
    # there already, too. The first optimizer of a process imports dynamo, which takes seconds.
    ours = [name for name in sys.modules if name.startswith("pythae_fif.")]
    of_specs = {type(task.spec).__module__ for task in tasks}
    context.set_forkserver_preload([*of_specs, "matplotlib.figure", "torch._dynamo", *ours])
    with _signals(signal.SIG_IGN, signal.SIGINT):  # Ctrl-C is the parent's to pass on
        forkserver.ensure_running()
    return context


def _cause(exitcode: int) -> str:
    """Why a process ended, for a run that has no records; empty if it ended in order."""
    if exitcode == 0:
        return ""
    name = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    what = CAUSES.get(exitcode)
    return f"the process ended by {name}" + (f": {what}" if what else "")


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


def _child(task: Task, slot: Slot) -> None:
    """The process of one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _see_only(slot.device)
    try:
        task(slot.threads)
    except KeyboardInterrupt:
        sys.exit(130)
    except StoreError:
        sys.exit(EXIT_STORE)  # `status.json` may not have taken the reason
    except BaseException:
        sys.exit(1)  # the traceback is in `status.json`


def _see_only(device: str) -> None:
    """Hides all GPUs but a slot's; ends this process where that is gone.

    Without a GPU the run would train on the CPU, for days and without a word.
    """
    import torch

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
