"""What a run leaves behind: records that validate, seal and read themselves."""

import hashlib
import json
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from pythae_fif.errors import StoreError

ResultT = TypeVar("ResultT")
CHECKSUM_KEY = "checksum"


class Provenance(BaseModel):
    """Where, when and with what a record was made; nothing of it is in the run's id."""

    model_config = ConfigDict(frozen=True, extra="allow")

    git_revision: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    cores: int | None = None
    seconds: float | None = None


class Record(BaseModel, Generic[ResultT]):
    """A result of a run, how it was made, and of all files that belong to it the SHA-256 of the
    bytes that were written, by their names below the run's folder."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    run_id: str
    result: ResultT
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The content of its file: JSON, with a checksum of all else in it."""
        content = self.model_dump(mode="json")
        text = json.dumps(
            {**content, CHECKSUM_KEY: _checksum(content)}, indent=1, ensure_ascii=False
        )
        return (text + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, run_id: str) -> Self:
        """The record in a file of a run; call it of the type with its result.

        Raises:
            StoreError: It is cut off, was changed, or is of another run.
        """
        try:
            found = json.loads(content)
            if found.pop(CHECKSUM_KEY) != _checksum(found) or found["run_id"] != run_id:
                raise StoreError("it was changed, or is another run's")
            return cls.model_validate(found)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError("it is not whole") from error


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
