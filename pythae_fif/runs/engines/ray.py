"""The Ray engine: runs as Ray tasks, on one machine or a cluster."""

__all__ = ["RayEngine"]

import contextlib
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from pythae_fif.data.locations import own_configs, set_own_configs
from pythae_fif.errors import ConfigError, StoreError, one_line
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.engines.common import (
    Batch,
    OnChange,
    Outcome,
    enter_run,
    has_hung,
    open_statuses,
    settle,
)
from pythae_fif.runs.engines.options import RayOptions
from pythae_fif.runs.execute import execute, line_of
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment, Kind
from pythae_fif.runs.remote import PUSH_SECONDS, mirrored

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
POLL_SECONDS, SECONDS_A_STATUS = 0.5, 0.002
REFRESHED = 32
"""Runs at a URL whose progress is asked for: those that were submitted first are begun first."""
AGAIN, NOT_BEGUN = "again", "not begun"


class RayEngine(RayOptions):
    """A Ray cluster whose nodes see the results folder under the path that it has here.

    The images go to every node once, in shared memory, and the run resumes from the checkpoint in
    its folder wherever it is tried again. One whose worker dies is tried again, `MAX_CRASHES`
    times at most, or the run itself would be the cause; one whose node dies as often as it takes.

    By default the cores of a node are divided by its runs at once, without GPUs four; on unequal
    nodes the smallest share counts.
    """

    parting: ClassVar[str] = ""

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        """See :class:`Engine`.

        On KeyboardInterrupt the tasks are cancelled, their runs are marked as interrupted, and
        the exception goes on.

        Raises:
            ConfigError: There is no cluster at the address.
        """
        with _connected(self.ray_address):
            cpus, gpus = self._resources()
            task = ray.remote(max_calls=1, max_retries=0, num_cpus=cpus, num_gpus=gpus)(_task)
            handed = ray.put(batch.lent)

            for run_dir in batch.run_dirs:  # Ray gets all of them at once
                batch.prepare(run_dir)

            def submit(run_dir: Path) -> Any:
                return task.remote(
                    batch.kind,
                    _place_of(run_dir),
                    cpus,
                    os.getcwd(),
                    [str(path.resolve()) for path in own_configs()],
                    handed,
                    batch.run_timeout,
                )

            open_runs = {submit(run_dir): run_dir for run_dir in batch.run_dirs}
            crashes: Counter[Path] = Counter()
            outcomes: list[Outcome] = []
            looked = time.monotonic()
            try:
                while open_runs:
                    for ref in _ended(open_runs):
                        run_dir = open_runs.pop(ref)
                        end = _end_of(batch, ref, run_dir, crashes)
                        if isinstance(end, Outcome):
                            outcomes.append(end)
                        elif end == AGAIN:
                            open_runs[submit(run_dir)] = run_dir
                    if batch.is_lost(outcomes):
                        for ref, run_dir in open_runs.items():
                            if _is_waiting(run_dir):
                                ray.cancel(ref)
                    if time.monotonic() - looked > PUSH_SECONDS:
                        for run_dir in islice(open_runs.values(), REFRESHED):
                            _refresh(run_dir)
                        looked = time.monotonic()
                    on_change(open_statuses(open_runs.values()), outcomes)
            except BaseException:
                _cancel(batch, open_runs)
                raise
            return outcomes

    def _resources(self) -> tuple[int, float]:
        """Cores and GPUs of a run."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU")]
        at_once = [node.get("GPU", 0) * self.runs_per_gpu or 4 for node in with_gpu or nodes]
        shares = [
            int(node.get("CPU", 0) // count)
            for node, count in zip(with_gpu or nodes, at_once, strict=True)
            if node.get("CPU")
        ]
        cpus = self.cpus_per_run or max(1, min(shares, default=1))
        if all(node.get("CPU", 0) < cpus for node in nodes):
            logger.warning("no node of the Ray cluster has %s cores: the runs wait for one", cpus)
        return cpus, 1 / self.runs_per_gpu if with_gpu else 0


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Within the block this process is connected to the cluster."""
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


def _end_of(batch: Batch, ref: Any, run_dir: Path, crashes: Counter[Path]) -> Outcome | str:
    """How a task ended: an outcome, or whether its run is to be tried again or was never begun."""
    _refresh(run_dir)
    try:
        state, error = ray.get(ref)
        return settle(batch, run_dir, state, error)
    except (NodeDiedError, LocalRayletDiedError):
        return AGAIN
    except TaskCancelledError:
        if _is_waiting(run_dir):
            return NOT_BEGUN
        cause = "cancelled"
    except RayTaskError as error:  # of what comes before the run, such as a package that is missing
        cause = one_line(error.cause)
    except RayError as error:
        crashes[run_dir] += 1
        if crashes[run_dir] <= MAX_CRASHES and not has_hung(batch, run_dir):
            return AGAIN
        cause = f"its process was lost {crashes[run_dir]} times: {one_line(error)}"
    return settle(batch, run_dir, "failed", cause)


def _ended(open_runs: dict[Any, Path]) -> list[Any]:
    """The tasks that have ended, after a while in which one may; many runs are asked less often."""
    seconds = max(POLL_SECONDS, SECONDS_A_STATUS * len(open_runs))
    ray.wait(list(open_runs), timeout=seconds)
    return list(ray.wait(list(open_runs), num_returns=len(open_runs), timeout=0)[0])


def _cancel(batch: Batch, open_runs: dict[Any, Path]) -> None:
    for ref in open_runs:
        ray.cancel(ref)
    _, stubborn = ray.wait(list(open_runs), num_returns=len(open_runs), timeout=20)
    for ref in stubborn:
        ray.cancel(ref, force=True)
    begun = [run_dir for run_dir in open_runs.values() if not _is_waiting(run_dir)]
    patience = time.monotonic() + 20  # a process goes later than its task, on a busy machine much
    while any(map(is_claimed, begun)) and time.monotonic() < patience:
        time.sleep(0.1)
    for run_dir in begun:
        settle(batch, run_dir, "interrupted", "")


def _is_waiting(run_dir: Path) -> bool:
    """Whether no process has begun the run."""
    if Status.read(run_dir).state == "waiting":
        _refresh(run_dir)
    return Status.read(run_dir).state == "waiting"


def _refresh(run_dir: Path) -> None:
    """Brings what a worker on another machine has told, where the store is at a URL."""
    if Environment.read(run_dir).url is None or is_claimed(run_dir):
        return  # one that is claimed is worked on here, in the same folder
    try:
        mirrored(_place_of(run_dir))
    except StoreError as error:
        logger.warning("%s", error)


def _place_of(run_dir: Path) -> str:
    """Where other machines find a run: at its URL, if the store has one."""
    return Environment.read(run_dir).url or str(run_dir.resolve())


def _task(
    kind: Kind[Any, Any],
    place: str,
    threads: int,
    folder: str,
    configs: list[str],
    lent: object,
    timeout: float | None,
) -> tuple[str, str]:
    """The task of one run, in a worker process that ends with it; its last state and error."""
    if configs:  # a running cluster's processes do not inherit the driver's
        set_own_configs(configs)
    with contextlib.suppress(OSError):  # paths are relative to it
        os.chdir(folder)
    run_dir = mirrored(place)
    enter_run(run_dir, threads)
    try:
        execute(place, kind, lent, timeout)
    except Exception as error:  # as status.json says it, unless that could not be written
        told = Status.read(run_dir).error
        return "failed", told or line_of(error)
    return "finished", ""
