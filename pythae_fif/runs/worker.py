"""One run, from its folder to its records: by one process at a time, resumed, never done twice."""

import contextlib
import hashlib
import logging
import os
import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
from pydantic import BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import ConfigError, FIFError, StoreError, one_line
from pythae_fif.files import TEMPORARY, locked, set_aside, stored, write_bytes, write_json
from pythae_fif.runs.provenance import git_state, provenance
from pythae_fif.runs.record import Record, ResultT
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import Store, read_file

logger = logging.getLogger(__name__)

STATUS_FILE = "status.json"


class Status(BaseModel):
    """What a run does at the moment, for those who watch.

    Attributes:
        state: running, finished, failed or interrupted; empty if it was never begun.
        stage: What a running run does.
        share: The part of it that is done, in [0, 1].
        attempt: How often it was started.
        error: One line, if it failed; `output.log` says where.
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


class Run:
    """A run in the hands of the one process that works on it.

    Args:
        spec, store, command: As of :func:`work`.

    Attributes:
        folder: The run's.
        device: Where its model is, as torch names it; for its records.
    """

    def __init__(self, spec: Spec, store: Store, command: str | None = None) -> None:
        self.spec, self.store, self.folder = spec, store, store.folder(spec)
        self.device, self._command = "cpu", command
        self._started, self._clock, self._told = time.time(), time.monotonic(), 0.0
        self._status = Status(attempt=Status.read(self.folder).attempt + 1)

    def tell(self, stage: str, share: float = 0.0) -> None:
        """Says what the run does; while a stage goes on it is written at most twice a second."""
        if stage != self._status.stage or time.monotonic() - self._told > 0.5:
            self.set_status("running", stage=stage, share=share)

    def set_status(self, state: str, **values: Any) -> None:
        """Writes `status.json`."""
        self._status = self._status.model_copy(update={"state": state, **values})
        self._told = time.monotonic()
        self.write(STATUS_FILE, self._status.model_dump_json().encode())

    def write(self, name: str, content: bytes) -> dict[str, str]:
        """Writes a file of the run whole; its name and checksum, for the record it belongs to."""
        write_bytes(self.folder / name, content)
        return {name: hashlib.sha256(content).hexdigest()}

    def save(
        self, name: str, result: ResultT, files: Mapping[str, str] | None = None
    ) -> Record[ResultT]:
        """Writes a record.

        Args:
            name: Of its file, a key of the specification's outputs.
            result: What was found.
            files: Name -> SHA-256 of files that belong to it, taken as they were written.
        """
        seconds, attempts = time.monotonic() - self._clock, self._status.attempt
        how = provenance(self.device, self._started, seconds, attempts, self._command)
        record = Record[Any](
            run_id=self.spec.run_id, result=result, provenance=how, files=dict(files or {})
        )
        self.write(name, record.to_bytes())
        return record

    def load(self, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """A record of an earlier start; one that is damaged or another run's is set aside."""
        record = self.store.record(self.spec, name, result)
        if record is None and (self.folder / name).exists():
            self.set_aside(name, "it is damaged, or another run's")
        return record

    def set_aside(self, name: str, why: str) -> None:
        """Renames a file or folder that must not be used; nothing is deleted."""
        aside = set_aside(self.folder / name)
        logger.warning("%s is not used (%s): set aside as %s", name, why, aside.name)


def work(
    spec: Spec,
    store: Store,
    command: str | None = None,
    threads: int | None = None,
    needs_gpu: bool = False,
) -> None:
    """Does what a run lacks, once its folder is this process's alone; another's is waited for.

    Args:
        spec: The run.
        store: Where its folder is.
        command: Of the user, for its records.
        threads: Those of a process that is the run's own, whose output goes to `output.log`.
        needs_gpu: Whether it was planned for a GPU: on a processor it may take days.

    Raises:
        FIFError: What went wrong; `status.json` has it.
        KeyboardInterrupt: The same command goes on from what is there.
    """
    import torch  # here, for `--help` needs none of it

    folder = store.folder(spec)
    with stored(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if threads is not None:
            _settle(folder / "output.log", threads)
    with locked(folder / "run"):
        for left in folder.rglob(f"*{TEMPORARY}"):  # half a file of a process that was killed
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        if store.is_done(spec) and (folder / SPEC_FILE).exists():
            return
        git_state()  # of the code that runs, before an editor changes it
        run = Run(spec, store, command)
        write_json(folder / SPEC_FILE, spec.to_dict())
        try:
            if needs_gpu and not torch.cuda.is_available():
                raise ConfigError("the run was planned for a GPU, and torch sees none here")
            run.tell("starting")
            spec.run(run)
            if not store.is_done(spec):
                raise FIFError("the run ended without all of its records")
            run.set_status("finished", stage="", share=1.0)
        except (KeyboardInterrupt, SystemExit):
            run.set_status("interrupted")
            raise
        except BaseException as error:
            if threads is not None:
                traceback.print_exc()
            with contextlib.suppress(StoreError):  # the cause is worth more: the disk may be full
                run.set_status("failed", error=one_line(error))
            raise


def _settle(log: Path, threads: int) -> None:
    """Makes this process a run's: its output goes to a file, and it has so many threads."""
    import torch
    from threadpoolctl import threadpool_limits

    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of the linear algebra of numpy and scipy


def is_locked(folder: Path) -> bool:
    """Whether a process works on a run at this moment."""
    if not (folder / ".run.lock").exists():
        return False
    try:
        with filelock.FileLock(folder / ".run.lock", timeout=0):
            return False
    except OSError as error:
        return isinstance(error, filelock.Timeout)
