"""Re-reads a store and says what in it can be trusted."""

__all__ = ["FINDINGS", "WRONG", "Finding", "verify"]

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "no model": "the trained model is not here: a further sampler trains it anew",
    "dirty tree": "made with code or configurations that no revision holds",
}
"""Kind of finding -> what it means; those of `WRONG` make the exit code 1."""

MODEL = "model/"
"""The folder of a run that a copy of the store may lack."""


@dataclass(frozen=True)
class Finding:
    """What was found of one run: a key of `FINDINGS`, the run's folder below `runs/`."""

    kind: str
    run: str
    detail: str = ""


def verify(root: Path) -> list[Finding]:
    """Reads all runs below a store's folder, and changes nothing.

    The modules that define the kinds of runs have been imported before.

    Returns:
        Of every run one of the kinds of findings up to `under way`, and notes of those after it.

    Raises:
        StoreError: There are no runs.
    """
    store, found = Store(root), list[Finding]()
    for packed in store.packed.values():
        if not (store.runs / packed.run / SPEC_FILE).exists():
            names = [name for name in packed.files if name.endswith(".json")]
            found += _findings(packed.run, names, packed.read)
            found.append(Finding("packed", packed.run))
    for folder in _folders(store.runs, found):
        run = folder.relative_to(store.runs).as_posix()
        names = [path.relative_to(folder).as_posix() for path in _json_files(folder)]
        found += _findings(run, names, lambda name, folder=folder: read_file(folder / name), folder)
    if not found:
        raise StoreError(f"{root} holds no runs: the folder that --results names is needed")
    return found


def _folders(runs: Path, found: list[Finding]) -> Iterator[Path]:
    """The folders of runs, behind links, too; those that may not be read become findings."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            run = Path(str(error.filename)).relative_to(runs).as_posix()
            found.append(Finding("unreadable", run, str(error.strerror)))

    for parent, folders, files in os.walk(runs, onerror=unreadable, followlinks=True):
        folders.sort()
        if {SPEC_FILE, STATUS_FILE} & set(files):
            folders.clear()  # a run has none below it
            yield Path(parent)


def _json_files(folder: Path) -> list[Path]:
    """The files of a run that may be records."""
    return sorted([*folder.glob("*.json"), *folder.glob("scores/*.json")])


def _findings(run: str, names: list[str], read: Any, folder: Path | None = None) -> list[Finding]:
    """What there is to say of one run.

    Args:
        run: Its folder below `runs/`.
        names: Of its JSON files.
        read: Gives the content of one.
        folder: Of its other files; None for a packed run.
    """
    found: list[Finding] = []
    if folder is not None:
        asides = sorted(path.name for path in folder.rglob("*.corrupt*"))
        found += [Finding("set aside", run, name) for name in asides]
    try:
        records, problem = _records(run, names, read)
        files = {name: sealed for record in records for name, sealed in record.files.items()}
        if problem is None and folder is not None:
            problem = _file_problem(folder, files)
    except StoreError as error:
        return [Finding("unreadable", run, str(error)), *found]
    if problem is not None:
        return [Finding(problem[0], run, problem[1]), *found]
    if not records:
        return [Finding(*_without_records(run, folder)), *found]
    if folder is not None and any(name.startswith(MODEL) for name in files):
        found += [] if (folder / MODEL).exists() else [Finding("no model", run)]
    dirty = {r.provenance.git_revision for r in records if r.provenance.git_dirty}
    found += [Finding("dirty tree", run, str(revision)) for revision in sorted(dirty, key=str)]
    return [Finding("fine", run), *found]


def _records(
    run: str, names: list[str], read: Any
) -> tuple[list[Record[Any]], tuple[str, str] | None]:
    """The records of a run, and what is wrong with one of them: kind and detail."""
    content = read(SPEC_FILE)
    if content is None:
        return [], ("missing", SPEC_FILE)
    try:
        spec = read_spec(content)
    except StoreError as error:
        return [], ("corrupt", str(error))
    if run != f"{spec.folder}/{spec.run_id}":
        return [], ("misplaced", f"{SPEC_FILE} is that of {spec.run_id}")
    records = []
    for name in names:
        text = read(name)
        if name in (SPEC_FILE, STATUS_FILE, "slurm.json") or text is None:
            continue
        try:
            records.append(Record[Any].parse(text, spec.run_id))
        except StoreError as error:
            return [], ("corrupt", f"{name}: {error}")
    return records, None


def _file_problem(folder: Path, files: dict[str, str]) -> tuple[str, str] | None:
    """What is wrong with the files that belong to records: name -> checksum."""
    for name, sealed in files.items():
        path = folder / name
        if not path.is_file():  # a pipe would wait for ever
            if not (name.startswith(MODEL) and not (folder / MODEL).exists()):
                return "missing", name
            continue
        with stored(f"read {path}"):
            if checksum(path) != sealed:
                return "corrupt", name
    return None


def _without_records(run: str, folder: Path | None) -> tuple[str, str, str]:
    if folder is None:
        return "unfinished", run, "no record"
    status = Status.read(folder)
    if is_locked(folder):
        return "under way", run, status.stage
    if status.state == "finished":
        return "missing", run, "the records of a run that is called finished"
    if status.state == "failed":
        return "failed", run, status.error
    return "unfinished", run, status.state or "no status"
