"""What runs of one kind are: their specification, their record, and the work between the two."""

__all__ = [
    "Environment",
    "Finished",
    "Job",
    "Kind",
    "Spec",
    "SpecT",
    "require_planned",
    "run_id_of",
]

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pythae_fif.errors import DataError, StoreError
from pythae_fif.files import read_json, write_json
from pythae_fif.runs.folder import RunFolder
from pythae_fif.runs.record import RecordT

_canonical = json.JSONEncoder(sort_keys=True).encode  # one encoder for the ids of a long plan


class Spec(Protocol):
    """Everything that defines the result of one run."""

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of all that defines the result."""

    @property
    def folder(self) -> str:
        """Where runs like this one are, below `runs/`, such as `digits/convnet/fif`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, of which the kind makes the specification again."""


SpecT = TypeVar("SpecT", bound=Spec)


def run_id_of(content: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of a hash of plain values, whatever the order of their keys.

    Example:
        >>> run_id_of({"a": 1, "b": 2}) == run_id_of({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]


def require_planned(what: str, found: str | None, planned: str | None) -> None:
    """Refuses what is not that of the plan, by hashes.

    Raises:
        DataError: The hashes differ.
    """
    if found != planned:
        raise DataError(
            f"{what} changed since the plan was made ({found}, not {planned}): start the command "
            "again"
        )


@dataclass(frozen=True)
class Environment:
    """What a run needs but its result does not depend on.

    A store at a URL holds it too; a machine that has one keeps its own.

    Attributes:
        data_root: Where data sets are; None for the default.
        data: The user's own images or table.
        offline: Never download.
        skip_undecodable: Leave out broken images.
        columns, drop, label, missing: How the user's table is read; see
            :class:`~pythae_fif.data.names.TableOptions`.
        extractor_weights: File of the extractor's published weights.
        own_extractor: Of a network of the user's own as extractor: its file with the folder.
        tensorboard: Whether losses are written as TensorBoard events.
        url: Of the run, if its store is at one.
    """

    data_root: str | None = None
    data: str | None = None
    offline: bool = False
    skip_undecodable: bool = False
    columns: list[str] | None = None
    drop: list[str] | None = None
    label: str | None = None
    missing: str = "drop"
    extractor_weights: str | None = None
    own_extractor: str | None = None
    tensorboard: bool = False
    url: str | None = None

    @classmethod
    def read(cls, run_dir: Path) -> "Environment":
        """That of a run's folder; the default where there is none that can be read."""
        content = read_json(run_dir / "environment.json")
        names = {field.name for field in dataclasses.fields(cls)}
        known = content if isinstance(content, dict) else {}
        return cls(**{name: value for name, value in known.items() if name in names})

    def write(self, run_dir: Path) -> None:
        """Writes it into a run's folder.

        Raises:
            StoreError: The folder does not take it.
        """
        write_json(run_dir / "environment.json", dataclasses.asdict(self))


@dataclass(frozen=True)
class Job(Generic[SpecT, RecordT]):
    """One run in the hands of the process that works on it.

    Attributes:
        folder: The run's folder, which this process has claimed.
        spec: What to do.
        environment: Where and how.
        before: The record of an earlier attempt that answers a part of what is asked.
        started: When the work began, in seconds since the epoch.
        lent: Data that an engine has handed over, so that they need not be loaded.
    """

    folder: RunFolder
    spec: SpecT
    environment: Environment
    before: RecordT | None
    started: float
    lent: object = None

    def write_record(self, record: RecordT) -> None:
        """Seals the record with the run's files and writes it.

        Raises:
            ClaimLostError: The run is another process's now.
            StoreError: The folder does not take it.
        """
        sealed = record.model_copy(update={"files": self.folder.checksums()})
        self.folder.write_json("result.json", sealed.to_dict())


@dataclass(frozen=True)
class Finished(Generic[SpecT, RecordT]):
    """A run with a record: what was asked and what came of it."""

    spec: SpecT
    record: RecordT


@dataclass(frozen=True)
class Kind(Generic[SpecT, RecordT]):
    """A kind of run: what the store, the engines and `verify` must know of it.

    Attributes:
        name: What `config.yaml` calls it.
        schema: Version of its records, part of every run id: older ones are never misread.
        spec_from: Makes a specification of what its `to_dict` gave.
        record: The class of its records.
        work: Does a run; it writes the record by :meth:`Job.write_record`.
    """

    name: str
    schema: int
    spec_from: Callable[[dict[str, Any]], SpecT]
    record: type[RecordT]
    work: Callable[[Job[SpecT, RecordT]], None]

    def answers(self, spec: SpecT, record: RecordT) -> bool:
        """Whether a record of this run holds all that the specification asks for."""
        return True

    def joined(self, before: SpecT, asked: SpecT) -> SpecT:
        """Of two specifications of one run, what both ask for."""
        return asked

    def lacks(self, run_dir: Path, record: RecordT) -> bool:
        """Whether a finished run's folder lacks a file that `work` makes anew without training."""
        return False

    def record_in(self, content: Any, spec: SpecT) -> RecordT | None:
        """The record of a run in the content of its file; None if it is not whole or another's."""
        try:
            record = self.record.parse(content)
        except StoreError:
            return None
        return record if record.run_id == spec.run_id else None

    def is_done(self, spec: SpecT, record: RecordT, run_dir: Path) -> bool:
        """Whether a record holds all that is asked for, and the folder what belongs to it."""
        return self.answers(spec, record) and not self.lacks(run_dir, record)
