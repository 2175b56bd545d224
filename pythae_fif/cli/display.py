"""The terminal: progress and messages."""

import contextlib
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from pythae_fif.errors import pluralized
from pythae_fif.runs import launch

BAR_COLUMNS = 36
"""Characters of the bar, the percentage, the remaining time and the spaces between."""
MIN_TITLE = 8
LINE_SECONDS = 10
"""Least time between two lines on a stage, where there is no bar."""


class Terminal(Console):
    """A console that shows the progress of runs and stages.

    On a terminal that is a bar with the remaining time. Elsewhere it is one line for every run that
    ends, and a line from time to time in long stages.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False)
        self._reported = 0

    def say(self, text: str) -> None:
        """Prints a text as it is, without wrapping its lines."""
        self.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Progress]:
        """Shows a progress bar during the block."""
        with Progress(
            "{task.description}",
            *(BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()),
            "{task.fields[stage]}",
            console=self,
            transient=True,
            disable=not self.is_terminal,
            speed_estimate_period=math.inf,
        ) as bar:
            bar.add_task(name, total=total, stage="")
            yield bar

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a stage during the block; yields a callback `progress(done, total)`."""
        with self._bar(name, None) as bar:
            self._last_line = bar.get_time()
            yield partial(self._update_stage, bar)

    @contextlib.contextmanager
    def runs(self) -> Iterator[launch.OnChange]:
        """Shows the progress of runs during the block; yields the callback for `run_all`."""
        with self._bar("starting", 1) as bar:
            yield lambda progress: self._update(bar, progress)

    def _update_stage(self, bar: Progress, done: int, total: int) -> None:
        """Shows the progress of a stage."""
        bar.update(bar.task_ids[0], completed=done, total=total)
        if not self.is_terminal and bar.get_time() - self._last_line > LINE_SECONDS:
            self._say_progress(bar, f"{bar.tasks[0].description}: {done:,} of {total:,}")

    def _say_progress(self, bar: Progress, text: str) -> None:
        """Prints a text and the remaining time as a line."""
        seconds = bar.tasks[0].time_remaining
        time_left = "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
        self.say(f"{text}{time_left}")
        self._last_line = bar.get_time()

    def _update(self, bar: Progress, progress: launch.Progress) -> None:
        """Shows the progress of all runs, and prints lines for those that have ended since."""
        summary = _summarize(progress)
        room = self.width - len(summary) - BAR_COLUMNS
        stages = [
            f"{_shorten(job.title, room - len(status.stage) - 2)}: {status.stage}"
            for job, status in progress.running.items()
        ]
        bar.update(
            bar.task_ids[0],
            description=summary,
            completed=progress.share,
            stage=escape("\n".join(stages)),
        )

        for job, error in list(progress.outcomes.items())[self._reported :]:
            if error:
                self.say(f"failed: {job.title}: {error}")

        if len(progress.outcomes) > self._reported and not self.is_terminal:
            self._say_progress(bar, f"{summary}; {progress.share:.0%}")
        self._reported = len(progress.outcomes)


def _shorten(title: str, length: int) -> str:
    """Cuts a run's title to a length, but not below the name of a model."""
    length = max(length, MIN_TITLE)
    return title if len(title) <= length else f"{title[: length - 1]}…"


def _summarize(progress: launch.Progress) -> str:
    """Returns how many runs there are in each state, such as `4 runs: 1 done, 2 running`."""
    failed = sum(1 for error in progress.outcomes.values() if error)
    counts = {
        "done": progress.done + len(progress.outcomes) - failed,
        "failed": failed,
        "running": len(progress.running),
    }
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{pluralized(progress.total, 'run')}: {states}"
