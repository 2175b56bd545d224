"""The local engine: a fresh process a run, as many at once as the machine has room for."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pythae_fif.errors import ConfigError, StoreError
from pythae_fif.runs.launch import Ends, Engine
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import work
from pythae_fif.validation import AtLeastOne, Flag

POLL_SECONDS = 0.3
GRACE_SECONDS = 20
RUN_BYTES = 6 * 2**30
"""Room on a GPU for a run whose need is not known."""
EXIT_STORE = 74
CAUSES = {
    0: "",
    -signal.SIGKILL: "the process ended by SIGKILL: killed, perhaps for want of memory",
    EXIT_STORE: "its folder could not be written, perhaps for a full disk",
}
"""Exit code of a run's process -> why it may have no records."""


class Slot(NamedTuple):
    """Room for one run: on `cpu`, or what CUDA_VISIBLE_DEVICES names a GPU."""

    device: str
    threads: int


class LocalEngine(Engine):
    """This machine's GPUs, or its cores where there is none.

    By default the cores are divided by the runs at once, which without GPUs are at most four.

    Attributes:
        runs_per_gpu: Runs at once on a GPU; if None as many as memory and cores allow, at most 4.
    """

    runs_per_gpu: Annotated[AtLeastOne | None, Flag("runs at once on a GPU", "N")] = None

    def slots(self) -> list[Slot]:
        """Room for the runs; a list of n runs n at once.

        Raises:
            ConfigError: More threads than there are cores.
        """
        available, gpus = cores(), _visible_gpus()
        if self.cpus_per_run is not None and self.cpus_per_run > available:
            raise ConfigError(
                f"--cpus-per-run {self.cpus_per_run}: this machine has {available} cores"
            )
        at_once = available // self.cpus_per_run if self.cpus_per_run else min(4, available)
        devices = ["cpu"] * at_once
        if gpus:  # one after the other, so that the first runs spread over all
            devices = gpus * (self.runs_per_gpu or _runs_per_gpu(available // len(gpus)))
        threads = self.cpus_per_run or max(1, available // len(devices))
        return [Slot(device, threads) for device in devices]

    def check(self, root: Path) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        self.slots()

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> Ends:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        context, free, waiting = _context(specs), self.slots(), deque(specs)
        running: dict[Spec, tuple[Any, Slot]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    spec, slot = waiting.popleft(), free.pop(0)
                    process = context.Process(target=_child, args=(spec, store, command, slot))
                    running[spec] = (process, slot)
                    process.start()
                wait([process.sentinel for process, _ in running.values()], POLL_SECONDS)
                for spec, (process, slot) in list(running.items()):
                    if process.exitcode is not None:
                        del running[spec]
                        free.append(slot)
                        usual = f"the process ended by exit code {process.exitcode}"
                        yield spec, CAUSES.get(process.exitcode, usual)
                yield None
        finally:
            alive = [process for process, _ in running.values() if process.is_alive()]
            for process in alive:
                process.terminate()
            for process in alive:
                process.join(GRACE_SECONDS)
                process.kill()


def cores() -> int:
    """The number of cores that this process may use, within the limits of a container, too."""
    from joblib import cpu_count  # here, for `--help` needs none of it

    return int(cpu_count())


def _visible_gpus() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES gives, or would give, to the GPUs that torch sees."""
    import torch  # here, for `--help` needs none of it

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    every = ",".join(map(str, range(count)))
    return os.environ.get("CUDA_VISIBLE_DEVICES", every).replace(" ", "").split(",")[:count]


def _runs_per_gpu(cores_of_gpu: int) -> int:
    """As many runs as the memory of the first GPU and the cores allow, at most 4."""
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    return max(1, min(4, memory // RUN_BYTES, cores_of_gpu))


def _context(specs: Sequence[Spec]) -> Any:
    """A fork server that imports torch, Pythae and the drawing of pictures once."""
    context: Any = multiprocessing.get_context("forkserver")
    # Each child executes the driver's main module again: what that imports of this package is
    # there already, too. The first optimizer of a process imports dynamo, which takes seconds.
    ours = [name for name in sys.modules if name.startswith("pythae_fif.")]
    of_specs = {type(spec).__module__ for spec in specs}
    context.set_forkserver_preload([*of_specs, "matplotlib.figure", "torch._dynamo", *ours])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to pass on
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    return context


def _child(spec: Spec, store: Store, command: str, slot: Slot) -> None:
    """The process of one run, which sees one GPU at most."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    on_gpu = slot.device != "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = slot.device if on_gpu else ""
    try:
        work(spec, store, command, slot.threads, on_gpu)
    except BaseException as error:  # `status.json` may not have taken why the store is wrong
        sys.exit(EXIT_STORE if isinstance(error, StoreError) else 1)


def _end_with_driver() -> None:
    """Ends this process when its driver is gone, SIGKILL included; its checkpoint is kept."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
