"""The local engine: a failed or killed process affects only its own run, and nothing is lost."""

import multiprocessing
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from support.engines import run_open
from support.processes import is_locked, start_process, wait_until
from support.tasks import NEXT_ACTION, RESOURCES, TaskSpec

from pythae_fif.runs.local import EXIT_CODES, LocalEngine, Slot, cores
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Status

ONE_AT_ONCE = LocalEngine(cpus_per_run=cores())
TWO_AT_ONCE = LocalEngine(cpus_per_run=max(1, cores() // 2))


def errors_by_action(outcomes) -> dict[str, str]:
    return {spec.action: error for spec, error in outcomes.items()}


def test_runs_without_a_gpu_share_the_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the driver is too old for torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    slots = LocalEngine().slots()
    assert 1 <= len(slots) <= 4
    assert sum(slot.threads for slot in slots) <= cores()
    assert LocalEngine(cpus_per_run=1).slots() == [Slot("cpu", 1)] * cores()


@pytest.fixture
def pretend_gpus(monkeypatch):
    """Makes torch report GPUs: pretend_gpus(count, GiB of each)."""

    def pretend(count, gib):
        properties = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return pretend


@pytest.mark.parametrize(
    ("visible", "devices"), [(None, ["0", "1", "0", "1"]), ("GPU-a, 3", ["GPU-a", "3"] * 2)]
)
def test_runs_use_the_visible_gpus(monkeypatch, pretend_gpus, visible, devices):
    pretend_gpus(2, gib=80)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engine = LocalEngine(runs_per_gpu=2)
    assert engine.slots() == [Slot(device, max(1, cores() // 4)) for device in devices]
    assert re.match(
        r"2 GPUs with \d+ cores?, TF32 on, 4 runs at once \(--runs-per-gpu\), ", engine.describe()
    )


@pytest.mark.parametrize(("gib", "runs"), [(80, 4), (15, 2), (4, 1)])
def test_runs_at_once_fit_memory_and_cores(monkeypatch, pretend_gpus, gib, runs):
    pretend_gpus(1, gib)
    for count in (16, 2):
        monkeypatch.setattr("pythae_fif.runs.local.cores", lambda count=count: count)
        assert len(LocalEngine().slots()) == min(count, runs)
    assert " at once (as cores and 6 GB per run allow" in LocalEngine().describe()


ERRORS = {
    "fail": "ValueError: broken in",
    "sleep": f"its process exited with -9 ({EXIT_CODES}) at training; see output.log",
    "exit": f"its process exited with 0 ({EXIT_CODES}) at training",
    "exit with 3": f"its process exited with 3 ({EXIT_CODES}) at training",
    "fail after first record": "half of it is missing",
    "nothing": "",
}
"""Action -> the error of its run. The run that sleeps is killed."""


def test_failed_and_killed_runs_do_not_affect_others(store):
    specs = [TaskSpec(action=action, records=["a", "b"]) for action in ERRORS]
    other_processes = {process.pid for process in multiprocessing.active_children()}

    def kill_the_sleeping_run(progress):
        if [spec.action for spec in progress.running] != ["sleep"]:
            return
        process_ids = {process.pid for process in multiprocessing.active_children()}
        (run_process_id,) = process_ids - other_processes
        os.kill(run_process_id, signal.SIGKILL)

    errors = errors_by_action(run_open(specs, store, ONE_AT_ONCE, kill_the_sleeping_run))
    assert errors.keys() == ERRORS.keys()
    for action, error in errors.items():
        assert error.startswith(ERRORS[action])
    assert "in _fail" in (store.folder(specs[0]) / "output.log").read_text()
    assert [spec.is_done(store) for spec in specs] == [not error for error in ERRORS.values()]

    half_done = specs[4]
    assert store.read_record(half_done, "a.json", int)
    assert not store.read_record(half_done, "b.json", int)


def test_a_failed_run_is_retried_and_finished_runs_are_not(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    failing = specs[1]
    folder = store.folder(failing)
    folder.mkdir(parents=True)
    (folder / NEXT_ACTION).write_text("fail")
    outcomes = run_open(specs[:2], store, TWO_AT_ONCE)
    assert [spec for spec, error in outcomes.items() if error] == [failing]

    # The second attempt dies before it has a status.
    (folder / ".run.lock").unlink()
    (folder / ".run.lock").mkdir()
    (error,) = run_open(specs[:2], store, TWO_AT_ONCE).values()
    assert error.startswith("its process exited with 1")
    assert not failing.is_done(store)

    (folder / ".run.lock").rmdir()
    assert run_open(specs[:2], store, TWO_AT_ONCE) == {failing: ""}
    assert failing.is_done(store)


def test_progress_counts_finished_runs(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    run_open(specs[:2], store, TWO_AT_ONCE)
    states = []

    def record_state(progress):
        states.append((progress.total, progress.done, progress.share))

    assert run_open(specs, store, TWO_AT_ONCE, record_state) == {specs[2]: ""}
    assert all(spec.is_done(store) for spec in specs)
    assert {(total, done) for total, done, _ in states} == {(3, 2)}
    assert states[-1][2] == 1
    assert run_open(specs, store, ONE_AT_ONCE) == {}


def test_a_run_has_the_device_and_the_threads_of_its_slot(store, monkeypatch):
    """A run that was planned for a missing GPU fails; it does not use the CPU instead."""
    spec = TaskSpec(action="report resources")
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("GPU-gone", 1)])
    error = "the run was planned for a GPU, but torch sees none here"
    assert run_open([spec], store, ONE_AT_ONCE) == {spec: error}

    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("cpu", 2)])
    assert run_open([spec], store, ONE_AT_ONCE) == {spec: ""}
    assert (store.folder(spec) / RESOURCES).read_text() == "/2"


def test_an_interrupt_ends_the_runs_and_loses_nothing(store):
    finished = TaskSpec(seed=1)
    sleeping = TaskSpec(action="sleep")

    def interrupt(progress):
        if progress.running and progress.outcomes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_open([finished, sleeping], store, ONE_AT_ONCE, interrupt)
    assert Status.read(store.folder(sleeping)).state == "interrupted"
    assert not is_locked(store.folder(sleeping))
    assert finished.is_done(store)
    kinds = {verdict.kind for verdict in verify(store.root)}
    assert kinds - {"dirty tree"} == {"fine", "unfinished"}


def test_runs_of_a_killed_driver_end_and_another_driver_resumes_them(store):
    """The second driver's process waits for the folder of a run that would never end."""
    specs = [TaskSpec(seed=1), TaskSpec()]
    endless = store.folder(specs[1])
    endless.mkdir(parents=True)
    (endless / NEXT_ACTION).write_text("sleep")
    driver = start_process(run_open, specs, store, ONE_AT_ONCE)
    wait_until(lambda: Status.read(endless).state == "running")

    assert run_open(specs, store, ONE_AT_ONCE, lambda _: driver.kill()) == {specs[1]: ""}
    assert all(spec.is_done(store) for spec in specs)
    assert [Status.read(store.folder(spec)).attempt for spec in specs] == [1, 2]
