"""How far a training is, which is what a checkpoint keeps of it, and what it was in the end."""

__all__ = ["Progress", "TrainingResult"]

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training was.

    Attributes:
        best_epoch: The epoch, counted from 1, whose weights were kept.
        best_eval_loss: Its evaluation loss; its training loss where there is no evaluation set or
            `keep_best_on_train` is set.
        epochs: Number of epochs trained, those that a wall clock cut short among them.
        seconds: Time in training and evaluation steps, over all resumed parts, in seconds.
        train_seconds: Time in training steps alone, which is what a wall clock counts.
        images: Training images seen, over all epochs.
        images_per_second: Training images per second of the training steps alone.
    """

    best_epoch: int
    best_eval_loss: float
    epochs: int
    seconds: float
    train_seconds: float
    images: int
    images_per_second: float


@dataclass(frozen=True)
class Progress:
    """How far a training is; frozen, so that an interrupt finds the old or the new one whole."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    stage: str | None = None

    def result(self) -> TrainingResult:
        """Of a training that is complete."""
        return TrainingResult(
            best_epoch=self.best_epoch,
            best_eval_loss=self.best_loss,
            epochs=self.epoch,
            seconds=self.seconds,
            train_seconds=self.train_seconds,
            images=self.images,
            images_per_second=self.images / self.train_seconds,
        )
