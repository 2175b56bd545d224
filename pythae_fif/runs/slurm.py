"""The Slurm engine: runs as job arrays, submitted by submitit, requeued until they are done."""

__all__ = ["SlurmEngine"]

import dataclasses
import json
import logging
import math
import re
import shutil
import subprocess
import time
from argparse import ArgumentTypeError
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pythae_fif.errors import ConfigError, StoreError, importing
from pythae_fif.files import write_json
from pythae_fif.runs.launch import Ended
from pythae_fif.runs.local import EngineOptions, cores
from pythae_fif.runs.store import Store, read_file
from pythae_fif.runs.worker import Status, Task
from pythae_fif.validation import Flag, parse_duration

logger = logging.getLogger(__name__)

JOB_FILE = "slurm.json"
ARRAY_SIZE = 1000
"""Runs in an array: Slurm's own limit is 1,001 unless its administrator raised it."""
MAX_TIMEOUTS = 100
POLL_SECONDS, QUEUE_SECONDS = 1.0, 10.0
LATE_SECONDS = 30.0
"""How long a file may take to be seen here after the job that wrote it is gone."""
COMMANDS = ("sbatch", "squeue", "scancel", "srun")
_LIMIT = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("one line of text is needed")
    return text


def _limit(text: str) -> str:
    _minutes(text)
    return text


def _minutes(limit: str) -> int:
    """A limit such as 4h, 04:00:00 or 1-12:00:00 in minutes, rounded up."""
    match = _LIMIT.fullmatch(limit)
    if match is None:
        return math.ceil(parse_duration(limit) / 60)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (24 * days + hours) * 60 + minutes + (seconds > 0)


