"""Records: the results of runs, in files that a checksum protects."""

import hashlib
import json
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from pythae_fif.errors import StoreError

ResultT = TypeVar("ResultT")
CHECKSUM_KEY = "checksum"


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
