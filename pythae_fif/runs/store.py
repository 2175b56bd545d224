"""The store of runs: their specifications, the records of their results, and their folders."""

import hashlib
import json
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from pythae_fif.errors import StoreError
from pythae_fif.files import checksum, os_errors_as_store_error, read_bytes
from pythae_fif.validation import StrictModel

ResultT = TypeVar("ResultT")
CHECKSUM_KEY = "checksum"
SPEC_FILE = "spec.json"
_KINDS: dict[str, str] = {}
"""Kind of run -> its class, as `module.Class`."""


class Provenance(BaseModel):
    """Where, when and with what software a record was made. A run's id does not depend on it.

    None stands for what is not known.

    Attributes:
        versions: Package -> its version.
        python: Version of Python.
        platform: Name of the operating system.
        command: The user's command line.
        git_revision: Short revision of the checkout; None outside of one.
        git_dirty: Whether files that define results differed from the revision.
        device: The torch device, with the name of its hardware.
        threads: Number of CPU threads.
        cores: Number of CPU cores of the machine.
        started: When the run was started, in UTC.
        seconds: Time from the start of the run to the record.
        attempts: How often the run had been started.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    platform: str | None = None
    command: str | None = None
    git_revision: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    threads: int | None = None
    cores: int | None = None
    started: str | None = None
    seconds: float | None = None
    attempts: int | None = None


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
        """Reads a record; call it on the parametrized class, such as `Record[Evaluation]`.

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
        kind: Name of the subclass in `spec.json`. Two classes of one kind are an error.
        schema_version: Part of the id; raise it when the meaning of results changes.
        fields_outside_id: Fields that say where the data are. They are neither in the id nor in
            `spec.json`.
    """

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 1
    fields_outside_id: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "kind" in vars(cls):
            name = f"{cls.__module__}.{cls.__qualname__}"
            previous = _KINDS.setdefault(cls.kind, name)
            if previous != name:
                raise StoreError(
                    f"{name} and {previous} have the same kind of runs, {cls.kind!r}: rename one"
                )

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits: a hash of kind, version and the defining fields."""
        return _hash_spec(self.to_dict())

    @property
    @abstractmethod
    def folder(self) -> str:
        """The folder of similar runs below `runs/`, such as `digits/convnet/fif`."""

    @property
    def run_path(self) -> str:
        """The folder of this run below `runs/`."""
        return f"{self.folder}/{self.run_id}"

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


