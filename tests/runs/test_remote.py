"""A store at a URL: what one machine made, another finds; what one began, another ends."""

import contextlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from support.experiments import ENVIRONMENT, tiny
from support.processes import process_of
from support.tasks import DEEDS, TASKS, TaskSpec, prepared, task_store

import pythae_fif.runs.claim as claim_module
import pythae_fif.runs.remote as remote_module
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.cli.main import main
from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.engines.common import Batch
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import RunFolder, Status
from pythae_fif.runs.remote import Remote, RemoteClaims
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import WRONG, verify

SPEC = TaskSpec(asked=("a",))


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


def prepare(url: str, spec: TaskSpec = SPEC) -> Path:
    (run_dir,) = prepared(task_store(url), spec)
    return run_dir


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_what_one_machine_made_another_finds_whole(machine, url):
    here = task_store(url)
    record = execute(prepare(url), TASKS)
    machine("b")
    there = task_store(url)
    assert there.root != here.root
    assert there.is_done(SPEC) and there.record(SPEC).to_dict() == record.to_dict()
    found = {path.name for path in there.run_dir(SPEC).iterdir()}
    assert {"config.yaml", "picture.png", "log.jsonl", "status.json"} <= found
    assert "model" not in found and "output.log" not in found
    assert not [name for name in there.remote.files() if "claim-" in name or ".tmp" in name]
    kinds = {finding.kind for finding in verify(there.root, [TASKS])}
    assert not kinds & set(WRONG) and "fine" in kinds


def test_more_that_is_asked_elsewhere_is_added(machine, url):
    execute(prepare(url), TASKS)
    machine("b")
    more = TaskSpec(asked=("a", "b"))
    store = task_store(url)
    assert not store.is_done(more)
    assert set(execute(prepare(url, more), TASKS).answers) == {"a", "b"}
    machine("a")
    assert task_store(url).is_done(more)


@pytest.mark.filterwarnings("ignore:scores of 20 samples")
def test_resumed_elsewhere_from_the_last_checkpoint(
    machine, one_thread, url, tmp_path, monkeypatch
):
    (spec,) = expand(*tiny(tmp_path, epochs=3, batch_size=20))
    whole = execute(Store(url + "-whole", IMAGES).prepare(spec, ENVIRONMENT), IMAGES)
    run_dir = Store(url, IMAGES).prepare(spec, ENVIRONMENT)
    tell = RunFolder.tell

    def interrupted(folder, state, stage="", progress=0.0, **more):
        if stage == "training" and progress > 0.5:
            raise KeyboardInterrupt
        tell(folder, state, stage, progress, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run_dir, IMAGES)
    machine("b")
    store = Store(url, IMAGES)
    below = store.run_dir(spec).relative_to(store.root).as_posix()
    assert Status.read(store.run_dir(spec)).state == "interrupted"
    assert f"{below}/checkpoint.pt" in store.remote.files()
    epochs = []

    def watched(folder, state, stage="", progress=0.0, **more):
        if stage == "training" and progress:
            epochs.append(round(progress / 0.9 * 3))
        tell(folder, state, stage, progress, **more)

    monkeypatch.setattr(RunFolder, "tell", watched)
    record = execute(f"{url}/{below}", IMAGES)  # as a node would that has nothing but the URL
    assert epochs == [3]
    assert (record.scores, record.reconstruction_mse) == (whole.scores, whole.reconstruction_mse)
    assert f"{below}/checkpoint.pt" not in store.remote.files()


def test_a_checkpoint_travels_while_the_run_goes_on(machine, url, monkeypatch):
    monkeypatch.setattr(remote_module, "PUSH_SECONDS", 0.05)
    store, seen = task_store(url), []

    def long(job):
        job.folder.write("checkpoint.pt", lambda file: file.write(b"state"))
        until = time.monotonic() + 5
        while not seen and time.monotonic() < until:
            seen.extend(name for name in store.remote.files() if name.endswith("checkpoint.pt"))
        (job.folder.path / "checkpoint.pt").unlink()

    monkeypatch.setitem(DEEDS, "nothing", long)
    record = execute(prepare(url), TASKS)
    assert seen and "checkpoint.pt" not in record.files
    assert not [name for name in store.remote.files() if name.endswith("checkpoint.pt")]


