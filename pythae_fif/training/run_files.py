"""What a training keeps in the folder of its run: log, checkpoint and model."""

__all__ = ["PlainFolder", "RunFiles", "TrainingFiles"]

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from pythae_fif.errors import StoreError
from pythae_fif.files import set_aside, write_whole
from pythae_fif.training.progress import EpochRow

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "train_log.jsonl"


@runtime_checkable
class RunFiles(Protocol):
    """The folder of a run. Who can lose the run passes an implementation of its own."""

    def path(self, name: str) -> Path:
        """The path of a file or folder of that name; of the run's folder for ''."""

    def check(self) -> None:
        """Called before every write; raises where this process may not write any more."""


@dataclass(frozen=True)
class PlainFolder:
    """A folder that nobody else writes to; made if needed.

    Raises:
        StoreError: It cannot be made.
    """

    folder: Path

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the run folder {self.folder}: {error}") from error

    def path(self, name: str) -> Path:
        return self.folder / name

    def check(self) -> None:
        """Does nothing."""


class TrainingFiles:
    """Reads and writes the files of a training; asks `RunFiles.check` before every write.

    Args:
        run: Where they are.
        model_name: Name of the folder for the model.
        writes: Whether this process writes: of several the first alone does.
    """

    def __init__(self, run: RunFiles, model_name: str, *, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._model = run.path(model_name)
        self._log = run.path(LOG_NAME)
        self.checkpoint = run.path(CHECKPOINT_NAME)

    def _may_write(self) -> bool:
        if self._writes:
            self._run.check()
        return self._writes

    def write_log(self, rows: Iterable[EpochRow]) -> None:
        """Replaces the log: what came after the checkpoint that a training resumes from is cut."""
        if self._may_write():
            log = "".join(json.dumps(row.to_json()) + "\n" for row in rows)
            write_whole(self._log, lambda file: file.write(log.encode()))

    def append_to_log(self, row: EpochRow) -> None:
        """Adds a line to the log.

        Raises:
            StoreError: It cannot be written.
        """
        if not self._may_write():
            return
        try:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps(row.to_json()) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {self._log}: {error}") from error

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint by one of tensors and plain values, as `weights_only` needs."""
        if self._may_write():
            write_whole(self.checkpoint, lambda file: torch.save(state, file))

    def set_checkpoint_aside(self, error: str) -> None:
        """Renames a checkpoint that cannot be resumed from, and warns with the error's name."""
        if self._may_write():
            aside = set_aside(self.checkpoint)
            logger.warning(
                "%s cannot be resumed from (%s): set aside as %s, training starts afresh",
                self.checkpoint,
                error,
                aside.name,
            )

    def finish(self, save_model: Callable[[str], None]) -> None:
        """Saves the model and removes the checkpoint, which is of no more use.

        Args:
            save_model: Writes the model to the folder that it is given.

        Raises:
            StoreError: The model cannot be written.
        """
        if not self._may_write():
            return
        temporary = self._model.with_name(self._model.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save_model(str(temporary))
            self._run.check()  # a large model takes its time
            if self._model.exists():
                shutil.rmtree(self._model)
            os.replace(temporary, self._model)
        except StoreError:
            raise
        except (OSError, RuntimeError) as error:  # the latter of torch, for example of a full disk
            line = str(error).splitlines()[0]
            raise StoreError(f"cannot write {self._model}: {line}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.checkpoint.unlink(missing_ok=True)
