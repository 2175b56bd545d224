"""Counts of images and data points, for progress displays."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with the number of things that are done, and the number of all."""


class Counter:
    """Counts what is done, and reports it.

    Args:
        progress: Called with the number of things that are done, and the number of all.
        total: The number of all.
    """

    def __init__(self, progress: OnProgress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        """Counts further things. A repeated search may count more than all."""
        self._done += count
        self._progress(min(self._done, self._total), self._total)
