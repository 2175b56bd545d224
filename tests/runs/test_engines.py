"""The local engine, and what a person sees of it."""

import io
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.experiments import ENVIRONMENT, tiny

from pythae_fif.benchmark import Store, expand
from pythae_fif.benchmark.display import Display, _View
from pythae_fif.errors import ConfigError, StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.engines import LocalEngine, Outcome, Slot
from pythae_fif.runs.engines.common import cores, settle

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")

ONE, TWO = (LocalEngine(gpus=[], cpus_per_run=max(1, cores() // n)) for n in (1, 2))
"""On the processor, so many runs at once."""


@pytest.fixture
def prepared(tmp_path):
    """Makes run folders of a tiny plan: prepared(flags, **profile) -> store, plan, folders."""

    def prepare(flags: dict | None = None, **profile):
        store = Store(tmp_path / "results")
        plan = expand(*tiny(tmp_path, flags, **profile))
        return store, plan, [store.prepare(spec, ENVIRONMENT) for spec in plan]

    return prepare


def _ignore(running, outcomes) -> None:
    """Watches nothing."""


class TestSlots:
    def test_cores_are_divided(self):
        slots = LocalEngine(gpus=[]).slots()
        assert 1 <= len(slots) <= 4 and sum(slot.threads for slot in slots) <= cores()
        assert LocalEngine(gpus=[], cpus_per_run=1).slots() == [Slot("cpu", 1)] * cores()

    @pytest.mark.parametrize(
        ("visible", "gpus", "devices"),
        [
            (None, None, ["0", "1", "0", "1"]),
            ("5,3", None, ["5", "3", "5", "3"]),
            ("GPU-a,GPU-b", [1], ["GPU-b", "GPU-b"]),
        ],
    )
    def test_gpus_are_those_that_are_visible(self, monkeypatch, visible, gpus, devices):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        slots = LocalEngine(gpus, runs_per_gpu=2).slots()
        assert [slot.device for slot in slots] == devices
        assert all(slot.threads == max(1, cores() // len(devices)) for slot in slots)
        with pytest.raises(ConfigError, match="--gpus 2: 0 to 1 are visible on this machine"):
            LocalEngine([2]).slots()


class TestLocal:
    def test_failed_and_killed_runs_cost_only_themselves(self, prepared):
        store, plan, (not_finite, good) = prepared(
            {"models": ["fif"], "beta": [1e39, 5.0], "hutchinson_samples": [1]}, batch_size=60
        )
        _, (endless,), (killed,) = prepared(epochs=100_000)

        def kill(running, outcomes):
            if running.get(killed, {}).get("stage") == "training":
                (process,) = multiprocessing.active_children()
                os.kill(process.pid, signal.SIGKILL)

        run_dirs = [not_finite, killed, good]
        outcomes = {o.run_dir: o for o in ONE.run_all(run_dirs, kill)}
        assert outcomes[good] == Outcome(good, "finished")
        assert outcomes[not_finite].state == outcomes[killed].state == "failed"
        assert "epoch 1" in outcomes[not_finite].error
        assert "SIGKILL" in outcomes[killed].error
        assert "NonFiniteError" in read_json(not_finite / "status.json")["traceback"]
        assert "want of memory" in read_json(killed / "status.json")["error"]

        assert [store.record(spec) is None for spec in (*plan, endless)] == [True, False, True]

    def test_no_run_is_prepared_or_started_after_so_many_failures(self, prepared):
        flags = {"models": ["fif"], "beta": [1e39], "hutchinson_samples": [1]}
        _, _, run_dirs = prepared({**flags, "seeds": [0, 1, 2, 3]}, batch_size=60)
        asked = []

        def prepare(run_dir):
            states = [read_json(d / "status.json")["state"] for d in asked]
            assert states == ["failed", "waiting"][: len(asked)]  # those before have ended
            asked.append(run_dir)
            if run_dir == run_dirs[1]:
                raise StoreError("no room")

        outcomes = ONE.run_all(run_dirs, _ignore, max_failures=3, prepare=prepare)
        assert [o.run_dir for o in outcomes] == run_dirs[:3] == asked
        assert outcomes[1] == Outcome(run_dirs[1], "failed", "no room")
        assert [read_json(d / "status.json")["state"] for d in run_dirs] == [
            "failed",
            "waiting",
            "failed",
            "waiting",
        ]

    def test_run_that_another_driver_prepares_as_it_ends(self, prepared, monkeypatch):
        store, (spec,), (run_dir,) = prepared()

        def late(*arguments):
            store.prepare(spec, ENVIRONMENT)
            return settle(*arguments)

        monkeypatch.setattr("pythae_fif.runs.engines.local.settle", late)
        assert ONE.run_all([run_dir], _ignore) == [Outcome(run_dir, "finished")]
        assert read_json(run_dir / "status.json")["state"] == "finished"

    def test_interrupt_marks_runs_and_leaves_no_process(self, prepared):
        _, _, run_dirs = prepared({"seeds": [0, 1, 2]}, epochs=100_000)

        def interrupt(running, outcomes):
            if len([s for s in running.values() if s.get("stage") == "training"]) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            TWO.run_all(run_dirs, interrupt)
        assert [read_json(d / "status.json")["state"] for d in run_dirs] == [
            "interrupted",
            "interrupted",
            "waiting",
        ]
        assert not multiprocessing.active_children()

    def test_interrupt_while_a_process_starts_is_not_lost(self, prepared, monkeypatch):
        _, _, run_dirs = prepared()
        method = multiprocessing.get_context("forkserver").Process
        start = method.start

        def interrupted_start(process):
            os.kill(os.getpid(), signal.SIGINT)
            start(process)

        monkeypatch.setattr(method, "start", interrupted_start)
        with pytest.raises(KeyboardInterrupt):
            TWO.run_all(run_dirs, _ignore)
        assert not multiprocessing.active_children()
        assert read_json(run_dirs[0] / "status.json")["state"] == "interrupted"


RUNS = {Path("a"): "fif beta=1", Path("b"): "ae –"}
OUTCOMES = [Outcome(Path("a"), "finished"), Outcome(Path("b"), "failed", "[boom] it broke")]


class TestDisplay:
    def _shown(self, *updates, **options) -> str:
        file = io.StringIO()
        with Display(Console(file=file, width=80, **options)).runs(RUNS, done=3) as on_change:
            for running, outcomes in updates:
                on_change(running, outcomes)
        return file.getvalue()

    UNDER_WAY = ({Path("b"): {"stage": "training", "progress": 0.5}}, OUTCOMES[:1])

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

    def test_more_runs_than_lines(self):
        names = {Path(str(number)): f"run {number}" for number in range(50)}
        file = io.StringIO()
        console = Console(file=file, width=80, height=12, force_terminal=True, color_system=None)
        with Display(console).runs(names, done=0) as on_change:
            on_change({name: {"stage": "training"} for name in list(names)[:30]}, [])
        shown = file.getvalue()
        assert "50 runs: 30 running, 20 waiting" in shown
        assert "run 6 " in shown and "run 7 " not in shown and "and 23 more" in shown

    def test_time_left_of_a_run_that_is_resumed(self, monkeypatch):
        """Half of it was there: the next quarter in 10 s means 10 s for the last one."""
        clock = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        view = _View({Path("a"): "a"}, 0)
        for clock[0], progress in ((0.0, 0.5), (10.0, 0.75)):
            group = view.draw({Path("a"): {"progress": progress}}, [], 80, 20)
        console = Console(file=io.StringIO(), width=80)
        console.print(group)
        for line in console.file.getvalue().splitlines()[1:]:  # of all runs, and of the one
            assert "10 s  10 s left" in line

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

    def test_quiet_says_nothing(self):
        file = io.StringIO()
        display = Display(Console(file=file, force_terminal=True), quiet=True)
        with display.runs(RUNS, done=0) as on_change, display.stage("x") as progress:
            on_change({}, OUTCOMES)
            progress(1, 2)
        assert file.getvalue() == ""
