"""Re-reads a store and says what in it can be trusted."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from pythae_fif.errors import StoreError
from pythae_fif.files import checksum, stored
from pythae_fif.runs.record import Record
from pythae_fif.runs.spec import SPEC_FILE, read_spec
from pythae_fif.runs.store import Store, read_file
from pythae_fif.runs.worker import STATUS_FILE, Status, is_locked

WRONG = ("corrupt", "missing", "misplaced", "unreadable")
FINDINGS = {
    "fine": "all its records are whole, and the files that belong to them have their checksums",
    "corrupt": "a record, or a file that belongs to one, is damaged or was changed",
    "missing": "a file that belongs to a record is not there",
    "misplaced": "spec.json is not that of the run whose folder it is in",
    "unreadable": "a file that cannot be read: nothing can be said of it",
    "failed": "the run failed; the same command tries it again",
    "unfinished": "no record yet; the same command goes on",
    "under way": "a process works on it at this moment",
    "set aside": "a damaged or foreign file that was put away, kept for you to look at",
    "packed": "a line of a packed file: nothing can be said of its model and pictures",
    "dirty tree": "made with code or configurations that no revision holds",
}
"""Kind of finding -> what it means; those of `WRONG` make the exit code 1."""


class Finding(NamedTuple):
    """What was found of one run: a key of `FINDINGS`, the run's folder below `runs/`."""

    kind: str
    run: str
    detail: str = ""


class _Other(Exception):
    """A run is not fine: kind of finding, and detail."""


def verify(root: Path) -> list[Finding]:
    """Reads all runs below a store's folder, and changes nothing.

    The modules that define the kinds of runs have been imported before.

    Returns:
        Of every run one of the kinds of findings up to `under way`, and notes of those after it.

    Raises:
        StoreError: There are no runs, or folders that cannot be read.
    """
    store, found = Store(root), list[Finding]()
    for packed in store.packed.values():
        if not (store.runs / packed.run / SPEC_FILE).exists():
            names = [name for name in packed.files if name.endswith(".json")]
            found += _findings(packed.run, names, packed.read)
            found.append(Finding("packed", packed.run))
    for parent, folders, files in os.walk(store.runs, onerror=_raise, followlinks=True):
        folder, run = Path(parent), Path(parent).relative_to(store.runs).as_posix()
        folders.sort()
        if {SPEC_FILE, STATUS_FILE} & {*files}:
            folders.clear()  # a run has none below it
            paths = sorted([*folder.glob("*.json"), *folder.glob("scores/*.json")])
            names = [path.relative_to(folder).as_posix() for path in paths]
            found += _findings(run, names, lambda name, of=folder: read_file(of / name), folder)
            asides = sorted(path.name for path in folder.rglob("*.corrupt*"))
            found += [Finding("set aside", run, name) for name in asides]
    if not found:
        raise StoreError(f"{root} holds no runs: the folder that --results names is needed")
    return found


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error


def _findings(run: str, names: list[str], read: Any, folder: Path | None = None) -> list[Finding]:
    """What there is to say of one run, whose JSON files `read` reads; of a packed one no others."""
    try:
        records = _records(run, names, read)
        if folder is not None:
            _check_files(folder, records)
    except _Other as other:
        return [Finding(other.args[0], run, other.args[1])]
    except StoreError as error:
        return [Finding("unreadable", run, str(error))]
    revisions = {str(r.provenance.git_revision) for r in records if r.provenance.git_dirty}
    return [Finding("fine", run), *(Finding("dirty tree", run, of) for of in sorted(revisions))]


def _records(run: str, names: list[str], read: Any) -> list[Record[Any]]:
    content, records = read(SPEC_FILE), []
    if content is None:
        raise _Other("missing", SPEC_FILE)
    try:
        spec = read_spec(content)
    except StoreError as error:
        raise _Other("corrupt", str(error)) from error
    if run != f"{spec.folder}/{spec.run_id}":
        raise _Other("misplaced", f"{SPEC_FILE} is that of {spec.run_id}")
    for name in [name for name in names if name not in (SPEC_FILE, STATUS_FILE)]:
        text = read(name)
        try:
            records.append(Record[Any].parse(text, spec.run_id))
        except StoreError as error:
            raise _Other("corrupt", f"{name}: {error}") from error
    return records


def _check_files(folder: Path, records: list[Record[Any]]) -> None:
    """Reads the files that belong to records; without records says why there are none."""
    for name, sealed in {n: of for record in records for n, of in record.files.items()}.items():
        path = folder / name
        if not path.is_file():  # a pipe would wait for ever
            raise _Other("missing", name)
        with stored(f"read {path}"):
            if checksum(path) != sealed:
                raise _Other("corrupt", name)
    status = Status.read(folder)
    if not records and is_locked(folder):
        raise _Other("under way", status.stage)
    if not records and status.state == "finished":
        raise _Other("missing", "the records of a run that is called finished")
    if not records:
        kind = "failed" if status.state == "failed" else "unfinished"
        raise _Other(kind, status.error or status.state)
