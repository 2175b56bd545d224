"""Silences what Pythae writes to the console."""

__all__ = ["quiet_pythae"]

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pythae.trainers import training_callbacks


@contextmanager
def quiet_pythae() -> Iterator[None]:
    """Within the block Pythae logs nothing below an error and shows no progress bars.

    Each of Pythae's modules has a console handler and the level INFO of its own, which it sets
    when it is imported. So every logger is set by itself; a module that the block is the first to
    import still logs. tqdm reads its TQDM_DISABLE once, at import, so the name that Pythae's
    progress callback calls is replaced instead. Blocks can be nested; all is restored at the end,
    after an exception too.

    Example:
        >>> with quiet_pythae():
        ...     logging.getLogger("pythae.trainers").isEnabledFor(logging.WARNING)
        False
    """
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "pythae"]
    loggers = [logging.getLogger(name) for name in ("pythae", *names)]
    levels = [logger.level for logger in loggers]
    progress_bar = training_callbacks.tqdm
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        training_callbacks.tqdm = functools.partial(progress_bar, disable=True)
        yield
    finally:
        training_callbacks.tqdm = progress_bar
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