def test_a_record_travels_after_the_files_that_it_seals(machine, url, monkeypatch):
    """Not if both came after the files to be sent were listed."""
    remote, run_dir = task_store(url).remote, prepare(url)
    record, put = run_dir / "result.json", remote.put
    record.write_text("{}")

    def meanwhile(path):
        if path.name == "log.jsonl":
            (run_dir / "samples-normal.png").write_bytes(b"pixels")
            record.write_text('{"seals": "samples-normal.png"}')
        return put(path)

    monkeypatch.setattr(remote, "put", meanwhile)
    (run_dir / "log.jsonl").write_text("")
    remote.push(run_dir)
    sent = {name.rpartition("/")[2] for name in remote.files()}
    assert "log.jsonl" in sent and not sent & {"result.json", "samples-normal.png"}
    remote.push(run_dir)
    assert {name.rpartition("/")[2] for name in remote.files()} >= {
        "result.json",
        "samples-normal.png",
    }


@pytest.mark.parametrize("error", [StoreError("no network"), ConnectionError("no network")])
def test_a_checkpoint_travels_after_a_hiccup_of_the_network(machine, url, monkeypatch, error):
    monkeypatch.setattr(remote_module, "PUSH_SECONDS", 0.02)
    store, run_dir, hiccups, seen = task_store(url), prepare(url), [], []
    holds = RemoteClaims.holds

    def unreliable(claims, name):
        if not hiccups:
            hiccups.append(error)
            raise error
        return holds(claims, name)

    def long(job):
        job.folder.write("checkpoint.pt", lambda file: file.write(b"state"))
        until = time.monotonic() + 5
        while not seen and time.monotonic() < until:
            seen.extend(name for name in store.remote.files() if name.endswith("checkpoint.pt"))
            time.sleep(0.02)

    monkeypatch.setattr(RemoteClaims, "holds", unreliable)
    monkeypatch.setitem(DEEDS, "nothing", long)
    execute(run_dir, TASKS)
    assert hiccups and seen


@pytest.mark.parametrize("call", [RemoteClaims.names, lambda claims: claims.read("claim-a")])
def test_claims_that_cannot_be_seen_are_one_line_and_not_none(machine, url, monkeypatch, call):
    """Whoever took a claim for gone would do the run of a living owner."""
    claims = RemoteClaims(Remote(url), "runs/x")
    assert not call(claims)

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(claims.fs, "ls", unreachable)
    monkeypatch.setattr(claims.fs, "cat_file", unreachable)
    with pytest.raises(StoreError, match=r"cannot be (listed|read): no network"):
        call(claims)


def test_record_that_could_not_be_sent_is_sent_by_the_next_start(machine, url, monkeypatch):
    store, run_dir = task_store(url), prepare(url)

    def unreachable(*_):
        raise StoreError("results cannot be written: no network")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", unreachable)
        with pytest.raises(StoreError, match="no network"):
            execute(run_dir, TASKS)
    assert not [name for name in store.remote.files() if name.endswith("result.json")]
    task_store(url)
    machine("b")
    assert task_store(url).is_done(SPEC)


def test_a_record_is_sent_though_its_dead_owner_still_counts_as_living(machine, url, monkeypatch):
    run_dir = prepare(url)
    with monkeypatch.context() as patch, contextlib.suppress(StoreError):
        patch.setattr(Remote, "put", lambda *_: (_ for _ in ()).throw(StoreError("no network")))
        execute(run_dir, TASKS)
    (run_dir / "claim-0123456789abcdef").write_text("another machine 0")
    task_store(url)
    machine("b")
    assert task_store(url).is_done(SPEC)


def test_a_claim_of_before_a_reboot_keeps_nothing_away(machine, url):
    (prepare(url) / "claim-0123456789abcdef").write_text("this machine, booted before 00000000\n")
    machine("b")
    execute(prepare(url), TASKS)
    machine("a")
    assert task_store(url).is_done(SPEC)


def test_what_a_run_of_this_machine_wrote_is_not_replaced_by_what_it_sent_before(machine, url):
    store, run_dir = task_store(url), prepare(url)
    (run_dir / "log.jsonl").write_text("1\n")
    store.remote.push(run_dir)
    with Claim(run_dir):
        (run_dir / "log.jsonl").write_text("1\n2\n")
        store.remote.put(run_dir / "log.jsonl")  # and its push has not come to its end
        (run_dir / "log.jsonl").write_text("1\n2\n3\n")
        task_store(url)
        assert (run_dir / "log.jsonl").read_text() == "1\n2\n3\n"


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_a_half_written_record_at_the_url_is_done_again_and_kept(machine, url):
    store, run_dir = task_store(url), prepare(url)
    first = execute(run_dir, TASKS)
    name = f"{store.remote.root}/{run_dir.relative_to(store.root).as_posix()}/result.json"
    text = store.remote.fs.cat_file(name)
    store.remote.fs.pipe_file(name, text[:300])
    machine("b")
    assert not task_store(url).is_done(SPEC)
    assert execute(prepare(url), TASKS).answers == first.answers
    machine("c")
    last = task_store(url)
    assert last.is_done(SPEC)
    assert (last.run_dir(SPEC) / "result.json.corrupt").read_bytes() == text[:300]


