"""Run folders and records: written whole, renamed into place, never deleted."""

__all__ = [
    "Store",
    "read_config",
    "read_record",
    "whole_record",
]

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import yaml

from pythae_fif.benchmark.plan import SCHEMA, RunSpec
from pythae_fif.errors import StoreError
from pythae_fif.files import (
    read_json,
    require_writable,
    set_aside,
    write_json,
    write_text,
)
from pythae_fif.runs.claim import Claim, is_claimed
from pythae_fif.runs.records import is_whole
from pythae_fif.runs.remote import Remote, is_url

logger = logging.getLogger(__name__)

# Those of libyaml, where PyYAML has them, are ten times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Store:
    """The folder of results: `runs/<dataset>/<arch>/<model>/<run id>/`, one record a run.

    Args:
        root: The folder; it is made. Or an fsspec URL: then a folder of this machine mirrors what
            lies there, and all that is made goes there; see :mod:`~.remote`.

    Raises:
        StoreError: It cannot be made or written, or the URL cannot be reached.
    """

    def __init__(self, root: str | Path) -> None:
        self.remote = Remote(str(root)) if is_url(root) else None
        self.root = self.remote.folder if self.remote else Path(root).expanduser()
        require_writable(self.root, "choose another folder with --results")
        self._records: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Fetches what others did in a store at a URL, and sends what an earlier start could not.

        Where both have changed a run, what is at the URL stays.
        """
        if self.remote:
            self.remote.pull("runs")
            for run_dir in self.remote.unpushed():
                if not is_claimed(run_dir):
                    self.remote.push(run_dir)

    def publish(self, paths: list[Path]) -> None:
        """Sends tables, figures and pages to the URL of the store, if it has one."""
        for path in paths if self.remote else []:
            self.remote.put(path)  # type: ignore[union-attr]

    def run_dir(self, spec: RunSpec) -> Path:
        """The folder of a run; it may not exist yet."""
        return Path(self.root, "runs", spec.dataset, spec.arch, spec.model, spec.run_id)

    def record(self, spec: RunSpec) -> dict[str, Any] | None:
        """The record of a run, with the scores of some samplers or all, or None.

        A record that cannot be read, or is not of this run, is set aside as
        `result.json.corrupt` (`.corrupt1` and on where there is one), and the run counts as not
        done.
        """
        # A string: a plan of 10,000 runs asks for each twice, and paths would take half the time.
        path = os.path.join(
            self.root, "runs", spec.dataset, spec.arch, spec.model, spec.run_id, "result.json"
        )
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

    def _read(self, path: Path, spec: RunSpec) -> dict[str, Any] | None:
        record = read_record(path)
        if record is None or is_whole(record, spec):
            return record
        claim = Claim(path.parent)
        if not claim.acquire(wait=False):
            return None  # its owner is about to replace it
        try:
            return whole_record(path, spec)  # which may be there since
        finally:
            claim.release()

    def is_done(self, spec: RunSpec) -> bool:
        """Whether a run has the scores of all samplers that are asked of it."""
        record = self.record(spec)
        return record is not None and set(spec.samplers) <= set(record["scores"])

    def prepare(self, spec: RunSpec, environment: dict[str, Any]) -> Path:
        """Makes the folder of a run with its `config.yaml`; its state is `waiting`.

        Args:
            spec: The run.
            environment: What a run needs but its result does not depend on: paths, device.
        """
        run_dir = self.run_dir(spec)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {run_dir}: {error.strerror}") from error
        claimed = is_claimed(run_dir)
        if claimed:  # what its owner was asked for stays asked for
            samplers = (*_samplers_in(run_dir), *spec.samplers)
            spec = dataclasses.replace(spec, samplers=tuple(dict.fromkeys(samplers)))
        content = {"schema": SCHEMA, "spec": json.loads(json.dumps(dataclasses.asdict(spec)))}
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
        write_text(run_dir / "config.yaml", text)
        if not claimed:
            if self.remote:
                below = run_dir.relative_to(self.root).as_posix()
                environment = {**environment, "url": f"{self.remote.url}/{below}"}
            write_json(run_dir / "environment.json", environment)
            # A process that dies before its first word must not leave an earlier attempt's state.
            attempt = (read_json(run_dir / "status.json") or {}).get("attempt", 0)
            write_json(run_dir / "status.json", {"state": "waiting", "attempt": attempt})
            if self.remote:  # a node that has the URL alone can start from there
                self.remote.push(run_dir)
        return run_dir


def read_config(run_dir: Path) -> dict[str, Any]:
    """What a run's `config.yaml` holds: `schema` and `spec`.

    Raises:
        StoreError: There is none, or it is damaged.
    """
    path = run_dir / "config.yaml"
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict) or not {"schema", "spec"} <= set(content):
        raise StoreError(f"{path} is damaged: the command that made it writes it anew")
    return content


def whole_record(path: Path, spec: RunSpec) -> dict[str, Any] | None:
    """The record in a run's folder, or None; one that is not whole is set aside.

    For the one process that has claimed the run.

    Raises:
        StoreError: It is not whole and the folder cannot be written.
    """
    record = read_record(path)
    if record is None or is_whole(record, spec):
        return record
    try:
        aside = set_aside(path)
    except OSError as error:
        raise StoreError(f"{path} is not a whole record: {error.strerror}") from error
    logger.warning("%s is not a whole record: set aside as %s", path, aside.name)
    return None


def read_record(path: Path) -> Any:
    """What a `result.json` holds, nothing if that is no JSON, or None where there is no file.

    Raises:
        StoreError: It cannot be read, which says nothing of what it holds.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    try:
        return json.loads(text) or {}
    except ValueError:
        return {}


def _samplers_in(run_dir: Path) -> tuple[str, ...]:
    """The samplers that a run's `config.yaml` asks for; none if it cannot be read."""
    try:
        return tuple(read_config(run_dir)["spec"]["samplers"])
    except (StoreError, KeyError, TypeError):
        return ()
