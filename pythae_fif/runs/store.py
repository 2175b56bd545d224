"""The store of runs: their specifications, the records of their results, and their folders."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from pythae_fif.errors import StoreError, UnknownStudyError
from pythae_fif.files import checksum, os_errors_as_store_error, read_bytes
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


FileName = Annotated[str, Field(pattern=r"^[^./][^/]*(/[^./][^/]*)*$")]
"""The name of a file below a run's folder, without hidden parts and `..`."""


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
    files: dict[FileName, str] = Field(default_factory=dict)

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
    @abstractmethod
    def folder(self) -> str:
        """The folder of similar runs below `runs/`, such as `digits/convnet/fif`."""

    @property
    def path(self) -> str:
        """The folder of this run below `runs/`."""
        return f"{self.folder}/{self.run_id}"

    @property
    def title(self) -> str:
        """The run's name in messages."""
        return self.folder

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, type]:
        """Name of a record's file -> type of its result. A run is done when all are there."""

    def is_complete(self, record: Record[Any] | None, store: "Store") -> bool:
        """Returns whether the record of an output has all that was requested.

        Args:
            record: The record; None if it is missing.
            store: The store that it was read from.
        """
        return record is not None

    @abstractmethod
    def run(self, run: Any) -> None:
        """Computes the missing outputs and saves them.

        Args:
            run: The :class:`~pythae_fif.runs.worker.Run` that executes the specification. Its
                method `save` saves an output.
        """

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
        UnknownStudyError: Its kind is not in `SPECS`.
        StoreError: The content is not a specification of a run.
    """
    try:
        values = json.loads(content)
        if values["kind"] not in SPECS:
            raise UnknownStudyError(
                f"{SPEC_FILE}: kind {values['kind']!r} belongs to no study of this package or of "
                "the folder studies in the working directory"
            )
        cls = SPECS[values["kind"]]
        if values["schema"] != cls.schema_version:
            raise StoreError(
                f"{SPEC_FILE}: schema {values['schema']!r}, needs {cls.schema_version}"
            )
        return cls.model_validate_json(json.dumps(values["spec"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{SPEC_FILE} is not a valid specification of a run") from error


class PackedRun(BaseModel):
    """A line of a packed file: `runs/digits.jsonl` replaces the folders below `runs/digits/`.

    Attributes:
        run: The run's folder below `runs/`.
        files: Name -> content of a JSON file.
        pictures: Name -> a picture sheet as PNG or WebP, black where no figure shows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run: str
    files: dict[str, Any]
    pictures: dict[str, Base64UrlBytes] = {}