def test_whoever_lost_the_run_at_the_url_sends_nothing_and_says_so(machine, url, monkeypatch):
    """The claim of this machine's folder holds: no other process of it wants the run."""
    store, run_dir = task_store(url), prepare(url)

    def lose(job):
        for name in store.remote.files():
            if "/claim-" in name:
                store.remote.fs.rm_file(f"{store.remote.root}/{name}")

    monkeypatch.setitem(DEEDS, "nothing", lose)
    with pytest.raises(ClaimLostError):
        execute(run_dir, TASKS)
    assert not [name for name in store.remote.files() if name.endswith("result.json")]


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
    os.environ["PYTHAE_FIF_CACHE"] = cache
    execute(run_dir, TASKS)


@pytest.mark.ray
@pytest.mark.parametrize("deed", ["nothing", "fail"])
def test_the_driver_of_a_ray_cluster_sees_how_a_run_elsewhere_ended(
    machine, url, monkeypatch, deed
):
    pytest.importorskip("ray", reason="needs ray")
    import pythae_fif.runs.engines.ray as ray_module

    run_dir = prepare(url, TaskSpec(deed=deed))
    place = ray_module._place_of(run_dir)
    machine("b")
    ended = "failed" if deed == "fail" else "finished"
    with contextlib.suppress(ValueError):
        execute(place, TASKS)
    machine("a")
    assert ray_module._is_waiting(run_dir) is False
    monkeypatch.setattr(ray_module.ray, "get", lambda _: (ended, "broken"))
    outcome = ray_module._end_of(Batch(TASKS, [run_dir]), None, run_dir, Counter())
    assert outcome.state == Status.read(run_dir).state == ended
    assert ("ValueError: broken" in outcome.error) == (deed == "fail")


@pytest.mark.ray
@pytest.mark.parametrize("begun", [False, True])
def test_ray_leaves_the_mirror_to_a_run_on_this_machine(machine, url, monkeypatch, begun):
    pytest.importorskip("ray", reason="needs ray")
    import pythae_fif.runs.engines.ray as ray_module

    run_dir, pulls = prepare(url), []
    monkeypatch.setattr(ray_module, "mirrored", pulls.append)
    with Claim(run_dir) if begun else contextlib.nullcontext():
        ray_module._refresh(run_dir)
    assert len(pulls) == (not begun)


def test_two_machines_want_the_same_run(machine, tmp_path, url):
    spec = TaskSpec(deed="nap")
    processes = []
    for name in "ab":
        machine(name)
        processes.append(process_of(_execute, prepare(url, spec), str(tmp_path / name)))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    records = []
    for name in "ab":
        machine(name)
        records.append(task_store(url).record(spec))
    assert records[0] == records[1] and records[0].provenance.attempts == 1


@pytest.mark.filterwarnings("ignore:scores of 20 samples")
def test_whole_program_with_results_at_a_url(machine, tmp_path, monkeypatch):
    tiny(tmp_path)
    far = tmp_path / "far"
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--offline", "--quiet"]
    arguments += ["--results", far.as_uri()]
    assert main(arguments) == 0
    for name in ("tables/digits-convnet-tiny-pixels.md", "pages/digits-convnet-tiny-pixels.html"):
        assert (far / name).is_file()
    assert "far" not in (far / "tables/digits-convnet-tiny-pixels.md").read_text()
    machine("b")
    shutil.rmtree(tmp_path / "a")

    def run_all(*_):
        raise AssertionError("a run was started")

    monkeypatch.setattr(LocalEngine, "run_all", run_all)
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("url", "part"),
    [("nowhere://x", "nowhere"), ("memory://x", "pip install")],
)
def test_url_that_nothing_serves(machine, monkeypatch, url, part):
    if part == "pip install":
        monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StoreError, match=part) as error:
        task_store(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["memory://x/runs/a", "memory://x", "memory://x/runs/a/b/c/d/e"])
def test_url_that_is_no_run(machine, url):
    with pytest.raises(StoreError, match=r"is no run|there is no run at"):
        execute(url, TASKS)


@pytest.mark.parametrize(
    ("name", "run", "large"),
    [
        ("runs/digits/convnet/model/0123456789ab/result.json", "runs/digits/convnet/model", False),
        ("runs/a/0123456789ab/model/weights.pt", "runs/a", True),
        ("runs/a/0123456789ab/checkpoint.pt", "runs/a", True),
        ("runs/a/0123456789ab/log.jsonl", "runs/a", False),
    ],
)
def test_whose_file_it_is_and_whether_it_is_large(name, run, large):
    assert remote_module._parts(name)[0] == f"{run}/0123456789ab"
    assert remote_module._is_large(name) == large
