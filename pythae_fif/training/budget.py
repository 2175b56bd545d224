"""How long a training lasts, in epochs or by a wall clock."""

__all__ = ["Budget"]

import math
import time

from pythae_fif.training.progress import Progress

INTERVALS = 10
"""An epoch under a wall clock ends with its pass over the data, or with such an interval of the
clock, so that a short training too has its evaluations, checkpoints and stages."""


class Budget:
    """A number of epochs, or a number of seconds of training steps.

    Args:
        epochs: The epochs.
        wall_clock: Seconds, in place of epochs; or None.
    """

    def __init__(self, epochs: int, wall_clock: float | None) -> None:
        self.epochs = epochs
        self.wall_clock = wall_clock
        self._begin = self._end_of_epoch = math.inf

    def share_done(self, progress: Progress) -> float:
        """The share of the training that is done between two epochs; 1 of a complete one."""
        if self.wall_clock is None:
            return min(1.0, progress.epoch / self.epochs)
        return min(1.0, progress.train_seconds / self.wall_clock)

    def share_before_step(self, epoch: int, step: int, steps: int) -> float:
        """The share of the training that is done before a step of an epoch, in [0, 1].

        Args:
            epoch, step: Their numbers, from 1.
            steps: Steps of a whole pass over the data.
        """
        if self.wall_clock is None:
            return (epoch - 1 + (step - 1) / steps) / self.epochs
        return min(1.0, max(0.0, (time.perf_counter() - self._begin) / self.wall_clock))

    def pass_of(self, progress: Progress, size: int) -> int:
        """Number of the pass over the training data in which the next epoch begins, from 1.

        A wall clock may cut one pass over the data, of `size` items, into several epochs.
        """
        return progress.epoch + 1 if self.wall_clock is None else 1 + progress.images // size

    def start_epoch(self, progress: Progress) -> float:
        """Starts an epoch; the time that it is now, in seconds of `time.perf_counter`."""
        now = time.perf_counter()
        if self.wall_clock is not None:
            interval = math.floor(INTERVALS * progress.train_seconds / self.wall_clock) + 1
            self._begin = now - progress.train_seconds
            self._end_of_epoch = self._begin + self.wall_clock * interval / INTERVALS
        return now

    def is_epoch_over(self) -> bool:
        """Whether no other step shall be made in this epoch."""
        return time.perf_counter() >= self._end_of_epoch
