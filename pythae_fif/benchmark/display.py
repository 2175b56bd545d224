"""What a person sees while the benchmark works: stages, runs under way, time left."""

__all__ = ["Display", "duration"]

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from .engine import Outcome


class Display:
    """A live display on a terminal, a line a finished run elsewhere, nothing if quiet."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a stage of unknown or known length; yields its progress callback."""
        if self.quiet or not self.console.is_terminal:
            yield lambda done, total: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(name, total=None, count="")

            def update(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, count=f"{done}/{total}")

            yield update

    @contextlib.contextmanager
    def runs(
        self, names: dict[Path, str], done: int
    ) -> Iterator[Callable[[dict[Path, dict[str, Any]], list[Outcome]], None]]:
        """Shows the runs; yields the callback of :func:`~.engine.run_all`.

        Args:
            names: Folder -> name of every run that is to be done.
            done: Number of runs that were finished before.
        """
        total, started = len(names), time.monotonic()
        printed = 0

        def line(outcome: Outcome, count: int) -> str:
            end = f": {outcome.error}" if outcome.error else ""
            return f"[{count}/{total}] {outcome.state} {names[outcome.run_dir]}{end}"

        if self.quiet:
            yield lambda running, outcomes: None
            return
        if not self.console.is_terminal:

            def on_change(running: dict[Path, dict[str, Any]], outcomes: list[Outcome]) -> None:
                nonlocal printed
                for count, outcome in enumerate(outcomes[printed:], start=printed + 1):
                    self.console.print(line(outcome, count), markup=False, soft_wrap=True)
                printed = len(outcomes)

            yield on_change
            return

        bar = Progress(TextColumn("{task.description}"), BarColumn(40), auto_refresh=False)
        task = bar.add_task("", total=total)
        with Live(bar, console=self.console, transient=True, refresh_per_second=4) as live:

            def on_change(running: dict[Path, dict[str, Any]], outcomes: list[Outcome]) -> None:
                failed = [outcome for outcome in outcomes if outcome.state != "finished"]
                complete = len(outcomes) + sum(s.get("progress", 0.0) for s in running.values())
                elapsed = time.monotonic() - started
                left = elapsed * (total - complete) / complete if complete > 0.02 * total else None
                counts = [f"{len(outcomes) - len(failed)} of {total} runs done"]
                counts += [f"{done} kept from before"] if done else []
                counts += [f"[red]{len(failed)} failed[/]"] if failed else []
                counts += [f"{duration(left)} left"] if left is not None else []
                bar.update(task, completed=complete, description=", ".join(counts))
                bar.refresh()
                lines = [
                    Text(f"  {names[d]}: {s.get('stage', '')} {s.get('progress', 0.0):.0%}")
                    for d, s in running.items()
                ]
                errors = [
                    Text(f"  failed {names[o.run_dir]}: {o.error}", style="red") for o in failed
                ]
                live.update(Group(bar, *lines, *errors[-3:]))

            yield on_change


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
