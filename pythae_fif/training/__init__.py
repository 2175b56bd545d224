"""The training loop, with a log, checkpoints that resume exactly, budgets and a progress bar."""

__all__ = [
    "EpochRow", "FIFTrainer", "FIFTrainerConfig", "FIFTrainingPipeline", "OnEpoch",
    "TracedStep", "TrainerOptions", "TrainingResult", "keep_freed_memory", "quiet_pythae",
]  # fmt: skip

from pythae_fif.training.config import FIFTrainerConfig, TrainerOptions
from pythae_fif.training.pipeline import FIFTrainingPipeline
from pythae_fif.training.precision import keep_freed_memory
from pythae_fif.training.progress import EpochRow, OnEpoch, TrainingResult, quiet_pythae
from pythae_fif.training.traced_step import TracedStep
from pythae_fif.training.trainer import FIFTrainer
