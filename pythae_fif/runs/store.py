"""The folder of results: a folder a run, written whole; what is damaged is set aside, not lost."""

__all__ = ["RunConfig", "Store", "config_text", "json_content", "read_config"]

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import yaml

from pythae_fif.errors import StoreError
from pythae_fif.files import locked, set_aside, stored, whole_folder, write_text
from pythae_fif.runs.claim import Claim, is_at_work_here, is_claimed
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment, Kind, SpecT
from pythae_fif.runs.pack import PackedRun, read_packs
from pythae_fif.runs.record import RecordT
from pythae_fif.runs.remote import Remote, is_url

logger = logging.getLogger(__name__)


# Those of libyaml, where PyYAML has them, are ten times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class RunConfig:
    """What a run's `config.yaml` holds.

    Attributes:
        kind: Name of the kind of run.
        schema: Version of its records.
        spec: Plain values of its specification.
    """

    kind: str
    schema: int
    spec: dict[str, Any]

    def spec_of(self, kind: Kind[SpecT, Any], run_dir: Path) -> SpecT:
        """The specification.

        Raises:
            StoreError: It is of another kind or version, or its values are not right.
        """
        try:
            if self.kind != kind.name or self.schema != kind.schema:
                raise ValueError
            return kind.spec_from(self.spec)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{run_dir}/config.yaml is no specification of {kind.name}") from error


class Store(Generic[SpecT, RecordT]):
    """Runs of one kind below `runs/`, and what is made of them beside that.

    Opening one writes nothing to its folder.

    A packed run (:mod:`~pythae_fif.runs.pack`) is unpacked into a temporary folder, which
    is removed with the store.

    Args:
        root: The folder. Or an fsspec URL: then a folder of this machine mirrors what lies there,
            and all that is made goes there; see :mod:`~pythae_fif.runs.remote`.
        kind: The kind of run.
        reads_only: Whether damaged records are passed over, not set aside.

    Raises:
        StoreError: A pack is damaged, or the URL cannot be reached.
    """

    def __init__(
        self, root: str | Path, kind: Kind[SpecT, RecordT], reads_only: bool = False
    ) -> None:
        self.kind, self.reads_only = kind, reads_only
        self.remote = Remote(str(root)) if is_url(root) else None
        self.root = self.remote.folder if self.remote else Path(root).expanduser()
        self._records: dict[str, tuple[tuple[int, ...], RecordT]] = {}
        self._packed = {run.run: run for run in read_packs(self.root)}
        self.refresh()

    def refresh(self) -> None:
        """Fetches what others did in a store at a URL, and sends what an earlier start could not.

        Where both have changed a run, what is at the URL stays.
        """
        if self.remote:
            self.remote.pull("runs", spared=is_at_work_here)
            for run_dir in self.remote.unpushed():
                # An owner that died here may still count as living, with all it had to do done.
                if Status.read(run_dir).state == "finished" or not is_claimed(run_dir):
                    self.remote.push(run_dir)

    def publish(self, paths: list[Path]) -> None:
        """Sends tables, figures and pages to the URL of the store, if it has one."""
        if self.remote:
            for path in paths:
                self.remote.put(path)

    def run_dir(self, spec: SpecT) -> Path:
        """The folder to make a run in; it may not exist yet."""
        return Path(self.root, "runs", spec.folder, spec.run_id)

    def place(self, spec: SpecT) -> Path:
        """The folder to read a run in: its own, or, for a packed run, a temporary one."""
        return Path(self._place(spec))

    def _place(self, spec: SpecT) -> str:
        # A string: a plan of 10,000 runs asks for each twice, and paths would take half the time.
        own = os.path.join(self.root, "runs", spec.folder, spec.run_id)
        run = self._packed.get(f"{spec.folder}/{spec.run_id}")
        return str(self._unpack(run)) if run and not os.path.exists(own) else own

    @functools.cached_property
    def _unpacked(self) -> Path:
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _unpack(self, run: PackedRun) -> Path:
        """The folder of a packed run."""
        folder = self._unpacked / run.run
        if not folder.exists():
            run.unpack(folder)
        return folder

    def record(self, spec: SpecT) -> RecordT | None:
        """The record of a run, or None.

        A record that cannot be read, or is not of this run, is set aside as
        `result.json.corrupt` (`.corrupt1` and on where there is one), and the run counts as not
        done.

        Raises:
            StoreError: The file cannot be read, which says nothing of what it holds.
        """
        path = os.path.join(self._place(spec), "result.json")
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        known = self._records.get(path)
        if known is None or known[0] != stamp:
            record = self._read(Path(path), spec)
            if record is None:
                return None
            known = self._records[path] = (stamp, record)
        return known[1]

    def _read(self, path: Path, spec: SpecT) -> RecordT | None:
        record = self.kind.record_in(json_content(path), spec)
        if record is not None or self.reads_only:
            return record
        claim = Claim(path.parent)
        if not claim.acquire(wait=False):
            return None  # its owner is about to replace it
        try:
            return whole_record(self.kind, spec, path)  # which may be there since
        finally:
            claim.release()

    def is_done(self, spec: SpecT) -> bool:
        """Whether a run has a whole record that holds all that is asked of it, and a `config.yaml`.

        So the same command writes a `config.yaml` anew that was lost, or deleted for its damage.
        """
        record, place = self.record(spec), self._place(spec)
        if record is None or not self.kind.is_done(spec, record, Path(place)):
            return False
        return os.path.exists(os.path.join(place, "config.yaml"))

    def is_packed(self, spec: SpecT) -> bool:
        """Whether a run is in a pack alone, finished or failed."""
        return f"{spec.folder}/{spec.run_id}" in self._packed and not self.run_dir(spec).exists()

    def specs(self, below: str = "", known: Container[str] = ()) -> Iterator[SpecT]:
        """The specifications of all runs of this kind in a folder below `runs/`.

        A folder whose `config.yaml` cannot be read, or is that of another run, is passed over.

        Args:
            below: The folder.
            known: Ids of runs that need not be read.
        """
        runs = Path(self.root, "runs")
        folders = {path.parent for path in (runs / below).rglob("config.yaml")}
        packed = {
            runs / name: run
            for name, run in self._packed.items()
            if (runs / name).is_relative_to(runs / below)
        }
        for own in sorted({*folders, *packed}):
            if own.name in known:
                continue
            folder = own if own in folders else self._unpack(packed[own])
            try:
                spec = read_config(folder).spec_of(self.kind, folder)
            except StoreError:
                continue
            if spec.run_id == folder.name:
                yield spec

    def prepare(self, spec: SpecT, environment: Environment) -> Path:
        """Makes the folder of a run with its `config.yaml`; its state is `waiting`.

        A packed run is unpacked there, so that it keeps its scores until it is trained anew. A run
        that another process works on keeps what it was asked for beside what is asked now, and its
        status.

        Raises:
            StoreError: The folder cannot be made or written.
        """
        run_dir = self.run_dir(spec)
        with stored(f"make {run_dir}"):
            run_dir.parent.mkdir(parents=True, exist_ok=True)
            if self.is_packed(spec):
                with locked(run_dir):
                    if self.is_packed(spec):  # another process may just have unpacked it
                        with whole_folder(run_dir) as folder:
                            self._packed[f"{spec.folder}/{spec.run_id}"].unpack(folder)
            run_dir.mkdir(exist_ok=True)
        claimed = is_claimed(run_dir)
        if claimed:
            with contextlib.suppress(StoreError):
                spec = self.kind.joined(read_config(run_dir).spec_of(self.kind, run_dir), spec)
        write_text(run_dir / "config.yaml", config_text(self.kind, spec))
        if self.remote:
            below = run_dir.relative_to(self.root).as_posix()
            environment = dataclasses.replace(environment, url=f"{self.remote.url}/{below}")
        # Of a claimed run, too: where its owner died elsewhere, it soon goes on here.
        environment.write(run_dir)
        if claimed:
            return run_dir
        # A process that dies before its first word must not leave an earlier attempt's state.
        Status("waiting", attempt=Status.read(run_dir).attempt).write(run_dir)
        if self.remote:  # a node that has the URL alone can start from there
            self.remote.push(run_dir)
        return run_dir


