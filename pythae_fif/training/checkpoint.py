"""The files of a training: log, checkpoint and model, each with the id of its run."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from pythae.models import BaseAE
from pythae.trainers import BaseTrainerConfig

from pythae_fif.errors import ConfigError, format_error
from pythae_fif.files import (
    atomic_folder,
    checksum,
    digest,
    os_errors_as_store_error,
    quarantine,
    write_atomically,
    write_json,
)
from pythae_fif.training.config import TrainerOptions
from pythae_fif.training.progress import EpochRow, TrainingResult

RESULT_NAME = "training.json"
"""File in a model's folder with the run's id, the training's result and the files' checksums."""

LOG_NAME = "train_log.jsonl"
"""File in a run's folder with one line per epoch."""

MUTABLE_SETTINGS = {
    "output_dir", "num_epochs", "early_stopping_patience", "no_cuda",
    "train_dataloader_num_workers", "eval_dataloader_num_workers", "world_size", "rank",
    "local_rank", "dist_backend", "master_addr", "master_port",
}  # fmt: skip
"""Keys of the configuration that may differ when a training resumes."""


class RunFiles:
    """Reads and writes the log, the checkpoint and the model of a run.

    Only one process may write the folder. A checkpoint or a model that is damaged, or that belongs
    to another run, is set aside with a warning.

    Args:
        path: Folder of the run, which is created.
        run_id: Identifier of the run, written into every file.
        model_name: Name of the model's folder.

    Attributes:
        log: Path of the log.
        checkpoint: Path of the checkpoint, which is deleted when the model is written.
        model: Path of the model's folder.

    Raises:
        StoreError: The folder cannot be created.
    """

    def __init__(self, path: Path, run_id: str, model_name: str = "model") -> None:
        with os_errors_as_store_error(f"make {path}"):
            path.mkdir(parents=True, exist_ok=True)

        self.path = path
        self.run_id = run_id
        self.log = path / LOG_NAME
        self.checkpoint = path / "checkpoint.pt"
        self.model = path / model_name

    def write_log(self, rows: Iterable[EpochRow], mode: str = "a") -> None:
        """Writes rows to the log, one line of JSON each.

        Args:
            rows: The epochs to write.
            mode: 'a' appends; 'w' replaces the log, which drops rows newer than a checkpoint.

        Raises:
            StoreError: The log cannot be written.
        """
        with (
            os_errors_as_store_error(f"write {self.log}"),
            open(self.log, mode, encoding="utf-8") as file,
        ):
            file.writelines(json.dumps({**vars(row), "run_id": self.run_id}) + "\n" for row in rows)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint by a state, which may hold only tensors and plain values."""
        write_atomically(
            self.checkpoint, lambda file: torch.save({"run_id": self.run_id, **state}, file)
        )

    def read_checkpoint(
        self, restore: Callable[[dict[str, Any]], TrainingResult]
    ) -> TrainingResult | None:
        """Restores a training from the checkpoint.

        A checkpoint is set aside if it is damaged, belongs to another run, or makes `restore` fail.

        Args:
            restore: Puts the checkpoint's state back, and returns its progress.

        Returns:
            What `restore` returned; None if there is no usable checkpoint.
        """
        if not self.checkpoint.is_file():
            return None

        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if state["run_id"] != self.run_id:
                raise ValueError("it is for another model, configuration or number of data")
            return restore(state)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # torch.load may raise any exception on a damaged file
            quarantine(self.checkpoint, error)
            return None

    def write_model(self, save: Callable[[Path], None], result: TrainingResult) -> None:
        """Writes the model's folder, all or nothing, and deletes the checkpoint.

        Args:
            save: Saves the model into a folder.
            result: The result of the training, which is written into the same folder.

        Raises:
            StoreError: The folder cannot be written.
        """
        with atomic_folder(self.model) as folder:
            save(folder)
            checksums = {file.name: checksum(file) for file in sorted(folder.iterdir())}
            write_json(
                folder / RESULT_NAME,
                {"run_id": self.run_id, "result": asdict(result), "files": checksums},
            )

        self.checkpoint.unlink(missing_ok=True)

    def read_result(self) -> TrainingResult | None:
        """Reads the result of the finished training, and checks the files of its model.

        A model is set aside if it belongs to another run, or if one of its files was changed.

        Returns:
            The result; None if there is no usable model.
        """
        if not self.model.exists():
            return None

        try:
            content: Any = json.loads((self.model / RESULT_NAME).read_bytes())
            if content["run_id"] != self.run_id:
                raise ValueError("it belongs to another run")
            for name, expected_checksum in content["files"].items():
                file = self.model / name
                if not file.is_file() or checksum(file) != expected_checksum:
                    raise ValueError(f"{name} was changed")
            return TrainingResult.from_dict(content["result"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            quarantine(self.model, error)
            return None


def check_can_be_saved(model: BaseAE, config: BaseTrainerConfig) -> None:
    """Checks that a model can be saved after its training, before it is trained in vain.

    Args:
        model: The model.
        config: The training's configuration, which is saved with it.

    Raises:
        ConfigError: One of them cannot be saved.
    """
    try:
        config.to_json_string()
        with open(os.devnull, "wb") as sink:
            cloudpickle.dump([*model.children()], sink)
    except Exception as error:
        raise ConfigError(
            f"the model could not be saved after training: {format_error(error)}"
        ) from error


def default_run_id(
    model: BaseAE, config: BaseTrainerConfig, options: TrainerOptions, datasets: tuple[Any, Any]
) -> str:
    """Returns a digest of what defines the result of a training.

    Args:
        model: The model with its first weights.
        config: The training's configuration.
        options: Its options, from the configuration or from the trainer's arguments.
        datasets: The training set, and the evaluation set or None.
    """
    settings = {
        key: value for key, value in config.to_dict().items() if key not in MUTABLE_SETTINGS
    }
    sizes = [None if dataset is None else len(dataset) for dataset in datasets]
    return digest(
        model.model_config.to_dict(),
        settings,
        model,
        options.precision,
        options.gradient_clip_norm,
        options.scheduler_interval,
        sizes,
    )
