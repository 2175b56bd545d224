"""Faults of a cluster: killed processes, full disks, read-only folders and foreign files.

After each of them nothing that was finished is lost, no incomplete file is read, and the same call
finishes the run. `python -m pytest -m faults` kills more often.
"""

import contextlib
import functools
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.engines import run_open
from support.experiments import make_tiny_plan
from support.processes import is_locked, start_process, wait_until

import pythae_fif.benchmark.build as build_module
from pythae_fif.benchmark.results import read
from pythae_fif.errors import StoreError
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.store import SPEC_FILE, Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Run, Status, execute_run
from pythae_fif.training import FIFTrainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread"),
]


def verdict_kinds(store: Store) -> set[str]:
    return {verdict.kind for verdict in verify(store.root)}


def read_numbers(store: Store, job) -> tuple:
    """Returns the part of a result that does not depend on time and place, weights included."""
    result = read(store, job)
    weights = result.training.files["model/model.pt"]
    scores = {sampler: record.result.scores for sampler, record in result.scores.items()}
    return weights, result.training.result.best_eval_loss, result.evaluation.result, scores


def _execute(job, root: Path) -> None:
    """Executes a run with a checkpoint every epoch, as the target of a process."""
    torch.set_num_threads(1)
    build_module.FIFTrainer = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    execute_run(job, Store(root))


def _drive(jobs, root: Path) -> None:
    """Executes several runs by an engine, as the target of a process."""
    run_open(jobs, Store(root), LocalEngine(cpus_per_run=1))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two runs that were not disturbed, their numbers, and the seconds that one took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        jobs = make_tiny_plan(folder, {"seeds": [0, 1]}, epochs=4, batch_size=20)
        for job in jobs:
            start = time.monotonic()
            start_process(_execute, job, folder).join()
            seconds = time.monotonic() - start
    store = Store(folder)
    return jobs, [read_numbers(store, job) for job in jobs], seconds


@pytest.mark.parametrize(
    "kills", [4, pytest.param(30, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_a_killed_run_ends_as_an_undisturbed_one(undisturbed, tmp_path, kills):
    """However often it is killed, each record is missing, or complete and the same bit for bit."""
    (job, _), (expected, _), seconds = undisturbed
    store = Store(tmp_path)
    rng = random.Random(0)
    killed = 0
    finished = False

    while killed < kills or not finished:
        process = start_process(_execute, job, tmp_path)
        process.join(rng.uniform(0.05, 1) * seconds if killed < kills else None)
        alive = process.exitcode is None
        process.kill()
        process.join()
        killed += alive
        if not alive:
            assert process.exitcode == 0
            assert not [*tmp_path.rglob("*.tmp")]
        if (store.folder(job.spec) / SPEC_FILE).exists():
            assert not verdict_kinds(store) & {"corrupt", "set aside"}

        if job.is_done(store):
            execute_run(job, store)  # in case it was killed while it wrote its last status
            assert read_numbers(store, job) == expected
            assert not [*tmp_path.rglob("*.tmp")]
            finished = True
            shutil.rmtree(store.folder(job.spec))

    assert not [*tmp_path.rglob("*.corrupt*")]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_drivers(undisturbed, tmp_path):
    """Of two drivers one is killed many times: each run is executed once, as if undisturbed."""
    jobs, expected, seconds = undisturbed
    rng = random.Random(0)
    store = Store(tmp_path)
    surviving_driver = start_process(_drive, jobs, tmp_path)
    for _ in range(20):
        driver = start_process(_drive, jobs, tmp_path)
        driver.join(rng.uniform(0.1, 1) * seconds)
        driver.kill()
        driver.join()
    start_process(_drive, jobs, tmp_path).join()
    surviving_driver.join()

    wait_until(lambda: not any(is_locked(store.folder(job.spec)) for job in jobs))
    assert [read_numbers(store, job) for job in jobs] == expected
    assert verdict_kinds(store) <= {"fine", "dirty tree"}


@pytest.mark.parametrize("renamed", [False, True], ids=["before", "after"])
def test_killed_around_the_moment_when_the_model_is_renamed(tmp_path, monkeypatch, renamed):
    """A model exists with its record of checksums or not at all, so the next start can trust it."""
    (job,) = make_tiny_plan(tmp_path, epochs=3)
    store = Store(tmp_path / "results")
    replace = os.replace

    class Killed(BaseException):
        pass

    def replace_or_die(source, target):
        if Path(target).name != "model":
            return replace(source, target)
        if renamed:
            replace(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace_or_die)
        with pytest.raises(Killed):
            execute_run(job, store)
    folder = store.folder(job.spec)
    assert (folder / "model").is_dir() == renamed
    assert not (folder / "training.json").exists()

    execute_run(job, store)
    assert job.is_done(store)
    assert "corrupt" not in verdict_kinds(store)


@pytest.mark.parametrize("name", ["training", "model", "training.json", "scores"])
def test_files_of_another_run_are_set_aside_and_never_used(
    undisturbed, tmp_path, monkeypatch, name
):
    """For `training` the other run was interrupted, and left its checkpoint and log."""
    (job, foreign_job), (expected, _), _ = undisturbed
    store = Store(tmp_path)
    with_checkpoints = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    monkeypatch.setattr(build_module, "FIFTrainer", with_checkpoints)
    if name == "training":
        _interrupt_training(foreign_job, store)
    else:
        execute_run(foreign_job, store)

    foreign_folder = store.folder(foreign_job.spec)
    folder = store.folder(job.spec)
    folder.mkdir(parents=True)
    foreign_paths = [foreign_folder / name]
    if name == "training":
        foreign_paths = list(foreign_folder.iterdir())
    for path in foreign_paths:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)

    execute_run(job, store)
    assert read_numbers(store, job) == expected
    assert [*folder.rglob("*.corrupt*")]
    assert "corrupt" not in verdict_kinds(store)


def _interrupt_training(job, store: Store) -> None:
    report = Run.report

    def report_or_interrupt(run, stage, share=0.0, *args, **kwargs):
        report(run, stage, share, *args, **kwargs)
        if 0 < share < 0.9:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "report", report_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute_run(job, store)


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """Mounts a file system of a given size; skips the test if that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(undisturbed, tmp_path):
    (finished_job, job), (finished_numbers, numbers), _ = undisturbed
    with small_disk(tmp_path / "disk", "6m") as disk:
        store = Store(disk / "results")
        execute_run(finished_job, store)
        ballast = disk / "ballast"
        failures = 0

        for free_bytes in [*range(0, 3_000_000, 60_000), None]:
            if free_bytes is not None:
                ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free_bytes)))
            try:
                execute_run(job, store)
            except StoreError as error:
                failures += 1
                assert "cannot" in str(error)
            assert read_numbers(store, finished_job) == finished_numbers
            assert not verdict_kinds(store) & {"corrupt", "set aside"}
            ballast.unlink(missing_ok=True)
            if job.is_done(store):
                break

        assert failures >= 3
        assert read_numbers(store, job) == numbers
        assert Status.read(store.folder(job.spec)).state == "finished"
        assert not [*disk.rglob("*.tmp")]


def test_read_only_results(undisturbed, tmp_path):
    (finished_job, job), _, _ = undisturbed
    with small_disk(tmp_path / "disk", "6m") as disk:
        store = Store(disk / "results")
        execute_run(finished_job, store)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"cannot write .*Read-only"):
            execute_run(job, store)
        errors = run_open([finished_job, job], store, LocalEngine(cpus_per_run=1))
        assert [*errors] == [job]
        assert "its folder could not be written" in errors[job]
