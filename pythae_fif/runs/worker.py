"""One run, from its folder to its records: by one process at a time, resumed, never done twice."""

import contextlib
import hashlib
import multiprocessing
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import ConfigError, FIFError, StoreError, format_error
from pythae_fif.files import (
    TEMPORARY_SUFFIX,
    file_lock,
    os_errors_as_store_error,
    quarantine,
    write_bytes,
    write_json,
)
from pythae_fif.runs.provenance import git_state, processor, versions
from pythae_fif.runs.record import Provenance, Record, ResultT
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import Store, read_file

STATUS_FILE = "status.json"


class Status(BaseModel):
    """What a run does at the moment, for those who watch.

    Attributes:
        state: running, finished, failed or interrupted; empty if it was never begun.
        stage: What a running run does.
        share: The part of it that is done, in [0, 1].
        attempt: How often it was started.
        error: One line, if it failed or was interrupted; `output.log` says where.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    state: str = ""
    stage: str = ""
    share: float = 0.0
    attempt: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Status":
        """That of a run's folder; one that is missing or damaged is as if never written."""
        try:
            return cls.model_validate_json(read_file(folder / STATUS_FILE) or b"")
        except (StoreError, ValidationError):
            return cls()


class Slot(NamedTuple):
    """What a run has that has a process of its own: `cpu`, what CUDA_VISIBLE_DEVICES names a GPU,
    or `gpu` for that of Ray or Slurm; and a number of threads."""

    device: str
    threads: int


class Run:
    """A run in the hands of the one process that works on it, with the arguments of
    :func:`execute_run`.

    Attributes:
        folder: The run's.
        device: Where its model is, as torch names it; for its records.
    """

    def __init__(self, spec: Spec, store: Store, command: str | None = None) -> None:
        self.spec, self.store, self.folder = spec, store, store.folder(spec)
        self.device, self._command = "cpu", command
        self._started, self._clock, self._told = time.time(), time.monotonic(), 0.0
        self._status = Status(attempt=Status.read(self.folder).attempt + 1)

    def report(
        self, stage: str, share: float = 0.0, state: str = "running", error: str = ""
    ) -> None:
        """Writes a :class:`Status`; while a stage goes on, at most twice a second."""
        told, now = self._status, time.monotonic()
        if (stage, state) != (told.stage, told.state) or now - self._told > 0.5:
            values = {"stage": stage, "share": share, "state": state, "error": error}
            self._told, self._status = now, told.model_copy(update=values)
            self.write(STATUS_FILE, self._status.model_dump_json().encode())

    def write(self, name: str, content: bytes) -> dict[str, str]:
        """Writes a file of the run whole; its name and checksum, for the record it belongs to."""
        write_bytes(self.folder / name, content)
        return {name: hashlib.sha256(content).hexdigest()}

    def save(self, name: str, result: Any, files: Mapping[str, str] | None = None) -> None:
        """Writes a record of what was found, in a file that is a key of the specification's
        outputs, with the SHA-256, taken as they were written, of the files that belong to it."""
        import torch  # here, for `--help` needs none of it

        on_gpu = self.device.startswith("cuda")
        machine = torch.cuda.get_device_name() if on_gpu else processor()
        revision, dirty = git_state()
        made = {
            "versions": versions(),
            "python": platform.python_version(),
            "platform": platform.system(),
            "command": self._command,
            "git_revision": revision,
            "git_dirty": dirty,
            "device": f"{self.device} ({machine})",
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.monotonic() - self._clock, 2),
            "attempts": self._status.attempt,
        }
        run_id, how = self.spec.run_id, Provenance.model_validate(made)
        record = Record[Any](run_id=run_id, result=result, provenance=how, files=dict(files or {}))
        self.write(name, record.to_bytes())

    def load(self, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """A record of an earlier start; one that is damaged or another run's is set aside."""
        record = self.store.record(self.spec, name, result)
        if record is None and (self.folder / name).exists():
            quarantine(self.folder / name, "it is damaged, or another run's")
        return record


def execute_run(
    spec: Spec, store: Store, command: str | None = None, slot: Slot | None = None
) -> None:
    """Does what a run lacks, once its folder is this process's alone; another's is waited for.

    Args:
        spec, store, command: The run, where its folder is, and the user's words for its records.
        slot: Of a process that is the run's own, whose output then goes to `output.log`.

    Raises:
        FIFError: What went wrong; `status.json` has it.
        KeyboardInterrupt: The same command goes on from what is there.
    """
    import torch  # here, for `--help` needs none of it

    folder = store.folder(spec)
    with os_errors_as_store_error(f"write {folder}"):
        if slot is not None:
            _configure_process(slot, folder / "output.log")
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / "run"):
        for left in folder.rglob(
            f"*{TEMPORARY_SUFFIX}"
        ):  # half a file of a process that was killed
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        if store.is_done(spec):
            return
        git_state()  # of the code that runs, before an editor changes it
        run = Run(spec, store, command)
        write_json(folder / SPEC_FILE, spec.to_dict())
        try:
            if slot is not None and slot.device != "cpu" and not torch.cuda.is_available():
                raise ConfigError("the run was planned for a GPU, and torch sees none here")
            run.report("starting")
            spec.run(run)
            if not store.is_done(spec):
                raise FIFError("the run ended without all of its records")
            run.report("", 1.0, "finished")
        except (KeyboardInterrupt, SystemExit):
            run.report("", state="interrupted", error="interrupted")
            raise
        except BaseException as error:
            with contextlib.suppress(StoreError):  # the cause is worth more: the disk may be full
                run.report("", state="failed", error=format_error(error))
            raise


def _configure_process(slot: Slot, log: Path) -> None:
    """Makes this process a run's: with its output, its device and its threads."""
    import torch
    from threadpoolctl import threadpool_limits

    for path in (Path(os.devnull), log):  # a log that cannot be written leaves the terminal alone
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if slot.device != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.device if slot.device != "cpu" else ""
    torch.set_num_threads(slot.threads)
    threadpool_limits(slot.threads)  # of the linear algebra of numpy and scipy
    if driver := multiprocessing.parent_process():

        def end_with_driver() -> None:  # SIGKILL included; the checkpoint is kept
            driver.join()
            os._exit(1)

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to pass on
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=end_with_driver, daemon=True).start()
