"""The Slurm engine: runs as a job array, submitted by submitit, requeued until they are done."""

__all__ = ["SlurmEngine"]

import logging
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from pythae_fif.errors import ConfigError
from pythae_fif.files import read_json, write_json
from pythae_fif.runs.engines.common import (
    Batch,
    OnChange,
    Outcome,
    cores,
    enter_run,
    open_statuses,
    settle,
)
from pythae_fif.runs.engines.options import SlurmOptions, minutes
from pythae_fif.runs.execute import execute, interrupt_after_epoch
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Kind
from pythae_fif.runs.remote import is_url

logger = logging.getLogger(__name__)

JOB_FILE = "slurm.json"
ARRAY_SIZE = 1000
"""Runs in an array: Slurm's own limit is 1,001 unless its administrator raised it."""
MAX_TIMEOUTS = 100
POLL_SECONDS, QUEUE_SECONDS = 1.0, 10.0
LATE_SECONDS = 30.0
"""How long a file may take to be seen here after the job that wrote it is gone."""
SIGTERM_PATIENCE = 20.0
"""Seconds for the end of an epoch after SIGTERM; Slurm kills 30 s after it (KillWait)."""


class SlurmEngine:
    """Slurm, on a machine that can submit and sees the results folder as its nodes do.

    A job that reaches its time limit or is preempted finishes its epoch where the notice is long
    enough, is requeued and resumes from the run's checkpoint. Jobs outlive this process: the same
    command waits for those that are in the queue and submits no run twice.

    Args:
        options: Of sbatch; `time` is needed.
        results: The results folder; submitit's files are below its `.slurm`.

    Raises:
        ConfigError: No `time`, Slurm's commands are not here, or a parameter that is wrong.
    """

    def __init__(self, options: SlurmOptions, results: str | Path) -> None:
        if options.time is None:
            raise ConfigError(
                "--engine slurm needs --time, such as 04:00:00: a job that reaches it is requeued "
                "and resumes"
            )
        if is_url(results):
            raise ConfigError(
                f"--engine slurm: results are in a folder that all nodes see, not {results}"
            )
        for command in ("sbatch", "squeue", "scancel", "srun"):
            if shutil.which(command) is None:
                raise ConfigError(f"--engine slurm: {command} is not on the PATH of this machine")
        self.no_wait = options.no_wait
        self.threads = options.cpus_per_run
        self.executor = submitit.SlurmExecutor(
            (Path(results).expanduser() / ".slurm").resolve(), max_num_timeout=MAX_TIMEOUTS
        )
        known = submitit.SlurmExecutor._valid_parameters()
        asked = {
            "job_name": "pythae-fif",
            "partition": options.partition,
            "account": options.account,
            "cpus_per_task": options.cpus_per_run,
            **options.sbatch,
            "time": minutes(options.time),
        }
        asked = {key.replace("-", "_"): value for key, value in asked.items() if value is not None}
        further = {key: value for key, value in asked.items() if key not in known}
        try:
            self.executor.update_parameters(
                **{key: value for key, value in asked.items() if key in known},
                additional_parameters={"requeue": True, **further},
            )
            self.patience = 0.6 * float(asked.get("signal_delay_s", 90))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--sbatch: {error}") from error
        self.parting = ""

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        """See :class:`Engine`; an interrupt, or `no_wait`, leaves the jobs as they are.

        Raises:
            ConfigError: sbatch refuses the jobs, or Slurm does not answer.
        """
        queue = _queue()
        if queue is None:  # submitting now could be submitting twice
            raise ConfigError("--engine slurm: squeue does not answer; is its controller up?")
        for run_dir in batch.run_dirs:  # Slurm gets all of them at once
            batch.prepare(run_dir)
        jobs = {run_dir: job for run_dir in batch.run_dirs if (job := _job_of(run_dir)) in queue}
        jobs |= self._submit(batch, [run_dir for run_dir in batch.run_dirs if run_dir not in jobs])
        arrays = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs.values()))
        parting = f"Slurm's jobs {arrays} go on; the same command collects their runs"
        if self.no_wait:
            self.parting = parting
            return []
        try:
            return _watch(batch, jobs, on_change)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(parting) from None

    def _submit(self, batch: Batch, run_dirs: list[Path]) -> dict[Path, str]:
        """Submits runs as arrays; the job of each, which stands in its folder too."""
        jobs = {}
        for start in range(0, len(run_dirs), ARRAY_SIZE):
            part = run_dirs[start : start + ARRAY_SIZE]
            paths = [str(run_dir.resolve()) for run_dir in part]
            try:
                job = _Run(batch.kind, self.threads, self.patience, batch.run_timeout)
                submitted = self.executor.map_array(job, paths)
            except submitit.core.utils.FailedJobError as error:
                raise ConfigError(f"sbatch: {_last_line(str(error))}") from error
            for run_dir, job in zip(part, submitted, strict=True):
                jobs[run_dir] = job.job_id
                write_json(run_dir / JOB_FILE, {"job": job.job_id})
        return jobs


