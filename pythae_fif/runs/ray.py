"""The Ray engine: runs as Ray tasks, on one machine or a cluster."""

import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

from pythae_fif.errors import ConfigError, format_error, pluralized, requires_extra
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import AnyJob, Slot, execute_run
from pythae_fif.validation import Flag

MAX_CRASHES = 3
"""How often Ray tries a run again after its worker or node died."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 20
"""Time that cancelled runs have to end."""


class RayEngine(Engine):
    """Executes runs on a Ray cluster. All its nodes need the results folder at the same path.

    A run has one core or `cpus_per_run`, and a GPU if the cluster has any. If its worker or node
    dies, Ray tries the run again, at most `MAX_CRASHES` times, and it resumes from its folder.

    Attributes:
        ray_address: `auto` for the cluster of this machine, `ray://host:port` for another one,
            `local` for a new one that ends with the call. None uses a running cluster if there is
            one, and `local` otherwise.
    """

    ray_address: Annotated[
        str | None, Flag("Ray cluster: auto, local or ray://HOST:PORT", "ADDRESS")
    ] = None

    def parallel_runs(self) -> int:
        """See :class:`~pythae_fif.runs.launch.Engine`. Connects to the cluster, if it must."""
        ray = self._connect()
        resources = ray.cluster_resources()
        run_count = int(resources.get("CPU", 0) // self.threads_per_run)
        if "GPU" in resources:
            run_count = min(run_count, int(resources["GPU"]))
        return run_count

    def describe(self) -> str:
        run_count = pluralized(self.parallel_runs(), "run")
        return f"Ray, {run_count} at once, {pluralized(self.threads_per_run, 'thread')} each"

    def execute(self, jobs: Sequence[AnyJob], store: Store, command: str) -> FinishedRuns:
        ray = self._connect()
        cpus = self.threads_per_run
        gpus = int("GPU" in ray.cluster_resources())
        slot = Slot("gpu" if gpus else "cpu", cpus)
        task = ray.remote(max_calls=1, max_retries=MAX_CRASHES, num_cpus=cpus, num_gpus=gpus)(_task)
        tasks = {task.remote(os.getcwd(), job, store, command, slot): job for job in jobs}

        try:
            while tasks:
                ended_tasks, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
                for reference in ended_tasks:
                    yield tasks.pop(reference), _cause_of_failure(ray, reference)
                yield None
        finally:
            for reference in tasks:
                ray.cancel(reference)
            if tasks:
                ray.wait(list(tasks), num_returns=len(tasks), timeout=GRACE_SECONDS)
            ray.shutdown()

    def _connect(self) -> ModuleType:
        """Connects to the cluster, or starts one, unless this process is connected.

        Returns:
            The module `ray`.

        Raises:
            ConfigError: Ray is not installed, or no cluster answers.
        """
        with requires_extra("ray", "--engine ray"):
            import ray
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        host, colon, port = (self.ray_address or "").rpartition("://")[2].rpartition(":")
        try:
            if colon:  # a quick check, because Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(self.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--ray-address {self.ray_address}: no Ray cluster answers "
                f"({format_error(error)}); start one by 'ray start --head', or use local"
            ) from error

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init replaced the handler
        return ray


def _cause_of_failure(ray: ModuleType, reference: Any) -> str:
    """Returns the error of an ended task; empty if it succeeded."""
    try:
        ray.get(reference)
    except Exception as error:  # Ray's own error, or the run's
        cause = getattr(error, "cause", None) or error  # the run's error without Ray's trace
        return f"its process was lost: {format_error(cause)}"
    return ""


def _task(folder: str, *arguments: Any) -> None:
    """Executes one run as a Ray task, in a worker process that ends with it."""
    os.chdir(folder)
    sys.path.insert(0, folder)  # the user's own networks are imported from there
    try:
        execute_run(*arguments)
    except Exception:
        traceback.print_exc()  # to `output.log`
        raise