class Store:
    """The runs below `runs/` in a results folder. Opening a store writes nothing.

    If a run has both a folder and a line of a packed file, the folder is used.

    Args:
        root: The results folder, which need not exist.

    Raises:
        StoreError: A packed file cannot be read or is damaged, or a run is packed twice.

    Attributes:
        root: The results folder.
        runs: Its subfolder `runs/`.
        packed: A run's folder below `runs/` -> its line of a packed file.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.runs = self.root / "runs"
        self.packed: dict[str, PackedRun] = {}
        for path in sorted(self.runs.glob("*.jsonl")):
            for packed_run in _read_packed_file(path):
                if packed_run.run in self.packed:
                    raise StoreError(f"{path}: run {packed_run.run} is packed twice: remove one")
                self.packed[packed_run.run] = packed_run

    def __reduce__(self) -> Any:  # another process may have another working directory
        return Store, (self.root.absolute(),)

    def folder(self, spec: Spec) -> Path:
        """Returns the folder of a run, which may not exist."""
        return self.runs / spec.path

    def packed_run(self, spec: Spec) -> PackedRun | None:
        """Returns a run's line of a packed file; None if it has none or has a folder."""
        return None if (self.folder(spec) / SPEC_FILE).exists() else self.packed.get(spec.path)

    def read(self, spec: Spec, name: str) -> bytes | None:
        """Reads a file of a run, such as a picture.

        Args:
            spec: The run.
            name: The file's name below the run's folder.

        Returns:
            The content, or None if the file does not exist.

        Raises:
            StoreError: The file cannot be read.
        """
        packed_run = self.packed_run(spec)
        if packed_run is None:
            return read_file(self.folder(spec) / name)
        if name in packed_run.files:
            return json.dumps(packed_run.files[name]).encode()
        return packed_run.pictures.get(name)

    def names(self, spec: Spec, subfolder: str = ".") -> list[str]:
        """Lists the JSON files of a run, such as `scores/normal.json`.

        Args:
            spec: The run.
            subfolder: The files' folder, below the run's folder.

        Returns:
            Sorted names below the run's folder.
        """
        packed_run = self.packed_run(spec)
        if packed_run is None:
            folder = self.folder(spec)
            return sorted(
                path.relative_to(folder).as_posix() for path in folder.glob(f"{subfolder}/*.json")
            )
        return sorted(n for n in packed_run.files if PurePath(n).parent == PurePath(subfolder))

    def record(self, spec: Spec, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """Reads a record of a run.

        Args:
            spec: The run.
            name: The name of the record's file.
            result: The type of its result.

        Returns:
            The record; None if it is missing, damaged, or belongs to another run.

        Raises:
            StoreError: The file cannot be read.
        """
        content = self.read(spec, name) or b""
        record_class: Any = Record[result]  # type: ignore[valid-type] # known only at run time
        try:
            return record_class.parse(content, spec.run_id)
        except StoreError:
            return None

    def is_done(self, spec: Spec) -> bool:
        """Returns whether a run has its specification and a complete record of each output."""
        try:
            self.spec(spec.path)
        except StoreError:  # the next start writes it again
            return False
        return all(
            spec.is_complete(self.record(spec, name, result), self)
            for name, result in spec.outputs.items()
        )

    def check_files(self, spec: Spec, record: Record[Any]) -> None:
        """Compares the files that belong to a record with their checksums.

        Args:
            spec: The run. A packed run has no files.
            record: One of its records.

        Raises:
            StoreError: A file is missing, cannot be read, or was changed.
        """
        if self.packed_run(spec) is not None:
            return
        for name, expected in record.files.items():
            path = self.folder(spec) / name
            if not path.is_file():
                raise StoreError(f"{name} is missing")
            with os_errors_as_store_error(f"read {path}"):
                if checksum(path) != expected:
                    raise StoreError(f"{name} was changed")

    def spec(self, run: str) -> Spec:
        """Reads the specification of a run.

        Args:
            run: The run's folder below `runs/`.

        Raises:
            StoreError: The specification is missing, damaged, or belongs to another run.
        """
        content = read_file(self.runs / run / SPEC_FILE)
        if content is None and run in self.packed:
            content = json.dumps(self.packed[run].files.get(SPEC_FILE)).encode()
        spec = read_spec(content or b"")
        if spec.path != run:
            raise StoreError(f"{SPEC_FILE} belongs to run {spec.run_id}")
        return spec

    def specs(self, kind: type[SpecT], subfolder: str = ".") -> Iterator[SpecT]:
        """Yields the specifications of the runs of a kind, sorted by their folders' names.

        Folders without a valid specification are skipped; `verify` reports them.

        Args:
            kind: The class of the specifications.
            subfolder: A folder below `runs/`, such as `mnist/resnet`.
        """
        files = (self.runs / subfolder).rglob(SPEC_FILE)
        runs = {file.parent.relative_to(self.runs).as_posix() for file in files}
        runs |= {run for run in self.packed if PurePath(run).is_relative_to(subfolder)}

        for run in sorted(runs):
            try:
                spec = self.spec(run)
            except StoreError:
                continue
            if isinstance(spec, kind):
                yield spec


def _read_packed_file(path: Path) -> Iterator[PackedRun]:
    """Yields the runs of a packed file; a StoreError names a line that is damaged."""
    for number, line in enumerate((read_file(path) or b"").splitlines(), start=1):
        try:
            yield PackedRun.model_validate_json(line)
        except ValidationError as error:
            raise StoreError(
                f"{path}, line {number} is not a packed run: restore the file"
            ) from error


def read_file(path: Path) -> bytes | None:
    """Returns the content of a file, or None if it does not exist.

    Raises:
        StoreError: The file exists but cannot be read.
    """
    with os_errors_as_store_error(f"read {path}"):
        try:
            return read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
