"""One training loop, with a log, checkpoints that resume exactly, budgets, and silence."""

__all__ = [
    "LOG_NAME",
    "BatchDataset",
    "BatchLoader",
    "EpochRow",
    "FIFTrainer",
    "FIFTrainerConfig",
    "OnEpoch",
    "RunFiles",
    "TrainingResult",
    "keep_freed_memory",
    "quiet_pythae",
    "read_log",
]

import pythae_fif.training.pipeline  # noqa: F401  (its effect on Pythae)
from pythae_fif.training.config import FIFTrainerConfig
from pythae_fif.training.loader import BatchDataset, BatchLoader
from pythae_fif.training.memory import keep_freed_memory
from pythae_fif.training.progress import EpochRow, OnEpoch, TrainingResult
from pythae_fif.training.quiet import quiet_pythae
from pythae_fif.training.run_files import LOG_NAME, RunFiles, read_log
from pythae_fif.training.trainer import FIFTrainer
