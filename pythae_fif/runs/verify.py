"""Reads a store again and reports which of its runs can be trusted."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pythae_fif.errors import StoreError
from pythae_fif.runs.store import SPEC_FILE, Record, Store
from pythae_fif.runs.worker import STATUS_FILE, Status

VERDICTS = {
    "fine": "all records and the files that belong to them have their checksums",
    "packed": "all records have their checksums; models and pictures are not in the store",
    "corrupt": "a file is missing, cannot be read, or was changed",
    "failed": "the last attempt failed; the same command tries again",
    "unfinished": "there is no record yet; the same command resumes",
    "set aside": "a damaged or foreign file was renamed and kept for inspection",
    "dirty tree": "made with code or configurations that are not committed",
}
"""Kind of verdict -> its meaning. If a run is `corrupt`, the exit code is 1."""


class Verdict(NamedTuple):
    """A verdict on one run.

    Attributes:
        kind: A key of `VERDICTS`.
        run_path: The run's folder below `runs/`.
        detail: What is wrong, as one line.
    """

    kind: str
    run_path: str
    detail: str = ""


def verify(root: Path) -> list[Verdict]:
    """Reads all runs of a store. It changes nothing, and runs no code of a study or a model.

    Args:
        root: The results folder.

    Returns:
        For every run one verdict of the kinds `fine` to `unfinished`, and notes of the others.

    Raises:
        StoreError: The folder has no runs, or a folder in it cannot be read.
    """
    store = Store(root)
    run_paths = {*store.packed}

    for parent, folders, files in os.walk(store.runs, onerror=_raise, followlinks=True):
        if {SPEC_FILE, STATUS_FILE} & {*files}:
            folders.clear()  # no run is inside another run's folder
            run_paths.add(Path(parent).relative_to(store.runs).as_posix())
    if not run_paths:
        raise StoreError(f"no runs in {root}: give the folder that was passed to --results")

    return [verdict for path in sorted(run_paths) for verdict in _verdicts(store, path)]


def _raise(error: OSError) -> None:
    """Raises a StoreError for a folder that exists but cannot be read."""
    if not isinstance(error, FileNotFoundError):
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error


def _verdicts(store: Store, run_path: str) -> Iterator[Verdict]:
    """Yields the verdict on one run, and the notes on it."""
    folder = store.runs / run_path
    for path in sorted(folder.rglob("*.corrupt*")):
        yield Verdict("set aside", run_path, path.name)

    status = Status.read(folder)
    try:
        records = _read_records(store, run_path)
        for record in records:
            store.check_files(run_path, record)
        if not records and status.state == "finished":
            raise StoreError("the run is marked as finished, but has no records")
    except StoreError as error:
        yield Verdict("corrupt", run_path, str(error))
        return

    if status.state == "failed":
        yield Verdict("failed", run_path, status.error)
    elif not records:
        yield Verdict("unfinished", run_path, status.error)
    else:
        yield Verdict("packed" if store.is_packed(run_path) else "fine", run_path)

    dirty = [record.provenance for record in records if record.provenance.git_dirty]
    for revision in {str(provenance.git_revision) for provenance in dirty}:
        yield Verdict("dirty tree", run_path, revision)


def _read_records(store: Store, run_path: str) -> list[Record[Any]]:
    """Reads all records of a run; a StoreError says what is damaged."""
    run_id = store.read_run_id(run_path)
    records = []
    for name in [*store.list_files(run_path), *store.list_files(run_path, "scores")]:
        if name in (SPEC_FILE, STATUS_FILE):
            continue
        try:
            records.append(Record[Any].parse(store.read_file(run_path, name) or b"", run_id))
        except StoreError as error:
            raise StoreError(f"{name}: {error}") from error
    return records
