"""A training's budget of time."""

__all__ = ["PARTS_OF_BUDGET", "Clock"]

import math
import time

PARTS_OF_BUDGET = 10
"""An epoch under a wall clock ends with its pass over the data, or with such a part of the budget,
so that a short budget too has its evaluations, checkpoints and stages."""


class Clock:
    """Tells when an epoch's time is over.

    Args:
        wall_clock: The whole training's time in seconds, or None for no limit.
    """

    def __init__(self, wall_clock: float | None) -> None:
        self.wall_clock = wall_clock
        self.begin = self.end = math.inf

    def start(self, before: float) -> float:
        """Starts an epoch after so many seconds of training; the time that it is now."""
        now = time.perf_counter()
        if self.wall_clock is not None:
            part = math.floor(PARTS_OF_BUDGET * before / self.wall_clock) + 1
            self.begin = now - before
            self.end = self.begin + self.wall_clock * part / PARTS_OF_BUDGET
        return now

    def is_over(self) -> bool:
        """Whether no other step shall be made in this epoch."""
        return time.perf_counter() >= self.end

    def share_done(self) -> float:
        """The part of the wall clock that is over, in [0, 1]."""
        assert self.wall_clock is not None
        return min(1.0, max(0.0, (time.perf_counter() - self.begin) / self.wall_clock))
