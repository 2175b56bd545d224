"""The Slurm engine: runs as job arrays, submitted by submitit, requeued until they are done."""

import math
import re
import shutil
import subprocess
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pythae_fif.errors import ConfigError, importing, one_line
from pythae_fif.files import write_bytes
from pythae_fif.runs.launch import Ends, Engine
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store, read_file
from pythae_fif.runs.worker import work
from pythae_fif.validation import Flag, parse_duration

JOB_FILE = "slurm.job"
QUEUE_SECONDS = 10.0
LATE_SECONDS = 30.0
"""How long a job may be out of the queue before its run counts as failed."""


def _minutes(limit: str) -> int:
    """A limit such as 4h or 04:00:00 in minutes, rounded up."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d)", limit)
    return math.ceil(parse_duration("{}h{}m{}s".format(*match.groups()) if match else limit) / 60)


def _pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE` as the two."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


OneLine = Annotated[str, Field(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
"""A text without control characters or line ends, which may stand in a batch script."""


class SlurmEngine(Engine):
    """Slurm, on a machine that can submit and sees the results folder as its nodes do.

    A job that reaches its time limit or is preempted is requeued, and resumes. Jobs outlive this
    process: the same command waits for those in the queue and submits no run twice. A run has a
    core, or `cpus_per_run`, and a GPU unless `sbatch` has `gres=none`, and ends if it finds none.

    Attributes:
        partition: Of the jobs.
        time: Their limit in minutes, which is needed; given as a text such as 4h or 04:00:00.
        sbatch: Further parameters of sbatch.
        no_wait: Submit the jobs and stop.
    """

    partition: Annotated[OneLine | None, Flag("where the jobs go")] = None
    time: Annotated[int | None, BeforeValidator(_minutes), Flag("of a job: 4h", "TIME", str)] = None
    sbatch: Annotated[
        dict[OneLine, OneLine], Flag("more of sbatch's (gres=gpu:1)", "KEY=VALUE", _pair)
    ] = Field(default_factory=dict)
    no_wait: Annotated[bool, Flag("submit and stop; the same again collects")] = False

    def check(self, root: Path) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`."""
        self._executor(root)

    def _executor(self, root: Path) -> Any:
        """submitit's, whose files are below the store's folder `.slurm`."""
        with importing("slurm", "--engine slurm"):
            import submitit
        if self.time is None:
            raise ConfigError(
                "--engine slurm needs --time, such as 04:00:00: a job that reaches it is requeued "
                "and resumes"
            )
        if shutil.which("sbatch") is None:
            raise ConfigError("--engine slurm: sbatch is not on the PATH of this machine")
        executor = submitit.SlurmExecutor(root.absolute() / ".slurm", max_num_timeout=100)
        asked = {
            "partition": self.partition,
            "cpus_per_task": self.cpus_per_run,
            "gres": "gpu:1",
            "requeue": True,
            **self.sbatch,
        }
        given = {key: value for key, value in asked.items() if value is not None}
        executor.update_parameters(
            job_name="pythae-fif", time=self.time, additional_parameters=given
        )
        return executor

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> Ends:
        """See :class:`~pythae_fif.runs.launch.Engine`; closing it leaves the jobs as they are.

        Raises:
            ConfigError: sbatch refuses the jobs, or Slurm does not answer.
        """
        queue = _queue()
        if queue is None:  # submitting now could be submitting twice
            raise ConfigError("--engine slurm: squeue does not answer; is its controller up?")
        jobs = {spec: _job_of(store.folder(spec)) for spec in specs}
        new = [spec for spec, job in jobs.items() if job not in queue]
        if new:
            jobs |= self._submit(new, store, command)
        arrays = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs.values()))
        self._parting = f"Slurm's jobs {arrays} go on; the same command collects their runs"
        if not self.no_wait:
            yield from _watch(jobs, store)
            self._parting = ""

    def _submit(self, specs: list[Spec], store: Store, command: str) -> dict[Spec, str]:
        """Submits runs as an array; the job of each, which stands in its folder too."""
        import submitit

        class Job(submitit.helpers.Checkpointable):  # a requeued one starts again, and resumes
            def __call__(self, *run: Any) -> None:
                work(*run)

        executor = self._executor(store.root)
        how = store, command, self.cpus_per_run or 1, self.sbatch.get("gres") != "none"
        try:
            with executor.batch():
                one: Any = Job
                submitted = {spec: executor.submit(one(), spec, *how) for spec in specs}
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"sbatch: {one_line(error)}") from error
        jobs = {spec: str(of.job_id) for spec, of in submitted.items()}
        for spec, job in jobs.items():
            write_bytes(store.folder(spec) / JOB_FILE, job.encode())
        return jobs


def _watch(jobs: dict[Spec, str], store: Store) -> Ends:
    """Waits until no run is open; one whose job is gone without a record has failed."""
    seen, looked = dict.fromkeys(jobs, time.monotonic()), 0.0
    while jobs:
        if time.monotonic() - looked > QUEUE_SECONDS:
            queue, looked = _queue(), time.monotonic()
            there = [spec for spec, job in jobs.items() if queue is None or job in queue]
            seen.update(dict.fromkeys(there, looked))
        for spec, job in list(jobs.items()):
            if store.is_done(spec) or looked - seen[spec] > LATE_SECONDS:
                del jobs[spec]
                yield spec, f"Slurm's job {job} ended before its run"
        yield None
        time.sleep(1)


def _job_of(folder: Path) -> str:
    """The job that a run was submitted as last; empty if it never was."""
    return (read_file(folder / JOB_FILE) or b"").decode(errors="replace")


def _queue() -> set[str] | None:
    """The user's jobs in the queue, an array's one by one; None where Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(done.stdout.split())
