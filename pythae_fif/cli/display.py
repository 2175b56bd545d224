"""The terminal: what a person sees while runs are made. No text that it shows controls it."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.segment import Segment

from pythae_fif.errors import pluralized, strip_control_characters
from pythae_fif.runs import launch


class Terminal(Console):
    """A console that takes control characters out of every text; see `printable`. What goes on has
    a bar with the time left on a terminal, and elsewhere a line for each run."""

    def __init__(self) -> None:
        super().__init__(highlight=False)
        self._told = 0

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of what is printed; those of rich itself move the cursor."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=strip_control_characters(segment.text))
            )

    def say(self, text: str) -> None:
        """Prints a text as it is, and leaves its lines whole."""
        self.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Progress]:
        with Progress(
            "{task.description}",
            *(BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()),
            "{task.fields[stage]}",
            console=self,
            transient=True,
            disable=not self.is_terminal,
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
    def runs(self) -> Iterator[launch.OnChange]:
        """Shows runs; yields what `run_all` calls."""
        with self._bar("starting", 1) as bars:
            yield lambda progress: self._update(bars, progress)

    def _update(self, bars: Progress, progress: launch.Progress) -> None:
        """Draws the state of all runs, and prints what has ended since."""
        ended, failed = len(progress.outcomes), sum(map(bool, progress.outcomes.values()))
        counts = {"done": progress.done + ended - failed, "failed": failed}
        counts["running"] = len(progress.running)
        said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        said = f"{pluralized(progress.total, 'run')}: {said}"
        now = [f"{spec.title}: {status.stage}" for spec, status in progress.running.items()]
        (task,), stage = bars.task_ids, escape("\n".join(now))
        bars.update(task, description=said, completed=progress.share, stage=stage)
        for spec, error in [*progress.outcomes.items()][self._told :]:
            if error:
                self.say(f"failed: {spec.title}: {error}")
        if ended > self._told and not self.is_terminal:
            left = bars.tasks[0].time_remaining
            rest = "" if left is None else f", {timedelta(seconds=round(left))} left"
            self.say(f"{said}; {progress.share:.0%}{rest}")
        self._told = ended
