"""The Ray engine: runs as Ray tasks, on one machine or a cluster."""

__all__ = ["RayEngine"]

import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

from pythae_fif.errors import ConfigError, importing, one_line
from pythae_fif.runs.launch import Ended
from pythae_fif.runs.local import EngineOptions
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status, Task
from pythae_fif.validation import AtLeastOne, Flag

MAX_CRASHES = 3
POLL_SECONDS = 0.5
GRACE_SECONDS = 20


class RayEngine(EngineOptions):
    """A Ray cluster whose nodes see the results folder under the path that it has here.

    A run whose worker or node dies is tried again by Ray, `MAX_CRASHES` times at most, and resumes
    from its folder. By default the cores of a node are divided by its runs at once, without GPUs
    four; on unequal nodes the smallest share counts.

    Attributes:
        runs_per_gpu: Runs at once on a GPU.
        ray_address: `local` for a cluster that lives as long as the call, `auto` for the one that
            this machine belongs to, or `ray://host:port`. None for the running one if there is
            one, else `local`.
    """

    runs_per_gpu: Annotated[AtLeastOne | None, Flag("runs at once on a GPU", "N")] = None
    ray_address: Annotated[str | None, Flag("auto, local or ray://HOST:PORT", "ADDRESS")] = None

    def check(self, root: Path) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        with importing("ray", "--engine ray"):
            import ray  # noqa: F401

    def execute(self, waiting: deque[Task]) -> Generator[Ended | None, None, None]:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        import ray

        store = Store(waiting[0].root)
        with _connected(self.ray_address):
            cpus, gpus = self._resources()
            remote = ray.remote(max_calls=1, max_retries=MAX_CRASHES, num_cpus=cpus, num_gpus=gpus)(
                _task
            )
            open_tasks = {remote.remote(task, cpus, os.getcwd()): task for task in waiting}
            begun: set[Task] = set()
            try:
                while open_tasks:
                    ended, _ = ray.wait(list(open_tasks), timeout=POLL_SECONDS)
                    for ref in ended:
                        yield Ended(open_tasks.pop(ref), _cause(ref))
                    for ref, task in list(open_tasks.items()):
                        running = Status.read(store.folder(task.spec)).state == "running"
                        if running and task in waiting:
                            waiting.remove(task)
                            begun.add(task)
                        elif task not in waiting and task not in begun:  # the driver took it out
                            ray.cancel(ref)
                            del open_tasks[ref]
                    yield None
            finally:
                for ref in open_tasks:
                    ray.cancel(ref)
                if open_tasks:
                    refs = list(open_tasks)
                    _, stubborn = ray.wait(refs, num_returns=len(refs), timeout=GRACE_SECONDS)
                    for ref in stubborn:
                        ray.cancel(ref, force=True)

    def _resources(self) -> tuple[int, float]:
        """Cores and GPUs of a run: a GPU each where the cluster has any."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU")]
        per_gpu = self.runs_per_gpu or 1
        shares = [
            int(node.get("CPU", 0) // (node.get("GPU", 0) * per_gpu or 4))
            for node in with_gpu or nodes
            if node.get("CPU")
        ]
        cpus = self.cpus_per_run or max(1, min(shares, default=1))
        if all(node.get("CPU", 0) < cpus for node in nodes):
            raise ConfigError(f"--cpus-per-run {cpus}: no node of the Ray cluster has so many")
        return cpus, 1 / per_gpu if with_gpu else 0


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Within the block this process is connected to the cluster."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray-address {address}: no Ray cluster answers ({one_line(error)}); "
            "'ray start --head' starts one, local needs none"
        ) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has put its own there
    try:
        yield
    finally:
        ray.shutdown()


def _cause(ref: Any) -> str:
    """Why a task ended; empty if it ended in order."""
    import ray

    try:
        return str(ray.get(ref))
    except Exception as error:  # Ray's own, or of what comes before the run
        return f"its process was lost: {one_line(getattr(error, 'cause', None) or error)}"


def _task(task: Task, threads: int, folder: str) -> str:
    """The Ray task of one run, in a worker process that ends with it; why it failed."""
    with contextlib.suppress(OSError):  # own networks are imported from there
        os.chdir(folder)
        sys.path.insert(0, folder)
    try:
        task(threads)
    except Exception as error:
        return one_line(error)
    return ""
