"""What a training shows on a terminal: its bar, and nothing of Pythae."""

__all__ = ["progress_bar", "quiet_pythae"]

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from pythae.trainers import training_callbacks
from rich.console import Console


@contextmanager
def progress_bar(shown: bool, share_done: float) -> Iterator[Callable[[float], None]]:
    """A bar with the time left on a terminal; nothing elsewhere.

    Args:
        shown: Whether to show one at all.
        share_done: Of the training, before the block.

    Yields:
        What is to be told the share that is done, in [0, 1].
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda share: None
        return
    columns = (
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=1.0, completed=share_done)  # type: ignore[arg-type] # any number will do
        yield lambda share: bar.update(task, completed=share)


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
    tqdm = training_callbacks.tqdm
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        training_callbacks.tqdm = functools.partial(tqdm, disable=True)
        yield
    finally:
        training_callbacks.tqdm = tqdm
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
