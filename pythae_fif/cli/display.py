"""The terminal: what a person sees while runs are made, and nothing that others may have written
acts on it."""

__all__ = ["Display", "PlainFormatter", "Terminal", "duration"]

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from pythae_fif.errors import counted, printable

if TYPE_CHECKING:  # which need seconds to import
    from pythae_fif.runs import launch
    from pythae_fif.runs.spec import Spec

LINE_SECONDS = 300
"""Without a terminal, a line so often says how far the runs are."""


class Terminal(Console):
    """A console that takes control characters out of every text; see `printable`.

    Statuses, notes and errors of models come from other machines, names of folders too.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of what is printed; those of rich itself move the cursor."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def say(self, text: str) -> None:
        """Prints a text as it is, and leaves its lines whole."""
        self.print(text, markup=False, soft_wrap=True)


class PlainFormatter(logging.Formatter):
    """A log's line as the terminal may show it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line behind its level, without control characters."""
        return printable(f"{record.levelname.lower()}: {super().format(record)}")


class Display:
    """Bars with the time left on a terminal, a line now and then elsewhere, nothing if quiet."""

    def __init__(self, console: Terminal, *, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet

    def _bars(self, more: ProgressColumn) -> Progress:
        hidden = self.quiet or not self.console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), more)
        return Progress(*columns, console=self.console, transient=True, disable=hidden)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a stage; yields what is called with how much of it is done, and of how much."""
        with self._bars(TimeRemainingColumn()) as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def runs(self) -> "Iterator[launch.OnChange]":
        """Shows runs; yields what `run_all` calls."""
        with self._bars(TextColumn("{task.fields[more]}")) as bars:
            yield _Runs(self, bars).update


class _Runs:
    """All runs as a bar, and below it a bar a run that is under way."""

    def __init__(self, display: Display, bars: Progress) -> None:
        self.console, self.quiet, self.bars = display.console, display.quiet, bars
        self.all = bars.add_task("starting", total=1, more="")
        self.tasks: dict[Spec, TaskID] = {}
        self.kept: dict[Spec, float] = {}
        """What was done of a run when it was first seen: it may be one that is resumed."""
        self.told, self.started = 0, time.monotonic()
        self.said = self.started

    def update(self, progress: "launch.Progress") -> None:
        """Draws the state of all runs, and prints what has ended since."""
        ended, failed = len(progress.outcomes), sum(bool(o.error) for o in progress.outcomes)
        done, running = progress.done + ended - failed, len(progress.running)
        counts = {"done": done, "failed": failed, "running": running}
        said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        said, more = f"{counted(progress.total, 'run')}: {said}", self._left(progress)
        self.bars.update(self.all, description=said, completed=progress.share, more=more)
        for spec in [spec for spec in self.tasks if spec not in progress.running]:
            self.bars.remove_task(self.tasks.pop(spec))
        room = max(1, self.console.height - 4)
        for spec, status in list(progress.running.items())[:room]:
            if spec not in self.tasks:
                self.tasks[spec] = self.bars.add_task(f"  {escape(spec.title)}", total=1, more="")
            stage = escape(status.stage)
            self.bars.update(self.tasks[spec], completed=status.share, more=stage)
        for outcome in progress.outcomes[self.told :]:
            if outcome.error:  # of which the quiet shall know, too
                self.console.say(f"failed: {outcome.spec.title}: {outcome.error}")
        late = time.monotonic() - self.said > LINE_SECONDS
        if not (self.quiet or self.console.is_terminal) and (late or ended > self.told):
            self.console.say(f"{said}; {more}")
            self.said = time.monotonic()
        self.told = ended

    def _left(self, progress: "launch.Progress") -> str:
        """The share that is done, and the time left at the speed of what was made so far."""
        for spec, status in progress.running.items():
            self.kept.setdefault(spec, status.share)
        kept = (progress.done + sum(self.kept.values())) / max(1, progress.total)
        made, rest = progress.share - kept, 1 - progress.share
        if made <= 0.02 * (made + rest):  # nobody can say yet
            return f"{progress.share:.0%}"
        left = (time.monotonic() - self.started) * rest / made
        return f"{progress.share:.0%}, {duration(left)} left"


def duration(seconds: float) -> str:
    """For example 45 s, 12 min or 3 h 05 min.

    Example:
        >>> duration(44.6), duration(700), duration(11100)
        ('45 s', '12 min', '3 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
