"""How far a training is, which is what a checkpoint keeps of it, and what it was in the end."""

__all__ = ["EpochRow", "OnEpoch", "Pass", "Progress", "TrainingResult"]

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pythae_fif.errors import NonFiniteError


@dataclass(frozen=True)
class Pass:
    """A pass over a data set, or the start of one that a wall clock left time for.

    Attributes:
        losses: Means over its batches, by their names in the log, those of
            :class:`~pythae_fif.training.updates.BatchLosses`.
        batches: How many there were.
    """

    losses: dict[str, float]
    batches: int

    @classmethod
    def of(cls, sums: Sequence[float], names: Iterable[str], batches: int, place: str) -> "Pass":
        """The pass whose losses have these sums over its batches, the one named `loss` first.

        Raises:
            NonFiniteError: That is NaN or infinite; the message names the place.
        """
        if not math.isfinite(sums[0]):
            raise NonFiniteError(
                f"{place}: {sums[0]} in one of {batches} batches; a smaller learning rate may help"
            )
        return cls(dict(zip(names, (s / batches for s in sums), strict=True)), batches)


@dataclass(frozen=True)
class EpochRow:
    """An epoch in the log.

    Attributes:
        epoch: Its number, from 1.
        train: Mean losses of the training batches, as in :class:`Pass`.
        eval: Those of the evaluation batches; empty where there are none.
        learning_rates: Those it was trained with: `learning_rate`, or `<network>_learning_rate`.
        seconds: Time in its training and evaluation steps.
        stage: Of a model that is trained in stages.
        share_done: Share of a wall clock that is over, in [0, 1]; None without one.

    Example:
        >>> row = EpochRow(1, {"loss": 2.0}, {"loss": 3.0}, {"learning_rate": 1e-3}, seconds=4.0)
        >>> row.to_json()
        {'epoch': 1, 'train_loss': 2.0, 'eval_loss': 3.0, 'learning_rate': 0.001, 'seconds': 4.0}
        >>> EpochRow.from_json(row.to_json()) == row
        True
    """

    epoch: int
    train: dict[str, float]
    eval: dict[str, float]
    learning_rates: dict[str, float]
    seconds: float
    stage: str | None = None
    share_done: float | None = None

    def to_json(self) -> dict[str, float | str]:
        """A line of `train_log.jsonl`."""
        named = {"stage": self.stage, "share_done": self.share_done}
        return {
            "epoch": self.epoch,
            **{f"train_{name}": loss for name, loss in self.train.items()},
            **{f"eval_{name}": loss for name, loss in self.eval.items()},
            **self.learning_rates,
            "seconds": self.seconds,
            **{name: value for name, value in named.items() if value is not None},
        }

    def by_pythaes_names(self) -> dict[str, float]:
        """The losses as Pythae's callbacks know them."""
        means = {"train": self.train, "eval": self.eval}
        return {f"{split}_epoch_loss": mean["loss"] for split, mean in means.items() if mean}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "EpochRow":
        """What `to_json` gave."""

        def losses(stage: str) -> dict[str, float]:
            return {k.removeprefix(stage): v for k, v in row.items() if k.startswith(stage)}

        return cls(
            epoch=row["epoch"],
            train=losses("train_"),
            eval=losses("eval_"),
            learning_rates={k: v for k, v in row.items() if k.endswith("learning_rate")},
            seconds=row["seconds"],
            stage=row.get("stage"),
            share_done=row.get("share_done"),
        )


OnEpoch = Callable[[int, int, EpochRow], None]
"""Called after an epoch with its number, the number of epochs and its row of the log."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training was.

    Attributes:
        best_epoch: The epoch, counted from 1, whose weights were kept.
        best_eval_loss: Its evaluation loss; its training loss where there is no evaluation set or
            `keep_best_on_train` is set.
        epochs: Number of epochs trained, those that a wall clock cut short among them.
        seconds: Time in training and evaluation steps, of all attempts, in seconds.
        train_seconds: Time in training steps alone, which is what a wall clock counts, and in
            whitening where the model asks for it.
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
        return {**vars(self), "history": [row.to_json() for row in self.history]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        """What `state` gave."""
        history = [EpochRow.from_json(row) for row in state["history"]]
        return cls(**{**state, "history": history})

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
