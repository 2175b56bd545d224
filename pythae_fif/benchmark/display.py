"""What a person sees while the benchmark works: stages, runs under way, time left."""

__all__ = ["Display", "duration", "time_left"]

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pythae_fif.runs.engines.common import OnChange, Outcome
    from pythae_fif.runs.folder import Status

NUMBERS_WIDTH = 58
"""Columns that a line needs beside the name of its run."""


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
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(name, total=None, count="")

            def update(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, count=f"{done}/{total}")

            yield update

    @contextlib.contextmanager
    def runs(self, names: dict[Path, str], done: int) -> "Iterator[OnChange]":
        """Shows the runs; yields what an engine's `run_all` calls.

        Args:
            names: Folder -> name of every run that is to be done.
            done: Number of runs that were finished before.
        """
        if self.quiet:
            yield lambda running, outcomes: None
        elif self.console.is_terminal:
            view = _View(names, done)
            with Live(console=self.console, transient=True, auto_refresh=False) as live:
                yield lambda running, outcomes: live.update(
                    view.draw(running, outcomes, *self.console.size), refresh=True
                )
        else:
            printed = 0

            def on_change(running: "dict[Path, Status]", outcomes: "list[Outcome]") -> None:
                nonlocal printed
                for count, outcome in enumerate(outcomes[printed:], start=printed + 1):
                    end = f": {outcome.error}" if outcome.error else ""
                    line = f"{outcome.state} {names[outcome.run_dir]}{end}"
                    self.console.print(
                        f"[{count}/{len(names)}] {line}", markup=False, soft_wrap=True
                    )
                printed = len(outcomes)

            yield on_change


class _View:
    """What a terminal shows of the runs: counts, a bar, a line a run under way, recent errors."""

    def __init__(self, names: dict[Path, str], done: int) -> None:
        self.names = names
        self.kept = done
        self.started = time.monotonic()
        self.first: dict[Path, tuple[float, float]] = {}
        """When a run was first seen, and its progress then: it may be one that is resumed."""

    def draw(
        self,
        running: "dict[Path, Status]",
        outcomes: "list[Outcome]",
        width: int,
        height: int,
    ) -> Group:
        now, total = time.monotonic(), len(self.names)
        progress = {run_dir: status.progress for run_dir, status in running.items()}
        for run_dir, share in progress.items():
            self.first.setdefault(run_dir, (now, share))
        failed = [outcome for outcome in outcomes if outcome.state != "finished"]
        before = sum(share for _, share in self.first.values())
        complete = len(outcomes) + sum(progress.values())
        left = time_left(now - self.started, complete - before, total - complete)

        parts = [
            (f"{len(outcomes) - len(failed)} done", "green"),
            (f"{len(failed)} failed", "red"),
            (f"{len(running)} running", ""),
            (f"{total - len(outcomes) - len(running)} waiting", ""),
            (f"{self.kept} kept from before", ""),
        ]
        counts = Text.assemble(
            f"{total} run{'s'[: total != 1]}: ",
            Text(", ").join(Text(*part) for part in parts if part[0][0] != "0"),
        )
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=total, completed=complete, width=40),
            f"{complete / total:4.0%}",
            duration(now - self.started),
            f"{duration(left)} left" if left is not None else "",
        )

        errors = failed[-3:]
        room = max(1, height - 4 - len(errors))
        rows = Table.grid(padding=(0, 2), pad_edge=True)
        widest = max(20, width - NUMBERS_WIDTH)
        rows.add_column(no_wrap=True, overflow="ellipsis", max_width=widest)
        for justify in ("left", "right", "right", "right"):
            rows.add_column(justify=justify, no_wrap=True)
        for run_dir in list(running)[: room if len(running) <= room else room - 1]:
            since, share = self.first[run_dir]
            rest = time_left(now - since, progress[run_dir] - share, 1 - progress[run_dir])
            rows.add_row(
                Text(_fitting(self.names[run_dir], widest)),
                Text(running[run_dir].stage or "starting"),
                f"{progress[run_dir]:.0%}",
                duration(now - since),
                f"{duration(rest)} left" if rest is not None else "",
            )
        more = len(running) - rows.row_count
        return Group(
            counts,
            bar,
            rows,
            Text(f"  and {more} more" if more else "", style="dim", end="\n" if more else ""),
            *(
                Text(
                    f"  {o.state} {self.names[o.run_dir]}: {o.error}",
                    style="red", no_wrap=True, overflow="ellipsis",
                )
                for o in errors
            ),
        )  # fmt: skip


def _fitting(name: str, width: int) -> str:
    """A run's name with the initials of its hyper-parameters, where it is too long.

    Example:
        >>> _fitting("fif beta=10, hutchinson_samples=2", 22)
        'fif b=10 hs=2'
    """
    if len(name) <= width:
        return name
    initials = re.sub(r"(\w+)=", lambda m: "".join(w[:1] for w in m[1].split("_")) + "=", name)
    return initials.replace(", ", " ")


def time_left(seconds: float, made: float, rest: float) -> float | None:
    """Seconds for the rest at the speed of what was made so far; None before anyone can say."""
    return seconds * rest / made if made > 0.02 * (made + rest) else None


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
