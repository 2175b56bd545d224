"""What defines the result of a run, and the id that is made of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pythae_fif.errors import StoreError
from pythae_fif.validation import StrictModel

if TYPE_CHECKING:
    from pythae_fif.runs.worker import Run

SPEC_FILE = "spec.json"
SPECS: dict[str, "type[Spec]"] = {}
"""Kind of run -> its class, once the module that defines it is imported."""


class Spec(StrictModel):
    """All that defines the result of one run; the fields of a subclass are that.

    Attributes:
        kind: Name of the subclass in `spec.json`.
        schema_version: A part of the id; raise it when the meaning of results changes.
        asked: Fields that say what is wanted of a run, or where it finds its data: neither the id
            nor `spec.json` has them.
    """

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 3
    fields_outside_id: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        SPECS[cls.kind] = cls

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of kind, version and all fields but `asked`."""
        content = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Where runs like this one are below `runs/`, such as `digits/convnet/fif`."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The folder of this run below `runs/`."""
        return f"{self.folder}/{self.run_id}"

    @property
    def title(self) -> str:
        """What a person calls this run."""
        return self.folder

    @property
    def outputs(self) -> Mapping[str, type]:
        """Name of a record's file -> type of its result. A run with all of them is done."""
        raise NotImplementedError

    def run(self, run: "Run") -> None:
        """Does what is missing of the outputs, and saves them by :meth:`Run.save`."""
        raise NotImplementedError

    def __hash__(self) -> int:
        return hash(self.run_id)

    def to_dict(self) -> dict[str, Any]:
        """What `spec.json` holds. Without defaults, so that a further field changes no id."""
        values = self.model_dump(
            mode="json", exclude=set(self.fields_outside_id), exclude_defaults=True
        )
        return {"kind": self.kind, "schema": self.schema_version, "spec": values}


SpecT = TypeVar("SpecT", bound=Spec)


def read_spec(content: bytes) -> Spec:
    """The specification that a `spec.json` holds; a StoreError if it is of no kind known here."""
    try:
        found = json.loads(content)
        cls = SPECS[found["kind"]]
        if found["schema"] != cls.schema_version:
            raise StoreError(f"{SPEC_FILE}: schema {found['schema']!r}, needs {cls.schema_version}")
        return cls.model_validate_json(json.dumps(found["spec"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{SPEC_FILE} is no specification of a run") from error
