"""Executing one run: only once, by one process, resumed, without using foreign files."""

import shutil

import pytest
from support.folders import read_folder
from support.processes import is_locked, start_process, wait_until
from support.tasks import NEXT_ACTION, TaskSpec

from pythae_fif.errors import FIFError
from pythae_fif.runs import worker
from pythae_fif.runs.worker import STATUS_FILE, Run, Status, execute_run


def test_a_finished_run_is_not_executed_again(store):
    spec = TaskSpec(seed=3)
    folder = store.folder(spec)
    execute_run(spec, store, command="a command")
    files = read_folder(folder)
    assert store.read_record(spec, "a.json", int).provenance.command == "a command"

    (folder / NEXT_ACTION).write_text("fail")
    execute_run(spec, store)
    assert (folder / NEXT_ACTION).exists()
    (folder / NEXT_ACTION).unlink()
    assert read_folder(folder) == files
    assert Status.read(folder) == Status(state="finished", share=1.0, attempt=1)


@pytest.mark.parametrize("action", ["fail", "fail after first record"])
def test_a_failure_is_in_the_status_and_the_next_start_resumes(store, action):
    spec = TaskSpec(records=["a", "b"])
    folder = store.folder(spec)
    folder.mkdir(parents=True)
    (folder / NEXT_ACTION).write_text(action)
    with pytest.raises((ValueError, FIFError)):
        execute_run(spec, store)

    status = Status.read(folder)
    assert status.state == "failed"
    assert not spec.is_done(store)
    message = f"ValueError: broken in {folder}/model second line"
    assert status.error in (message, "half of it is missing")

    execute_run(spec, store)
    assert spec.is_done(store)
    assert Status.read(folder) == Status(state="finished", share=1.0, attempt=2)


@pytest.mark.parametrize("damage", ["cut off", "replaced"])
def test_a_damaged_or_foreign_record_is_set_aside(store, damage, caplog):
    spec = TaskSpec(seed=1)
    foreign = TaskSpec(seed=2)
    execute_run(spec, store)
    execute_run(foreign, store)
    path = store.folder(spec) / "a.json"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        shutil.copy(store.folder(foreign) / "a.json", path)
    damaged = path.read_bytes()
    assert not spec.is_done(store)

    execute_run(spec, store)
    assert spec.is_done(store)
    assert path.with_name("a.json.corrupt").read_bytes() == damaged
    assert "a.json is not used" in caplog.text
    assert "set aside as a.json.corrupt" in caplog.text


def test_one_process_executes_a_run_and_the_others_wait(store):
    """The others have nothing to do when the first process is done."""
    spec = TaskSpec(action="nap")
    processes = [start_process(execute_run, spec, store) for _ in range(3)]
    wait_until(lambda: is_locked(store.folder(spec)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not is_locked(store.folder(spec))
    assert Status.read(store.folder(spec)).attempt == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"state": 3}', b'{"stat": "x"}', b'{"share": "x"}', b"\xff", b"[" * 10_000],
)
def test_a_damaged_status_is_read_as_empty(tmp_path, content):
    (tmp_path / STATUS_FILE).write_bytes(content)
    assert Status.read(tmp_path) == Status()


def test_the_checksum_is_that_of_the_written_bytes(store):
    """A file that changes before its record is written does not get a new checksum."""
    spec = TaskSpec()
    run = Run(spec, store)
    checksums = run.write("a.png", b"right")
    (run.folder / "a.png").write_bytes(b"wrong")
    run.save("a.json", 1, checksums)
    expected = run.write("b.png", b"right")["b.png"]
    assert store.read_record(spec, "a.json", int).files["a.png"] == expected


def test_a_stage_counts(store, monkeypatch):
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0)
    run = Run(TaskSpec(), store)
    progress = run.begin_stage("features", 0.5, 0.7)
    assert Status.read(run.folder) == Status(
        stage="features", share=0.5, state="running", attempt=1
    )
    progress(600, 1498)
    status = Status.read(run.folder)
    assert status.stage == "features 600 of 1,498"
    assert status.share == pytest.approx(0.5 + 0.2 * 600 / 1498)