def _hash_spec(content: Any) -> str:
    """Returns the id of a run, given the content of its `spec.json`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_spec(content: bytes, kind: type[SpecT]) -> SpecT:
    """Reads the content of a `spec.json`.

    Args:
        content: The content.
        kind: The class of the specification.

    Raises:
        StoreError: The content is not a specification of this class.
    """
    try:
        values = json.loads(content)
        if (values["kind"], values["schema"]) != (kind.kind, kind.schema_version):
            raise StoreError(
                f"{SPEC_FILE}: {values['kind']!r} of schema {values['schema']!r}, needs "
                f"{kind.kind!r} of schema {kind.schema_version}"
            )
        return kind.model_validate_json(json.dumps(values["spec"]))
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

    A run is named by its folder below `runs/`, its `run_path`. If it has both a folder and a line
    of a packed file, the folder is used.

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

    def check_writable(self) -> None:
        """Checks that files can be written, and leaves nothing behind.

        Raises:
            StoreError: They cannot.
        """
        existing = next(
            path for path in (self.root, *self.root.absolute().parents) if path.is_dir()
        )
        with os_errors_as_store_error(f"write {self.root}"):
            tempfile.TemporaryDirectory(dir=existing).cleanup()

    def folder(self, spec: Spec) -> Path:
        """Returns the folder of a run, which may not exist."""
        return self.runs / spec.run_path

    def is_packed(self, run_path: str) -> bool:
        """Returns whether a run has a line of a packed file, and no folder."""
        return run_path in self.packed and not (self.runs / run_path / SPEC_FILE).exists()

    def read_file(self, run_path: str, name: str) -> bytes | None:
        """Reads a file of a run, such as a picture.

        Args:
            run_path: The run's folder below `runs/`.
            name: The file's name below the run's folder.

        Returns:
            The content, or None if the file does not exist.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self.is_packed(run_path):
            return read_file(self.runs / run_path / name)
        packed_run = self.packed[run_path]
        if name in packed_run.files:
            return json.dumps(packed_run.files[name]).encode()
        return packed_run.pictures.get(name)

    def list_files(self, run_path: str, subfolder: str = ".") -> list[str]:
        """Lists the JSON files of a run, such as `scores/normal-classifier-2000.json`.

        Args:
            run_path: The run's folder below `runs/`.
            subfolder: The files' folder, below the run's folder.

        Returns:
            Sorted names below the run's folder.
        """
        folder = self.runs / run_path
        names = [path.relative_to(folder).as_posix() for path in folder.glob(f"{subfolder}/*.json")]
        if self.is_packed(run_path):
            names = [*self.packed[run_path].files]
        return sorted(name for name in names if PurePath(name).parent == PurePath(subfolder))

    def read_record(self, spec: Spec, name: str, result: type[ResultT]) -> Record[ResultT] | None:
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
        content = self.read_file(spec.run_path, name) or b""
        record_class: Any = Record[result]  # type: ignore[valid-type] # known only at run time
        try:
            return record_class.parse(content, spec.run_id)
        except StoreError:
            return None

    def has_records(self, spec: Spec, outputs: Mapping[str, type]) -> bool:
        """Returns whether a run has its specification and some records.

        Args:
            spec: The run.
            outputs: Name of a record's file -> type of its result.
        """
        try:
            self.read_run_id(spec.run_path)
        except StoreError:  # the next start writes it again
            return False
        return all(
            self.read_record(spec, name, result) is not None for name, result in outputs.items()
        )

    def check_files(self, run_path: str, record: Record[Any]) -> None:
        """Compares the files that belong to a record with their checksums.

        Args:
            run_path: The run's folder below `runs/`. A packed run has no files.
            record: One of its records.

        Raises:
            StoreError: A file is missing, cannot be read, or was changed.
        """
        if self.is_packed(run_path):
            return
        for name, expected in record.files.items():
            path = self.runs / run_path / name
            if not path.is_file():
                raise StoreError(f"{name} is missing")
            with os_errors_as_store_error(f"read {path}"):
                if checksum(path) != expected:
                    raise StoreError(f"{name} was changed")

    def read_run_id(self, run_path: str) -> str:
        """Computes the id of a run from its `spec.json`.

        Args:
            run_path: The run's folder below `runs/`.

        Raises:
            StoreError: The specification is missing, damaged, or belongs to another run.
        """
        try:
            run_id = _hash_spec(json.loads(self.read_file(run_path, SPEC_FILE) or b""))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{SPEC_FILE} is not a valid specification of a run") from error
        if run_id != PurePath(run_path).name:
            raise StoreError(f"{SPEC_FILE} belongs to run {run_id}")
        return run_id

    def read_spec(self, run_path: str, kind: type[SpecT]) -> SpecT:
        """Reads the specification of a run.

        Args:
            run_path: The run's folder below `runs/`.
            kind: The class of the specification.

        Raises:
            StoreError: The specification is missing, damaged, of another class, or belongs to
                another run.
        """
        spec = read_spec(self.read_file(run_path, SPEC_FILE) or b"", kind)
        if spec.run_path != run_path:
            raise StoreError(f"{SPEC_FILE} belongs to run {spec.run_id}")
        return spec

    def iterate_specs(self, kind: type[SpecT], subfolder: str = ".") -> Iterator[SpecT]:
        """Yields the specifications of the runs of a kind, sorted by their folders' names.

        Folders without a valid specification are skipped; `verify` reports them.

        Args:
            kind: The class of the specifications.
            subfolder: A folder below `runs/`, such as `mnist/resnet`.
        """
        files = (self.runs / subfolder).rglob(SPEC_FILE)
        run_paths = {file.parent.relative_to(self.runs).as_posix() for file in files}
        run_paths |= {path for path in self.packed if PurePath(path).is_relative_to(subfolder)}

        for run_path in sorted(run_paths):
            try:
                yield self.read_spec(run_path, kind)
            except StoreError:
                continue


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
