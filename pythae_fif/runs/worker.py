"""Executes one run in its folder: by one process at a time, resumed, and never done twice."""

import contextlib
import hashlib
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import ConfigError, FIFError, StoreError, format_error
from pythae_fif.files import (
    TEMPORARY_SUFFIX,
    file_lock,
    os_errors_as_store_error,
    quarantine,
    remove,
    write_bytes,
    write_json,
)
from pythae_fif.runs.provenance import git_state, processor, versions
from pythae_fif.runs.store import SPEC_FILE, Provenance, Record, ResultT, Spec, Store, read_file

STATUS_FILE = "status.json"
REPORT_SECONDS = 0.5
"""Minimum time between two status files of the same stage."""


class Status(BaseModel):
    """The current state of a run, for progress displays.

    Attributes:
        state: running, finished, failed or interrupted; empty if the run never started.
        stage: What a running run is doing.
        share: The share of the run that is done, in [0, 1].
        attempt: How often the run was started.
        error: One line if the run failed or was interrupted; `output.log` has the traceback.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    state: str = ""
    stage: str = ""
    share: float = 0.0
    attempt: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Status":
        """Reads the status in a run's folder. A missing or damaged file gives the empty status."""
        try:
            return cls.model_validate_json(read_file(folder / STATUS_FILE) or b"")
        except (StoreError, ValidationError):
            return cls()


class AnyJob(Protocol):
    """What a command asks of a run. Jobs are hashable and can be sent to another process.

    Attributes:
        spec: The specification of the run.
        title: Its name in messages.
    """

    @property
    def spec(self) -> Spec: ...

    @property
    def title(self) -> str: ...

    def is_done(self, store: Store) -> bool:
        """Returns whether the store has every record that is asked for."""

    def execute(self, run: "Run") -> None:
        """Makes the missing records and saves them."""


class Slot(NamedTuple):
    """The resources of a run that has its own process.

    Attributes:
        device: 'cpu', an entry of CUDA_VISIBLE_DEVICES, or 'gpu' if Ray or Slurm assigns one.
        threads: Number of CPU threads.
    """

    device: str
    threads: int


