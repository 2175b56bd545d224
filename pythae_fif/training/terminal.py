"""What a training shows on a terminal: its bar, and nothing of Pythae."""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pythae.trainers import training_callbacks
from rich import progress
from rich.console import Console


def progress_bar(shown: bool) -> progress.Progress:
    """A bar with the time left on a terminal, of a task that is told its share, in [0, 1]; nothing
    elsewhere, or where it shall not be shown."""
    return progress.Progress(
        progress.TextColumn("training"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
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
