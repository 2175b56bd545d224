"""A store at a URL: what one machine made, another finds; what one began, another ends."""

import functools
import json
import multiprocessing
import shutil
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
import yaml

import pythae_fif.benchmark.run as run_module
import pythae_fif.runs.claim as claim_module
import pythae_fif.runs.remote as remote_module
from pythae_fif.benchmark import Store, execute, expand, load_experiment
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.cli.main import main
from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.remote import Remote, RemoteClaims
from pythae_fif.training import FIFTrainer

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")

ENVIRONMENT = {"data_root": None, "data": None, "offline": True, "skip_undecodable": False,
               "inception_weights": None}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process a machine with a cache of its own: machine("a")."""

    def be(name: str) -> None:
        monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / name))

    be("a")
    return be


@pytest.fixture
def url(request, tmp_path):
    """An empty store at a URL, of a folder unless a test asks for another kind."""
    if getattr(request, "param", "file") == "memory":
        return f"memory://{uuid.uuid4().hex}/results"
    return (tmp_path / "far" / "results").as_uri()


@pytest.fixture
def file(tmp_path):
    tiny = {"note": "a test", "epochs": 3, "batch_size": 20, "learning_rate": 1e-3,
            "num_samples": 20, "train_size": 60, "val_size": 20, "test_size": 20}  # fmt: skip
    content = {"profile": "tiny", "profiles": {"tiny": tiny},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def spec(file):
    experiment = load_experiment("digits", file, {})
    return expand(experiment, load_splits(experiment, ENVIRONMENT, vars(experiment.settings)))[0]


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_what_one_machine_made_another_finds_whole(machine, url, spec, capsys):
    here = Store(url)
    run_dir = here.prepare(spec, ENVIRONMENT)
    record = execute(run_dir)
    machine("b")
    there = Store(url)
    assert there.root != here.root
    assert there.is_done(spec) and there.record(spec) == json.loads(json.dumps(record))
    found = {path.name for path in there.run_dir(spec).iterdir()}
    assert {"config.yaml", "samples-normal.png", "train_log.jsonl", "status.json"} <= found
    assert "model" not in found and "output.log" not in found
    assert not [name for name in there.remote.files() if "claim-" in name or ".tmp" in name]
    assert main(["verify", url]) == 0
    assert "fine" in capsys.readouterr().out


def test_a_further_sampler_elsewhere_trains_nothing(machine, url, file, spec, monkeypatch):
    first = execute(Store(url).prepare(spec, ENVIRONMENT))
    machine("b")
    monkeypatch.setattr(run_module, "FIFTrainer", None)
    experiment = load_experiment("digits", file, {"samplers": ["normal", "gmm"]})
    splits = load_splits(experiment, ENVIRONMENT, vars(experiment.settings))
    (more,) = expand(experiment, splits)
    store = Store(url)
    assert not store.is_done(more)
    record = execute(store.prepare(more, ENVIRONMENT))
    assert record["training"] == first["training"]
    machine("a")
    assert Store(url).is_done(more)


def test_resumed_elsewhere_from_the_last_checkpoint(machine, url, spec, monkeypatch):
    whole = execute(Store(url + "-whole").prepare(spec, ENVIRONMENT))
    run_dir = Store(url).prepare(spec, ENVIRONMENT)

    def interrupted(status, state, stage="", progress=0.0, **more):
        if stage == "training" and progress > 0.5:
            raise KeyboardInterrupt
        return write(status, state, stage, progress, **more)

    write = run_module._Status.write
    with monkeypatch.context() as patch:
        patch.setattr(run_module._Status, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run_dir)
    machine("b")
    store = Store(url)
    assert read_json(store.run_dir(spec) / "status.json")["state"] == "interrupted"
    name = f"{store.run_dir(spec).relative_to(store.root).as_posix()}/checkpoint.pt"
    assert name in store.remote.files()
    address = f"{url}/{store.run_dir(spec).relative_to(store.root).as_posix()}"
    epochs = []
    build = functools.partial(FIFTrainer)

    def watched(*arguments, on_epoch, **more):
        def tell(epoch, *rest):
            epochs.append(epoch)
            on_epoch(epoch, *rest)

        return build(*arguments, on_epoch=tell, **more)

    monkeypatch.setattr(run_module, "FIFTrainer", watched)
    record = execute(address)  # as a node would that has nothing but the URL
    assert epochs == [3]
    for key in ("scores", "reconstruction_mse"):
        assert record[key] == whole[key]
    assert name not in store.remote.files()


def test_a_checkpoint_travels_while_the_run_goes_on(machine, url, spec, monkeypatch):
    monkeypatch.setattr(remote_module, "PUSH_SECONDS", 0.05)
    monkeypatch.setattr(
        run_module, "FIFTrainer", functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    )
    store, seen = Store(url), []
    write = run_module._Status.write

    def slow(status, state, stage="", progress=0.0, **more):
        if stage == "training":
            time.sleep(0.3)
            seen.extend(name for name in store.remote.files() if name.endswith("checkpoint.pt"))
        return write(status, state, stage, progress, **more)

    monkeypatch.setattr(run_module._Status, "write", slow)
    execute(store.prepare(spec, ENVIRONMENT))
    assert seen


def test_record_that_could_not_be_sent_is_sent_by_the_next_start(machine, url, spec, monkeypatch):
    store = Store(url)
    run_dir = store.prepare(spec, ENVIRONMENT)

    def unreachable(*_):
        raise StoreError("results cannot be written: no network")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", unreachable)
        with pytest.raises(StoreError, match="no network"):
            execute(run_dir)
    assert not [name for name in store.remote.files() if name.endswith("result.json")]
    Store(url)
    machine("b")
    assert Store(url).is_done(spec)


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_a_half_written_record_at_the_url_is_done_again_and_kept(machine, url, spec):
    store = Store(url)
    run_dir = store.prepare(spec, ENVIRONMENT)
    first = execute(run_dir)
    name = f"{store.remote.root}/{run_dir.relative_to(store.root).as_posix()}/result.json"
    text = store.remote.fs.cat_file(name)
    store.remote.fs.pipe_file(name, text[:300])
    machine("b")
    there = Store(url)
    assert not there.is_done(spec)
    assert execute(there.prepare(spec, ENVIRONMENT))["scores"] == first["scores"]
    machine("c")
    last = Store(url)
    assert last.is_done(spec)
    assert (last.run_dir(spec) / "result.json.corrupt").read_bytes() == text[:300]


@pytest.mark.parametrize("kind", ["same machine", "other machine"])
def test_claims_at_a_url(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(claim_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(claim_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claim_module, "LEASE_SECONDS", 0.5)
    address = (tmp_path / "far").as_uri()

    def claims(name: str) -> RemoteClaims:
        return RemoteClaims(Remote(address, tmp_path / name), "runs/x")

    owner = Claim(claims("a"))
    assert owner.acquire()
    if kind == "same machine":  # whoever has its folder's lock knows that the owner is dead
        assert Claim(claims("a")).acquire(wait=False)
        return
    other = Claim(claims("b"))
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert not other.acquire(wait=False)
        time.sleep(0.02)
    owner._ended.set()  # as if it were killed
    assert other.acquire()
    owner._ended.clear()
    threading.Thread(target=owner._heart, daemon=True).start()
    time.sleep(0.3)
    with pytest.raises(ClaimLostError):
        owner.check()
    other.check()
    other.release()
    assert not list((tmp_path / "far" / "runs" / "x").iterdir())


def _execute(run_dir: Path, cache: str) -> None:
    import os

    os.environ["PYTHAE_FIF_CACHE"] = cache
    torch.set_num_threads(1)
    execute(run_dir)


def test_two_machines_want_the_same_run(machine, tmp_path, spec):
    url = (tmp_path / "far").as_uri()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pythae_fif.benchmark.run", "matplotlib.figure"])
    processes = []
    for name in "ab":
        machine(name)
        run_dir = Store(url).prepare(spec, ENVIRONMENT)
        processes.append(context.Process(target=_execute, args=(run_dir, str(tmp_path / name))))
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    records = []
    for name in "ab":
        machine(name)
        records.append(Store(url).record(spec))
    assert records[0] == records[1] and records[0]["provenance"]["attempts"] == 1


def test_whole_program_with_results_at_a_url(machine, tmp_path, file, capsys):
    url = (tmp_path / "far").as_uri()
    arguments = ["--config", str(file), "--offline", "--quiet", "--results", url]
    assert main(arguments) == 0
    for name in ("tables/digits-convnet-tiny-pixels.md", "pages/digits-convnet-tiny-pixels.html"):
        assert (tmp_path / "far" / name).is_file()
    assert "far" not in (tmp_path / "far" / "tables/digits-convnet-tiny-pixels.md").read_text()
    machine("b")
    shutil.rmtree(tmp_path / "a")
    assert main(arguments) == 0
    assert "1 of 1" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "part"),
    [("nowhere://x", "nowhere"), ("memory://x", "pip install")],
)
def test_url_that_nothing_serves(machine, monkeypatch, url, part):
    if part == "pip install":
        monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StoreError, match=part) as error:
        Store(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["memory://x/runs/a", "memory://x", "memory://x/runs/a/b/c/d/e"])
def test_url_that_is_no_run(machine, url):
    with pytest.raises(StoreError, match="is no run"):
        execute(url)


def test_studies_take_no_url(capsys):
    assert main(["--study", "linear", "--results", "memory://x"]) == 2
    assert "studies write to a folder" in capsys.readouterr().err
