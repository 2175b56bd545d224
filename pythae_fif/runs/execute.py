"""One run, from its folder to its record, whatever its kind: claimed, resumed, never done twice."""

__all__ = [
    "execute",
    "interrupt_after_epoch",
    "interrupted_here",
    "is_done",
    "line_of",
]

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pythae_fif.errors import ClaimLostError, FIFError, StoreError, first_line
from pythae_fif.files import read_json
from pythae_fif.runs.folder import RunFolder, stop_writes
from pythae_fif.runs.kind import Environment, Job, Kind, SpecT
from pythae_fif.runs.provenance import git_state
from pythae_fif.runs.record import RecordT
from pythae_fif.runs.remote import claimed, mirrored
from pythae_fif.runs.store import read_config, whole_record


def execute(
    run_dir: str | Path,
    kind: Kind[SpecT, RecordT],
    lent: object = None,
    timeout: float | None = None,
) -> RecordT:
    """Does the run that `config.yaml` describes; goes on with what is there already.

    The run is claimed before anything is read or written: while another process works on it, on
    this machine or another, this one waits, and then has no more to do than what is missing.
    `status.json` follows along, `result.json` holds the record in the end; of
    a run of the benchmark it is there from the first scored sampler on.

    Args:
        run_dir: A folder made by :meth:`Store.prepare`, or the URL of one in a store at a URL.
        kind: The kind of run.
        lent: Data that the run may use in place of loading them.
        timeout: As of :class:`RunFolder`.

    Returns:
        The record.

    Raises:
        FIFError: What went wrong, after `status.json` got its state `failed` and the traceback. A
            record that answers a part of what was asked is there all the same.
        ClaimLostError: The process stood still until another was given the run.
    """
    path = mirrored(run_dir)
    environment = Environment.read(path)
    with claimed(path, environment.url) as check:
        folder = RunFolder(path, check, timeout)
        stop_writes(path)
        try:
            record = _worked(folder, environment, kind, lent)
            if folder.state != "finished":
                folder.tell("finished", "done", 1.0)
        except ClaimLostError:
            raise  # whatever is in the folder now is another's
        except KeyboardInterrupt:
            if is_done(path, kind):  # it came when the record was there and the status not yet
                folder.tell("finished", "done", 1.0)
            else:
                folder.tell("interrupted")
            raise
        except BaseException as error:
            if isinstance(error, StoreError):
                check()  # what could not be written was removed by whoever has the run now
            written = _without_folders(traceback.format_exc(), path)
            with contextlib.suppress(StoreError):  # the cause is worth more: the disk may be full
                folder.tell(
                    "failed", error=_without_folders(line_of(error), path), traceback=written
                )
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        return record


def _worked(
    folder: RunFolder, environment: Environment, kind: Kind[SpecT, RecordT], lent: object
) -> RecordT:
    """The record of a run, which is worked on until that answers all that is asked.

    Another may have done it while this process waited, and ask for more while it works.
    """
    worked_on: SpecT | None = None
    while True:
        spec = read_config(folder.path).spec_of(kind, folder.path)
        if spec.run_id != folder.run_id:
            raise FIFError(
                f"config.yaml describes run {spec.run_id}, not {folder.run_id}: was it edited?"
            )
        before = whole_record(kind, spec, folder.path / "result.json")
        if before is not None and kind.is_done(spec, before, folder.path):
            return before
        if spec == worked_on:
            raise FIFError("the run ended without a record of all that was asked")
        started = time.time()
        git_state()  # of the code that runs, before an editor changes it
        kind.work(Job(folder, spec, environment, before, started, lent))
        worked_on = spec


def is_done(run_dir: Path, kind: Kind[Any, Any]) -> bool:
    """Whether a run's folder holds a whole record that answers its `config.yaml`.

    Raises:
        StoreError: There is no `config.yaml` that can be read.
    """
    spec = read_config(run_dir).spec_of(kind, run_dir)
    record = kind.record_in(read_json(run_dir / "result.json"), spec)
    return record is not None and kind.is_done(spec, record, run_dir)


_training, _interrupt = threading.Event(), threading.Event()


def interrupt_after_epoch(patience: float) -> None:
    """For a signal's handler: raises KeyboardInterrupt where the run loses least.

    That is after the epoch under way, when a checkpoint is written, but at the latest in
    `patience` seconds, and at once where nothing is being trained.
    """
    if not _training.is_set():
        raise KeyboardInterrupt
    _interrupt.set()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, patience)


@contextlib.contextmanager
def interrupted_here() -> Iterator[Callable[[], None]]:
    """Within the block a training goes on, and an interrupt waits for the end of its epoch.

    The training calls the function that it is given at the end of each: that raises the interrupt
    which has waited, now that a checkpoint can be written in peace.
    """
    _training.set()
    try:
        yield _raise_interrupt
    finally:
        _training.clear()


def _raise_interrupt() -> None:
    if _interrupt.is_set():
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def line_of(error: BaseException) -> str:
    """An error as one line."""
    line = first_line(error)
    return line if isinstance(error, FIFError) else f"{type(error).__name__}: {line}"


def _without_folders(text: str, run_dir: Path) -> str:
    """A message or traceback without the folders of this machine: `status.json` may be shared."""
    checkout = Path(__file__).parents[2]
    places = {str(path).rstrip(os.sep) for path in (run_dir, checkout, *sys.path)}
    for place in sorted(places - {"", "."}, key=len, reverse=True):
        text = text.replace(place + os.sep, "")
    return text
