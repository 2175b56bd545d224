"""The local engine: a fresh process a run, as many at once as the machine has room for."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Annotated, Any

from pythae_fif.errors import pluralized
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Slot, execute_run
from pythae_fif.validation import AtLeastOne, Flag

POLL_SECONDS = 0.3
GRACE_SECONDS = 20
RUN_BYTES = 6 * 2**30  # room on a GPU for a run whose need is not known
EXIT_CODES = "1: its folder could not be written; -9: killed, perhaps for want of memory"


class LocalEngine(Engine):
    """This machine's GPUs, or its cores where there is none.

    By default the cores are divided by the runs at once, which without GPUs are at most four.

    Attributes:
        runs_per_gpu: Runs at once on a GPU; if None as many as memory and cores allow, at most 4.
    """

    runs_per_gpu: Annotated[AtLeastOne | None, Flag("runs at once on a GPU", "N")] = None

    def slots(self, run_bytes: int = RUN_BYTES) -> list[Slot]:
        """Room for runs that take so much of a GPU; a list of n runs n at once."""
        import torch  # here, for `--help` needs none of it

        available, threads = cores(), self.cpus_per_run
        # NVML also counts the GPUs of a driver that this torch cannot use.
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
        gpus = visible.replace(" ", "").split(",")[:count]
        devices = ["cpu"] * max(1, available // threads if threads else min(4, available))
        if gpus:  # one after the other, so that the first runs spread over all
            memory = torch.cuda.get_device_properties(0).total_memory
            room = max(1, min(4, memory // run_bytes, available // len(gpus)))
            devices = gpus * (self.runs_per_gpu or room)
        threads = threads or max(1, available // len(devices))
        return [Slot(device, threads) for device in devices]

    def machine(self, run_bytes: int = RUN_BYTES) -> str:
        """On what runs that take so much of a GPU are executed, and how many at once."""
        slots = self.slots(run_bytes)
        devices, each = {slot.device for slot in slots}, pluralized(slots[0].threads, "thread")
        name = "CPU" if devices == {"cpu"} else pluralized(len(devices), "GPU")
        room = f"as cores and {run_bytes / 2**30:.1f} GB a run allow, at most 4 a GPU; "
        why = f" ({'' if self.runs_per_gpu else room}--runs-per-gpu)" if name != "CPU" else ""
        return f"{name}, {pluralized(len(slots), 'run')} at once{why}, {each} each"

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> FinishedRuns:
        context, free, waiting = _context(specs), self.slots(), deque(specs)
        running: dict[Spec, tuple[Any, Slot]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    spec, slot = waiting.popleft(), free.pop(0)
                    process = context.Process(target=execute_run, args=(spec, store, command, slot))
                    running[spec] = (process, slot)
                    process.start()
                wait([process.sentinel for process, _ in running.values()], POLL_SECONDS)
                for spec, (process, slot) in list(running.items()):
                    if process.exitcode is not None:
                        del running[spec]
                        free.append(slot)
                        yield spec, f"its process ended by {process.exitcode} ({EXIT_CODES})"
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
