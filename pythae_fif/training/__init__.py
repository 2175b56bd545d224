"""The training loop, with a log, checkpoints that resume exactly, budgets and a progress bar."""

__all__ = [
    "EpochRow", "FIFTrainer", "FIFTrainerConfig", "OnEpoch", "TrainerOptions",
    "TrainingResult", "keep_freed_memory", "quiet_pythae",
]  # fmt: skip

from typing import Any

from pythae.trainers import BaseTrainer

from pythae_fif.training.config import FIFTrainerConfig
from pythae_fif.training.options import TrainerOptions
from pythae_fif.training.precision import keep_freed_memory
from pythae_fif.training.progress import EpochRow, OnEpoch, TrainingResult, quiet_pythae
from pythae_fif.training.trainer import FIFTrainer


def _make_trainer(cls: type, *arguments: Any, **options: Any) -> Any:
    """Makes a `FIFTrainer` if Pythae's trainer class is called with a `FIFTrainerConfig`.

    So a `TrainingPipeline` trains by `FIFTrainer` when it is given our configuration.
    """
    if cls is BaseTrainer and isinstance(options.get("training_config"), FIFTrainerConfig):
        return FIFTrainer(*arguments, **options)

    return object.__new__(cls)


BaseTrainer.__new__ = _make_trainer
