"""What clusters do to a store: killed processes, full disks, damaged and foreign files.

Whatever happens, nothing that was finished is lost, nothing is read that is half there, and no run
is counted twice. The kills are a few here; test_many_faults.py has more.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.experiments import ENVIRONMENT, tiny
from support.folders import contents, flipped, whole
from support.processes import process_of

import pythae_fif.benchmark.run as run_module
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import RunFolder, Status
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import WRONG, verify
from pythae_fif.training import FIFTrainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread"),
]


def plan_of(tmp_path: Path, seeds=(0,), epochs: int = 3):
    """Runs that take no time, of several epochs."""
    return expand(*tiny(tmp_path, {"seeds": list(seeds)}, epochs=epochs, batch_size=20))


def kinds_in(store: Store) -> set[str]:
    return {finding.kind for finding in verify(store.root, [IMAGES])}


def numbers(record: ImageRecord) -> tuple:
    """What of a record does not depend on when and where it was made."""
    training = record.training
    return (
        record.scores,
        record.reconstruction_mse,
        record.parameters,
        (training.best_epoch, training.best_eval_loss, training.epochs),
    )


def _run(run_dir: Path) -> None:
    """A process of one run, with a checkpoint every epoch."""
    torch.set_num_threads(1)
    run_module.FIFTrainer = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    execute(run_dir, IMAGES)


def test_killed_at_random_moments(tmp_path):
    kill_at_random_moments(tmp_path, 4)


def kill_at_random_moments(tmp_path: Path, kills: int) -> None:
    """Kills a run again and again: its record is none, or that of a run left alone."""
    (spec,) = plan_of(tmp_path, epochs=4)
    whole, store = Store(tmp_path / "whole", IMAGES), Store(tmp_path / "killed", IMAGES)
    whole_dir = whole.prepare(spec, ENVIRONMENT)
    process_of(_run, whole_dir).join()  # starts the fork server
    expected = numbers(whole.record(spec))
    shutil.rmtree(whole_dir)
    start = time.monotonic()
    process_of(_run, whole.prepare(spec, ENVIRONMENT)).join()
    duration = time.monotonic() - start

    draws, killed, finished = random.Random(0), 0, False
    while killed < kills or not finished:
        run_dir = store.prepare(spec, ENVIRONMENT)
        process = process_of(_run, run_dir)
        process.join(draws.uniform(0.05, 1) * duration if killed < kills else None)
        alive = process.exitcode is None
        process.kill()
        process.join()
        killed += alive
        assert alive or process.exitcode == 0
        path = run_dir / "result.json"
        assert not path.exists() or ImageRecord.parse(json.loads(path.read_text()))
        assert not kinds_in(store) & {*WRONG, "set aside", "under way"}
        if store.is_done(spec):
            assert numbers(store.record(spec)) == expected
            finished = True
            shutil.rmtree(run_dir)
    assert not [*store.root.rglob("*.corrupt*")]


@pytest.mark.parametrize("renamed", [False, True], ids=["before", "after"])
def test_killed_around_the_moment_that_the_model_takes_its_name(tmp_path, monkeypatch, renamed):
    """A model is there with its sealed record, or not at all; so the next start trusts it."""
    (spec,) = plan_of(tmp_path)
    store = Store(tmp_path / "results", IMAGES)
    run_dir = store.prepare(spec, ENVIRONMENT)
    replace = os.replace

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
            execute(run_dir, IMAGES)
    assert (run_dir / "model").is_dir() == renamed and (run_dir / "training.json").exists()
    execute(run_dir, IMAGES)
    assert store.is_done(spec) and not [*run_dir.glob("*.corrupt*")]
    assert not kinds_in(store) & {*WRONG, "set aside"}


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


def test_full_disk(tmp_path):
    one, other = plan_of(tmp_path, seeds=(0, 1))
    with small_disk(tmp_path / "disk", "4m") as disk:
        store = Store(disk / "results", IMAGES)
        done, run_dir = (store.prepare(spec, ENVIRONMENT) for spec in (one, other))
        record = execute(done, IMAGES)
        failed = 0
        for left in [*range(0, 200_000, 24_000), None]:
            ballast = disk / "ballast"
            if left is not None:
                free = shutil.disk_usage(disk).free
                ballast.write_bytes(bytes(max(0, free - left)))
            try:
                execute(run_dir, IMAGES)
            except StoreError as error:
                failed += 1
                assert "cannot" in str(error) and "\n" not in str(error)
                assert not (run_dir / "result.json").exists()
            assert not [*disk.rglob("*.tmp"), *disk.rglob("claim-*")]
            assert store.record(one) == record
            assert not kinds_in(store) & {*WRONG, "set aside"}
            ballast.unlink(missing_ok=True)
            if store.is_done(other):
                break
        assert failed >= 3
        assert numbers(store.record(other)) != numbers(record)
        assert Status.read(run_dir).state == "finished"


def test_read_only_results(tmp_path):
    spec, other = plan_of(tmp_path, seeds=(0, 1))
    with small_disk(tmp_path / "disk", "4m") as disk:
        store = Store(disk / "results", IMAGES)
        run_dir = store.prepare(spec, ENVIRONMENT)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"cannot make .*Read-only"):
            Store(store.root, IMAGES).prepare(other, ENVIRONMENT)
        with pytest.raises(StoreError, match=r"cannot claim the run.*Read-only"):
            execute(run_dir, IMAGES)
        assert kinds_in(store) == {"unfinished"}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A store with two finished runs that differ in their seeds."""
    folder = tmp_path_factory.mktemp("two-runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        plan = plan_of(folder, seeds=(0, 1))
        store = Store(folder / "results", IMAGES)
        for spec in plan:
            execute(store.prepare(spec, ENVIRONMENT), IMAGES)
    return store.root, plan


def edit_record(run_dir: Path, other: Path) -> None:
    text = (run_dir / "result.json").read_text()
    (run_dir / "result.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))


def flip_a_bit_of_the_weights(run_dir: Path, other: Path) -> None:
    path = run_dir / "model" / "model.pt"
    path.write_bytes(flipped(path.read_bytes()))


def cut_the_weights(run_dir: Path, other: Path) -> None:
    path = run_dir / "model" / "model.pt"
    path.write_bytes(path.read_bytes()[:1000])


def model_of_another(run_dir: Path, other: Path) -> None:
    shutil.rmtree(run_dir / "model")
    shutil.copytree(other / "model", run_dir / "model")


def model_and_training_of_another(run_dir: Path, other: Path) -> None:
    model_of_another(run_dir, other)
    shutil.copy(other / "training.json", run_dir)


def training_of_another(run_dir: Path, other: Path) -> None:
    shutil.copy(other / "training.json", run_dir)


def empty_training(run_dir: Path, other: Path) -> None:
    (run_dir / "training.json").write_text("{}")


def no_training(run_dir: Path, other: Path) -> None:
    (run_dir / "training.json").unlink()


def all_of_another(run_dir: Path, other: Path) -> None:
    shutil.rmtree(run_dir)
    shutil.copytree(other, run_dir)


MODEL = {"model.corrupt", "training.json.corrupt"}
SWAPS = {
    edit_record: {"result.json.corrupt"},
    flip_a_bit_of_the_weights: MODEL,
    cut_the_weights: MODEL,
    model_of_another: MODEL,
    model_and_training_of_another: MODEL,
    training_of_another: MODEL,
    empty_training: MODEL,
    no_training: {"model.corrupt"},
    all_of_another: {*MODEL, "result.json.corrupt"},
}
"""Damage -> what is set aside for it."""


@pytest.mark.parametrize(
    ("damage", "whole"),
    [*((damage, True) for damage in SWAPS), (flip_a_bit_of_the_weights, False)],
    ids=lambda value: getattr(value, "__name__", "asked for more" if value else "record lost"),
)
def test_damaged_and_foreign_files_are_set_aside_and_made_again(tmp_path, two_runs, damage, whole):
    """Neither a further sampler nor a new record is ever made with them."""
    root, (spec, other) = two_runs
    shutil.copytree(root, tmp_path / "results")
    store = Store(tmp_path / "results", IMAGES)
    run_dir, expected = store.run_dir(spec), numbers(store.record(spec))
    asides = SWAPS[damage]
    damage(run_dir, store.run_dir(other))
    assert kinds_in(store) & set(WRONG)
    if not whole:
        (run_dir / "result.json").unlink()
    flags = {"seeds": [0], "samplers": ["normal", "gmm"] if whole else ["normal"]}
    (asked,) = expand(*tiny(tmp_path, flags, epochs=3, batch_size=20))
    assert asked.run_id == spec.run_id
    record = execute(store.prepare(asked, ENVIRONMENT), IMAGES)
    scores = {"normal": record.scores["normal"]}
    assert numbers(record.model_copy(update={"scores": scores})) == expected
    assert {path.name for path in run_dir.glob("*.corrupt*")} == asides
    assert store.is_done(asked) and not kinds_in(store) & set(WRONG)


@pytest.mark.parametrize("moment", ["in the training", "after the training", "after the pictures"])
def test_a_process_that_lost_its_run_writes_nothing_more(tmp_path, monkeypatch, moment):
    """Neither log, checkpoint and model, nor pictures, nor records, nor a state."""
    (spec,) = plan_of(tmp_path)
    store = Store(tmp_path / "results", IMAGES)
    run_dir = store.prepare(spec, ENVIRONMENT)
    left: dict[str, bytes] = {}

    def lose(function, on_stage=None):
        def wrapped(*arguments, **more):
            result = function(*arguments, **more)
            if not left and on_stage in (None, arguments[2:3] and arguments[2]):
                for claim in run_dir.glob("claim-*"):
                    claim.unlink()
                left.update(whole(contents(run_dir)))
            return result

        return wrapped

    slow = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    monkeypatch.setattr(run_module, "FIFTrainer", slow)
    if moment == "in the training":
        monkeypatch.setattr(RunFolder, "tell", lose(RunFolder.tell, "training"))
    elif moment == "after the training":
        monkeypatch.setattr(run_module, "embed", lose(run_module.embed))
    else:
        monkeypatch.setattr(run_module, "write_sheets", lose(run_module.write_sheets))
    with pytest.raises(ClaimLostError, match="lost its claim"):
        execute(run_dir, IMAGES)
    assert whole(contents(run_dir)) == left
    assert "result.json" not in left and ("training.json" in left) == (moment[:2] != "in")