class Run:
    """A run in the process that executes it.

    Args:
        spec: The specification of the run.
        store: The store that receives its records.
        command: The user's command line, for the records.

    Attributes:
        folder: The run's folder.
        device: The torch device of its model, for the records.
    """

    def __init__(self, spec: Spec, store: Store, command: str | None = None) -> None:
        self.spec = spec
        self.store = store
        self.folder = store.folder(spec)
        self.device = "cpu"
        self._command = command
        self._start_time = time.time()
        self._start_clock = time.monotonic()
        self._last_report = 0.0
        self._stage = ""
        self._status = Status(attempt=Status.read(self.folder).attempt + 1)

    def report(
        self,
        stage: str,
        share: float = 0.0,
        state: str = "running",
        error: str = "",
        count: str = "",
    ) -> None:
        """Writes the run's :class:`Status`; during a stage at most twice a second.

        Args:
            stage: What the run is doing.
            share: The share of the run that is done, in [0, 1].
            state: running, finished, failed or interrupted.
            error: One line if the run failed or was interrupted.
            count: How far the stage is, such as `600 of 1,498`.
        """
        clock = time.monotonic()
        is_new = (stage, state) != (self._stage, self._status.state)
        if is_new or clock - self._last_report > REPORT_SECONDS:
            self._status = self._status.model_copy(
                update={
                    "stage": f"{stage} {count}".strip(),
                    "share": share,
                    "state": state,
                    "error": error,
                }
            )
            self._stage = stage
            self._last_report = clock
            self.write(STATUS_FILE, self._status.model_dump_json().encode())

    def begin_stage(self, stage: str, start: float, end: float) -> Callable[[int, int], None]:
        """Reports a stage that counts, such as `likelihood 40 of 500`.

        Args:
            stage: What the run is doing.
            start: The share of the run that is done before the stage.
            end: The share that is done after it.

        Returns:
            A callback that reports the number of things that are done, and the number of all.
        """

        def progress(done: int, total: int) -> None:
            share = start + (end - start) * done / max(1, total)
            self.report(stage, share, count=f"{done:,} of {total:,}")

        self.report(stage, start)
        return progress

    def write(self, name: str, content: bytes) -> dict[str, str]:
        """Writes a file of the run atomically.

        Args:
            name: The file's name below the run's folder.
            content: Its content.

        Returns:
            The name and the SHA-256 of the content, for the record that lists the file.
        """
        write_bytes(self.folder / name, content)
        return {name: hashlib.sha256(content).hexdigest()}

    def save(self, name: str, result: Any, files: Mapping[str, str] | None = None) -> None:
        """Writes a result as a record.

        Args:
            name: The record's file.
            result: The result.
            files: Name -> SHA-256 of the files that belong to it, computed when they were written.
        """
        record = Record[Any](
            run_id=self.spec.run_id,
            result=result,
            provenance=self._provenance(),
            files=dict(files or {}),
        )
        self.write(name, record.to_bytes())

    def _provenance(self) -> Provenance:
        """Returns the provenance of a record that is written now."""
        import torch  # imported here, because `--help` does not need it

        hardware = torch.cuda.get_device_name() if self.device.startswith("cuda") else processor()
        revision, is_dirty = git_state()
        return Provenance(
            versions=versions(),
            python=platform.python_version(),
            platform=platform.system(),
            command=self._command,
            git_revision=revision,
            git_dirty=is_dirty,
            device=f"{self.device} ({hardware})",
            threads=torch.get_num_threads(),
            cores=os.cpu_count(),
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._start_time)),
            seconds=round(time.monotonic() - self._start_clock, 2),
            attempts=self._status.attempt,
        )

    def load(self, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """Reads a record of an earlier attempt. A damaged or foreign file is set aside.

        Args:
            name: The record's file.
            result: The type of its result.

        Returns:
            The record, or None if it is missing or not valid.
        """
        record = self.store.read_record(self.spec, name, result)
        if record is None and (self.folder / name).exists():
            quarantine(self.folder / name, "it is damaged or belongs to another run")
        return record


def execute_run(
    job: AnyJob, store: Store, command: str | None = None, slot: Slot | None = None
) -> None:
    """Computes what a run lacks, if no other process works on it; otherwise waits for that first.

    Args:
        job: What is asked of the run.
        store: The store with its folder.
        command: The user's command line, for the records.
        slot: The resources of the run, if this process executes only this run. Its output then
            goes to `output.log`.

    Raises:
        FIFError: The run failed. `status.json` has the same message.
        KeyboardInterrupt: The user interrupted. The same command resumes the run.
    """
    folder = store.folder(job.spec)
    with os_errors_as_store_error(f"write {folder}"):
        if slot is not None:
            _configure_process(slot, folder / "output.log")
        folder.mkdir(parents=True, exist_ok=True)

    with file_lock(folder / "run"):
        # A process that was killed leaves partial files and folders.
        for path in folder.rglob(f"*{TEMPORARY_SUFFIX}"):
            remove(path)
        if job.is_done(store):  # another process may have done it meanwhile
            return

        git_state()  # reads and caches the state of the running code, before an editor changes it
        run = Run(job.spec, store, command)
        write_json(folder / SPEC_FILE, job.spec.to_dict())
        _execute_with_status(job, run, slot)


def _execute_with_status(job: AnyJob, run: Run, slot: Slot | None) -> None:
    """Makes the records of a run, and reports how it ended in its status."""
    try:
        _check_device(slot)
        run.report("starting")
        job.execute(run)
        if not job.is_done(run.store):
            raise FIFError("the run ended before all of its records were written")
        run.report("", 1.0, "finished")
    except (KeyboardInterrupt, SystemExit):
        run.report("", state="interrupted", error="interrupted")
        raise
    except BaseException as error:
        with contextlib.suppress(StoreError):  # a full disk must not hide the cause
            run.report("", state="failed", error=format_error(error))
        raise


def _check_device(slot: Slot | None) -> None:
    """Raises a ConfigError if the run was planned for a GPU that torch cannot use."""
    import torch

    if slot is not None and slot.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError("the run was planned for a GPU, but torch sees none here")


def _configure_process(slot: Slot, log: Path) -> None:
    """Gives this process the output, device and threads of a run."""
    import torch
    from threadpoolctl import threadpool_limits

    _redirect_output(log)
    if slot.device != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "" if slot.device == "cpu" else slot.device
    torch.set_num_threads(slot.threads)
    threadpool_limits(slot.threads)  # for the linear algebra of NumPy and SciPy

    driver = multiprocessing.parent_process()
    if driver is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver passes Ctrl-C on
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=_exit_with, args=(driver,), daemon=True).start()


def _redirect_output(log: Path) -> None:
    """Sends standard output and error to a file; to nowhere if the file cannot be opened."""
    for path in (Path(os.devnull), log):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def _exit_with(driver: BaseProcess) -> None:
    """Ends this process when the driver ends, also by SIGKILL. The last checkpoint is kept."""
    driver.join()
    os._exit(1)
