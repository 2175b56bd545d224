"""Runs in files: specifications, which define results and ids, and records of the results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from pythae_fif.errors import StoreError
from pythae_fif.validation import StrictModel

ResultT = TypeVar("ResultT")
CHECKSUM_KEY = "checksum"
SPEC_FILE = "spec.json"
SPECS: dict[str, "type[Spec]"] = {}
"""Kind of run -> its class, once the module that defines the class is imported."""


class Provenance(BaseModel):
    """Where, when and with what software a record was made. A run's id does not depend on it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    git_revision: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    cores: int | None = None
    seconds: float | None = None


class Record(BaseModel, Generic[ResultT]):
    """A result of a run.

    Attributes:
        run_id: The id of the run.
        result: The result itself.
        provenance: How it was made.
        files: Files that belong to the result, by their names below the run's folder -> the SHA-256
            of the bytes that were written.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    run_id: str
    result: ResultT
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Returns the content of the record's file: JSON with a checksum of all other keys."""
        content = self.model_dump(mode="json")
        text = json.dumps(
            {**content, CHECKSUM_KEY: _checksum(content)}, indent=1, ensure_ascii=False
        )
        return (text + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, run_id: str) -> Self:
        """Reads a record; call it on the parametrized class, such as `Record[Scores]`.

        Args:
            content: The content of the record's file.
            run_id: The id that the record must have.

        Raises:
            StoreError: The record is incomplete, was changed, or belongs to another run.
        """
        try:
            values = json.loads(content)
            if values.pop(CHECKSUM_KEY) != _checksum(values) or values["run_id"] != run_id:
                raise StoreError("the record was changed, or belongs to another run")
            return cls.model_validate(values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError("the record is incomplete or damaged") from error


def _checksum(content: dict[str, Any]) -> str:
    """Returns the SHA-256 of plain values. The order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Spec(StrictModel):
    """Base class of specifications. The fields of a subclass define the result of a run.

    Attributes:
        kind: Name of the subclass in `spec.json`.
        schema_version: Part of the id; raise it when the meaning of results changes.
        fields_outside_id: Fields that say which outputs are needed, or where the data are. They are
            neither in the id nor in `spec.json`.
    """

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 3
    fields_outside_id: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        SPECS[cls.kind] = cls

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits: a hash of kind, version and the defining fields."""
        content = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """The folder of similar runs below `runs/`, such as `digits/convnet/fif`."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The folder of this run below `runs/`."""
        return f"{self.folder}/{self.run_id}"

    @property
    def title(self) -> str:
        """The run's name in messages."""
        return self.folder

    @property
    def outputs(self) -> Mapping[str, type]:
        """Name of a record's file -> type of its result. A run is done when all are there."""
        raise NotImplementedError

    def is_complete(self, record: Record[Any] | None) -> bool:
        """Returns whether the record of an output has all that was requested."""
        return record is not None

    def run(self, run: Any) -> None:
        """Computes the missing outputs and saves them.

        Args:
            run: The :class:`~pythae_fif.runs.worker.Run` that executes the specification. Its
                method `save` saves an output.
        """
        raise NotImplementedError

    def __hash__(self) -> int:
        return hash(self.run_id)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `spec.json`, without defaults: so a new field changes no id."""
        return {
            "kind": self.kind,
            "schema": self.schema_version,
            "spec": self.model_dump(
                mode="json", exclude=set(self.fields_outside_id), exclude_defaults=True
            ),
        }


SpecT = TypeVar("SpecT", bound=Spec)


def read_spec(content: bytes) -> Spec:
    """Reads the content of a `spec.json`.

    Raises:
        StoreError: The content is not a specification of a kind in `SPECS`.
    """
    try:
        values = json.loads(content)
        cls = SPECS[values["kind"]]
        if values["schema"] != cls.schema_version:
            raise StoreError(
                f"{SPEC_FILE}: schema {values['schema']!r}, needs {cls.schema_version}"
            )
        return cls.model_validate_json(json.dumps(values["spec"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{SPEC_FILE} is not a valid specification of a run") from error
