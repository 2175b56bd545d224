"""The folder of results: a folder a run below `runs/`, or a line of a packed file of many."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, ValidationError

from pythae_fif.errors import StoreError
from pythae_fif.files import os_errors_as_store_error
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


class Store:
    """Runs below `runs/` of a root, and what is made of them. Opening a store writes nothing.

    A run in a folder of its own counts before its line of a packed file; a StoreError says that a
    packed file is damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.runs = self.root / "runs"
        self.packed: dict[str, PackedRun] = {}
        for path in sorted(self.runs.glob("*.jsonl")):
            for number, line in enumerate((read_file(path) or b"").splitlines(), start=1):
                try:
                    run = PackedRun.model_validate_json(line)
                except ValidationError as error:
                    raise StoreError(f"{path}, line {number} is no run: restore it") from error
                self.packed[run.run] = run

    def __reduce__(self) -> Any:  # for another process, whose working directory may be another
        return Store, (self.root.absolute(),)

    def folder(self, spec: Spec) -> Path:
        """The folder of a run; it may not exist."""
        return self.runs / spec.path

    def packed_run(self, spec: Spec) -> PackedRun | None:
        """A run's line of a packed file, unless it has a folder."""
        there = (self.folder(spec) / SPEC_FILE).exists()
        return None if there else self.packed.get(spec.path)

    def read(self, spec: Spec, name: str) -> bytes | None:
        """The content of a file of a run, such as a picture; None where there is none."""
        line = self.packed_run(spec)
        if line is not None and name in line.files:
            return json.dumps(line.files[name]).encode()
        return line.pictures.get(name) if line else read_file(self.folder(spec) / name)

    def names(self, spec: Spec, below: str = ".") -> list[str]:
        """The JSON files in a folder of a run, such as `scores/normal.json`."""
        line, folder = self.packed_run(spec), self.folder(spec)
        paths = [] if line else folder.glob(f"{below}/*.json")
        names = line.files if line else [path.relative_to(folder).as_posix() for path in paths]
        return sorted(name for name in names if PurePath(name).parent == PurePath(below))

    def record(self, spec: Spec, name: str, result: type[ResultT]) -> Record[ResultT] | None:
        """A record of a run, by its file's name and its result's type; None if it is missing,
        damaged or another run's. A StoreError says that it cannot be read."""
        content = self.read(spec, name)
        kind: Any = Record[result]  # type: ignore[valid-type] # known at run time alone
        try:
            return None if content is None else kind.parse(content, spec.run_id)
        except StoreError:
            return None

    def is_done(self, spec: Spec) -> bool:
        """Whether a run has its specification and a whole record of each of its outputs."""
        try:
            self.spec(spec.path)
        except StoreError:  # the next start writes it again
            return False
        outputs = spec.outputs.items()
        return all(self.record(spec, name, result) is not None for name, result in outputs)

    def spec(self, run: str) -> Spec:
        """The specification in a folder below `runs/`; a StoreError if it has none of its own."""
        content = read_file(self.runs / run / SPEC_FILE)
        if content is None and run in self.packed:
            content = json.dumps(self.packed[run].files.get(SPEC_FILE)).encode()
        spec = read_spec(content or b"")
        if spec.path != run:
            raise StoreError(f"{SPEC_FILE} is that of run {spec.run_id}")
        return spec

    def specs(self, kind: type[SpecT], below: str = ".") -> Iterator[SpecT]:
        """The specifications of the runs of a kind below a folder of `runs/`, such as
        `mnist/resnet`, in the order of their folders' names."""
        files = (self.runs / below).rglob(SPEC_FILE)
        runs = {file.parent.relative_to(self.runs).as_posix() for file in files}
        runs |= {run for run in self.packed if PurePath(run).is_relative_to(below)}
        for run in sorted(runs):
            with contextlib.suppress(StoreError):  # is no run, which `verify` says
                if isinstance(spec := self.spec(run), kind):
                    yield spec


def read_file(path: Path) -> bytes | None:
    """The content of a file, or None where there is none; a StoreError if it cannot be read."""
    with os_errors_as_store_error(f"read {path}"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
