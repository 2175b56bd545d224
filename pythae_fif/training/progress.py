"""The progress of a training: its losses, its log, its budget and its progress bar."""

import functools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pythae.trainers import training_callbacks
from torch import Tensor
from tqdm import tqdm

from pythae_fif.errors import ConfigError, NonFiniteError
from pythae_fif.training.datasets import Loader

SYNC_EVERY_BATCHES = 50
"""Batches between two checks of the loss; each makes the host wait for the device."""


class LossMeter:
    """Running means of batch losses.

    The losses are summed on their device; only reading the means makes the host wait for it.

    Args:
        place: Where the losses arise, for the error: 'epoch 2, train loss'.
        device: Device of the losses.
        infinite: Whether the loss may be infinite, as where all ReLUs of a layer are dead at a
            data point, so that its exact volume is 0.

    Attributes:
        images: Number of images in the batches so far.
    """

    def __init__(self, place: str, device: str, *, infinite: bool = False) -> None:
        self.images = 0
        self._batches = 0
        self._place = place
        self._infinite = infinite
        self._total = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Adds the losses of a batch, and checks the means every 50 batches.

        Args:
            losses: Scalar losses by their names in the log, `loss` first.
            images: Number of images in the batch.

        Raises:
            NonFiniteError: See :meth:`means`.
        """
        self._names = list(losses)
        self._total = self._total + torch.stack(list(losses.values()))
        self._batches += 1
        self.images += images
        if self._batches % SYNC_EVERY_BATCHES == 0:
            self.means()

    def means(self) -> dict[str, float]:
        """Returns the mean losses of the batches so far, by their names.

        Raises:
            NonFiniteError: `loss` is NaN, or is infinite although it may not be. The message names
                the place.
        """
        totals = self._total.tolist()
        if self._infinite and math.isinf(totals[0]):
            totals[0] = math.inf  # A decoder without volume gives -inf, and is as bad.
        elif not math.isfinite(totals[0]):
            raise NonFiniteError(
                f"{self._place}: {totals[0]} after {self._batches} batches; a smaller learning "
                "rate may help"
            )
        return {
            name: total / self._batches for name, total in zip(self._names, totals, strict=True)
        }


@dataclass(frozen=True)
class EpochRow:
    """The row of an epoch in the log.

    Attributes:
        epoch: Number of the epoch, from 1.
        train: Mean losses of the training batches: `loss`, the loss of each optimizer if there are
            several (`loss` is their sum), and other logged losses.
        eval: Mean losses of the evaluation batches; empty without evaluation data.
        learning_rates: Learning rates of the epoch's last step: `learning_rate`, or
            `<network>_learning_rate`.
        seconds: Time in training and evaluation steps.
        share_done: Share of the training that is done after the epoch, in [0, 1].
        stage: The model's stage, if it is trained in stages.
        train_seconds: Time in training steps; None in early logs.
    """

    epoch: int
    train: dict[str, float]
    eval: dict[str, float]
    learning_rates: dict[str, float]
    seconds: float
    share_done: float
    stage: str | None = None
    train_seconds: float | None = None


OnEpoch = Callable[[EpochRow], None]
"""A function that is called after each epoch with its row of the log."""

Limit = Literal["num_epochs", "wall_clock", "processor_time", "early_stopping_patience"]
"""The limit that ends a training."""


def epochs_since_best(log: Sequence[EpochRow]) -> int:
    """Returns the number of epochs after the lowest evaluation loss in the last stage of a log."""
    losses = [row.eval["loss"] for row in log if row.stage == log[-1].stage]
    return len(losses) - 1 - losses.index(min(losses))


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training, or its progress so far.

    Attributes:
        best_epoch: Number of the epoch, from 1, that gave the final weights.
        best_eval_loss: Evaluation loss of that epoch, or its training loss if there is no
            evaluation set or `keep_best_on_train` is set.
        epochs: Number of epochs.
        seconds: Time in training and evaluation steps, over all attempts: processor time if
            `processor_time` limits the training.
        train_seconds: The same in training steps only, which the limit is for.
        images: Number of training images seen, over all epochs.
        images_per_second: Training images per second of training steps.
        log: The row of each epoch.
        stage: The model's last stage, if it is trained in stages.
        ended_by: The limit that ended the training: 'num_epochs', 'wall_clock', 'processor_time' or
            'early_stopping_patience'. None before the end, and in results of version 0.2.
        surrogate: How FIF's volume term was computed, see `FIF.surrogate_mode`, after the word
            'traced' if steps ran as a graph; None for other models.
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
    ended_by: Limit | None = None
    surrogate: str | None = None

    def with_epoch(self, images: int, train_seconds: float, seconds: float) -> "TrainingResult":
        """Returns the result with the counts of another epoch added.

        Args:
            images: Training images of the epoch.
            train_seconds: Time in its training steps.
            seconds: Time in its training and evaluation steps.
        """
        total_images = self.images + images
        total_train_seconds = self.train_seconds + train_seconds
        return replace(
            self,
            epochs=self.epochs + 1,
            seconds=self.seconds + seconds,
            train_seconds=total_train_seconds,
            images=total_images,
            images_per_second=total_images / total_train_seconds,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingResult":
        """Restores a result from the plain values that `dataclasses.asdict` made of it."""
        log = [EpochRow(**row) for row in values.get("log", [])]
        return cls(**{**values, "log": log})


class Budget:
    """The length of a training, in passes over the data and in seconds of training steps.

    Args:
        loader: Loader of the training data.
        epochs: Maximum number of passes.
        wall_clock: Maximum number of seconds; None for no limit.
        processor_time: Maximum number of processor seconds; None for no limit. Only one of the two
            can be given.

    Attributes:
        clock: The clock of all times: processor time if it is limited, and otherwise a wall clock.

    Raises:
        ConfigError: A limit is not above 0, or both are given.
    """

    def __init__(
        self,
        loader: Loader,
        epochs: int,
        wall_clock: float | None = None,
        processor_time: float | None = None,
    ) -> None:
        seconds: dict[Limit, float | None] = {
            "wall_clock": wall_clock,
            "processor_time": processor_time,
        }
        limits = {name: limit for name, limit in seconds.items() if limit is not None}
        for name, limit in limits.items():
            if not limit > 0:
                raise ConfigError(f"{name}={limit}: use a number of seconds above 0, or None")
        if len(limits) > 1:
            raise ConfigError("wall_clock and processor_time: give one of them")

        self.clock = time.perf_counter if processor_time is None else time.process_time
        self._loader = loader
        self._size = len(loader.dataset)  # type: ignore[arg-type]
        self._epochs = epochs
        self._time_limit, self._max_seconds = next(iter(limits.items()), ("wall_clock", math.inf))

    def share_done(self, progress: TrainingResult) -> float:
        """Returns the share of the training that is done, in [0, 1]."""
        return self._share(progress.images / self._size, progress.train_seconds)

    def _share(self, passes: float, seconds: float) -> float:
        """Returns the share that so many passes, or seconds of training steps, are."""
        return min(1.0, max(passes / self._epochs, seconds / self._max_seconds))

    def limit_reached(self, progress: TrainingResult) -> Limit | None:
        """Returns the limit that ends the training after the last epoch; None if it goes on."""
        if self.share_done(progress) < 1:
            return None
        return "num_epochs" if progress.images >= self._epochs * self._size else self._time_limit

    def batches(self, progress: TrainingResult) -> Iterator[tuple[Any, int, float]]:
        """Yields the batches of an epoch.

        An epoch is one pass over the data. If time is limited it has more passes until 1/100 of the
        training is done in it, and ends early at each 1/10 of the time, so that an epoch is long
        enough to be worth an evaluation and not longer than needed.

        Args:
            progress: The progress before the epoch.

        Yields:
            The batch; the number of the pass over the data, from 1; and the share of the training
            that is done before the batch.
        """
        images = progress.images
        seconds = progress.train_seconds
        clock_start = self.clock() - seconds
        next_tenth = self._max_seconds * (math.floor(10 * seconds / self._max_seconds) + 1) / 10

        while True:
            passes = images / self._size
            pass_number = images // self._size + 1
            for step, inputs in enumerate(self._loader):
                yield inputs, pass_number, self._share(passes + step / len(self._loader), seconds)

                images += len(inputs["data"])
                seconds = self.clock() - clock_start
                share_done = self._share(images / self._size, seconds)
                if share_done == 1 or seconds >= next_tenth:
                    return

            if self._max_seconds == math.inf or share_done >= self.share_done(progress) + 0.01:
                return


@contextmanager
def progress_bar(share_done: float) -> Iterator[Callable[[float], None]]:
    """Shows a progress bar with the time remaining within a block, if there is a terminal.

    Args:
        share_done: Share of the training that is done at the beginning, in [0, 1].

    Yields:
        A function that shows another share.
    """
    with tqdm(
        total=1.0,
        initial=share_done,
        bar_format="training |{bar}| {percentage:3.0f}% {remaining}",
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        yield lambda share: bar.update(share - bar.n)


@contextmanager
def quiet_pythae() -> Iterator[None]:
    """Silences Pythae's log messages below an error and its progress bars within a block.

    Each of Pythae's modules has a logger with a console handler and the level INFO, so every logger
    is set separately. tqdm reads TQDM_DISABLE only once, at import, so the name that Pythae's
    progress callback calls is replaced. Blocks can be nested; everything is restored at the end.

    Example:
        >>> with quiet_pythae():
        ...     logging.getLogger("pythae.trainers").isEnabledFor(logging.WARNING)
        False
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("pythae.")]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    pythaes_tqdm = training_callbacks.tqdm

    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        training_callbacks.tqdm = functools.partial(pythaes_tqdm, disable=True)
        yield
    finally:
        training_callbacks.tqdm = pythaes_tqdm
        for logger, level in levels.items():
            logger.setLevel(level)
