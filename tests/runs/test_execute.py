"""One run: what it leaves however it ends, and that whoever lost it writes nothing."""

import os
import signal
import time

import pytest
from support.folders import contents, whole
from support.processes import process_of
from support.tasks import DEEDS, TASKS, TaskSpec, prepared, task_store

from pythae_fif.errors import ClaimLostError, FIFError, StoreError
from pythae_fif.files import read_json
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.execute import execute, interrupt_after_epoch, interrupted_here
from pythae_fif.runs.folder import LITTER_SECONDS, RunFolder, Status, stop_writes
from pythae_fif.runs.kind import Job
from pythae_fif.runs.store import read_config
from pythae_fif.runs.verify import verify

SPEC = TaskSpec(asked=("a", "b"))


@pytest.fixture
def store(tmp_path):
    return task_store(tmp_path)


@pytest.fixture
def run_dir(store):
    return prepared(store, SPEC)[0]


@pytest.fixture
def deed(monkeypatch):
    """Makes a function what a run does first."""
    return lambda function: monkeypatch.setitem(DEEDS, "nothing", function)


def test_a_new_stage_is_told_at_once(run_dir, deed):
    """Of one stage the status is written twice a second at most."""
    told = []

    def tells(job):
        for stage, progress in (("loading data", 0.0), ("training", 0.0), ("training", 0.5)):
            job.folder.tell("running", stage, progress)
            status = Status.read(run_dir)
            told.append((status.stage, status.progress))

    deed(tells)
    execute(run_dir, TASKS)
    assert told == [("loading data", 0.0), ("training", 0.0), ("training", 0.0)]


def _epoch_that_is_interrupted(seconds: float, patience: float) -> None:
    """Of a training that somebody wants to end as soon as it has begun."""
    ended = False
    with pytest.raises(KeyboardInterrupt), interrupted_here() as check_interrupt:
        check_interrupt()
        interrupt_after_epoch(patience)
        time.sleep(seconds)
        ended = True
        check_interrupt()
    assert ended == (seconds < patience)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_epoch(60)  # at once: nothing is trained


@pytest.mark.parametrize(("seconds", "patience"), [(0.01, 30), (30, 0.01)])
def test_an_interrupt_waits_for_the_end_of_an_epoch_but_not_for_ever(seconds, patience):
    """In a process of its own: signals and timers are a process's."""
    process = process_of(_epoch_that_is_interrupted, seconds, patience)
    process.join(60)
    assert process.exitcode == 0


def test_leaves_a_whole_record_sealed_with_its_files(store, run_dir):
    record = execute(run_dir, TASKS)
    assert store.record(SPEC).to_dict() == record.to_dict()
    assert Status.read(run_dir) == Status("finished", "done", 1.0, 1)
    assert record.provenance.attempts == 1
    assert set(record.files) == {"picture.png", "log.jsonl", "model/weights"}
    assert {finding.kind for finding in verify(store.root, [TASKS])} <= {"fine", "dirty tree"}


def test_a_run_that_is_done_is_not_done_again(run_dir, deed):
    first = execute(run_dir, TASKS)
    deed(None)
    assert execute(run_dir, TASKS) == first
    assert Status.read(run_dir).attempt == 1


def test_what_is_there_is_kept_when_more_is_asked(store, run_dir):
    first = execute(run_dir, TASKS)
    prepared(store, TaskSpec(asked=("c",)))
    again = execute(run_dir, TASKS)
    assert again.answers == first.answers | {"c": 0}
    assert (again.provenance.attempts, store.is_done(SPEC)) == (2, True)


@pytest.mark.parametrize("asks", [1, 2])
def test_what_another_driver_asks_meanwhile_is_done_too(store, run_dir, deed, asks):
    wanted = iter(("c", "d")[:asks])

    def asked_meanwhile(job):
        if name := next(wanted, None):
            prepared(store, TaskSpec(asked=(name,)))

    deed(asked_meanwhile)
    assert set(execute(run_dir, TASKS).answers) == {"a", "b", *("c", "d")[:asks]}
    assert Status.read(run_dir) == Status("finished", "done", 1.0, 1)


def test_a_claim_in_the_making_is_left_to_whoever_makes_it(run_dir):
    names = {"claim-0123456789abcdef.tmp", "status.json.1a2b.tmp", "result.json.1a2b.tmp"}
    for name in names:
        (run_dir / name).touch()
    stop_writes(run_dir)
    assert {path.name for path in run_dir.glob("*.tmp")} == names - {"result.json.1a2b.tmp"}


