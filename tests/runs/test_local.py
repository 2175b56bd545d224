"""The local engine: a failed, killed or silent process costs its own run, and nothing is lost."""

import multiprocessing
import os
import signal

import pytest
import torch
from support.processes import process_of, until
from support.tasks import ONCE, SEEN, TASKS, TaskSpec, prepared, task_store

from pythae_fif.errors import ConfigError, StoreError
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.engines.common import NO_RECORD, Batch, Outcome, cores, settle
from pythae_fif.runs.engines.local import LocalEngine, Slot, _see_only
from pythae_fif.runs.folder import Status
from pythae_fif.runs.verify import verify

ONE, TWO = (LocalEngine(gpus=[], cpus_per_run=max(1, cores() // n)) for n in (1, 2))
"""On the processor, so many runs at once."""


@pytest.fixture
def children():
    """Gives the processes that the test has started and that live; others' are none of its own."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: [p for p in multiprocessing.active_children() if p.pid not in before]


def ignore(running, outcomes) -> None:
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
        slots = LocalEngine(gpus=gpus, runs_per_gpu=2).slots()
        assert [slot.device for slot in slots] == devices
        assert all(slot.threads == max(1, cores() // len(devices)) for slot in slots)
        with pytest.raises(ConfigError, match="--gpus 2: 0 to 1 are visible on this machine"):
            LocalEngine(gpus=[2]).slots()


@pytest.fixture
def store(tmp_path):
    return task_store(tmp_path)


ENDS = {
    "fail": "ValueError: broken in model",
    "sleep": "the process ended by SIGKILL: killed, perhaps for want of memory",
    "exit": NO_RECORD,
    "exit by 3": "the process ended by exit code 3",
    "partly": "half of it is missing",
    "nothing": "",
}
"""Deed -> the error of its run; the one that sleeps is killed."""


def test_failed_killed_and_silent_runs_cost_only_themselves(store, children):
    specs = [TaskSpec(deed=deed, asked=("a", "b")) for deed in ENDS]
    run_dirs = prepared(store, *specs)

    def kill(running, outcomes):
        if running.keys() == {run_dirs[1]} and running[run_dirs[1]].stage == "training":
            (process,) = children()
            os.kill(process.pid, signal.SIGKILL)

    outcomes = ONE.run_all(Batch(TASKS, run_dirs), kill)
    states = ["finished" if deed == "nothing" else "failed" for deed in ENDS]
    expected = zip(run_dirs, states, ENDS.values(), strict=True)
    assert outcomes == [Outcome(*end) for end in expected]
    for outcome in outcomes:
        status = Status.read(outcome.run_dir)
        assert (status.state, status.error) == (outcome.state, outcome.error)
    assert "in _fail" in Status.read(run_dirs[0]).traceback
    assert [store.is_done(spec) for spec in specs] == [not error for error in ENDS.values()]
    assert set(store.record(specs[4]).answers) == {"a"}


def test_a_run_that_hangs_is_ended_and_named(store):
    run_dirs = prepared(store, TaskSpec(0, "hang"), TaskSpec(1))
    outcomes = ONE.run_all(Batch(TASKS, run_dirs, run_timeout=1.5), ignore)
    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]
    said = "nothing new for 1.5 s at 'training' (--run-timeout); "
    assert outcomes[0].error == said + "the end of output.log shows where it stood"
    assert Status.read(run_dirs[0]).error == outcomes[0].error
    assert "in _hang" in (run_dirs[0] / "output.log").read_text()


def test_a_run_has_the_device_and_the_threads_of_its_slot(store, monkeypatch):
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("cpu", 2)])
    (run_dir,) = prepared(store, TaskSpec(deed="look around"))
    assert ONE.run_all(Batch(TASKS, [run_dir]), ignore) == [Outcome(run_dir, "finished")]
    assert (run_dir / SEEN).read_text() == "/2"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    _see_only("GPU-b")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_a_run_whose_gpu_is_gone_does_not_train_on_the_cpu(store, monkeypatch):
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("GPU-gone", 1)])
    (run_dir,) = prepared(store, TaskSpec(deed="look around"))
    error = "the process ended by exit code 73: torch does not see its GPU, which may have failed"
    assert ONE.run_all(Batch(TASKS, [run_dir]), ignore) == [Outcome(run_dir, "failed", error)]
    assert not (run_dir / SEEN).exists()
    slots = [Slot("GPU-gone", 1), Slot("cpu", 1)]
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: list(slots))
    run_dirs = prepared(store, *(TaskSpec(seed, "nap") for seed in range(4)))
    outcomes = ONE.run_all(Batch(TASKS, run_dirs), ignore)
    assert sorted(outcomes, key=lambda one: run_dirs.index(one.run_dir)) == [
        Outcome(run_dir, "finished") for run_dir in run_dirs
    ]


@pytest.mark.parametrize("end", ["exit", "partly"])
def test_a_run_that_failed_is_done_by_the_next_start(store, end):
    spec = TaskSpec(asked=("a", "b"))
    (run_dir,) = prepared(store, spec)
    (run_dir / ONCE).write_text(end)
    (outcome,) = ONE.run_all(Batch(TASKS, [run_dir]), ignore)
    assert outcome.state == "failed" and not store.is_done(spec)
    assert ONE.run_all(Batch(TASKS, [run_dir]), ignore) == [Outcome(run_dir, "finished")]
    assert store.is_done(spec) and Status.read(run_dir).error == ""


@pytest.mark.parametrize("told", ["finished", "running", "waiting"])
def test_finished_is_told_by_the_record_not_by_the_process(store, told):
    (run_dir,) = prepared(store, TaskSpec())
    Status(told).write(run_dir)
    batch = Batch(TASKS, [run_dir])
    assert settle(batch, run_dir, "finished", "") == Outcome(run_dir, "failed", NO_RECORD)
    ONE.run_all(batch, ignore)
    Status(told).write(run_dir)
    assert settle(batch, run_dir, "failed", "killed") == Outcome(run_dir, "finished")
    assert Status.read(run_dir).state == "finished"


def test_no_run_is_prepared_or_started_after_so_many_failures(store):
    run_dirs = prepared(store, *(TaskSpec(seed, "fail") for seed in range(4)))
    asked = []

    def prepare(run_dir):
        states = [Status.read(d).state for d in asked]
        assert states == ["failed", "waiting"][: len(asked)]  # those before have ended
        asked.append(run_dir)
        if run_dir == run_dirs[1]:
            raise StoreError("no room")

    outcomes = ONE.run_all(Batch(TASKS, run_dirs, prepare, max_failures=3), ignore)
    assert [o.run_dir for o in outcomes] == run_dirs[:3] == asked
    assert outcomes[1] == Outcome(run_dirs[1], "failed", "no room")
    states = [Status.read(d).state for d in run_dirs]
    assert states == ["failed", "waiting", "failed", "waiting"]


def test_run_that_another_driver_prepares_as_it_ends(store, monkeypatch):
    (run_dir,) = prepared(store, TaskSpec())

    def late(*arguments):
        prepared(store, TaskSpec())
        return settle(*arguments)

    monkeypatch.setattr("pythae_fif.runs.engines.local.settle", late)
    assert ONE.run_all(Batch(TASKS, [run_dir]), ignore) == [Outcome(run_dir, "finished")]
    assert Status.read(run_dir).state == "finished"


def test_interrupt_marks_runs_and_leaves_no_process(store, children):
    run_dirs = prepared(store, *(TaskSpec(seed, "sleep") for seed in range(3)))

    def interrupt(running, outcomes):
        if len([s for s in running.values() if s.stage == "training"]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TWO.run_all(Batch(TASKS, run_dirs), interrupt)
    states = [Status.read(d).state for d in run_dirs]
    assert states == ["interrupted", "interrupted", "waiting"]
    assert not children()


@pytest.mark.parametrize("failure", [None, EOFError, ConnectionResetError])
def test_interrupt_while_a_process_starts_is_not_lost(store, monkeypatch, children, failure):
    """Nor where the signal went to the fork server, too, which cannot start the process then."""
    run_dirs = prepared(store, TaskSpec())
    method = multiprocessing.get_context("forkserver").Process
    start = method.start

    def interrupted_start(process):
        os.kill(os.getpid(), signal.SIGINT)
        if failure is not None:
            raise failure
        start(process)

    monkeypatch.setattr(method, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        TWO.run_all(Batch(TASKS, run_dirs), ignore)
    assert not children()
    state = "interrupted" if failure is None else "waiting"
    assert Status.read(run_dirs[0]).state == state


def drive(run_dirs) -> None:
    """A process of a driver, which forks by itself: a fork server of its own would cost seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if multiprocessing.parent_process() is not None:
            forks = multiprocessing.get_context("fork")
            patch.setattr("pythae_fif.runs.engines.local._context", lambda kind: forks)
        _drive(run_dirs)


def _drive(run_dirs) -> None:
    outcomes = TWO.run_all(Batch(TASKS, run_dirs), ignore)
    assert [outcome.state for outcome in outcomes] == ["finished"] * len(run_dirs)


def test_two_drivers_on_one_store(store):
    specs = [TaskSpec(seed, "nap") for seed in range(8)]
    run_dirs = prepared(store, *specs)
    other = process_of(drive, run_dirs)
    until(lambda: any(map(is_claimed, run_dirs)))
    drive(run_dirs)
    other.join(60)
    assert other.exitcode == 0
    records = [store.record(spec) for spec in specs]
    assert [record.provenance.attempts for record in records] == [1] * 8
    assert not [*store.root.rglob("claim-*"), *store.root.rglob("*.tmp")]
    assert not [*store.root.rglob("*.corrupt*")]


def test_driver_killed(store):
    """Its runs end, too, where they are, and the next driver goes on."""
    (run_dir,) = prepared(store, TaskSpec(deed="sleep"))
    driver = process_of(drive, [run_dir])
    until(lambda: Status.read(run_dir).stage == "training")
    assert is_claimed(run_dir)
    driver.kill()
    driver.join()
    until(lambda: not is_claimed(run_dir))
    assert Status.read(run_dir).state == "interrupted"
    assert {finding.kind for finding in verify(store.root, [TASKS])} == {"unfinished"}