def config_text(kind: Kind[SpecT, RecordT], spec: SpecT) -> str:
    """What `config.yaml` holds of a run."""
    content = {"kind": kind.name, "schema": kind.schema, "spec": spec.to_dict()}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def read_config(run_dir: Path) -> RunConfig:
    """What a run's `config.yaml` holds.

    Raises:
        StoreError: There is none, or it is damaged.
    """
    path = run_dir / "config.yaml"
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
        kind, schema, spec = content.get("kind", "images"), content["schema"], content["spec"]
        if isinstance(kind, str) and isinstance(schema, int) and isinstance(spec, dict):
            return RunConfig(kind, schema, spec)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (
        yaml.YAMLError,
        UnicodeDecodeError,
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
    ):
        pass
    raise StoreError(f"{path} is damaged: delete it, and the command that made it writes it anew")


def whole_record(kind: Kind[SpecT, RecordT], spec: SpecT, path: Path) -> RecordT | None:
    """The record in a file, or None; one that is not whole is set aside.

    For the one process that has claimed the run.

    Raises:
        StoreError: The file cannot be read, or is not whole and the folder cannot be written.
    """
    content = json_content(path)
    record = kind.record_in(content, spec)
    if record is None and content is not None:
        aside = set_aside(path)
        logger.warning("%s is not a whole record: set aside as %s", path, aside.name)
    return record


def json_content(path: Path) -> Any:
    """What a JSON file holds, an empty text if that is no JSON, or None if there is no file.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        return ""
