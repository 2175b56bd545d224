"""How long a training lasts, how far it is, what it shows meanwhile, and what it was in the end."""

import functools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pythae.trainers import training_callbacks
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from pythae_fif.errors import NonFiniteError
from pythae_fif.training.loader import Loader

SYNC_EVERY_BATCHES = (
    50  # batches between two looks at the loss: each makes the host wait for the device
)


class LossMeter:
    """The mean losses of batches, summed on their device: only a look at them waits for it. The
    `place` is named by the error; `images` is how many were in the batches. A loss may be
    `infinite` where an exact volume is 0, as at a data point where all ReLUs of a layer are
    dead."""

    def __init__(self, place: str, device: str, *, infinite: bool = False) -> None:
        self.images = self._batches = 0
        self._place, self._infinite = place, infinite
        self._total = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Adds a batch: scalars by their names in the log, `loss` first.

        Raises:
            NonFiniteError: As :meth:`losses`, which looks at them every 50 batches.
        """
        self._names, self._total = [*losses], self._total + torch.stack([*losses.values()])
        self._batches, self.images = self._batches + 1, self.images + images
        if self._batches % SYNC_EVERY_BATCHES == 0:
            self.losses()

    def losses(self) -> dict[str, float]:
        """Those of the batches so far.

        Raises:
            NonFiniteError: `loss` is no number that it may be; the message names the place.
        """
        total, number = self._total.tolist(), self._batches
        if self._infinite and math.isinf(total[0]):
            total[0] = math.inf  # of a decoder's volume, too, whose sign is the other
        elif not math.isfinite(total[0]):
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
    share_done: float
    stage: str | None = None


OnEpoch = Callable[[EpochRow], None]
"""Called after an epoch with its row of the log."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training was in the end; on the way, what it was so far.

    Attributes:
        best_epoch: The epoch, counted from 1, whose weights were kept.
        best_eval_loss: Its evaluation loss; its training loss where there is no evaluation set or
            `keep_best_on_train` is set.
        epochs: Number of epochs trained.
        seconds: Time in training and evaluation steps, of all attempts, in seconds.
        train_seconds: Time in training steps alone, which is what a wall clock counts.
        images: Training images seen, over all epochs.
        images_per_second: Training images per second of the training steps alone.
        log: A row an epoch.
        stage: The last one, of a model that is trained in stages.
    """

    best_epoch: int = 0
    best_eval_loss: float = math.inf
    epochs: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    images_per_second: float = 0.0
    log: list[EpochRow] = field(default_factory=list)
    stage: str | None = None

    def after(self, images: int, train_seconds: float, seconds: float) -> "TrainingResult":
        """The result with another epoch added."""
        images, train_seconds = self.images + images, self.train_seconds + train_seconds
        return replace(
            self,
            epochs=self.epochs + 1,
            seconds=self.seconds + seconds,
            train_seconds=train_seconds,
            images=images,
            images_per_second=images / train_seconds,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingResult":
        """The result that `dataclasses.asdict` made plain."""
        return cls(**{**values, "log": [EpochRow(**row) for row in values.get("log", [])]})


class Budget:
    """How many passes over the data and seconds of steps a training lasts; None for no clock."""

    def __init__(self, loader: Loader, epochs: int, wall_clock: float | None) -> None:
        self._loader, self._size = loader, len(loader.dataset)  # type: ignore[arg-type]
        self._epochs, self._wall_clock = epochs, wall_clock or math.inf

    def share(self, passes: float, seconds: float) -> float:
        """The share of the training that is done after passes and seconds of steps, in [0, 1]."""
        return min(1.0, max(passes / self._epochs, seconds / self._wall_clock))

    def batches(self, progress: TrainingResult) -> Iterator[tuple[Any, int, float]]:
        """The batches of an epoch: each, the pass over the data that it is in, from 1, and the
        share of the training that is done before it.

        An epoch is one pass. Under a wall clock it ends with a pass by which 1/100 of the training
        is done, or with 1/10 of the clock, so that it is worth its evaluation.
        """
        images, seconds, size = progress.images, progress.train_seconds, self._size
        first, start = self.share(images / size, seconds), time.perf_counter() - seconds
        cut = self._wall_clock * (math.floor(10 * seconds / self._wall_clock) + 1) / 10
        while True:
            passes, number = images / size, images // size + 1
            for step, inputs in enumerate(self._loader):
                yield inputs, number, self.share(passes + step / len(self._loader), seconds)
                images, seconds = images + len(inputs["data"]), time.perf_counter() - start
                done = self.share(images / size, seconds)
                if done == 1 or seconds >= cut:
                    return
            if self._wall_clock == math.inf or done >= first + 0.01:
                return


def progress_bar() -> Progress:
    """On a terminal a bar with the time left, whose task is told its share, in [0, 1]."""
    return Progress(
        *(TextColumn("training"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def quiet_pythae() -> Iterator[None]:
    """Within the block Pythae logs nothing below an error and shows no progress bars.

    Each of Pythae's modules has a console handler and the level INFO of its own, so every logger
    is set by itself. tqdm reads its TQDM_DISABLE once, at import, so the name that Pythae's
    progress callback calls is replaced. Blocks can be nested; all is restored at the end.

    Example:
        >>> with quiet_pythae():
        ...     logging.getLogger("pythae.trainers").isEnabledFor(logging.WARNING)
        False
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("pythae.")]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    tqdm = training_callbacks.tqdm
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        training_callbacks.tqdm = functools.partial(tqdm, disable=True)
        yield
    finally:
        training_callbacks.tqdm = tqdm
        for logger, level in levels.items():
            logger.setLevel(level)
