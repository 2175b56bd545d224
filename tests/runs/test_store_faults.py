"""What clusters do to a store: killed processes, full and read-only disks, two drivers at once.

Whatever happens, nothing that was finished is lost, nothing is read that is half there, and no run
is counted twice. The kills are a few here; as many as you like:

    PYTHAE_FIF_KILLS=50 python -m pytest tests/test_store_faults.py -k killed
"""

import contextlib
import functools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pythae_fif.runs.records import is_whole

import pythae_fif.benchmark.run as run_module
from pythae_fif.benchmark import Store, execute, expand, load_experiment
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.cli.main import main
from pythae_fif.errors import StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.claim import is_claimed
from pythae_fif.runs.verify import WRONG, verify
from pythae_fif.training import FIFTrainer

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")

KILLS = int(os.environ.get("PYTHAE_FIF_KILLS", "4"))
ENVIRONMENT = {"data_root": None, "data": None, "offline": True, "skip_undecodable": False,
               "inception_weights": None}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path):
    """Writes the YAML file of an experiment that takes no time: file(epochs=3) -> its path."""

    def write(**profile) -> Path:
        tiny = {"note": "a test", "epochs": 3, "batch_size": 20, "learning_rate": 1e-3,
                "num_samples": 20, "train_size": 60, "val_size": 20, "test_size": 20}  # fmt: skip
        content = {"profile": "tiny", "profiles": {"tiny": {**tiny, **profile}},
                   "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def plan_of(file: Path, **flags):
    experiment = load_experiment("digits", file, flags)
    return expand(experiment, load_splits(experiment, ENVIRONMENT, vars(experiment.settings)))


def numbers(record: dict) -> dict:
    """What of a record does not depend on when and where it was made."""
    return {
        **{key: record[key] for key in ("scores", "reconstruction_mse", "parameters")},
        **{key: record["training"][key] for key in ("best_epoch", "best_eval_loss", "epochs")},
    }


def _run(run_dir: Path) -> None:
    """A process of one run, with a checkpoint every epoch."""
    torch.set_num_threads(1)
    run_module.FIFTrainer = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    execute(run_dir)


def process_of(target, *arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pythae_fif.cli.main", "matplotlib.figure"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def test_killed_at_random_moments(tmp_path, file):
    (spec,) = plan_of(file(epochs=4))
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    whole_dir = whole.prepare(spec, ENVIRONMENT)
    process_of(_run, whole_dir).join()  # starts the fork server
    expected = numbers(whole.record(spec))
    shutil.rmtree(whole_dir)
    start = time.monotonic()
    process_of(_run, whole.prepare(spec, ENVIRONMENT)).join()
    duration = time.monotonic() - start

    draws, killed, finished = random.Random(0), 0, 0
    while killed < KILLS or not finished:
        run_dir = store.prepare(spec, ENVIRONMENT)
        process = process_of(_run, run_dir)
        process.join(draws.uniform(0.05, 1) * duration if killed < KILLS else None)
        alive = process.exitcode is None
        process.kill()
        process.join()
        killed += alive
        assert alive or process.exitcode == 0
        path = run_dir / "result.json"
        assert not path.exists() or is_whole(json.loads(path.read_text()), spec)
        assert not {f.kind for f in verify(store.root)} & {*WRONG, "set aside", "under way"}
        if store.is_done(spec):
            assert numbers(store.record(spec)) == expected
            finished += 1
            shutil.rmtree(run_dir)
    assert not [*store.root.rglob("*.corrupt*")]


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


def test_full_disk(tmp_path, file):
    one, other = plan_of(file(), seeds=[0, 1])
    with small_disk(tmp_path / "disk", "4m") as disk:
        store = Store(disk / "results")
        done, run_dir = (store.prepare(spec, ENVIRONMENT) for spec in (one, other))
        record = execute(done)
        failed = 0
        for left in [*range(0, 200_000, 24_000), None]:
            ballast = disk / "ballast"
            if left is not None:
                free = shutil.disk_usage(disk).free
                ballast.write_bytes(bytes(max(0, free - left)))
            try:
                execute(run_dir)
            except StoreError as error:
                failed += 1
                assert "cannot" in str(error) and "\n" not in str(error)
                assert not (run_dir / "result.json").exists()
            assert not [*disk.rglob("*.tmp"), *disk.rglob("claim-*")]
            assert store.record(one) == record
            assert not {f.kind for f in verify(store.root)} & {*WRONG, "set aside"}
            ballast.unlink(missing_ok=True)
            if store.is_done(other):
                break
        assert failed >= 3
        assert numbers(store.record(other)) != numbers(record)
        assert read_json(run_dir / "status.json")["state"] == "finished"


def test_read_only_results(tmp_path, file, capsys):
    (spec,) = plan_of(file())
    with small_disk(tmp_path / "disk", "4m") as disk:
        root = disk / "results"
        run_dir = Store(root).prepare(spec, ENVIRONMENT)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"results cannot be written.*Read-only.*--results"):
            Store(root)
        with pytest.raises(StoreError, match=r"cannot claim the run.*Read-only"):
            execute(run_dir)
        assert main(["--config", str(file()), "--results", str(root), "--quiet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: the results folder")
        assert main(["verify", str(root)]) == 0
        assert "unfinished" in capsys.readouterr().out


def test_record_edited_by_hand(tmp_path, file, capsys):
    (spec,) = plan_of(file())
    store = Store(tmp_path / "results")
    run_dir = store.prepare(spec, ENVIRONMENT)
    first = execute(run_dir)
    edited = (run_dir / "result.json").read_text().replace('"seed": 0', '"seed": 1', 1)
    (run_dir / "result.json").write_text(edited)
    assert main(["verify", str(store.root)]) == 1
    assert "result.json was changed" in " ".join(capsys.readouterr().out.split())
    again = execute(run_dir)
    assert numbers(again) == numbers(first)
    assert (run_dir / "result.json.corrupt").read_text() == edited
    assert main(["verify", str(store.root)]) == 0
    assert "set aside" in capsys.readouterr().out


def test_damaged_model_is_trained_again(tmp_path, file):
    (spec,) = plan_of(file())
    store = Store(tmp_path / "results")
    run_dir = store.prepare(spec, ENVIRONMENT)
    first = execute(run_dir)
    (run_dir / "result.json").unlink()
    weights = run_dir / "model" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert numbers(execute(run_dir)) == numbers(first)
    assert (run_dir / "model.corrupt" / "model.pt").stat().st_size == 1000


def test_config_of_another_run(tmp_path, file):
    one, other = plan_of(file(), seeds=[0, 1])
    store = Store(tmp_path / "results")
    run_dir = store.prepare(one, ENVIRONMENT)
    shutil.copy(store.prepare(other, ENVIRONMENT) / "config.yaml", run_dir)
    with pytest.raises(Exception, match=f"describes run {other.run_id}, not {one.run_id}"):
        execute(run_dir)


def _drive(output: Path, arguments: list[str]) -> None:
    """A process of a driver."""
    file = open(output, "w", buffering=1)  # noqa: SIM115 - for the whole process
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))


