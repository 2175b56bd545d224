"""Run folders and records: written whole, renamed into place, never deleted."""

__all__ = ["Store", "is_whole", "read_json", "write_json"]

import dataclasses
import json
import logging
import math
import os
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from pythae_fif.errors import StoreError
from pythae_fif.trainers.checkpoint import write_whole

from .plan import SCHEMA, RunSpec

logger = logging.getLogger(__name__)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole.

    Raises:
        StoreError: The folder does not take it.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(path, lambda file: file.write((text + "\n").encode()))


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is no file or it is not whole JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class Store:
    """The folder of results: `runs/<dataset>/<arch>/<model>/<run id>/`, one record a run.

    Args:
        root: The folder; it is made.

    Raises:
        StoreError: It cannot be made or written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        probe = self.root / f".writable-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"the results folder {self.root} cannot be written ({error.strerror}): "
                f"choose another with --results"
            ) from error

    def run_dir(self, spec: RunSpec) -> Path:
        """The folder of a run; it may not exist yet."""
        return self.root / "runs" / spec.dataset / spec.arch / spec.model / spec.run_id

    def record(self, spec: RunSpec) -> dict[str, Any] | None:
        """The record of a run, with the scores of some samplers or all, or None.

        A record that cannot be read, or is not of this run, is set aside as
        `result.json.corrupt` (`.corrupt1` and on where there is one), and the run counts as not
        done.
        """
        path = self.run_dir(spec) / "result.json"
        if not path.exists():
            return None
        record = read_json(path)
        if is_whole(record, spec):
            return record
        asides = (path.with_name(f"{path.name}.corrupt{number or ''}") for number in count())
        aside = next(free for free in asides if not free.exists())
        os.replace(path, aside)
        logger.warning("%s is not a whole record: set aside as %s", path, aside.name)
        return None

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
        content = {"schema": SCHEMA, "spec": json.loads(json.dumps(dataclasses.asdict(spec)))}
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {run_dir}: {error.strerror}") from error
        text = yaml.safe_dump(content, sort_keys=False)
        write_whole(run_dir / "config.yaml", lambda file: file.write(text.encode()))
        write_json(run_dir / "environment.json", environment)
        # A process that dies before its first word must not leave the state of an earlier attempt.
        attempt = (read_json(run_dir / "status.json") or {}).get("attempt", 0)
        write_json(run_dir / "status.json", {"state": "waiting", "attempt": attempt})
        return run_dir


def is_whole(record: Any, spec: RunSpec) -> bool:
    """Whether this is the record of a run, with every number that choices and tables need."""
    try:
        distances = [scores["frechet"] for scores in record["scores"].values()]
        errors = [*distances, record["reconstruction_mse"]]
        numbers = [by_split[split] for by_split in errors for split in ("val", "test")]
        return (
            record["schema"] == SCHEMA
            and record["run_id"] == spec.run_id
            and len(distances) > 0
            and all(map(math.isfinite, [*numbers, record["training"]["seconds"]]))
            and {"parameters", "data", "provenance"} <= set(record)
        )
    except (AttributeError, KeyError, TypeError):
        return False
