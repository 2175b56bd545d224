"""What a person sees of the runs, on a terminal and elsewhere."""

import io
import re
import time
from pathlib import Path

from rich.console import Console

from pythae_fif.benchmark.display import Best, Display, _View
from pythae_fif.benchmark.model_entry import read_model_entry, shown
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.runs.engines.common import Outcome
from pythae_fif.runs.folder import Status

RUNS = {Path("a"): "fif beta=1", Path("b"): "ae –"}
NOTHING = (lambda run_dir: (), lambda: [])
"""Neither losses nor a best run."""
OUTCOMES = [Outcome(Path("a"), "finished"), Outcome(Path("b"), "failed", "[boom] it broke")]


class TestDisplay:
    def _shown(self, *updates, told=NOTHING, **options) -> str:
        file = io.StringIO()
        with Display(Console(file=file, width=80, **options)).runs(RUNS, 3, *told) as on_change:
            for running, outcomes in updates:
                on_change(running, outcomes)
        return file.getvalue()

    UNDER_WAY = ({Path("b"): Status("running", "training", 0.5)}, OUTCOMES[:1])

    def test_a_line_a_run_where_there_is_no_terminal(self):
        shown = self._shown(self.UNDER_WAY, ({}, OUTCOMES))
        assert shown == "[1/2] finished fif beta=1\n[2/2] failed ae –: [boom] it broke\n"

    def test_terminal_shows_what_is_under_way(self):
        shown = self._shown(self.UNDER_WAY, force_terminal=True, color_system=None)
        for part in ("2 runs: 1 done, 1 running, 3 kept from before", "75%", " left"):
            assert part in shown
        assert re.search(r"ae – +training +50% +\d+ s", shown)

    def test_terminal_shows_errors(self):
        shown = self._shown(({}, OUTCOMES), force_terminal=True, color_system=None)
        for part in ("2 runs: 1 done, 1 failed,", "failed ae –: [boom] it broke"):
            assert part in shown

    def test_terminal_shows_losses_and_the_best(self):
        """The best is asked for again only when a run has ended."""
        asked = []

        def best():
            asked.append(1)
            return [Best("N", 5.625, "fif beta=1"), Best("GMM", 2.5, "ae –")]

        told = (lambda run_dir: [9.0, 3.0, 1.25] if run_dir == Path("b") else (), best)
        shown = self._shown(
            *[self.UNDER_WAY] * 3, ({}, OUTCOMES), told=told, force_terminal=True, color_system=None
        )
        assert re.search(r"ae – +█▃▁ 1\.25 +50%", shown)
        assert re.search(r"best so far \(validation\) +N +5\.625 +fif beta=1", shown)
        assert re.search(r"\n +GMM +2\.5 +ae –", shown)
        assert len(asked) == 2

    def test_names_stay_apart_at_80_columns(self):
        """All configurations of each model, running at once, and no line is wider."""
        for model in names_in("models"):
            names = {}
            for number, choice in enumerate(read_model_entry(model).choices()):
                configuration = ", ".join(f"{k}={shown(v)}" for k, v in choice.items())
                names[Path(str(number))] = f"{model} {configuration or '–'} seed 1"
            losses = (lambda run_dir: [-1.23e-5] * 12, lambda: [])
            running = dict.fromkeys(names, Status("running", "training"))
            console = Console(file=io.StringIO(), width=80)
            with console.capture() as captured:
                console.print(_View(names, 0, *losses).draw(running, [], 80, 40))
            lines = captured.get().splitlines()[3:]
            found = {line.partition("  ▁")[0] for line in lines if "▁" in line}
            assert len(found) == len(names), found
            assert max(map(len, lines)) <= 80

    def test_more_runs_than_lines(self):
        names = {Path(str(number)): f"run {number}" for number in range(50)}
        file = io.StringIO()
        console = Console(file=file, width=80, height=12, force_terminal=True, color_system=None)
        with Display(console).runs(names, 0, *NOTHING) as on_change:
            on_change({name: Status("running", "training") for name in list(names)[:30]}, [])
        shown = file.getvalue()
        assert "50 runs: 30 running, 20 waiting" in shown
        assert "run 4 " in shown and "run 5 " not in shown and "and 25 more" in shown

    def test_time_left_of_a_run_that_is_resumed(self, monkeypatch):
        """Half of it was there: the next quarter in 10 s means 10 s for the last one."""
        clock = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        view = _View({Path("a"): "a"}, 0, *NOTHING)
        for clock[0], progress in ((0.0, 0.5), (10.0, 0.75)):
            group = view.draw({Path("a"): Status("running", progress=progress)}, [], 80, 20)
        console = Console(file=io.StringIO(), width=80)
        console.print(group)
        _, of_all, _, of_run = console.file.getvalue().splitlines()
        assert "10 s  10 s left" in of_all and "75%  10 s left" in of_run

    def test_stage_on_a_terminal_and_elsewhere(self):
        texts = []
        for terminal in (True, False):
            file = io.StringIO()
            console = Console(file=file, width=80, force_terminal=terminal, color_system=None)
            with Display(console).stage("loading faces") as progress:
                progress(3, 10)
            texts.append(file.getvalue())
        assert "loading faces" in texts[0] and "3/10" in texts[0]
        assert texts[1] == ""

    def test_time_left_of_a_stage_whose_steps_take_long(self):
        file, clock = io.StringIO(), [0.0]
        console = Console(file=file, width=80, force_terminal=True, get_time=lambda: clock[0])
        with Display(console).stage("toy") as progress:
            for step in (1, 2):
                clock[0] += 100.0
                progress(step, 4)
        assert "0:03:20" in file.getvalue()

    def test_quiet_says_nothing(self):
        file = io.StringIO()
        display = Display(Console(file=file, force_terminal=True), quiet=True)
        with display.runs(RUNS, 0, *NOTHING) as on_change, display.stage("x") as progress:
            on_change({}, OUTCOMES)
            progress(1, 2)
        assert file.getvalue() == ""
