"""The local engine: runs in fresh processes, as many at once as the machine has room for."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Annotated, Any

from pythae_fif.errors import pluralized
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import AnyJob, Slot, execute_run
from pythae_fif.validation import AtLeastOne, Flag

POLL_SECONDS = 0.3
GRACE_SECONDS = 20
"""Time that a terminated run has to end, before it is killed."""
MAX_RUNS = 4
"""Default limit of the runs at once, on a GPU or on the CPU."""
RUN_BYTES = 6 * 2**30
"""GPU memory for which a run is counted by default."""
EXIT_CODES = "1: its folder could not be written; -9: killed, for example when out of memory"


class LocalEngine(Engine):
    """Executes runs on this machine's GPUs, or on its CPU if it has none.

    By default the cores are divided among the runs at once. Without a GPU these are at most four.

    Attributes:
        runs_per_gpu: Runs at once on a GPU; None for as many as memory and cores allow, at most 4.
    """

    runs_per_gpu: Annotated[AtLeastOne | None, Flag("runs at once on a GPU", "N")] = None

    def slots(self) -> list[Slot]:
        """Returns one slot for each run that fits on the machine at once."""
        core_count = cores()
        gpus = _visible_gpus()

        if gpus:
            runs_per_gpu = self.runs_per_gpu or _default_runs_per_gpu(core_count // len(gpus))
            # The GPUs alternate, so that the first runs are spread over all of them.
            devices = gpus * runs_per_gpu
        else:
            run_count = core_count // self.cpus_per_run if self.cpus_per_run else MAX_RUNS
            devices = ["cpu"] * max(1, min(run_count, core_count))

        threads = self.cpus_per_run or max(1, core_count // len(devices))
        return [Slot(device, threads) for device in devices]

    @property
    def threads_per_run(self) -> int:
        return self.slots()[0].threads

    def parallel_runs(self) -> int:
        return len(self.slots())

    def without_sharing(self) -> "LocalEngine":
        """Returns an engine that executes one run on each device, unless a flag allows more."""
        defaults = {"runs_per_gpu": 1}
        if not _visible_gpus():
            defaults["cpus_per_run"] = cores()
        return LocalEngine(**{**defaults, **self.model_dump(exclude_none=True)})

    def describe(self) -> str:
        slots = self.slots()
        devices = {slot.device for slot in slots}
        run_count = pluralized(len(slots), "run")
        thread_count = pluralized(slots[0].threads, "thread")

        core_count = pluralized(cores(), "core")
        if devices == {"cpu"}:
            return f"CPU with {core_count}, {run_count} at once, {thread_count} each"

        default = (
            f"as cores and {RUN_BYTES >> 30} GB per run allow, at most {MAX_RUNS} per GPU; "
            "--runs-per-gpu changes it"
        )
        reason = "--runs-per-gpu" if self.runs_per_gpu else default
        return (
            f"{pluralized(len(devices), 'GPU')} with {core_count}, TF32 "
            f"{'on' if _uses_tf32() else 'off'}, {run_count} at once ({reason}), "
            f"{thread_count} each"
        )

    def execute(self, jobs: Sequence[AnyJob], store: Store, command: str) -> FinishedRuns:
        context = _fork_server(jobs)
        free_slots = self.slots()
        waiting = deque(jobs)
        running: dict[AnyJob, tuple[Any, Slot]] = {}

        try:
            while waiting or running:
                while waiting and free_slots:
                    job = waiting.popleft()
                    slot = free_slots.pop(0)
                    process = context.Process(target=execute_run, args=(job, store, command, slot))
                    running[job] = (process, slot)
                    process.start()

                wait([process.sentinel for process, _ in running.values()], POLL_SECONDS)
                for job, (process, slot) in list(running.items()):
                    if process.exitcode is not None:
                        del running[job]
                        free_slots.append(slot)
                        yield job, f"its process exited with {process.exitcode} ({EXIT_CODES})"
                yield None
        finally:
            _end_processes(process for process, _ in running.values())


def cores() -> int:
    """Returns the number of cores that this process may use, within the limits of a container."""
    from joblib import cpu_count  # imported here, because `--help` does not need it

    return int(cpu_count())


def _visible_gpus() -> list[str]:
    """Returns the names of the GPUs in CUDA_VISIBLE_DEVICES that torch can use."""
    import torch  # imported here, because `--help` does not need it

    # NVML also counts the GPUs of a driver that this torch cannot use.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    every_gpu = ",".join(map(str, range(count)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", every_gpu)
    return visible.replace(" ", "").split(",")[:count]


def _uses_tf32() -> bool:
    """Returns whether a GPU's convolutions round the factors of a product to TF32."""
    import torch

    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.conv.fp32_precision == "tf32")


def _default_runs_per_gpu(cores_per_gpu: int) -> int:
    """Returns how many runs fit on a GPU at once."""
    import torch

    runs_in_memory = torch.cuda.get_device_properties(0).total_memory // RUN_BYTES
    return max(1, min(MAX_RUNS, runs_in_memory, cores_per_gpu))


def _fork_server(jobs: Sequence[AnyJob]) -> Any:
    """Starts a fork server that imports torch, Pythae and Matplotlib once for all runs."""
    context: Any = multiprocessing.get_context("forkserver")

    # Each child executes the driver's main module again, so what that imports of this package is
    # preloaded too. The first optimizer of a process imports dynamo, which takes seconds.
    package_modules = [name for name in sys.modules if name.startswith("pythae_fif.")]
    job_modules = {type(job).__module__ for job in jobs}
    context.set_forkserver_preload(
        [*job_modules, "matplotlib.figure", "torch._dynamo", *package_modules]
    )

    # The server ignores Ctrl-C, because the driver passes it on to the runs.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return context


def _end_processes(processes: Iterable[Any]) -> None:
    """Terminates the processes that are alive, and kills them if they do not end in time."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(GRACE_SECONDS)
        process.kill()
