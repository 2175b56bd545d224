"""The Ray engine: runs as Ray tasks, on one machine or a cluster."""

import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

from pythae_fif.errors import ConfigError, format_error, requires_extra
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Slot, execute_run
from pythae_fif.validation import Flag

MAX_CRASHES = 3
POLL_SECONDS = 0.5
GRACE_SECONDS = 20


class RayEngine(Engine):
    """A Ray cluster whose nodes see the results folder under the path that it has here.

    A run has one core, or `cpus_per_run`, and a GPU where the cluster has any. One whose worker or
    node dies is tried again by Ray, `MAX_CRASHES` times at most, and resumes from its folder.

    Attributes:
        ray_address: `local` for a cluster that lives as long as the call, `auto` for the one that
            this machine belongs to, or `ray://host:port`. None is a running one, else `local`.
    """

    ray_address: Annotated[str | None, Flag("auto, local or ray://HOST:PORT", "ADDRESS")] = None

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> FinishedRuns:
        with requires_extra("ray", "--engine ray"):
            import ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        host, colon, port = (self.ray_address or "").rpartition("://")[2].rpartition(":")
        try:
            if colon:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(self.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--ray-address {self.ray_address}: no Ray cluster answers "
                f"({format_error(error)}); 'ray start --head' starts one, local needs none"
            ) from error
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has put its own there
        cpus, gpus = self.cpus_per_run or 1, int("GPU" in ray.cluster_resources())
        options = {"max_calls": 1, "max_retries": MAX_CRASHES, "num_cpus": cpus, "num_gpus": gpus}
        task, slot = ray.remote(**options)(_task), Slot("gpu" if gpus else "cpu", cpus)
        tasks = {task.remote(os.getcwd(), spec, store, command, slot): spec for spec in specs}
        try:
            while tasks:
                ended, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
                for ref in ended:
                    cause = ""
                    try:
                        ray.get(ref)
                    except Exception as error:  # Ray's own, or the run's, which its status has
                        found = getattr(error, "cause", None) or error  # without Ray's trace
                        cause = f"its process was lost: {format_error(found)}"
                    yield tasks.pop(ref), cause
                yield None
        finally:
            for ref in tasks:
                ray.cancel(ref)
            if tasks:
                ray.wait(list(tasks), num_returns=len(tasks), timeout=GRACE_SECONDS)
            ray.shutdown()


def _task(folder: str, *run: Any) -> None:
    """The Ray task of one run, in a worker process that ends with it."""
    os.chdir(folder)
    sys.path.insert(0, folder)  # own networks are imported from there
    try:
        execute_run(*run)
    except Exception:
        traceback.print_exc()  # to `output.log`
        raise
