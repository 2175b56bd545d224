"""The terminal: whatever is printed there, nothing but our own styles acts on it."""

__all__ = ["PlainFormatter", "Terminal"]

import logging
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pythae_fif.errors import printable


class Terminal(Console):
    """A console that takes control characters out of every text; see `printable`.

    Statuses, notes and errors of models come from other machines, names of folders too.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of what is printed; those of rich itself move the cursor."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class PlainFormatter(logging.Formatter):
    """A log's line as the terminal may show it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line behind its level, without control characters."""
        return printable(f"{record.levelname.lower()}: {super().format(record)}")
