"""How far a training is, which is what a checkpoint keeps of it, and what it was in the end."""

__all__ = ["EpochRow", "Means", "OnEpoch", "Progress", "TrainingResult"]

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import NonFiniteError


class Means:
    """The mean losses of batches, summed on their device: only a look at them waits for it.

    Args:
        place: Where the batches are from, for the error.
        device: Of the losses.

    Attributes:
        images: How many were in the batches.
    """

    def __init__(self, place: str, device: str) -> None:
        self.images = self._batches = 0
        self._place = place
        self._total = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Adds a batch: scalars by their names in the log, `loss` first."""
        self._names, self._total = [*losses], self._total + torch.stack([*losses.values()])
        self._batches, self.images = self._batches + 1, self.images + images

    def losses(self) -> dict[str, float]:
        """Those of the batches so far.

        Raises:
            NonFiniteError: `loss` is NaN or infinite; the message names the place.
        """
        total, number = self._total.tolist(), self._batches
        if not math.isfinite(total[0]):
            raise NonFiniteError(
                f"{self._place}: {total[0]} in one of {number} batches; a smaller learning rate "
                "may help"
            )
        return {name: value / number for name, value in zip(self._names, total, strict=True)}


@dataclass(frozen=True)
class EpochRow:
    """An epoch in the log.

    Attributes:
        epoch: Its number, from 1.
        train: Mean losses of the training batches: `loss`, which is the sum where there are several
            optimizers, the loss of each, and what else is logged.
        eval: Those of the evaluation batches; empty where there are none.
        learning_rates: Those it was trained with: `learning_rate`, or `<network>_learning_rate`.
        seconds: Time in its training and evaluation steps.
        share_done: Share of the training that is done after it, in [0, 1].
        stage: Of a model that is trained in stages.
    """

    epoch: int
    train: dict[str, float]
    eval: dict[str, float]
    learning_rates: dict[str, float]
    seconds: float
    share_done: float = math.nan  # early records have none
    stage: str | None = None


OnEpoch = Callable[[EpochRow], None]
"""Called after an epoch with its row of the log."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training was.

    Attributes:
        best_epoch: The epoch, counted from 1, whose weights were kept.
        best_eval_loss: Its evaluation loss; its training loss where there is no evaluation set or
            `keep_best_on_train` is set.
        epochs: Number of epochs trained, those that a wall clock cut short among them.
        seconds: Time in training and evaluation steps, of all attempts, in seconds.
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
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[EpochRow] = field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    stage: str | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {**vars(self), "history": [asdict(row) for row in self.history]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        """What `state` gave."""
        return cls(**{**state, "history": [EpochRow(**row) for row in state["history"]]})

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
