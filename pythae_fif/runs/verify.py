"""Re-reads a store and says what in it can be trusted."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pythae_fif.errors import StoreError
from pythae_fif.files import checksum, os_errors_as_store_error
from pythae_fif.runs.record import Record
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import STATUS_FILE, Status

VERDICTS = {
    "fine": "all its records are whole, and the files that belong to them have their checksums",
    "packed": "all its records are whole; its model and pictures are not there to be checked",
    "corrupt": "a file of the run is missing, cannot be read or was changed",
    "failed": "the run failed; the same command tries it again",
    "unfinished": "no record yet; the same command goes on",
    "set aside": "a damaged or foreign file that was put away, kept for you to look at",
    "dirty tree": "made with code or configurations that no revision holds",
}
"""Kind of verdict -> what it means; `corrupt` makes the exit code 1."""


class Verdict(NamedTuple):
    """What was found of one run: a key of `VERDICTS`, the run's folder below `runs/`."""

    kind: str
    run: str
    detail: str = ""


def verify(root: Path) -> list[Verdict]:
    """Reads all runs below a store's folder, and changes nothing.

    The modules that define the kinds of runs have been imported before.

    Returns:
        Of every run one of the kinds of verdict up to `unfinished`, and notes of those after it.

    Raises:
        StoreError: There are no runs, or folders that cannot be read.
    """
    store = Store(root)
    runs = {*store.packed}
    for parent, folders, files in os.walk(store.runs, onerror=_raise, followlinks=True):
        if {SPEC_FILE, STATUS_FILE} & {*files}:
            folders.clear()  # a run has none below it
            runs.add(Path(parent).relative_to(store.runs).as_posix())
    if not runs:
        raise StoreError(f"{root} holds no runs: the folder that --results names is needed")
    return [verdict for run in sorted(runs) for verdict in _verdicts(store, run)]


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error


def _verdicts(store: Store, run: str) -> Iterator[Verdict]:
    """What there is to say of one run."""
    folder = store.runs / run
    for path in sorted(folder.rglob("*.corrupt*")):
        yield Verdict("set aside", run, path.name)
    try:
        spec = store.spec(run)
        records = _records(store, spec)
    except StoreError as error:
        yield Verdict("corrupt", run, str(error))
        return
    status = Status.read(folder)
    if records and status.state != "failed":
        yield Verdict("packed" if store.packed_run(spec) else "fine", run)
    else:
        kind = "failed" if status.state == "failed" else "unfinished"
        yield Verdict(kind, run, status.error)
    for revision in {str(of.provenance.git_revision) for of in records if of.provenance.git_dirty}:
        yield Verdict("dirty tree", run, revision)


def _records(store: Store, spec: Spec) -> list[Record[Any]]:
    """The records of a run, which are whole, as are their files; a StoreError says what is not."""
    records, folder = [], store.folder(spec)
    for name in [*store.names(spec), *store.names(spec, "scores")]:
        if name not in (SPEC_FILE, STATUS_FILE):
            content = store.read(spec, name) or b""
            try:
                records.append(Record[Any].parse(content, spec.run_id))
            except StoreError as error:
                raise StoreError(f"{name}: {error}") from error
    if not records and Status.read(folder).state == "finished":
        raise StoreError("there are no records of a run that is called finished")
    sealed = {name: of for record in records for name, of in record.files.items()}
    for name, known in sealed.items() if store.packed_run(spec) is None else ():
        path = folder / name
        if not path.is_file():  # a pipe would wait for ever
            raise StoreError(f"{name} is missing")
        with os_errors_as_store_error(f"read {path}"):
            if checksum(path) != known:
                raise StoreError(f"{name} was changed")
    return records
