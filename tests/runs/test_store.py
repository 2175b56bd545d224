"""The store: runs in folders and in packed files, and files that do not belong to a run."""

import json
import os
import shutil

import pytest
from support.tasks import TaskSpec

from pythae_fif.errors import StoreError
from pythae_fif.runs.store import (
    SPEC_FILE,
    PackedRun,
    Provenance,
    Record,
    Spec,
    Store,
    read_file,
    read_spec,
)
from pythae_fif.runs.worker import execute_run


def sorted_by_seed(specs) -> list[TaskSpec]:
    return sorted(specs, key=lambda spec: spec.seed)


def test_opening_a_store_writes_nothing(store):
    assert not store.root.exists()
    assert list(store.specs(TaskSpec)) == []


def test_the_id_depends_only_on_what_defines_the_result():
    spec = TaskSpec(seed=1)
    assert spec.run_id == TaskSpec(seed=1, records=["a", "b"]).run_id != TaskSpec(seed=2).run_id
    assert spec.model_copy(update={"seed": 2}).run_id == TaskSpec(seed=2).run_id
    assert spec.to_dict() == {"schema": 3, "kind": "tasks", "spec": {"seed": 1}}
    assert read_spec(json.dumps(spec.to_dict()).encode()) == spec


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"kind": "unknown"}', b'{"kind": "tasks", "schema": 2, "spec": {}}',
     b'{"kind": "tasks", "schema": 3, "spec": {"sed": 1}}', b'{"kind": ["a"]}'],
)  # fmt: skip
def test_an_invalid_specification_is_refused_in_one_line(content):
    with pytest.raises(StoreError, match=SPEC_FILE):
        read_spec(content)


def test_finished_runs_are_listed_and_read(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    for spec in specs:
        execute_run(spec, store)

    assert sorted_by_seed(store.specs(TaskSpec)) == specs
    assert list(store.specs(TaskSpec, "elsewhere")) == []
    assert store.record(specs[2], "a.json", int).result == 2
    assert all(map(store.is_done, specs))
    assert not store.is_done(TaskSpec(seed=9))
    assert not store.is_done(TaskSpec(seed=0, records=["a", "b"]))


def test_the_next_start_restores_a_damaged_specification(store):
    spec = TaskSpec()
    execute_run(spec, store)
    (store.folder(spec) / SPEC_FILE).write_text("{")
    assert not store.is_done(spec)

    execute_run(spec, store)
    assert store.is_done(spec)
    assert list(store.specs(TaskSpec)) == [spec]


def test_a_run_in_the_folder_of_another_is_skipped(store):
    misplaced = TaskSpec(seed=1)
    overwritten = TaskSpec(seed=2)
    execute_run(misplaced, store)
    store.folder(misplaced).rename(store.folder(overwritten))
    assert list(store.specs(TaskSpec)) == []
    assert store.record(overwritten, "a.json", int) is None
    assert not store.is_done(overwritten)


def pack(spec: Spec, value: int) -> PackedRun:
    """Returns a packed run with two records of a value, and a picture."""
    record = Record[int](run_id=spec.run_id, result=value, provenance=Provenance())
    content = json.loads(record.to_bytes())
    files = {SPEC_FILE: spec.to_dict(), "a.json": content, "scores/b.json": content}
    return PackedRun(run=spec.path, files=files, pictures={"a.png": b"cGk="})


@pytest.fixture
def packed_specs(tmp_path):
    """Two runs in a packed file of the store `tmp_path`."""
    specs = [TaskSpec(seed=seed) for seed in range(2)]
    lines = [pack(spec, spec.seed).model_dump_json() for spec in specs]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    return specs


def test_packed_runs_are_read(tmp_path, packed_specs):
    store = Store(tmp_path)
    spec = packed_specs[1]
    by_id = sorted(packed_specs, key=lambda spec: spec.run_id)
    assert list(store.specs(TaskSpec, "tasks")) == by_id
    assert store.is_done(spec)
    assert store.record(spec, "a.json", int).result == 1
    assert store.read(spec, "a.png") == b"pi"
    assert store.read(spec, "b.png") is None
    assert store.names(spec, "scores") == ["scores/b.json"]
    assert os.listdir(tmp_path / "runs") == ["tasks.jsonl"]


def test_the_folder_of_a_packed_run_takes_precedence(tmp_path, packed_specs):
    store = Store(tmp_path)
    spec = packed_specs[1]
    execute_run(spec.model_copy(update={"records": ["b"]}), store)
    assert store.record(spec, "a.json", int) is None
    assert store.names(spec, "scores") == []


def test_the_error_names_a_damaged_packed_file(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits.jsonl").write_text("{}\n")
    message = r"digits.jsonl, line 1 is not a packed run: restore the file"
    with pytest.raises(StoreError, match=message):
        Store(tmp_path)


def test_a_run_that_is_packed_twice_is_an_error(tmp_path, packed_specs):
    (packed_file,) = (tmp_path / "runs").glob("*.jsonl")
    shutil.copy(packed_file, packed_file.with_name("z.jsonl"))
    with pytest.raises(StoreError, match=r"z.jsonl: run .* is packed twice"):
        Store(tmp_path)


def test_links_are_followed_and_missing_files_are_none(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"x"
    assert read_file(tmp_path / "none") is None
    assert read_file(tmp_path / "file" / "none") is None
