"""The Slurm engine: runs as job arrays, submitted by submitit, requeued until they are done."""

import math
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pythae_fif.errors import ConfigError, format_error, pluralized, requires_extra
from pythae_fif.files import write_bytes
from pythae_fif.runs.launch import Engine, FinishedRuns
from pythae_fif.runs.store import Store, read_file
from pythae_fif.runs.worker import AnyJob, Slot, execute_run
from pythae_fif.validation import Flag, parse_duration

JOB_FILE = "slurm.job"
"""File in a run's folder with the id of the job that was submitted last."""
QUEUE_SECONDS = 10.0
"""Time between two looks at the queue."""
LATE_SECONDS = 30.0
"""Time that a job may be out of the queue before its run counts as failed."""

Option = Annotated[str, Field(pattern=r"^[^\p{C}=]+=\P{C}*$")]
"""`KEY=VALUE` without line ends or control characters, because it is written to a batch script."""


class SlurmEngine(Engine):
    """Executes runs as Slurm jobs.

    This machine must be able to submit jobs, and its results folder must have the same path on the
    nodes. A job that reaches its time limit or is preempted is requeued, and resumes. Jobs outlive
    this process: the same command waits for the jobs in the queue. A run has one core or
    `cpus_per_run`, and a GPU unless `sbatch` contains `gres=none`.

    Attributes:
        time: Time limit of a job in minutes, given as a text such as 4h.
        sbatch: Options of sbatch, such as `partition=gpu`.
    """

    time: Annotated[
        int,
        BeforeValidator(lambda limit: math.ceil(parse_duration(limit) / 60)),
        Flag("time limit of a Slurm job, such as 4h (required)", "TIME", str),
    ]
    sbatch: Annotated[list[Option], Flag("sbatch options, such as gres=gpu:1", "KEY=VALUE")] = (
        Field([])
    )

    def parallel_runs(self) -> None:
        """See :class:`~pythae_fif.runs.launch.Engine`. Slurm decides."""

    def describe(self) -> str:
        return (
            f"Slurm, one job per run with a limit of {timedelta(minutes=self.time)}, "
            f"{pluralized(self.threads_per_run, 'thread')} each"
        )

    def execute(self, jobs: Sequence[AnyJob], store: Store, command: str) -> FinishedRuns:
        """See :class:`~pythae_fif.runs.launch.Engine`. Closing the generator leaves the jobs alive.

        Args:
            jobs: The jobs; each becomes one of Slurm's.
            store: The store that receives their records.
            command: The user's command line, for the records.

        Raises:
            ConfigError: Slurm does not answer or refuses the jobs, or submitit is not installed.
        """
        queue = _queue()
        if queue is None:  # submitting now could submit a job twice
            raise ConfigError("--engine slurm: squeue does not answer; is its controller running?")
        slurm_ids = {job: _read_slurm_id(store.folder(job.spec)) for job in jobs}
        new_jobs = [job for job, slurm_id in slurm_ids.items() if slurm_id not in queue]
        if new_jobs:
            slurm_ids |= self._submit(new_jobs, store, command)

        last_seen = dict.fromkeys(slurm_ids, time.monotonic())
        while slurm_ids:
            yield None
            time.sleep(QUEUE_SECONDS)
            queue = _queue()
            clock = time.monotonic()
            for job, slurm_id in list(slurm_ids.items()):
                if queue is None or slurm_id in queue:
                    last_seen[job] = clock
                if job.is_done(store) or clock - last_seen[job] > LATE_SECONDS:
                    del slurm_ids[job]
                    yield job, f"Slurm's job {slurm_id} ended before its run"

    def _submit(self, jobs: list[AnyJob], store: Store, command: str) -> dict[AnyJob, str]:
        """Submits jobs as an array; returns Slurm's ids, which the runs' folders keep, too."""
        with requires_extra("slurm", "--engine slurm"):
            import submitit

        class Task(submitit.helpers.Checkpointable):  # a requeued job starts again and resumes
            def __call__(self, *arguments: Any) -> None:
                execute_run(*arguments)

        cpus = self.threads_per_run
        options = {"gres": "gpu:1", "requeue": True, "cpus_per_task": cpus}
        options |= dict(option.split("=", 1) for option in self.sbatch)
        uses_gpu = options["gres"] != "none" or any(key.startswith("gpus") for key in options)
        slot = Slot("gpu" if uses_gpu else "cpu", cpus)

        executor = submitit.SlurmExecutor(store.root.absolute() / ".slurm", max_num_timeout=100)
        executor.update_parameters(
            job_name="pythae-fif", time=self.time, additional_parameters=options
        )
        try:
            with executor.batch():
                submitted = {
                    job: executor.submit(Task(), job, store, command, slot) for job in jobs
                }
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"sbatch: {format_error(error)}") from error

        slurm_ids = {job: str(task.job_id) for job, task in submitted.items()}
        for job, slurm_id in slurm_ids.items():
            write_bytes(store.folder(job.spec) / JOB_FILE, slurm_id.encode())
        return slurm_ids


def _read_slurm_id(folder: Path) -> str:
    """Returns the id that a run was submitted with last; empty if it was never submitted."""
    return (read_file(folder / JOB_FILE) or b"").decode(errors="replace")


def _queue() -> set[str] | None:
    """Returns the user's jobs in the queue, each element of an array; None if squeue fails."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(result.stdout.split())
