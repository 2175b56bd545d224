"""Reads a store again and reports which of its runs can be trusted."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pythae_fif.errors import StoreError, UnknownStudyError
from pythae_fif.runs.store import SPEC_FILE, Record, Spec, Store
from pythae_fif.runs.worker import STATUS_FILE, Status

VERDICTS = {
    "fine": "all records and the files that belong to them have their checksums",
    "packed": "all records have their checksums; models and pictures are not in the store",
    "corrupt": "a file is missing, cannot be read, or was changed",
    "failed": "the last attempt failed; the same command tries again",
    "unfinished": "there is no record yet; the same command resumes",
    "unknown study": "not checked, because its study is not installed",
    "set aside": "a damaged or foreign file was renamed and kept for inspection",
    "dirty tree": "made with code or configurations that are not committed",
}
"""Kind of verdict -> its meaning. If a run is `corrupt`, the exit code is 1."""


class Verdict(NamedTuple):
    """A verdict on one run.

    Attributes:
        kind: A key of `VERDICTS`.
        run: The run's folder below `runs/`.
        detail: What is wrong, as one line.
    """

    kind: str
    run: str
    detail: str = ""


def verify(root: Path) -> list[Verdict]:
    """Reads all runs of a store. It changes nothing.

    The modules that define the kinds of runs must be imported before.

    Args:
        root: The results folder.

    Returns:
        For every run one verdict of the kinds `fine` to `unknown study`, and notes of the others.

    Raises:
        StoreError: The folder has no runs, or a folder in it cannot be read.
    """
    store = Store(root)
    runs = {*store.packed}

    for parent, folders, files in os.walk(store.runs, onerror=_raise, followlinks=True):
        if {SPEC_FILE, STATUS_FILE} & {*files}:
            folders.clear()  # no run is inside another run's folder
            runs.add(Path(parent).relative_to(store.runs).as_posix())
    if not runs:
        raise StoreError(f"no runs in {root}: give the folder that was passed to --results")

    return [verdict for run in sorted(runs) for verdict in _verdicts(store, run)]


def _raise(error: OSError) -> None:
    """Raises a StoreError for a folder that exists but cannot be read."""
    if not isinstance(error, FileNotFoundError):
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error


def _verdicts(store: Store, run: str) -> Iterator[Verdict]:
    """Yields the verdict on one run, and the notes on it."""
    folder = store.runs / run
    for path in sorted(folder.rglob("*.corrupt*")):
        yield Verdict("set aside", run, path.name)

    try:
        spec = store.spec(run)
        records = _read_records(store, spec)
        for record in records:
            store.check_files(spec, record)
    except UnknownStudyError as error:
        yield Verdict("unknown study", run, str(error))
        return
    except StoreError as error:
        yield Verdict("corrupt", run, str(error))
        return

    status = Status.read(folder)
    if status.state == "failed":
        yield Verdict("failed", run, status.error)
    elif not records:
        yield Verdict("unfinished", run, status.error)
    else:
        yield Verdict("packed" if store.packed_run(spec) else "fine", run)

    dirty = [record.provenance for record in records if record.provenance.git_dirty]
    for revision in {str(provenance.git_revision) for provenance in dirty}:
        yield Verdict("dirty tree", run, revision)


def _read_records(store: Store, spec: Spec) -> list[Record[Any]]:
    """Reads all records of a run; a StoreError says which one is damaged."""
    records = []
    for name in [*store.names(spec), *store.names(spec, "scores")]:
        if name in (SPEC_FILE, STATUS_FILE):
            continue
        content = store.read(spec, name) or b""
        try:
            records.append(Record[Any].parse(content, spec.run_id))
        except StoreError as error:
            raise StoreError(f"{name}: {error}") from error

    if not records and Status.read(store.folder(spec)).state == "finished":
        raise StoreError("the run is marked as finished, but has no records")
    return records
