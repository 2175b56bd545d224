"""Pythae's trainers with fast batches, a log, checkpoints that resume exactly, and silence."""

__all__ = [
    "BatchDataset",
    "BatchLoader",
    "BenchmarkAdversarialTrainer",
    "BenchmarkCoupledOptimizerAdversarialTrainer",
    "BenchmarkCoupledOptimizerTrainer",
    "BenchmarkTrainer",
    "FIFTrainer",
    "FIFTrainerConfig",
    "TrainingResult",
    "build_trainer",
    "keep_freed_memory",
    "quiet_pythae",
]

from pythae_fif.training.benchmark_trainer import BenchmarkTrainer
from pythae_fif.training.build import (
    BenchmarkAdversarialTrainer,
    BenchmarkCoupledOptimizerAdversarialTrainer,
    BenchmarkCoupledOptimizerTrainer,
    build_trainer,
)
from pythae_fif.training.fif_trainer import FIFTrainer, FIFTrainerConfig, keep_freed_memory
from pythae_fif.training.loader import BatchDataset, BatchLoader
from pythae_fif.training.progress import TrainingResult
from pythae_fif.training.quiet import quiet_pythae
