"""The folder of results: a folder a run below `runs/`, or a line of a packed file of many."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import StoreError
from pythae_fif.files import stored
from pythae_fif.runs.record import Record, ResultT
from pythae_fif.runs.spec import SPEC_FILE, Spec, SpecT, read_spec


class PackedRun(BaseModel):
    """A line of a packed file: `runs/digits.jsonl` holds what would be below `runs/digits/`.

    Attributes:
        run: The run's folder below `runs/`.
        files: Name -> content of a JSON file.
        pictures: Name -> a sheet as PNG or WebP, black where figures do not show it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run: str
    files: dict[str, Any]
    pictures: dict[str, Base64UrlBytes] = {}

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None."""
        if name in self.files:
            return json.dumps(self.files[name]).encode()
        return self.pictures.get(name)


class Store:
    """Runs below `runs/`, and what is made of them beside that. Opening one writes nothing.

    A run in a folder of its own counts before its line of a packed file.

    Args:
        root: The folder.

    Raises:
        StoreError: A packed file is damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.runs = self.root / "runs"
        self.packed = {run.run: run for run in _read_packed(self.runs)}

    def __reduce__(self) -> Any:  # for another process, whose working directory may be another
        return Store, (self.root.absolute(),)

    def folder(self, spec: Spec) -> Path:
        """The folder of a run; it may not exist."""
        return self.runs / spec.folder / spec.run_id

    def _packed(self, spec: Spec) -> PackedRun | None:
        """A run's line of a packed file, unless it has a folder."""
        there = (self.folder(spec) / SPEC_FILE).exists()
        return None if there else self.packed.get(f"{spec.folder}/{spec.run_id}")

    def read(self, spec: Spec, name: str) -> bytes | None:
        """The content of a file of a run, such as a picture; None where there is none."""
        packed = self._packed(spec)
        return packed.read(name) if packed else read_file(self.folder(spec) / name)

    def record(self, spec: Spec, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """A record of a run; None where there is none that is whole, and of this run.

        Args:
            spec, name: Of the run, and of the record's file.
            result: Type of its result.

        Raises:
            StoreError: It cannot be read, which says nothing of what it holds.
        """
        content = self.read(spec, name)
        kind: Any = Record[result]  # type: ignore[valid-type] # known at run time alone
        try:
            return None if content is None else kind.parse(content, spec.run_id)
        except StoreError:
            return None

    def names(self, spec: Spec, below: str) -> list[str]:
        """Names of the JSON files in a folder of a run, such as `scores`, with that folder."""
        packed = self._packed(spec)
        if packed:
            return sorted(name for name in packed.files if name.startswith(f"{below}/"))
        paths = (self.folder(spec) / below).glob("*.json")
        return sorted(f"{below}/{path.name}" for path in paths)

    def is_done(self, spec: Spec) -> bool:
        """Whether a run has a whole record of each of its outputs."""
        outputs = spec.outputs.items()
        return all(self.record(spec, name, result) is not None for name, result in outputs)

    def is_packed(self, spec: Spec) -> bool:
        """Whether a run is in a packed file, which has no models."""
        return f"{spec.folder}/{spec.run_id}" in self.packed

    def specs(self, kind: type[SpecT], below: str = "") -> Iterator[SpecT]:
        """The specifications of the runs of a kind, in the order of their folders' names.

        What is no such specification, or is that of another run, is passed over.

        Args:
            kind: Their class.
            below: A folder below `runs/`, such as `mnist/resnet`.
        """
        paths = (self.runs / below).rglob(SPEC_FILE)
        found = {path.parent.relative_to(self.runs).as_posix(): path for path in paths}
        inside = {name for name in self.packed if name.startswith(f"{below}/" if below else "")}
        for name in sorted({*found, *inside}):
            there = name in found
            try:
                content = read_file(found[name]) if there else self.packed[name].read(SPEC_FILE)
                spec = read_spec(content or b"")
            except StoreError:
                continue
            if isinstance(spec, kind) and name == f"{spec.folder}/{spec.run_id}":
                yield spec


def read_file(path: Path) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
        StoreError: It cannot be read, or is no file: a pipe would wait for ever.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"cannot read {path}: it is no file of a run")
        with stored(f"read {path}"):
            return file.read()


def _read_packed(runs: Path) -> Iterator[PackedRun]:
    for path in sorted(runs.glob("*.jsonl")):
        with stored(f"read {path}"):
            lines = path.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                yield PackedRun.model_validate_json(line)
            except ValidationError as error:
                raise StoreError(f"{path}, line {number} is no run: restore the file") from error
