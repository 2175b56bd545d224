"""Re-reads a store and says what in it can be trusted."""

__all__ = ["KINDS_OF_FINDINGS", "WRONG", "Finding", "verify"]

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythae_fif.errors import StoreError
from pythae_fif.files import checksum, read_json
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.folder import STATUS, Status
from pythae_fif.runs.kind import Kind
from pythae_fif.runs.pack import TEXTS, read_packs
from pythae_fif.runs.record import CHANGED, Record, installed
from pythae_fif.runs.store import read_config

WRONG = ("corrupt", "missing", "misplaced", "unreadable")
KINDS_OF_FINDINGS = {
    "fine": "whole, and sealed with all its files by checksums that agree",
    "unsealed": "whole, but made before its files were sealed: a change of one would not show",
    "corrupt": "the record, or a file that belongs to it, is damaged or was changed",
    "missing": "something that belongs to the run is not there",
    "misplaced": "config.yaml is not that of the run whose folder it is in",
    "unreadable": "a file that may not be read: nothing can be said of it",
    "other schema": "the record is of another version of records, which this one does not read",
    "failed": "the run failed; the same command tries it again",
    "unfinished": "no record of all that was asked yet, or it is trained anew; the same "
    "command goes on",
    "under way": "a process works on it at this moment",
    "set aside": "a damaged file that was put away, kept for you to look at",
    "packed": "a line of a pack: nothing can be said of its model and pictures",
    "no model": "the trained model is not here: a further sampler trains it anew",
    "dirty tree": "made with code or configurations that no revision holds",
    "other versions": "made with other versions than those installed here",
}
"""Kind of finding -> what it means; those of `WRONG` make the exit code 1."""

LEFT_OUT = "model/"
"""The folder of a run that a copy of the store may lack."""


@dataclass(frozen=True)
class Finding:
    """What was found of one run: a key of `KINDS_OF_FINDINGS`, the run's folder below `runs/`."""

    kind: str
    run: str
    detail: str = ""


def verify(root: Path, kinds: Iterable[Kind[Any, Any]]) -> list[Finding]:
    """Reads all runs below a store's folder, and changes nothing.

    Args:
        root: The folder.
        kinds: Those that it may hold.

    Returns:
        Of every run one of the kinds of findings up to `under way`, and notes of those after it.

    Raises:
        StoreError: There are no runs.
    """
    by_name = {kind.name: kind for kind in kinds}
    runs = root / "runs"
    found: list[Finding] = []
    with tempfile.TemporaryDirectory() as unpacked:
        for line in read_packs(root):
            if not os.path.exists(runs / line.run / "result.json"):  # it counts before the line
                line.unpack(Path(unpacked, line.run))
        for place in (runs, Path(unpacked)):
            for folder in _folders(place, found):
                run = folder.relative_to(place).as_posix()
                try:
                    of_run = list(_findings(folder, run, by_name, packed=place != runs))
                except OSError as error:
                    where = os.path.relpath(error.filename or folder, folder)
                    of_run = [("unreadable", f"{where}: {error.strerror or error}")]
                found += [Finding(kind, run, detail) for kind, detail in of_run]
    if not found:
        raise StoreError(f"{root} holds no runs: the folder that --results names is needed")
    return found


def _folders(runs: Path, found: list[Finding]) -> Iterator[Path]:
    """The folders of runs; those that may not be read become findings."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            run = Path(str(error.filename)).relative_to(runs).as_posix()
            found.append(Finding("unreadable", run, str(error.strerror)))

    for parent, folders, files in os.walk(runs, onerror=unreadable):
        folders.sort()
        if {"config.yaml", "result.json", STATUS} & set(files):
            yield Path(parent)


def _findings(
    folder: Path, run: str, kinds: Mapping[str, Kind[Any, Any]], packed: bool
) -> Iterator[tuple[str, str]]:
    kind, detail, record = _state_of(folder, run, kinds, packed)
    yield kind, detail
    if packed:
        yield "packed", ""
    for aside in sorted(folder.glob("*.corrupt*")):
        yield "set aside", aside.name
    if kind in ("fine", "unsealed") and record is not None:
        if (
            not packed
            and not (folder / "model").exists()
            and any(name.startswith(LEFT_OUT) for name in record.files or ())
        ):
            yield "no model", ""
        for revision in record.revisions:
            if revision.endswith(CHANGED):
                yield "dirty tree", revision.rstrip(CHANGED)
        if others := _other_versions(record.provenance.versions):
            yield "other versions", ", ".join(others)


def _state_of(
    folder: Path, run: str, kinds: Mapping[str, Kind[Any, Any]], packed: bool
) -> tuple[str, str, Record | None]:
    """Kind and detail of a run, and its record if that is whole."""
    for name in ("config.yaml", "result.json"):  # one that may not be read is no damaged one
        with contextlib.suppress(FileNotFoundError):
            (folder / name).read_bytes()
    try:
        config = read_config(folder)
        kind = kinds[config.kind]
        if config.schema != kind.schema:
            return "other schema", f"{config.schema}, not {kind.schema}", None
        spec = config.spec_of(kind, folder)
    except (StoreError, KeyError):
        there = (folder / "config.yaml").exists()
        return ("corrupt" if there else "missing"), "config.yaml", None
    if run != f"{spec.folder}/{spec.run_id}":
        return "misplaced", f"config.yaml is that of {spec.run_id}", None
    if not (folder / "result.json").exists():
        return *_without_record(folder), None
    try:
        record = kind.record.parse(read_json(folder / "result.json"))
    except StoreError as error:
        return "corrupt", f"result.json: {error}", None
    if record.run_id != spec.run_id:
        return "corrupt", "result.json: the record is of another run", None
    problem = _file_problem(folder, record.files or {}, packed)
    if problem is None and not kind.answers(spec, record):
        problem = "failed", "the record answers a part of what was asked"
    if problem is not None:
        if Status.read(folder).state in ("waiting", "running", "interrupted", "failed"):
            return *_without_record(folder), record  # it goes on, or is trained anew
        return *problem, record
    return ("unsealed" if record.files is None else "fine"), "", record


def _file_problem(folder: Path, files: Mapping[str, str], packed: bool) -> tuple[str, str] | None:
    """What is wrong with the files that were sealed with a record: name -> checksum."""
    for name, sealed in files.items():
        if packed and not name.endswith(TEXTS):
            continue
        path = folder / name
        try:
            if checksum(path) != sealed:
                return "corrupt", name
        except FileNotFoundError:
            if not (name.startswith(LEFT_OUT) and not path.parent.exists()):
                return "missing", name
    return None


def _without_record(folder: Path) -> tuple[str, str]:
    status = Status.read(folder)
    if status.state == "finished":
        return "missing", "result.json of a run that is called finished"
    if is_claimed(folder):
        return "under way", status.stage
    if status.state == "failed":
        return "failed", status.error
    return "unfinished", status.state or "no status"


def _other_versions(versions: Mapping[str, str]) -> list[str]:
    """Packages that a record was made with and that are here in another version, or not at all."""
    return [
        f"{package} {version} ({here} here)" if here else f"{package} {version} (not here)"
        for package, version in versions.items()
        for here in [installed(package)]
        if here != version
    ]
