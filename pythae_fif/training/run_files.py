"""What a training keeps in the folder of its run: log, checkpoint and model."""

__all__ = [
    "CHECKPOINT_NAME",
    "LOG_NAME",
    "PlainFolder",
    "RunFiles",
    "TrainingFiles",
    "new_folder",
    "read_checkpoint",
    "read_log",
]

import contextlib
import copy
import datetime
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import torch
from pythae.models import BaseAE

from pythae_fif.device import set_random_state
from pythae_fif.errors import StoreError, first_line
from pythae_fif.files import set_aside, stored, whole_folder, write_whole
from pythae_fif.training.progress import EpochRow, Progress
from pythae_fif.training.updates import Optimizers

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "train_log.jsonl"
"""The log in a run's folder, a line of JSON an epoch."""


@runtime_checkable
class RunFiles(Protocol):
    """The folder of a run. Who can lose the run gives an object that knows whether it has."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def run_id(self) -> str | None:
        """What its checkpoints carry; another's is not resumed from. None for any."""

    def check(self) -> None:
        """Called at every write; raises where this process may not write any more."""


@dataclass(frozen=True)
class PlainFolder:
    """A folder that nobody else writes to; made if needed.

    Raises:
        StoreError: It cannot be made.
    """

    path: Path
    run_id: str | None = None

    def __post_init__(self) -> None:
        with stored(f"make the run folder {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Does nothing."""


def new_folder(parent: Path, model_name: str) -> Path:
    """A folder that was not there, named by model and time; numbered, where several begin at once.

    Raises:
        StoreError: It cannot be made.
    """
    name = f"{model_name}_training_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    with stored(f"make a run folder in {parent}"):
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / (name if number == 1 else f"{name}_{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
    return folder


def read_log(path: Path) -> list[EpochRow]:
    """The rows of a training log, without lines that are half written or damaged; no rows where
    there is no file."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            rows.append(EpochRow.from_json(json.loads(line)))
    return rows


def read_checkpoint(
    run: RunFiles, put_back: Callable[[dict[str, Any]], T], *, writes: bool = True
) -> T | None:
    """What is made of a run's checkpoint; None where there is none.

    One that does not fit is set aside, with a warning, and the training starts afresh.

    Args:
        run: Where it is.
        put_back: Takes its content; raises whatever it likes where that does not fit.
        writes: Whether this process sets it aside.
    """
    path = run.path / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        return put_back(torch.load(path, map_location="cpu", weights_only=True))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # torch.load raises anything on a damaged file
        if writes:
            run.check()
            logger.warning(
                "%s cannot be resumed from (%s): set aside as %s, training starts afresh",
                path,
                first_line(error),
                set_aside(path).name,
            )
        return None


class TrainingFiles:
    """Reads and writes the files of a training; asks `RunFiles.check` at every write.

    Args:
        run: Where they are.
        model_name: Name of the folder for the model.
        writes: Whether this process writes: of several the first alone does.
    """

    def __init__(self, run: RunFiles, model_name: str, *, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._model = run.path / model_name
        self._log = run.path / LOG_NAME
        self._checkpoint = run.path / CHECKPOINT_NAME

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Writes a file whole, unless the run is lost until then."""
        if self._writes:
            write_whole(path, write, self._run.check)

    def write_log(self, rows: Iterable[EpochRow]) -> None:
        """Replaces the log: what came after the checkpoint that a training resumes from is cut."""
        log = "".join(json.dumps(row.to_json()) + "\n" for row in rows)
        self._write(self._log, lambda file: file.write(log.encode()))

    def append_to_log(self, row: EpochRow) -> None:
        """Adds a line to the log.

        Raises:
            StoreError: It cannot be written.
        """
        if not self._writes:
            return
        self._run.check()
        with stored(f"write {self._log}"), open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(row.to_json()) + "\n")

    def save_checkpoint(
        self, progress: Progress, model: BaseAE, optimizers: Optimizers, random: dict[str, Any]
    ) -> None:
        """Replaces the checkpoint, of tensors and plain values alone.

        Args:
            progress: Up to the end of an epoch.
            model, optimizers: Their state then.
            random: Of :func:`random_state`, then.
        """
        state = {
            "run_id": self._run.run_id,
            "progress": progress.state(),
            "model": model.state_dict(),
            **optimizers.state(),
            "random": random,
        }
        self._write(self._checkpoint, lambda file: torch.save(state, file))

    def restore(self, model: BaseAE, optimizers: Optimizers) -> Progress | None:
        """Puts back the checkpoint's state; the progress then, or None where there is none.

        A checkpoint that does not fit is set aside, and the model is as it was before.

        Raises:
            StoreError: A `PlainFolder` with a trained model, which would be replaced.
        """
        if not self._checkpoint.exists():
            if isinstance(self._run, PlainFolder) and self._model.exists():
                raise StoreError(
                    f"{self._run.path}: its training is done; load {self._model}, or give another "
                    "run_dir"
                )
            return None
        initial = copy.deepcopy(model.state_dict())

        def put_back(state: dict[str, Any]) -> Progress:
            if state.get("run_id") not in (None, self._run.run_id):
                raise ValueError("of another model, configuration or number of data")
            progress = Progress.from_state(state["progress"])
            model.load_state_dict(state["model"])
            optimizers.restore(state)
            set_random_state(state["random"])
            return progress

        progress = read_checkpoint(self._run, put_back, writes=self._writes)
        if progress is None:
            model.load_state_dict(initial)
        return progress

    def finish(self, save_model: Callable[[str], None]) -> None:
        """Saves the model and removes the checkpoint, which is of no more use.

        Args:
            save_model: Writes the model, and what else must be there before it, to the folder that
                it is given, which then takes its final name.

        Raises:
            StoreError: The model cannot be written.
        """
        if not self._writes:
            return
        self._run.check()
        try:
            with whole_folder(self._model) as folder:
                save_model(str(folder))
                self._run.check()  # a large model takes its time
                if self._model.exists():
                    shutil.rmtree(self._model)
        except RuntimeError as error:  # of torch, for example of a full disk
            raise StoreError(f"cannot write {self._model}: {first_line(error)}") from error
        self._checkpoint.unlink(missing_ok=True)