def driver(output: Path, file: Path, results: Path, *flags: str):
    arguments = ["--config", str(file), "--offline", "--results", str(results), *flags]
    return process_of(_drive, output, arguments)


def test_two_drivers_on_one_store(tmp_path, file):
    seeds = ["--seeds", *map(str, range(5))]
    outputs = [tmp_path / "one.txt", tmp_path / "other.txt"]
    drivers = [driver(path, file(epochs=10), tmp_path / "results", *seeds) for path in outputs]
    for process in drivers:
        process.join(240)
    texts = [path.read_text() for path in outputs]
    assert [process.exitcode for process in drivers] == [0, 0], texts
    store, plan = Store(tmp_path / "results"), plan_of(file(epochs=10), seeds=list(range(5)))
    records = [store.record(spec) for spec in plan]
    assert [record["provenance"]["attempts"] for record in records] == [1] * 5
    assert len([*store.root.rglob("result.json")]) == 5
    assert not [*store.root.rglob("claim-*"), *store.root.rglob("*.tmp")]
    assert not [*store.root.rglob("*.corrupt*")]
    for text in texts:
        assert "failed" not in text and "interrupted" not in text


def test_driver_killed(tmp_path, file):
    """Its runs end, too, where they are, and the next driver goes on."""
    (spec,) = plan_of(file(epochs=100_000))
    store = Store(tmp_path / "results")
    run_dir = store.run_dir(spec)
    process = driver(tmp_path / "output.txt", file(epochs=100_000), store.root)

    def until(condition):
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.1)
        assert condition()

    until(lambda: (read_json(run_dir / "status.json") or {}).get("stage") == "training")
    assert is_claimed(run_dir)
    process.kill()
    process.join()
    until(lambda: not is_claimed(run_dir))
    assert read_json(run_dir / "status.json")["state"] == "interrupted"
    assert not (run_dir / "result.json").exists()
    assert {f.kind for f in verify(store.root)} == {"unfinished"}
