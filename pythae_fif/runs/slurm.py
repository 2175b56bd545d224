"""The Slurm engine: runs as job arrays, submitted by submitit, requeued until they are done."""

import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pythae_fif.errors import ConfigError, format_error, requires_extra
from pythae_fif.files import write_bytes
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.store import Store, read_file
from pythae_fif.runs.worker import Slot, execute_run
from pythae_fif.validation import Flag, parse_duration

JOB_FILE = "slurm.job"
QUEUE_SECONDS = 10.0
LATE_SECONDS = 30.0  # that a job may be out of the queue before its run counts as failed

Option = Annotated[str, Field(pattern=r"^[^\p{C}=]+=\P{C}*$")]
"""`KEY=VALUE`, without line ends and control characters, for it stands in a batch script."""


class SlurmEngine(Engine):
    """Slurm, on a machine that can submit and sees the results folder as its nodes do.

    A job that reaches its time limit or is preempted is requeued, and resumes. Jobs outlive this
    process: the same command waits for those in the queue. A run has a core, or `cpus_per_run`, and
    a GPU unless `sbatch` has `gres=none`.

    Attributes:
        time: Their limit in minutes; given as a text such as 4h.
        sbatch: Parameters of sbatch, such as `partition=gpu`.
    """

    time: Annotated[
        int,
        BeforeValidator(lambda limit: math.ceil(parse_duration(limit) / 60)),
        Flag("of a job, needed: 4h", "TIME", str),
    ]
    sbatch: Annotated[list[Option], Flag("of sbatch (gres=gpu:1)", "KEY=VALUE")] = Field([])

    def execute(self, specs: Sequence[Spec], store: Store, command: str) -> FinishedRuns:
        """See :class:`~pythae_fif.runs.launch.Engine`; closing it leaves the jobs as they are."""
        queue = _queue()
        if queue is None:  # submitting now could be submitting twice
            raise ConfigError("--engine slurm: squeue does not answer; is its controller up?")
        jobs = {spec: _read_job_id(store.folder(spec)) for spec in specs}
        if new := [spec for spec, job in jobs.items() if job not in queue]:
            jobs |= self._submit(new, store, command)
        seen = dict.fromkeys(jobs, time.monotonic())
        while jobs:
            yield None
            time.sleep(QUEUE_SECONDS)
            there, now = _queue(), time.monotonic()
            for spec, job in list(jobs.items()):
                if there is None or job in there:
                    seen[spec] = now
                if store.is_done(spec) or now - seen[spec] > LATE_SECONDS:
                    del jobs[spec]
                    yield spec, f"Slurm's job {job} ended before its run"

    def _submit(self, specs: list[Spec], store: Store, command: str) -> dict[Spec, str]:
        """Submits runs as an array; the job of each, which stands in its folder too."""
        with requires_extra("slurm", "--engine slurm"):
            import submitit

        class Job(submitit.helpers.Checkpointable):  # a requeued one starts again, and resumes
            def __call__(self, *run: Any) -> None:
                execute_run(*run)

        options = {"gres": "gpu:1", "requeue": True, "cpus_per_task": self.cpus_per_run or 1}
        options |= dict(option.split("=", 1) for option in self.sbatch)
        on_gpu = options["gres"] != "none" or any(key.startswith("gpus") for key in options)
        slot = Slot("gpu" if on_gpu else "cpu", self.cpus_per_run or 1)
        logs = store.root.absolute() / ".slurm"
        executor = submitit.SlurmExecutor(logs, max_num_timeout=100)
        executor.update_parameters(
            job_name="pythae-fif", time=self.time, additional_parameters=options
        )
        try:
            with executor.batch():
                one: Any = Job
                submitted = {s: executor.submit(one(), s, store, command, slot) for s in specs}
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"sbatch: {format_error(error)}") from error
        jobs = {spec: str(of.job_id) for spec, of in submitted.items()}
        for spec, job in jobs.items():
            write_bytes(store.folder(spec) / JOB_FILE, job.encode())
        return jobs


def _read_job_id(folder: Path) -> str:
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
