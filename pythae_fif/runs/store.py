"""The results folder: runs in folders below `runs/`, or as lines of packed files."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import StoreError
from pythae_fif.files import os_errors_as_store_error
from pythae_fif.runs.spec import SPEC_FILE, Record, ResultT, Spec, SpecT, read_spec


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
        StoreError: A packed file cannot be read or is damaged.

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
            self.packed |= {packed_run.run: packed_run for packed_run in _read_packed_file(path)}

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
            spec.is_complete(self.record(spec, name, result))
            for name, result in spec.outputs.items()
        )

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
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
