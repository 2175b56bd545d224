"""The store: what is whole is found, what is damaged is set aside, and nothing is lost."""

import dataclasses
import json

import pytest
from support.tasks import TASKS, TaskRecord, TaskSpec, prepared, task_store

from pythae_fif.errors import StoreError
from pythae_fif.files import read_json, write_json
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.record import Provenance
from pythae_fif.runs.store import Store, read_config

SPEC = TaskSpec(asked=("a", "b"))
RECORD = TaskRecord(run_id=SPEC.run_id, answers={"a": 1, "b": 2}, provenance=Provenance(), files={})
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture
def stored(tmp_path):
    """A store and the file of the record of `SPEC`."""
    store = task_store(tmp_path / "results")
    (run_dir,) = prepared(store, SPEC)
    write_json(run_dir / "result.json", RECORD.to_dict())
    return store, run_dir / "result.json"


def test_whole_record(stored):
    store, path = stored
    assert store.record(SPEC).answers == RECORD.answers
    assert path.exists()
    assert store.record(TaskSpec(seed=1)) is None


def test_record_of_a_part_of_what_is_asked(stored):
    store, _ = stored
    assert store.is_done(SPEC)
    assert store.is_done(dataclasses.replace(SPEC, asked=("b",)))
    more = dataclasses.replace(SPEC, asked=("b", "c"))
    assert not store.is_done(more)
    assert store.record(more).answers == RECORD.answers


def _edited(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "deep": lambda text: DEEP,
    "list": lambda text: "[1]",
    "edited": _edited(answers={"a": 1, "b": 3}),
    "of another run": lambda text: json.dumps(
        RECORD.model_copy(update={"run_id": "0" * 12}).to_dict()
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_set_aside_whole(stored, caplog, damage):
    store, path = stored
    text = DAMAGES[damage](path.read_text())
    path.write_text(text)
    assert store.record(SPEC) is None
    assert not path.exists()
    assert path.with_name("result.json.corrupt").read_text() == text
    assert str(path) in caplog.text
    assert "result.json.corrupt" in caplog.text


def test_nothing_that_was_set_aside_is_lost(stored):
    store, path = stored
    for text in ("a", "b", "c"):
        path.write_text(text)
        assert store.record(SPEC) is None
    kept = {file.read_text() for file in path.parent.glob("result.json.corrupt*")}
    assert kept == {"a", "b", "c"}


def test_a_damaged_record_of_a_run_under_way_is_left_to_its_owner(stored):
    store, path = stored
    path.write_text("{")
    with Claim(path.parent):
        assert store.record(SPEC) is None
        assert path.read_text() == "{"


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make .*file/results/runs/.*: Not a directory"):
        prepared(task_store(tmp_path / "file" / "results"), SPEC)


@pytest.mark.parametrize(
    ("text", "attempt"),
    [
        ('{"state": "failed", "attempt": 3, "error": "old"}', 3),
        ('{"state": "failed", "attempt": "x"}', 0),
        ('{"state": ["failed"], "stage": 3, "progress": "half", "attempt": 2}', 2),
        ("[1]", 0),
        ("null", 0),
        ("{", 0),
        (DEEP, 0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_prepare_forgets_the_state_but_counts_the_attempts(tmp_path, text, attempt):
    store = task_store(tmp_path)
    (run_dir,) = prepared(store, SPEC)
    (run_dir / "status.json").write_text(text)
    assert Status.read(run_dir).attempt == attempt
    prepared(store, SPEC)
    assert read_json(run_dir / "status.json") == {"state": "waiting", "attempt": attempt}


def test_a_run_under_way_is_asked_for_more_and_told_where_this_machine_has_its_data(tmp_path):
    """Its owner has read the environment; if that is dead, the next process runs here."""
    store, here = task_store(tmp_path), Environment(data_root="here")
    (run_dir,) = prepared(store, dataclasses.replace(SPEC, asked=("a",)))
    Status("running", "training", 0.5, 1).write(run_dir)
    with Claim(run_dir):
        store.prepare(dataclasses.replace(SPEC, asked=("b",)), here)
    assert read_config(run_dir).spec_of(TASKS, run_dir).asked == ("a", "b")
    assert Status.read(run_dir) == Status("running", "training", 0.5, 1)
    assert Environment.read(run_dir) == here


@pytest.mark.parametrize("content", [[1], {"offline": True, "unknown": 1}, None], ids=str)
def test_environment_of_which_a_part_is_known(tmp_path, content):
    write_json(tmp_path / "environment.json", content)
    assert Environment.read(tmp_path) == Environment(offline=isinstance(content, dict))


def test_specs_are_those_of_all_runs_of_the_kind(tmp_path):
    store = task_store(tmp_path)
    specs = [TaskSpec(seed) for seed in range(3)]
    first, second, _ = prepared(store, *specs)
    assert sorted(store.specs(), key=lambda spec: spec.seed) == specs
    first.rename(first.with_name("copied"))
    (second / "config.yaml").write_text("spec: [")
    assert list(store.specs("tasks")) == specs[2:]
    assert list(store.specs("others")) == []


CONFIGS = {
    "none": (None, "cannot read"),
    "empty": ("", "is damaged"),
    "cut off": ("kind: tasks\nschema: 1\n", "is damaged"),
    "no YAML": ("a: [", "is damaged"),
    "deep": (DEEP, "is damaged"),
    "binary": ("\x00\x01", "is damaged"),
    "list": ("[1]", "is damaged"),
    "another kind": ("kind: images\nschema: 1\nspec: {}", "is no specification of tasks"),
    "another version": ("kind: tasks\nschema: 9\nspec: {}", "is no specification of tasks"),
    "unknown key": (
        "kind: tasks\nschema: 1\nspec: {asked: [], b: 1}", "is no specification of tasks"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_damaged_is_one_line_and_written_anew(tmp_path, case):
    text, message = CONFIGS[case]
    store = task_store(tmp_path)
    (run_dir,) = prepared(store, SPEC)
    path = run_dir / "config.yaml"
    whole = path.read_text()
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(StoreError, match=message) as error:
        read_config(run_dir).spec_of(TASKS, run_dir)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    prepared(store, SPEC)
    assert path.read_text() == whole


def test_a_store_that_only_reads_sets_nothing_aside(tmp_path):
    (run_dir,) = prepared(task_store(tmp_path), TaskSpec())
    (run_dir / "result.json").write_text("{")
    assert Store(tmp_path, TASKS, reads_only=True).record(TaskSpec()) is None
    assert (run_dir / "result.json").read_text() == "{"
    assert task_store(tmp_path).record(TaskSpec()) is None
    assert (run_dir / "result.json.corrupt").exists()