def test_a_part_of_the_answers_is_kept(store):
    spec = TaskSpec(deed="partly", asked=("a", "b"))
    (run_dir,) = prepared(store, spec)
    with pytest.raises(FIFError, match="half of it is missing"):
        execute(run_dir, TASKS)
    assert Status.read(run_dir).state == "failed"
    assert set(store.record(spec).answers) == {"a"}
    assert not store.is_done(spec)


def test_failure_keeps_its_traceback_without_folders(run_dir, deed):
    deed(DEEDS["fail"])
    with pytest.raises(ValueError, match="broken"):
        execute(run_dir, TASKS)
    status = Status.read(run_dir)
    assert (status.state, status.error) == ("failed", "ValueError: broken in model")
    assert "in _fail" in status.traceback and "second line" in status.traceback
    assert 'File "pythae_fif/runs/execute.py"' in status.traceback
    assert str(run_dir) not in status.traceback
    assert not (run_dir / "result.json").exists()


def test_a_run_that_writes_no_record_has_failed(run_dir, monkeypatch):
    monkeypatch.setattr(Job, "write_record", lambda *_: None)
    with pytest.raises(FIFError, match="without a record of all that was asked"):
        execute(run_dir, TASKS)
    assert Status.read(run_dir).state == "failed"


@pytest.mark.parametrize(("before_record", "state"), [(True, "interrupted"), (False, "finished")])
def test_interrupt_beside_the_record(store, run_dir, monkeypatch, before_record, state):
    """What is called finished has a record, and what has one is called finished."""
    write = RunFolder.write_json

    def interrupted(folder, name, content):
        if not before_record:
            write(folder, name, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(run_dir, TASKS)
    assert Status.read(run_dir).state == state
    assert store.is_done(SPEC) == (not before_record)


def test_config_of_another_run(store, run_dir):
    (other,) = prepared(store, TaskSpec(seed=1))
    (run_dir / "config.yaml").write_text((other / "config.yaml").read_text())
    with pytest.raises(FIFError, match=f"describes run {other.name}, not {run_dir.name}"):
        execute(run_dir, TASKS)


def test_record_of_another_run_is_set_aside(store, run_dir):
    (other,) = prepared(store, TaskSpec(seed=1, asked=("a", "b")))
    execute(other, TASKS)
    foreign = (other / "result.json").read_bytes()
    (run_dir / "result.json").write_bytes(foreign)
    assert execute(run_dir, TASKS).answers == {"a": 0, "b": 0}
    assert (run_dir / "result.json.corrupt").read_bytes() == foreign


def test_swapped_folders_are_made_again(store):
    specs = [TaskSpec(seed, asked=("a",)) for seed in (0, 1)]
    one, other = prepared(store, *specs)
    for run_dir in (one, other):
        execute(run_dir, TASKS)
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)
    assert {finding.kind for finding in verify(store.root, [TASKS])} == {"misplaced"}
    assert [store.is_done(spec) for spec in specs] == [False, False]
    for spec, run_dir in zip(specs, prepared(store, *specs), strict=True):
        assert execute(run_dir, TASKS).answers == {"a": spec.seed}


def test_a_config_that_was_lost_is_written_anew_and_nothing_else(store, run_dir, deed):
    first = execute(run_dir, TASKS)
    config = (run_dir / "config.yaml").read_bytes()
    (run_dir / "config.yaml").unlink()
    assert not store.is_done(SPEC)  # so that a command prepares the run
    prepared(store, SPEC)
    deed(None)
    assert execute(run_dir, TASKS) == first
    assert store.is_done(SPEC) and (run_dir / "config.yaml").read_bytes() == config


@pytest.mark.parametrize("text", ['{"attempt": "x"}', "[1]", "\x00", '{"state": 5}'])
def test_a_damaged_status_costs_nothing(run_dir, text):
    (run_dir / "status.json").write_text(text)
    execute(run_dir, TASKS)
    assert Status.read(run_dir) == Status("finished", "done", 1.0, 1)


