"""What a training keeps in a folder: log, checkpoint and model, each with the id of its run."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pythae_fif.files import (
    atomic_folder,
    checksum,
    os_errors_as_store_error,
    quarantine,
    write_atomically,
    write_json,
)
from pythae_fif.training.progress import EpochRow, TrainingResult

RESULT_NAME = "training.json"  # of a model: the run, what its training was, the files' checksums


class RunFiles:
    """Reads and writes a run's log, checkpoint and model; only one process writes the folder.

    A checkpoint or a model that is damaged, or of another run, is set aside with a warning.

    Attributes:
        log, checkpoint, model: Their paths; the checkpoint goes when the model is written.
    """

    def __init__(self, path: Path, run_id: str, model_name: str = "model") -> None:
        with os_errors_as_store_error(f"make {path}"):
            path.mkdir(parents=True, exist_ok=True)
        self.path, self.run_id = path, run_id
        self.log, self.checkpoint = path / "train_log.jsonl", path / "checkpoint.pt"
        self.model = path / model_name

    def write_log(self, rows: Iterable[EpochRow], mode: str = "a") -> None:
        """Adds lines of JSON to the log; mode 'w' cuts off what came after a checkpoint."""
        with (
            os_errors_as_store_error(f"write {self.log}"),
            open(self.log, mode, encoding="utf-8") as file,
        ):
            file.writelines(json.dumps({**vars(row), "run_id": self.run_id}) + "\n" for row in rows)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint, of tensors and plain values alone."""
        content = {"run_id": self.run_id, **state}
        write_atomically(self.checkpoint, lambda file: torch.save(content, file))

    def read_checkpoint(
        self, put_back: Callable[[dict[str, Any]], TrainingResult]
    ) -> TrainingResult | None:
        """The progress in the checkpoint, whose content is put back; None where there is none. One
        that is damaged, another run's, or that `put_back` refuses, is set aside."""
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
            quarantine(self.checkpoint, error)
            return None

    def write_model(self, save: Callable[[Path], None], result: TrainingResult) -> None:
        """Writes the model, which is there whole or not at all, by what saves it to a folder, with
        what its training was, and removes the checkpoint."""
        with atomic_folder(self.model) as folder:
            save(folder)
            files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
            content = {"run_id": self.run_id, "result": asdict(result), "files": files}
            write_json(folder / RESULT_NAME, content)
        self.checkpoint.unlink(missing_ok=True)

    def trained(self) -> TrainingResult | None:
        """What the training of the model was that is there; None where there is none of this run. A
        model is set aside where a file in it is not what was written."""
        if not self.model.exists():
            return None
        try:
            content: Any = json.loads((self.model / RESULT_NAME).read_bytes())
            if content["run_id"] != self.run_id:
                raise ValueError("of another run")
            for name, wanted in content["files"].items():
                if not (self.model / name).is_file() or checksum(self.model / name) != wanted:
                    raise ValueError(f"{name} was changed")
            return TrainingResult.from_dict(content["result"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            quarantine(self.model, error)
            return None
