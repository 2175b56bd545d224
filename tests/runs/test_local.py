"""The local engine: a failed, killed or silent process costs its own run, and nothing is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from support.processes import process_of, until
from support.tasks import ONCE, SEEN, TaskSpec

from pythae_fif.errors import ConfigError
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine, Slot, _see_only, cores
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Status, is_locked, work

ONE, TWO = (LocalEngine(gpus=[], cpus_per_run=max(1, cores() // n)) for n in (1, 2))
"""On the processor, so many runs at once."""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def errors(outcomes) -> dict[str, str]:
    return {outcome.spec.deed: outcome.error for outcome in outcomes}


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
        slots = LocalEngine(gpus=gpus, runs_per_gpu=2).slots()
        assert [slot.device for slot in slots] == devices
        assert all(slot.threads == max(1, cores() // len(devices)) for slot in slots)
        with pytest.raises(ConfigError, match="--gpus 2: 0 to 1 are visible on this machine"):
            LocalEngine(gpus=[2]).slots()

    @pytest.mark.parametrize(("gib", "runs"), [(80, 4), (13, 2), (4, 1)])
    def test_runs_at_once_fit_memory_and_cores(self, monkeypatch, gib, runs):
        class Properties:
            total_memory = gib * 2**30

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
        monkeypatch.setattr("pythae_fif.runs.local.cores", lambda: 16)
        assert len(LocalEngine().slots()) == runs
        monkeypatch.setattr("pythae_fif.runs.local.cores", lambda: 2)
        assert len(LocalEngine().slots()) == min(2, runs)


ENDS = {
    "fail": "ValueError: broken in",
    "sleep": "the process ended by SIGKILL: killed, perhaps for want of memory (at 'training'; "
    "see output.log)",
    "exit": "the process ended without a record (at 'training'; see output.log)",
    "exit by 3": "the process ended by exit code 3 (at 'training'; see output.log)",
    "partly": "half of it is missing",
    "nothing": "",
}
"""Deed -> the error of its run; the one that sleeps is killed."""


def test_failed_killed_and_silent_runs_cost_only_themselves(store):
    specs = [TaskSpec(deed=deed, wanted=["a", "b"]) for deed in ENDS]
    before = {process.pid for process in multiprocessing.active_children()}

    def kill(progress):
        if [spec.deed for spec in progress.running] == ["sleep"]:
            children = multiprocessing.active_children()
            (process,) = (child for child in children if child.pid not in before)
            os.kill(process.pid, signal.SIGKILL)

    found = errors(run_all(specs, store, ONE, kill))
    assert found.keys() == ENDS.keys()
    assert all(error.startswith(ENDS[deed]) for deed, error in found.items())
    assert "in _fail" in (store.folder(specs[0]) / "output.log").read_text()
    assert [store.is_done(spec) for spec in specs] == [not error for error in ENDS.values()]
    assert store.record(specs[4], "a.json", int) and not store.record(specs[4], "b.json", int)


def test_what_failed_is_done_by_the_same_call_and_the_rest_not_again(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    folder = store.folder(specs[1])
    folder.mkdir(parents=True)
    (folder / ONCE).write_text("exit by 3")
    assert [bool(outcome.error) for outcome in run_all(specs[:2], store, TWO)].count(True) == 1
    assert [outcome.spec for outcome in run_all(specs[:2], store, TWO)] == [specs[1]]
    seen = []
    outcomes = run_all(specs, store, TWO, lambda p: seen.append((p.total, p.done, p.share)))
    assert [outcome.spec for outcome in outcomes] == [specs[2]] and all(map(store.is_done, specs))
    assert {(total, done) for total, done, _ in seen} == {(3, 2)} and seen[-1][2] == 1
    assert run_all(specs, store, ONE) == []


def test_a_run_that_hangs_is_ended_and_named(store):
    engine = ONE.model_copy(update={"run_timeout": "1.5s"})
    found = errors(run_all([TaskSpec(deed="hang"), TaskSpec()], store, engine))
    said = "nothing new for 1.5 s (--run-timeout) (at 'training'; see output.log)"
    assert found == {"hang": said, "nothing": ""}
    assert "in _hang" in (store.folder(TaskSpec(deed="hang")) / "output.log").read_text()


def test_no_run_is_started_after_so_many_failures(store):
    specs = [TaskSpec(deed="fail", seed=seed) for seed in range(4)]
    assert len(run_all(specs, store, ONE, max_failures=2)) == 2
    assert not store.folder(specs[2]).exists()


def test_a_run_has_the_device_and_the_threads_of_its_slot(store, monkeypatch):
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("cpu", 2)])
    spec = TaskSpec(deed="look around")
    assert errors(run_all([spec], store, ONE)) == {"look around": ""}
    assert (store.folder(spec) / SEEN).read_text() == "/2"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    _see_only("GPU-b")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_a_run_whose_gpu_is_gone_does_not_train_on_the_cpu(store, monkeypatch):
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("GPU-gone", 1)])
    error = "the process ended by exit code 73: torch does not see its GPU, which may have failed"
    assert errors(run_all([TaskSpec(deed="look around")], store, ONE)) == {"look around": error}
    slots = [Slot("GPU-gone", 1), Slot("cpu", 1)]
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: list(slots))
    specs = [TaskSpec(seed=seed, deed="nap") for seed in range(3)]
    assert [outcome.error for outcome in run_all(specs, store, ONE)] == [""] * 3


def test_another_driver_s_run_is_left_for_later(store):
    """Of two runs the one that nobody works on is done first."""
    taken, free = TaskSpec(deed="sleep"), TaskSpec(seed=2)
    other = process_of(work, taken, store)
    until(lambda: Status.read(store.folder(taken)).state == "running")
    with pytest.raises(KeyboardInterrupt):
        run_all([taken, free], store, ONE, interrupt_when(lambda p: len(p.outcomes) == 1))
    assert store.is_done(free) and is_locked(store.folder(taken)) and other.is_alive()
    other.kill()
    other.join()


def interrupt_when(condition):
    def watch(progress):
        if condition(progress):
            raise KeyboardInterrupt

    return watch


def test_an_interrupt_ends_the_runs_and_loses_nothing(store):
    specs = [TaskSpec(seed=1), TaskSpec(deed="sleep")]
    with pytest.raises(KeyboardInterrupt):
        run_all(specs, store, ONE, interrupt_when(lambda p: len(p.running) and len(p.outcomes)))
    assert Status.read(store.folder(specs[1])).state == "interrupted"
    assert not is_locked(store.folder(specs[1])) and store.is_done(specs[0])
    kinds = {finding.kind for finding in verify(store.root)}
    assert kinds - {"dirty tree"} == {"fine", "unfinished"}


DRIVER = """
import sys
from support.tasks import TaskSpec
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.store import Store
if __name__ == "__main__":
    run_all([TaskSpec(deed="sleep")], Store(sys.argv[1]), LocalEngine(gpus=[]))
"""


def test_a_killed_driver_takes_its_runs_with_it(store, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    spec = TaskSpec(deed="sleep")
    path = os.pathsep.join([*sys.path, os.path.dirname(os.path.dirname(__file__))])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(store.root)], env={**os.environ, "PYTHONPATH": path}
    )
    until(lambda: Status.read(store.folder(spec)).state == "running")
    driver.kill()
    driver.wait()
    until(lambda: not is_locked(store.folder(spec)))
    assert Status.read(store.folder(spec)).state == "interrupted"