def test_rests_of_killed_processes_are_removed_once_they_are_old(run_dir):
    names = ("result.json.1a2b.tmp", "model.tmp", "status.json.1a2b.tmp")
    for age, kept in ((LITTER_SECONDS - 60, True), (LITTER_SECONDS + 60, False)):
        for name in names:
            path = run_dir / name
            if ".json" in name:
                path.write_text("half")
            else:
                path.mkdir(exist_ok=True)
                (path / "file").write_text("half")
            os.utime(path, 2 * (time.time() - age,))
        (run_dir / "result.json").unlink(missing_ok=True)
        record = execute(run_dir, TASKS)
        # What the run itself was writing goes at once: nobody else may finish it.
        assert [(run_dir / name).exists() for name in names] == [False, False, kept]
        assert not {file for file in record.files if ".tmp" in file}


class TestLostClaim:
    """The process stood still until another was given the run, which goes on in its folder."""

    @pytest.fixture
    def lose(self, run_dir):
        """Takes the run from whoever has it; gives what its folder holds then."""

        def lose() -> None:
            (claim,) = run_dir.glob("claim-*")
            claim.unlink()
            Claim(run_dir).acquire()
            Status("running", "of another", attempt=7).write(run_dir)
            lose.contents = contents(run_dir)

        return lose

    @pytest.mark.parametrize(
        "act",
        [
            lambda job: None,
            lambda job: job.folder.tell("running", "scoring"),
            lambda job: job.folder.write("picture.png", lambda file: file.write(b"late")),
            lambda job: job.folder.write_json("training.json", {}),
            DEEDS["partly"],
            DEEDS["sleep"],
            DEEDS["fail"],
        ],
        ids=["record", "status", "picture", "training", "part", "training goes on", "failure"],
    )
    def test_nothing_is_written(self, run_dir, lose, deed, act):
        def late(job):
            lose()
            act(job)

        deed(late)
        failure = ValueError if act is DEEDS["fail"] else ClaimLostError
        with pytest.raises(failure):
            execute(run_dir, TASKS)
        assert contents(run_dir) == lose.contents

    def test_nothing_is_written_after_an_interrupt(self, run_dir, lose, deed):
        def late(job):
            lose()
            raise KeyboardInterrupt

        deed(late)
        with pytest.raises((KeyboardInterrupt, ClaimLostError)):
            execute(run_dir, TASKS)
        assert contents(run_dir) == lose.contents

    def test_a_large_file_is_not_moved_into_place(self, run_dir, lose, deed):
        """The claim is looked for after the content is written: that takes its time."""

        def slow(file):
            file.write(b"half")
            lose()

        deed(lambda job: job.folder.write("picture.png", slow))
        with pytest.raises(ClaimLostError):
            execute(run_dir, TASKS)
        now = contents(run_dir)
        assert now == whole(lose.contents)

    def test_who_stood_still_just_before_renaming_finds_nothing_to_rename(
        self, run_dir, lose, deed, monkeypatch
    ):
        def still(*paths):
            monkeypatch.undo()
            lose()
            stop_writes(run_dir)  # as whoever takes over does
            os.replace(*paths)

        def write(file):
            file.write(b"late")
            monkeypatch.setattr("pythae_fif.files.os.replace", still)

        deed(lambda job: job.folder.write("picture.png", write))
        with pytest.raises(ClaimLostError):
            execute(run_dir, TASKS)
        now = contents(run_dir)
        assert now == whole(lose.contents)

    def test_the_record_of_the_other_stays(self, store, run_dir, lose, deed):
        """Between its own record and its own status."""
        write = Job.write_record
        seen = []

        def late(job, record):
            if not seen:
                seen.append(job)
                lose()
            write(job, record)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Job, "write_record", late)
            with pytest.raises(ClaimLostError):
                execute(run_dir, TASKS)
        assert not (run_dir / "result.json").exists()
        assert Status.read(run_dir).stage == "of another"


def test_a_folder_that_was_never_prepared(tmp_path):
    with pytest.raises(StoreError, match=r"cannot claim the run"):
        execute(tmp_path / "nowhere", TASKS)
    with pytest.raises(StoreError, match=r"cannot read .*config.yaml"):
        execute(tmp_path, TASKS)


def test_a_config_without_a_kind_is_of_the_image_benchmark(run_dir):
    """As it was before there were kinds."""
    text = (run_dir / "config.yaml").read_text().replace("kind: tasks\n", "")
    (run_dir / "config.yaml").write_text(text)
    assert read_config(run_dir).kind == "images"
    assert read_json(run_dir / "status.json") == {"state": "waiting", "attempt": 0}
