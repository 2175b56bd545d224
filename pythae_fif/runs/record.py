"""What a run leaves behind: a typed record, sealed by a checksum of its own content."""

__all__ = ["CHANGED", "Provenance", "Record", "RecordT", "installed", "marked"]

import functools
import hashlib
import importlib.metadata
import json
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pythae_fif.errors import StoreError

SEAL = "checksum"
"""The key of the checksum; records of the first versions have none."""

CHANGED = "+"
"""Behind a revision that does not hold all of the code."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@functools.cache
def installed(package: str) -> str | None:
    """The version of a package that is installed, else None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Provenance(BaseModel):
    """Where, when and with what a record was made; nothing of it is in the run id.

    Attributes:
        versions: Package -> version.
        python, platform: Of the interpreter.
        git_revision: Of the checkout; None where there is none.
        git_dirty: Whether code or configurations differ from that revision.
        device: As torch names it, and what it is.
        gpu_driver, cuda, cudnn: Versions; None on a CPU.
        allow_tf32: Whether 'matmul' and 'cudnn' could use TF32 in training; None on a CPU.
        threads, cores: Of the run, and of the machine.
        started: In UTC.
        seconds: That the run took, from its start to its record.
        peak_memory_mb, peak_gpu_memory_mb: In MiB.
        attempts: Starts of the run.
    """

    model_config = ConfigDict(frozen=True)

    versions: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    platform: str | None = None
    git_revision: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    gpu_driver: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    allow_tf32: dict[str, bool] | None = None
    threads: int | None = None
    cores: int | None = None
    started: str | None = None
    seconds: float | None = None
    peak_memory_mb: int | None = None
    peak_gpu_memory_mb: int | None = None
    attempts: int | None = None

    @property
    def revision(self) -> str:
        """Of the code, with a `+` if that revision does not hold all of it."""
        return marked(self.git_revision, self.git_dirty)

    @property
    def machine(self) -> str:
        """What it was made on, as reports name it."""
        return f"{self.device} with {self.cores} cores"


class Record(BaseModel):
    """Base of all records: whose it is, the files that belong to it, and its seal.

    Attributes:
        run_id: Of the run.
        provenance: How it was made.
        files: Name below the run's folder -> SHA-256, of all files that belong to the record; None
            in records of the first versions.
        checksum: Of all else in the file.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    SCORES: ClassVar[frozenset[str]] = frozenset()
    """Fields that another machine should find again, unlike times and sizes."""

    run_id: str
    provenance: Provenance
    files: dict[str, str] | None = None
    checksum: str | None = None

    @property
    def revisions(self) -> list[str]:
        """Those of all code that had a part in it, each once; see :attr:`Provenance.revision`."""
        return [self.provenance.revision]

    @classmethod
    def parse(cls: "type[RecordT]", content: Any) -> "RecordT":
        """The record that a file holds.

        One that lists its files had a seal: where it is gone, somebody deleted it.

        Args:
            content: What the file holds; None if it is no JSON.

        Raises:
            StoreError: It is no record that is whole and as it was sealed.

        Example:
            >>> content = Record(run_id="a", provenance=Provenance()).to_dict()
            >>> Record.parse({**content, "run_id": "b"})
            Traceback (most recent call last):
            pythae_fif.errors.StoreError: the record was changed
        """
        if not isinstance(content, dict):
            raise StoreError("the record is cut off")
        before_seals = content.get(SEAL) is None and content.get("files") is None
        if not before_seals and content.get(SEAL) != _checksum(content):
            raise StoreError("the record was changed")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise StoreError("the record is not whole") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the file has them, with the seal."""
        content = self.model_dump(mode="python", by_alias=True, exclude={SEAL})
        return {**content, SEAL: _checksum(content)}


RecordT = TypeVar("RecordT", bound=Record)


def marked(revision: str | None, dirty: bool | None) -> str:
    """A revision, with a `+` if the code differs from it, as early records have it; empty if it is
    not known."""
    known = revision or ""
    return f"{known}{CHANGED}" if dirty and not known.endswith(CHANGED) else known


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all but the checksum itself."""
    sealed = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(_canonical(sealed).encode()).hexdigest()
