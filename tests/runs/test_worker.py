"""One run in its folder: done once, by one process, resumed, and nothing foreign is used."""

import shutil

import pytest
from support.folders import contents
from support.processes import is_locked, process_of, until
from support.tasks import ONCE, TaskSpec

from pythae_fif.errors import FIFError
from pythae_fif.runs.worker import STATUS_FILE, Run, Status, execute_run


def test_a_run_that_is_done_is_not_done_again(store):
    spec = TaskSpec(seed=3)
    execute_run(spec, store, command="a command")
    before = contents(store.folder(spec))
    assert store.record(spec, "a.json", int).provenance.command == "a command"
    (store.folder(spec) / ONCE).write_text("fail")
    execute_run(spec, store)
    assert (store.folder(spec) / ONCE).exists()
    (store.folder(spec) / ONCE).unlink()
    assert contents(store.folder(spec)) == before
    assert Status.read(store.folder(spec)) == Status(state="finished", share=1.0, attempt=1)


@pytest.mark.parametrize("deed", ["fail", "partly"])
def test_a_failure_is_told_and_mended_by_the_next_start(store, deed):
    spec = TaskSpec(wanted=["a", "b"])
    folder = store.folder(spec)
    folder.mkdir(parents=True)
    (folder / ONCE).write_text(deed)
    with pytest.raises((ValueError, FIFError)):
        execute_run(spec, store)
    status = Status.read(folder)
    assert status.state == "failed" and not store.is_done(spec)
    said = f"ValueError: broken in {folder}/model"
    assert status.error in (f"{said} second line", "half of it is missing")
    execute_run(spec, store)
    assert store.is_done(spec)
    assert Status.read(folder) == Status(state="finished", share=1.0, attempt=2)


@pytest.mark.parametrize("damage", ["cut", "another"])
def test_what_is_not_whole_or_another_s_is_set_aside(store, damage, caplog):
    spec, other = TaskSpec(seed=1), TaskSpec(seed=2)
    execute_run(spec, store), execute_run(other, store)
    path = store.folder(spec) / "a.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        shutil.copy(store.folder(other) / "a.json", path)
    kept = path.read_bytes()
    assert not store.is_done(spec)
    execute_run(spec, store)
    assert store.is_done(spec) and path.with_name("a.json.corrupt").read_bytes() == kept
    assert "a.json is not used" in caplog.text and "set aside as a.json.corrupt" in caplog.text


def test_one_process_at_a_time(store):
    """The second waits, and has nothing to do once the first is done."""
    spec = TaskSpec(deed="nap")
    processes = [process_of(execute_run, spec, store) for _ in range(3)]
    until(lambda: is_locked(store.folder(spec)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not is_locked(store.folder(spec))
    assert Status.read(store.folder(spec)).attempt == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"state": 3}', b'{"stat": "x"}', b'{"share": "x"}', b"\xff", b"[" * 10_000],
)
def test_a_status_that_is_damaged_is_as_if_never_written(tmp_path, content):
    (tmp_path / STATUS_FILE).write_bytes(content)
    assert Status.read(tmp_path) == Status()


def test_a_checksum_is_of_the_bytes_as_they_were_written(store):
    """What changes a file between its writing and the record's is noticed by `verify`."""
    spec = TaskSpec()
    run = Run(spec, store)
    files = run.write("a.png", b"right")
    (run.folder / "a.png").write_bytes(b"wrong")
    run.save("a.json", 1, files)
    assert store.record(spec, "a.json", int).files["a.png"] == run.write("b.png", b"right")["b.png"]
