"""The terminal: what a person sees while runs are made, and nothing that others may have written
acts on it."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from pythae_fif.errors import counted, printable

if TYPE_CHECKING:  # which need seconds to import
    from pythae_fif.runs import launch

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


class Display:
    """A bar with the time left on a terminal, a line now and then elsewhere, nothing if quiet."""

    def __init__(self, console: Terminal, *, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self._told, self._said = 0, time.monotonic()

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Progress]:
        columns = BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(
            TextColumn("{task.description}"),
            *columns,
            TextColumn("{task.fields[stage]}"),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
            speed_estimate_period=math.inf,
        ) as bars:
            bars.add_task(name, total=total, stage="")
            yield bars

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a stage; yields what is called with how much of it is done, and of how much."""
        with self._bar(name, None) as bars:
            yield lambda done, total: bars.update(bars.task_ids[0], completed=done, total=total)

    @contextlib.contextmanager
    def runs(self) -> "Iterator[launch.OnChange]":
        """Shows runs; yields what `run_all` calls."""
        with self._bar("starting", 1) as bars:
            yield lambda progress: self._update(bars, progress)

    def _update(self, bars: Progress, progress: "launch.Progress") -> None:
        """Draws the state of all runs, and prints what has ended since."""
        ended, failed = len(progress.outcomes), sum(bool(o.error) for o in progress.outcomes)
        counts = {"done": progress.done + ended - failed, "failed": failed}
        counts["running"] = len(progress.running)
        said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        said = f"{counted(progress.total, 'run')}: {said}"
        now = [f"{spec.title}: {status.stage}" for spec, status in progress.running.items()]
        (task,), stage = bars.task_ids, escape("\n".join(now))
        bars.update(task, description=said, completed=progress.share, stage=stage)
        for outcome in progress.outcomes[self._told :]:
            if outcome.error:  # of which the quiet shall know, too
                self.console.say(f"failed: {outcome.spec.title}: {outcome.error}")
        late = time.monotonic() - self._said > LINE_SECONDS
        if not (self.quiet or self.console.is_terminal) and (late or ended > self._told):
            left = bars.tasks[0].time_remaining
            rest = "" if left is None else f", {duration(left)} left"
            self.console.say(f"{said}; {progress.share:.0%}{rest}")
            self._said = time.monotonic()
        self._told = ended


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
