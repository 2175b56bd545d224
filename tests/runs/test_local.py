"""The local engine: a failed or killed process costs its own run, and nothing is lost."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from support.processes import is_locked, process_of, until
from support.tasks import ONCE, SEEN, TaskSpec

from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import EXIT_CODES, LocalEngine, Slot, cores
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Status

ONE, TWO = (LocalEngine(cpus_per_run=max(1, cores() // n)) for n in (1, 2))
"""So many runs at once."""


def errors(ended) -> dict[str, str]:
    return {spec.deed: error for spec, error in ended.items()}


def test_cores_are_divided(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # of a driver that is too old
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    slots = LocalEngine().slots()
    assert 1 <= len(slots) <= 4 and sum(slot.threads for slot in slots) <= cores()
    assert LocalEngine(cpus_per_run=1).slots() == [Slot("cpu", 1)] * cores()


@pytest.fixture
def cards(monkeypatch):
    """Pretends that there are GPUs: cards(count, GiB of each)."""

    def pretend(count, gib):
        card = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)

    return pretend


@pytest.mark.parametrize(
    ("visible", "devices"), [(None, ["0", "1", "0", "1"]), ("GPU-a, 3", ["GPU-a", "3"] * 2)]
)
def test_runs_go_to_the_gpus_that_are_visible(monkeypatch, cards, visible, devices):
    cards(2, gib=80)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engine = LocalEngine(runs_per_gpu=2)
    assert engine.slots() == [Slot(device, max(1, cores() // 4)) for device in devices]
    assert engine.machine().startswith("2 GPUs, 4 runs at once (--runs-per-gpu), ")


@pytest.mark.parametrize(("gib", "runs", "of_5_gib"), [(80, 4, 4), (15, 2, 3), (4, 1, 1)])
def test_runs_at_once_fit_memory_and_cores(monkeypatch, cards, gib, runs, of_5_gib):
    cards(1, gib)
    for count in (16, 2):
        monkeypatch.setattr("pythae_fif.runs.local.cores", lambda count=count: count)
        assert len(LocalEngine().slots()) == min(count, runs)
        assert len(LocalEngine().slots(5 * 2**30)) == min(count, of_5_gib)
    assert " at once (as cores and 5.0 GB per run allow" in LocalEngine().machine(5 * 2**30)


ENDS = {
    "fail": "ValueError: broken in",
    "sleep": f"its process exited with -9 ({EXIT_CODES}) at training; see output.log",
    "exit": f"its process exited with 0 ({EXIT_CODES}) at training",
    "exit by 3": f"its process exited with 3 ({EXIT_CODES}) at training",
    "partly": "half of it is missing",
    "nothing": "",
}
"""Deed -> the error of its run; the one that sleeps is killed."""


def test_failed_and_killed_runs_cost_only_themselves(store):
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
    (folder / ONCE).write_text("fail")
    assert [spec for spec, error in run_all(specs[:2], store, TWO).items() if error] == [specs[1]]
    (folder / ".run.lock").unlink()
    (folder / ".run.lock").mkdir()  # the second start dies before it has a status
    (error,) = run_all(specs[:2], store, TWO).values()
    assert error.startswith("its process exited with 1") and not store.is_done(specs[1])
    (folder / ".run.lock").rmdir()
    assert [*run_all(specs[:2], store, TWO)] == [specs[1]]
    seen = []
    ended = run_all(specs, store, TWO, lambda p: seen.append((p.total, p.done, p.share)))
    assert ended == {specs[2]: ""} and all(map(store.is_done, specs))
    assert {(total, done) for total, done, _ in seen} == {(3, 2)} and seen[-1][2] == 1
    assert run_all(specs, store, ONE) == {}


def test_a_run_has_the_device_and_the_threads_of_its_slot(store, monkeypatch):
    """Whose GPU is gone does not train on the processor."""
    spec = TaskSpec(deed="look around")
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("GPU-gone", 1)])
    error = "the run was planned for a GPU, but torch sees none here"
    assert errors(run_all([spec], store, ONE)) == {"look around": error}
    monkeypatch.setattr(LocalEngine, "slots", lambda engine: [Slot("cpu", 2)])
    assert errors(run_all([spec], store, ONE)) == {"look around": ""}
    assert (store.folder(spec) / SEEN).read_text() == "/2"


def test_an_interrupt_ends_the_runs_and_loses_nothing(store):
    specs = [TaskSpec(seed=1), TaskSpec(deed="sleep")]

    def interrupt(progress):
        if progress.running and progress.outcomes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(specs, store, ONE, interrupt)
    assert Status.read(store.folder(specs[1])).state == "interrupted"
    assert not is_locked(store.folder(specs[1])) and store.is_done(specs[0])
    kinds = {verdict.kind for verdict in verify(store.root)}
    assert kinds - {"dirty tree"} == {"fine", "unfinished"}


def test_a_killed_driver_takes_its_runs_with_it_and_another_does_them(store):
    """Whose process waits meanwhile for the folder of the run that would never end."""
    specs = [TaskSpec(seed=1), TaskSpec()]
    store.folder(specs[1]).mkdir(parents=True)
    (store.folder(specs[1]) / ONCE).write_text("sleep")
    driver = process_of(run_all, specs, store, ONE)
    until(lambda: Status.read(store.folder(specs[1])).state == "running")
    assert run_all(specs, store, ONE, lambda _: driver.kill()) == {specs[1]: ""}
    assert all(map(store.is_done, specs))
    assert [Status.read(store.folder(spec)).attempt for spec in specs] == [1, 2]
