"""Pythae's trainers with fast batches, a log, checkpoints that resume exactly, and silence."""

__all__ = [
    "BatchDataset",
    "BatchLoader",
    "BenchmarkAdversarialTrainer",
    "BenchmarkBaseTrainer",
    "BenchmarkCoupledOptimizerAdversarialTrainer",
    "BenchmarkCoupledOptimizerTrainer",
    "BenchmarkTrainer",
    "TrainingResult",
    "build_trainer",
    "quiet_pythae",
]

from pythae_fif.trainers.benchmark_trainer import (
    BenchmarkAdversarialTrainer,
    BenchmarkBaseTrainer,
    BenchmarkCoupledOptimizerAdversarialTrainer,
    BenchmarkCoupledOptimizerTrainer,
    BenchmarkTrainer,
    TrainingResult,
    build_trainer,
)
from pythae_fif.trainers.loader import BatchDataset, BatchLoader
from pythae_fif.trainers.quiet import quiet_pythae
