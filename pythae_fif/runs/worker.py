"""One run, from its folder to its records: by one process at a time, resumed, never done twice."""

__all__ = ["STATUS_FILE", "Run", "Status", "Task", "is_locked", "line_of", "work"]

import contextlib
import dataclasses
import faulthandler
import hashlib
import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from pythae_fif.errors import ConfigError, FIFError, StoreError, first_line
from pythae_fif.files import TEMPORARY, json_text, set_aside, stored, write_bytes
from pythae_fif.runs.provenance import git_state, provenance
from pythae_fif.runs.record import Record, ResultT
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import Store, read_file

logger = logging.getLogger(__name__)

STATUS_FILE = "status.json"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Status:
    """What a run does at the moment, for those who watch.

    Attributes:
        state: running, finished, failed or interrupted; empty if it was never begun.
        stage: What a running run does.
        share: The part of it that is done, in [0, 1].
        attempt: How often it was started.
        error: One line, if it failed; `output.log` says where.
    """

    state: str = ""
    stage: str = ""
    share: float = 0.0
    attempt: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Status":
        """That of a run's folder; one that is missing or damaged is as if never written."""
        with contextlib.suppress(StoreError, ValueError, TypeError, RecursionError):
            status = cls(**json.loads(read_file(folder / STATUS_FILE) or b""))
            kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
            if all(isinstance(value, kinds[name]) for name, value in vars(status).items()):
                return status
        return cls()


class Run:
    """A run in the hands of the one process that works on it.

    Args:
        spec: Of the run.
        store: Where its folder is.
        command: Of the user, for its records.
        timeout: The process ends once it has told nothing for so many seconds, and writes to
            stderr where it stood; None for never.

    Attributes:
        spec, store: As given.
        folder: The run's.
        device: Where its model is, as torch names it; for its records.
    """

    def __init__(
        self, spec: Spec, store: Store, command: str | None = None, timeout: float | None = None
    ) -> None:
        self.spec, self.store, self.folder = spec, store, store.folder(spec)
        self.device = "cpu"
        self._command, self._timeout = command, timeout
        self._started, self._clock = time.time(), time.monotonic()
        self._status = Status(attempt=Status.read(self.folder).attempt + 1)
        self._told = -1.0

    def tell(self, stage: str, share: float = 0.0) -> None:
        """Says what the run does; while a stage goes on it is written at most twice a second.

        Raises:
            StoreError: The folder does not take it.
        """
        if self._timeout is not None:  # needs no lock of Python's: a hanging library ends too
            faulthandler.dump_traceback_later(self._timeout, exit=True, file=2)
        if stage != self._status.stage or time.monotonic() - self._told > 0.5:
            self.set_status("running", stage=stage, share=share)

    def set_status(self, state: str, **values: Any) -> None:
        """Writes `status.json`.

        Raises:
            StoreError: The folder does not take it.
        """
        self._status = dataclasses.replace(self._status, state=state, **values)
        self._told = time.monotonic()
        text = json_text(dataclasses.asdict(self._status))
        write_bytes(self.folder / STATUS_FILE, text.encode())

    def write(self, name: str, content: bytes) -> dict[str, str]:
        """Writes a file of the run whole.

        Returns:
            Its name and checksum, for the record that it belongs to.

        Raises:
            StoreError: The folder does not take it.
        """
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

        Raises:
            StoreError: The folder does not take it.
        """
        seconds = time.monotonic() - self._clock
        record = Record[Any](
            run_id=self.spec.run_id,
            result=result,
            provenance=provenance(
                self.device, self._started, seconds, self._status.attempt, self._command
            ),
            files=dict(files or {}),
        )
        write_bytes(self.folder / name, record.to_bytes())
        return record

    def load(self, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """A record of an earlier start; one that is damaged or another run's is set aside.

        Raises:
            StoreError: It cannot be read, or not be set aside.
        """
        record = self.store.record(self.spec, name, result)
        if record is None and (self.folder / name).exists():
            self.set_aside(name, "it is damaged, or another run's")
        return record

    def set_aside(self, name: str, why: str) -> None:
        """Renames a file or folder that must not be used; nothing is deleted.

        Raises:
            StoreError: The folder cannot be written.
        """
        aside = set_aside(self.folder / name)
        logger.warning("%s is not used (%s): set aside as %s", name, why, aside.name)


@dataclass(frozen=True)
class Task:
    """A run for a process anywhere: it can be pickled.

    Attributes:
        spec: What to do.
        root: Folder of the store, absolute.
        command: Of the user.
        timeout: As of :class:`Run`.
        needs_gpu: Whether it was planned for a GPU: on a processor it may take days.
    """

    spec: Spec
    root: Path
    command: str | None = None
    timeout: float | None = None
    needs_gpu: bool = False

    def __call__(self, threads: int) -> None:
        """Does the run in this process, whose output goes to the run's `output.log`.

        Raises:
            KeyboardInterrupt, FIFError: As of :func:`work`.
            ConfigError: It was planned for a GPU, and there is none.
        """
        import torch  # here, for `--help` needs none of it
        from threadpoolctl import threadpool_limits

        store = Store(self.root)
        folder = store.folder(self.spec)
        with stored(f"write {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            log = open(folder / "output.log", "a", buffering=1)  # noqa: SIM115 - for the process
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(threads)
        threadpool_limits(threads)  # of the linear algebra of numpy and scipy
        if self.needs_gpu and not torch.cuda.is_available():
            error = "the run was planned for a GPU, and torch sees none here"
            Run(self.spec, store).set_status("failed", error=error)
            raise ConfigError(error)
        try:
            work(self.spec, store, self.command, self.timeout)
        except Exception:
            traceback.print_exc()
            raise


def work(
    spec: Spec, store: Store, command: str | None = None, timeout: float | None = None
) -> None:
    """Does what a run lacks, once its folder is this process's alone; another's is waited for.

    Raises:
        FIFError: What went wrong; `status.json` has it with its traceback.
        KeyboardInterrupt: The same command goes on from what is there.
    """
    folder = store.folder(spec)
    with stored(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK_FILE)
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    try:
        for left in folder.rglob(f"*{TEMPORARY}"):  # half a file of a process that was killed
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        _work(Run(spec, store, command, timeout))
    finally:
        faulthandler.cancel_dump_traceback_later()
        lock.release()


def _work(run: Run) -> None:
    if run.store.is_done(run.spec) and (run.folder / SPEC_FILE).exists():
        return
    git_state()  # of the code that runs, before an editor changes it
    run.write(SPEC_FILE, json_text(run.spec.to_dict()).encode())
    try:
        run.tell("starting")
        run.spec.run(run)
        if not run.store.is_done(run.spec):
            raise FIFError("the run ended without all of its records")
        run.set_status("finished", stage="", share=1.0)
    except (KeyboardInterrupt, SystemExit):
        run.set_status("interrupted")
        raise
    except BaseException as error:
        with contextlib.suppress(StoreError):  # the cause is worth more: the disk may be full
            run.set_status("failed", error=line_of(error))
        raise


def is_locked(folder: Path) -> bool:
    """Whether a process works on a run at this moment."""
    if not (folder / LOCK_FILE).exists():
        return False
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def line_of(error: BaseException) -> str:
    """An error as one line."""
    line = first_line(error)
    return line if isinstance(error, FIFError) else f"{type(error).__name__}: {line}"
