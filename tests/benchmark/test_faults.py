"""What clusters do to a run: killed processes, full disks, read-only and foreign files. Whatever
happens, nothing that was finished is lost, nothing is read that is half there, and the same call
finishes. `python -m pytest -m faults` kills more often."""

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
from support.experiments import plan_of
from support.processes import is_locked, process_of, until

import pythae_fif.benchmark.image_run as run_module
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.errors import StoreError
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.spec import SPEC_FILE
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Run, Status, execute_run
from pythae_fif.training import FIFTrainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread"),
]


def kinds_in(store: Store) -> set[str]:
    return {verdict.kind for verdict in verify(store.root)}


def numbers(store: Store, spec) -> tuple:
    """What of a result does not depend on when and where it was made, weights included."""
    result = ImageResult.read(store, spec)
    weights = result.training.files["model/model.pt"]
    scores = {sampler: record.result for sampler, record in result.scores.items()}
    return weights, result.training.result.best_eval_loss, result.evaluation.result, scores


def _run(spec, root: Path) -> None:
    """A process of one run, with a checkpoint every epoch."""
    torch.set_num_threads(1)
    run_module.FIFTrainer = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    execute_run(spec, Store(root))


def _drive(specs, root: Path) -> None:
    """A driver of several runs."""
    run_all(specs, Store(root), LocalEngine(cpus_per_run=1))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two runs that were left alone, what they found, and how long one took."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        specs = plan_of(folder, {"seeds": [0, 1]}, epochs=4, batch_size=20)
        for spec in specs:
            start = time.monotonic()
            process_of(_run, spec, folder).join()
    store = Store(folder)
    return specs, [numbers(store, spec) for spec in specs], time.monotonic() - start


@pytest.mark.parametrize(
    "kills", [4, pytest.param(30, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_a_killed_run_ends_as_one_that_was_left_alone(alone, tmp_path, kills):
    """Killed again and again: its records are none, or whole and the same bit for bit."""
    (spec, _), (expected, _), duration = alone
    store, draws, killed, finished = Store(tmp_path), random.Random(0), 0, False
    while killed < kills or not finished:
        process = process_of(_run, spec, tmp_path)
        process.join(draws.uniform(0.05, 1) * duration if killed < kills else None)
        alive = process.exitcode is None
        process.kill()
        process.join()
        killed += alive
        assert alive or (process.exitcode == 0 and not [*tmp_path.rglob("*.tmp")])
        if (store.folder(spec) / SPEC_FILE).exists():
            assert not kinds_in(store) & {"corrupt", "set aside"}
        if store.is_done(spec):  # it may have been killed as it wrote its last status
            execute_run(spec, store)
            assert numbers(store, spec) == expected
            assert not [*tmp_path.rglob("*.tmp")]
            finished = True
            shutil.rmtree(store.folder(spec))
    assert not [*tmp_path.rglob("*.corrupt*")]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_drivers(alone, tmp_path):
    """Two drivers at once, one killed again and again: each run is done once, as if alone."""
    specs, expected, duration = alone
    draws, store = random.Random(0), Store(tmp_path)
    other = process_of(_drive, specs, tmp_path)
    for _ in range(20):
        driver = process_of(_drive, specs, tmp_path)
        driver.join(draws.uniform(0.1, 1) * duration)
        driver.kill()
        driver.join()
    process_of(_drive, specs, tmp_path).join()
    other.join()
    until(lambda: not any(is_locked(store.folder(spec)) for spec in specs))
    assert [numbers(store, spec) for spec in specs] == expected
    assert kinds_in(store) <= {"fine", "dirty tree"}


@pytest.mark.parametrize("renamed", [False, True], ids=["before", "after"])
def test_killed_around_the_moment_that_the_model_takes_its_name(tmp_path, monkeypatch, renamed):
    """A model is there with its sealed record, or not at all; so the next start trusts it."""
    (spec,) = plan_of(tmp_path, epochs=3)
    store, replace = Store(tmp_path / "results"), os.replace

    class Killed(BaseException):
        pass

    def killed(source, target):
        if Path(target).name != "model":
            return replace(source, target)
        if renamed:
            replace(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(Killed):
            execute_run(spec, store)
    folder = store.folder(spec)
    assert (folder / "model").is_dir() == renamed and not (folder / "training.json").exists()
    execute_run(spec, store)
    assert store.is_done(spec)
    assert "corrupt" not in kinds_in(store)


@pytest.mark.parametrize("name", ["training", "model", "training.json", "scores"])
def test_another_run_s_files_are_set_aside_never_used(alone, tmp_path, monkeypatch, name):
    """Of `training` the other was interrupted in the middle, and left its checkpoint and log."""
    (spec, other), (expected, _), _ = alone
    store = Store(tmp_path)
    every = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    monkeypatch.setattr(run_module, "FIFTrainer", every)
    if name == "training":
        _interrupt_in_training(other, store)
    else:
        execute_run(other, store)
    foreign, own = store.folder(other), store.folder(spec)
    own.mkdir(parents=True)
    for path in foreign.iterdir() if name == "training" else [foreign / name]:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, own / path.name)
    execute_run(spec, store)
    assert numbers(store, spec) == expected
    assert [*own.rglob("*.corrupt*")] and "corrupt" not in kinds_in(store)


def _interrupt_in_training(spec, store: Store) -> None:
    tell = Run.report

    def interrupted(run, stage, share=0.0, *ended, **how):
        tell(run, stage, share, *ended, **how)
        if 0 < share < 0.9:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute_run(spec, store)


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A file system of its own size; the test is skipped where none can be mounted."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(alone, tmp_path):
    (one, other), expected, _ = alone
    with small_disk(tmp_path / "disk", "6m") as disk:
        store = Store(disk / "results")
        execute_run(one, store)
        failed = 0
        for left in [*range(0, 3_000_000, 60_000), None]:
            ballast = disk / "ballast"
            if left is not None:
                free = shutil.disk_usage(disk).free
                ballast.write_bytes(bytes(max(0, free - left)))
            try:
                execute_run(other, store)
            except StoreError as error:
                failed += 1
                assert "cannot" in str(error)
            assert numbers(store, one) == expected[0]
            assert not kinds_in(store) & {"corrupt", "set aside"}
            ballast.unlink(missing_ok=True)
            if store.is_done(other):
                break
        assert failed >= 3
        assert numbers(store, other) == expected[1]
        assert Status.read(store.folder(other)).state == "finished"
        assert not [*disk.rglob("*.tmp")]


def test_read_only_results(alone, tmp_path):
    (spec, other), _, _ = alone
    with small_disk(tmp_path / "disk", "6m") as disk:
        store = Store(disk / "results")
        execute_run(spec, store)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"cannot write .*Read-only"):
            execute_run(other, store)
        errors = run_all([spec, other], store, LocalEngine(cpus_per_run=1))
        assert [*errors] == [other] and "its folder could not be written" in errors[other]
