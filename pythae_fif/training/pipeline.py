"""Lets Pythae's `TrainingPipeline`, which makes a `BaseTrainer`, train with :class:`FIFTrainer`."""

__all__: list[str] = []

from typing import Any

from pythae.trainers import BaseTrainer

from pythae_fif.training.config import FIFTrainerConfig
from pythae_fif.training.trainer import FIFTrainer


def _make_trainer(cls: type, *arguments: Any, **options: Any) -> Any:
    """Given our configuration, Pythae's class makes a `FIFTrainer`."""
    if cls is BaseTrainer and isinstance(options.get("training_config"), FIFTrainerConfig):
        return FIFTrainer(*arguments, **options)
    return object.__new__(cls)


BaseTrainer.__new__ = _make_trainer
