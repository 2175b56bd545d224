"""What a person sees while the benchmark works: stages, runs under way, time left, best so far."""

__all__ = ["Best", "Display", "duration", "initials", "sparkline", "time_left"]

import contextlib
import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pythae_fif.errors import counted

if TYPE_CHECKING:
    from pythae_fif.runs.engines.common import OnChange, Outcome
    from pythae_fif.runs.folder import Status

NUMBERS_WIDTH = 47
"""Columns that a line needs beside the name of its run."""
BARS = "▁▂▃▄▅▆▇█"


class Best(NamedTuple):
    """The run of lowest validation distance of a sampler."""

    sampler: str
    distance: float
    run: str


Losses = Callable[[Path], Sequence[float]]
"""Gives the losses of a run so far, an epoch each; NaN for none."""


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
        with Progress(
            *columns, console=self.console, transient=True, speed_estimate_period=math.inf
        ) as progress:  # a step of a study takes minutes, and rich looks back half a minute
            task = progress.add_task(name, total=None, count="")

            def update(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, count=f"{done}/{total}")

            yield update

    @contextlib.contextmanager
    def runs(
        self, names: dict[Path, str], done: int, losses: Losses, best: Callable[[], list[Best]]
    ) -> "Iterator[OnChange]":
        """Shows the runs; yields what an engine's `run_all` calls.

        Args:
            names: Folder -> name of every run that is to be done.
            done: Number of runs that were finished before.
            losses: For a terminal, of runs under way.
            best: For a terminal, asked again whenever a run has ended.
        """
        if self.quiet:
            yield lambda running, outcomes: None
        elif self.console.is_terminal:
            view = _View(names, done, losses, best)
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
    """What a terminal shows of the runs: counts, a bar, a line a run under way, the best so far,
    recent errors."""

    def __init__(
        self, names: dict[Path, str], done: int, losses: Losses, best: Callable[[], list[Best]]
    ) -> None:
        self.names = names
        self.kept = done
        self.losses = losses
        self.find_best = best
        self.best: tuple[int, list[Best]] = (-1, [])
        """Of how many outcomes, and what was found then."""
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
            f"{counted(total, 'run')}: ",
            Text(", ").join(Text(*part) for part in parts if part[0][0] != "0"),
        )
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=total, completed=complete, width=40),
            f"{complete / total:4.0%}",
            duration(now - self.started),
            f"{duration(left)} left" if left is not None else "",
        )

        if self.best[0] != len(outcomes):
            self.best = len(outcomes), self.find_best()
        errors, best = failed[-3:], self.best[1][:4]
        widest = max(20, width - NUMBERS_WIDTH)
        room = max(1, height - 6 - len(errors) - len(best))
        rows = Table.grid(padding=(0, 2), pad_edge=True)
        for justify in ("left", "left", "right", "right"):
            rows.add_column(justify=justify, no_wrap=True)
        shown = list(running)[: room if len(running) <= room else room - 1]
        if shown:
            rows.add_row("run", "loss", "done", style="dim")
        for run_dir in shown:
            since, share = self.first[run_dir]
            rest = time_left(now - since, progress[run_dir] - share, 1 - progress[run_dir])
            rows.add_row(
                Text(_fitting(self.names[run_dir], widest)),
                self._doing(run_dir, running[run_dir].stage),
                f"{progress[run_dir]:.0%}",
                duration(now - since) if rest is None else f"{duration(rest)} left",
            )
        more = len(running) - len(shown)
        leaders = Table.grid(padding=(0, 2), pad_edge=True)
        for place, (sampler, distance, run) in enumerate(best):
            head = "" if place else "best so far (validation)"
            leaders.add_row(head, sampler, f"{distance:.4g}", Text(_fitting(run, widest)))
        return Group(
            counts,
            bar,
            rows,
            Text(f"  and {more} more" if more else "", style="dim", end="\n" if more else ""),
            *([leaders] if best else []),
            *(
                Text(
                    f"  {o.state} {self.names[o.run_dir]}: {o.error}",
                    style="red", no_wrap=True, overflow="ellipsis",
                )
                for o in errors
            ),
        )  # fmt: skip

    def _doing(self, run_dir: Path, stage: str) -> Text:
        """The losses of a training, the last as a number too; else the stage."""
        losses = self.losses(run_dir) if stage == "training" else ()
        if line := sparkline(losses):
            return Text.assemble((line, "cyan"), f" {losses[-1]:.4g}")
        return Text(stage or "starting")


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Numbers as bars, the lowest a line; of more than `width`, a bar is the mean of its part.

    What is not finite is left out. The full bar is four times as high as the median at most: a loss
    falls to the eye after first epochs far above the rest, too.

    Example:
        >>> sparkline([1000, 5, 4, 3, 2, 1]), sparkline([2.0, 2.0]), sparkline([])
        ('█▄▃▂▂▁', '▁▁', '')
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    bars = min(width, len(known))
    cuts = [round(i * len(known) / bars) for i in range(bars + 1)]
    means = [statistics.fmean(known[a:b]) for a, b in itertools.pairwise(cuts)]
    low, highest = min(means), max(means) - min(means)
    full = min(highest, 4 * (statistics.median(means) - low)) or highest or 1.0
    heights = (min(1.0, (mean - low) / full) for mean in means)
    return "".join(BARS[round(height * (len(BARS) - 1))] for height in heights)


def initials(configuration: str) -> str:
    """Hyper-parameters by the initials of their names, and of the words of lists.

    Example:
        >>> initials("beta=10, hutchinson_samples=2"), initials("flows=Planar+Radial")
        ('b=10 hs=2', 'f=PR')
    """
    short = re.sub(
        r"(\w+)=", lambda m: "".join(w[:1] for w in m[1].split("_")) + "=", configuration
    )
    words = r"[A-Za-z]\w*(\+[A-Za-z]\w*)+"
    short = re.sub(words, lambda m: "".join(word[0] for word in m[0].split("+")), short)
    return short.replace(", ", " ")


def _fitting(name: str, width: int) -> str:
    """A run's name that stays apart from its neighbours', where it is too long: initials, then a
    part of the model's name.

    Example:
        >>> _fitting("disentangled_beta_vae C=25, beta=10 seed 1", 22)
        'disentan… C=25 b=10 s1'
    """
    if len(name) <= width:
        return name
    model, _, rest = initials(name).replace(" seed ", " s").partition(" ")
    return _cut(f"{_cut(model, max(2, width - len(rest) - 1))} {rest}", width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


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