def _pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE` as the two."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


OneLine = Annotated[str, AfterValidator(_one_line)]
"""A text that may stand in a batch script."""


class SlurmEngine(EngineOptions):
    """Slurm, on a machine that can submit and sees the results folder as its nodes do.

    A job that reaches its time limit or is preempted is requeued, and resumes from the run's
    checkpoint. Jobs outlive this process: the same command waits for those that are in the queue
    and submits no run twice. A run asks for a GPU, and ends if it finds none; `gres=none` of
    `sbatch` asks for none.

    Attributes:
        partition, time, account: Of the jobs. The time is needed, such as 4h or 04:00:00.
        sbatch: Further parameters of sbatch or submitit.
        no_wait: Submit the jobs and stop.
    """

    partition: Annotated[OneLine | None, Flag("where the jobs go")] = None
    time: Annotated[
        Annotated[str, AfterValidator(_limit)] | None,
        Flag("limit of a job, such as 04:00:00; it is then requeued"),
    ] = None
    account: Annotated[OneLine | None, Flag("who is charged")] = None
    sbatch: Annotated[
        dict[OneLine, OneLine], Flag("more of sbatch's (gres=gpu:1)", "KEY=VALUE", _pair)
    ] = Field(default_factory=dict)
    no_wait: Annotated[bool, Flag("submit and stop; the same again collects")] = False

    def check(self, root: Path) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        self._executor(root)

    def _executor(self, root: Path) -> Any:
        """submitit's, whose files are below the store's folder `.slurm`.

        Raises:
            ConfigError: As of :meth:`check`.
        """
        with importing("slurm", "--engine slurm"):
            import submitit
        if self.time is None:
            raise ConfigError(
                "--engine slurm needs --time, such as 04:00:00: a job that reaches it is requeued "
                "and resumes"
            )
        for command in COMMANDS:
            if shutil.which(command) is None:
                raise ConfigError(f"--engine slurm: {command} is not on the PATH of this machine")
        executor = submitit.SlurmExecutor(
            (root.expanduser() / ".slurm").resolve(), max_num_timeout=MAX_TIMEOUTS
        )
        asked = {
            "job_name": "pythae-fif",
            "partition": self.partition,
            "account": self.account,
            "cpus_per_task": self.cpus_per_run,
            "gres": "gpu:1",
            **{key.replace("-", "_"): value for key, value in self.sbatch.items()},
            "time": _minutes(self.time),
        }
        known = submitit.SlurmExecutor._valid_parameters()
        given = {key: value for key, value in asked.items() if value is not None}
        further = {key: value for key, value in given.items() if key not in known}
        executor.update_parameters(
            **{key: value for key, value in given.items() if key in known},
            additional_parameters={"requeue": True, **further},
        )
        return executor

    def execute(self, waiting: deque[Task]) -> Generator[Ended | None, None, None]:
        """See :class:`~pythae_fif.runs.launch.Engine`; closing it leaves the jobs as they are.

        Raises:
            ConfigError: sbatch refuses the jobs, or Slurm does not answer.
        """
        store = Store(waiting[0].root)
        queue = _queue()
        if queue is None:  # submitting now could be submitting twice
            raise ConfigError("--engine slurm: squeue does not answer; is its controller up?")
        jobs = {task: _job_of(store.folder(task.spec)) for task in waiting}
        new = [task for task, job in jobs.items() if job not in queue]
        jobs |= self._submit(new, store)
        arrays = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs.values()))
        self._parting = f"Slurm's jobs {arrays} go on; the same command collects their runs"
        if self.no_wait:
            return
        yield from _watch(waiting, jobs, store)
        self._parting = ""

    def _submit(self, tasks: list[Task], store: Store) -> dict[Task, str]:
        """Submits runs as arrays; the job of each, which stands in its folder too."""
        import submitit

        executor, jobs = self._executor(store.root), {}
        needs_gpu = self.sbatch.get("gres") != "none"
        for start in range(0, len(tasks), ARRAY_SIZE):
            part = tasks[start : start + ARRAY_SIZE]
            try:
                with executor.batch():
                    submitted = [
                        executor.submit(_Job(dataclasses.replace(task, needs_gpu=needs_gpu),
                                             self.cpus_per_run))
                        for task in part
                    ]  # fmt: skip
            except submitit.core.utils.FailedJobError as error:
                raise ConfigError(f"sbatch: {_last_line(str(error))}") from error
            for task, job in zip(part, submitted, strict=True):
                folder = store.folder(task.spec)
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / JOB_FILE, {"job": job.job_id})
                jobs[task] = str(job.job_id)
        return jobs


@dataclass(frozen=True)
class _Job:
    """What a job does; submitit pickles it."""

    task: Task
    threads: int | None

    def __call__(self) -> None:
        self.task(self.threads or cores())

    def checkpoint(self) -> Any:
        """Asked by submitit for the job that is requeued: the same, for it resumes by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _watch(waiting: deque[Task], jobs: dict[Task, str], store: Store) -> Iterator[Ended | None]:
    """Waits until no run is open; a run whose job is gone without a word has failed."""
    open_jobs, gone, begun = dict(jobs), dict[Task, float](), set[Task]()
    looked = 0.0
    while open_jobs:
        if time.monotonic() - looked > QUEUE_SECONDS:
            queue, looked = _queue(), time.monotonic()
            for task, job in open_jobs.items():
                if queue is None or job in queue:
                    gone.pop(task, None)
                else:
                    gone.setdefault(task, time.monotonic())
        for task, job in list(open_jobs.items()):
            state = Status.read(store.folder(task.spec)).state
            late = task in gone and time.monotonic() - gone[task] > LATE_SECONDS
            done = state == "finished" and store.is_done(task.spec)  # and not once before
            if done or (state == "failed" and task in gone) or late:
                del open_jobs[task]
                yield Ended(task, f"Slurm's job {job} ended before its run")
            elif state == "running" and task in waiting:
                waiting.remove(task)
                begun.add(task)
            elif task not in waiting and task not in begun:  # the driver took it out
                _slurm("scancel", "--state=PENDING", job)
                del open_jobs[task]
        yield None
        time.sleep(max(POLL_SECONDS, 0.002 * len(open_jobs)) if open_jobs else 0)


def _job_of(folder: Path) -> str:
    """The job that a run was submitted as last; empty if it never was."""
    try:
        return str(json.loads(read_file(folder / JOB_FILE) or b"{}").get("job", ""))
    except (StoreError, ValueError, AttributeError):
        return ""


def _queue() -> dict[str, str] | None:
    """The user's jobs in the queue, an array's one by one, and their states; None if unknown."""
    lines = _slurm("squeue", "--me", "--noheader", "--array", "--format=%i %T")
    return None if lines is None else dict(line.split() for line in lines if line.strip())


def _slurm(*command: str) -> list[str] | None:
    """The lines of a command of Slurm, or None where the controller does not answer for now."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s: %s", command[0], _last_line(getattr(error, "stderr", "") or str(error)))
        return None
    return done.stdout.splitlines()


def _last_line(text: str) -> str:
    """What went wrong, without Slurm's advice to read the manual."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("Try ")]
    return lines[-1] if lines else ""