@dataclass(frozen=True)
class _Run:
    """What a job does; submitit pickles it with the run's folder.

    The signals of Slurm are asked for the end of the epoch: SIGUSR2 comes some time before the
    limit, and the job requeues itself; SIGTERM comes when a job is cancelled or preempted, and
    Slurm itself decides whether it starts again.
    """

    kind: Kind[Any, Any]
    threads: int | None
    patience: float
    timeout: float | None

    def __call__(self, run_dir: str) -> None:
        requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's handler
        caught = 0

        def stop(number: int, _: Any) -> None:
            nonlocal caught
            caught = number
            usual = self.patience if number == signal.SIGUSR2 else SIGTERM_PATIENCE
            interrupt_after_epoch(usual)

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, stop)
        enter_run(Path(run_dir), self.threads or cores())
        try:
            execute(run_dir, self.kind, timeout=self.timeout)
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the requeueing sends
            if caught == signal.SIGUSR2:
                requeue(caught, None)
            sys.exit(130)

    def checkpoint(self, run_dir: str) -> submitit.helpers.DelayedSubmission:
        """Asked by submitit for the job that is requeued: the same, for it resumes by itself."""
        return submitit.helpers.DelayedSubmission(self, run_dir)


def _watch(batch: Batch, jobs: dict[Path, str], on_change: OnChange) -> list[Outcome]:
    """Waits until no run is open; a run whose job is gone without a word has failed."""
    still_open, outcomes = dict(jobs), list[Outcome]()
    gone: dict[Path, float] = {}
    looked, stopped = 0.0, False
    while still_open:
        if time.monotonic() - looked > QUEUE_SECONDS:
            queue, looked = _queue(), time.monotonic()
            for run_dir, job in still_open.items():
                if queue is None or job in queue:
                    gone.pop(run_dir, None)
                else:
                    gone.setdefault(run_dir, time.monotonic())
        for run_dir, job in list(still_open.items()):
            state = Status.read(run_dir).state
            late = run_dir in gone and time.monotonic() - gone[run_dir] > LATE_SECONDS
            over = state in ("finished", "failed") or (state == "interrupted" and run_dir in gone)
            if state == "waiting" and stopped and run_dir in gone:
                del still_open[run_dir]  # cancelled before it began
            elif over or late:
                outcomes.append(
                    settle(
                        batch,
                        run_dir,
                        "failed",
                        f"Slurm's job {job} ended before its run; see {run_dir}",
                    )
                )
                del still_open[run_dir]
        if batch.is_lost(outcomes) and not stopped:
            stopped = True
            _slurm("scancel", "--state=PENDING", *dict.fromkeys(still_open.values()))
        on_change(open_statuses(still_open), outcomes)
        time.sleep(max(POLL_SECONDS, 0.002 * len(still_open)) if still_open else 0)
    return outcomes


def _job_of(run_dir: Path) -> str:
    """The job that a run was submitted as last; empty if it never was."""
    content = read_json(run_dir / JOB_FILE)
    return str(content.get("job", "")) if isinstance(content, dict) else ""


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
