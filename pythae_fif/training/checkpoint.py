"""What a training keeps in a folder: log, checkpoint and model, each with the id of its run."""

__all__ = ["LOG_NAME", "RESULT_NAME", "RunFiles", "read_log"]

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from pythae_fif.errors import StoreError, one_line
from pythae_fif.files import checksum, set_aside, stored, whole_folder, write_json, write_whole
from pythae_fif.training.progress import EpochRow, TrainingResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_NAME = "train_log.jsonl"
"""The log in a run's folder, a line of JSON an epoch."""
RESULT_NAME = "training.json"
"""In the folder of a trained model: the run, what its training was, checksums of the files."""


def read_log(path: Path, run_id: str | None = None) -> list[EpochRow]:
    """The rows of a training log, without lines that are half written or damaged.

    Args:
        path: The file; there are no rows where there is none.
        run_id: Rows of other runs are left out; None for any.
    """
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row.pop("run_id") == run_id or run_id is None:
                rows.append(EpochRow(**row))
    return rows


class RunFiles:
    """Reads and writes log, checkpoint and model of a run.

    Whatever is damaged, or of another run, is set aside with a warning and not used.

    Args:
        path: The folder, which only one process writes to; made if needed.
        run_id: Stands in every file.
        model_name: Of the model's folder in it.

    Attributes:
        log, checkpoint, model: Their paths; the checkpoint goes when the model is written.

    Raises:
        StoreError: The folder cannot be made; of the methods, read or written.
    """

    def __init__(self, path: Path, run_id: str, model_name: str = "model") -> None:
        with stored(f"make the run folder {path}"):
            path.mkdir(parents=True, exist_ok=True)
        self.path, self.run_id = path, run_id
        self.log, self.checkpoint = path / LOG_NAME, path / "checkpoint.pt"
        self.model = path / model_name

    def write_log(self, rows: Iterable[EpochRow]) -> None:
        """Replaces the log: what came after the checkpoint that a training resumes from is cut."""
        if len(read_log(self.log)) > len(read_log(self.log, self.run_id)):
            self._set_aside(self.log, "a log of another run")
        text = "".join(map(self._line, rows))
        write_whole(self.log, lambda file: file.write(text.encode()))

    def append_to_log(self, row: EpochRow) -> None:
        """Adds a line to the log."""
        with stored(f"write {self.log}"), open(self.log, "a", encoding="utf-8") as file:
            file.write(self._line(row))

    def _line(self, row: EpochRow) -> str:
        return json.dumps({**asdict(row), "run_id": self.run_id}) + "\n"

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint, of tensors and plain values alone."""
        content = {"run_id": self.run_id, **state}
        write_whole(self.checkpoint, lambda file: torch.save(content, file))

    def read_checkpoint(self, put_back: Callable[[dict[str, Any]], T]) -> T | None:
        """What is made of the checkpoint; None where there is none that can be used.

        Args:
            put_back: Takes its content; raises whatever it likes where that does not fit.
        """
        if not self.checkpoint.is_file():
            return None
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if state["run_id"] != self.run_id:
                raise ValueError("of another model, configuration or number of data")
            return put_back(state)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # torch.load raises anything on a damaged file
            self._set_aside(self.checkpoint, one_line(error))
            return None

    def write_model(self, save: Callable[[Path], None], result: TrainingResult) -> None:
        """Writes the model, which is there whole or not at all, and removes the checkpoint.

        Args:
            save: Writes the model to the folder that it is given, which is then renamed.
            result: Of its training.
        """
        try:
            with whole_folder(self.model) as folder:
                save(folder)
                files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
                content = {"run_id": self.run_id, "result": vars(result), "files": files}
                write_json(folder / RESULT_NAME, content)
        except RuntimeError as error:  # of torch, for example of a full disk
            raise StoreError(f"cannot write {self.model}: {one_line(error)}") from error
        self.checkpoint.unlink(missing_ok=True)

    def trained(self) -> TrainingResult | None:
        """What the training of the model was that is there; None where there is none of this run.

        A model is set aside where a file in it is not what was written.
        """
        if not self.model.exists():
            return None
        try:
            content: Any = json.loads((self.model / RESULT_NAME).read_bytes())
            if content["run_id"] != self.run_id:
                raise ValueError("of another run")
            for name, wanted in content["files"].items():
                if not (self.model / name).is_file() or checksum(self.model / name) != wanted:
                    raise ValueError(f"{name} was changed")
            return TrainingResult(**content["result"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._set_aside(self.model, one_line(error))
            return None

    def weights(self) -> dict[str, Any]:
        """Those of the trained model, as Pythae's models save them."""
        saved = torch.load(self.model / "model.pt", map_location="cpu", weights_only=True)
        return dict(saved["model_state_dict"])

    def _set_aside(self, path: Path, why: str) -> None:
        aside = set_aside(path)
        logger.warning("%s is not used (%s): set aside as %s", path, why, aside.name)
