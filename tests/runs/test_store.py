"""The store: runs in folders and in packed files, and files that do not belong to a run."""

import json
import os
import shutil
from typing import ClassVar

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
    assert list(store.iterate_specs(TaskSpec)) == []


def test_the_id_depends_only_on_what_defines_the_result():
    spec = TaskSpec(seed=1)
    assert spec.run_id == TaskSpec(seed=1, records=["a", "b"]).run_id != TaskSpec(seed=2).run_id
    assert spec.model_copy(update={"seed": 2}).run_id == TaskSpec(seed=2).run_id
    assert spec.to_dict() == {"schema": 1, "kind": "tasks", "spec": {"seed": 1}}
    assert read_spec(json.dumps(spec.to_dict()).encode(), TaskSpec) == spec


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"kind": "unknown"}', b'{"kind": "tasks", "schema": 2, "spec": {}}',
     b'{"kind": "tasks", "schema": 1, "spec": {"sed": 1}}', b'{"kind": ["a"]}'],
)  # fmt: skip
def test_an_invalid_specification_is_refused_in_one_line(content):
    with pytest.raises(StoreError, match=SPEC_FILE):
        read_spec(content, TaskSpec)


def test_two_classes_of_one_kind_are_an_error():
    with pytest.raises(StoreError, match=r"support.tasks.TaskSpec have the same kind"):

        class OtherTask(Spec):
            kind: ClassVar[str] = "tasks"


def test_finished_runs_are_listed_and_read(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    for spec in specs:
        execute_run(spec, store)

    assert sorted_by_seed(store.iterate_specs(TaskSpec)) == specs
    assert list(store.iterate_specs(TaskSpec, "elsewhere")) == []
    assert store.read_record(specs[2], "a.json", int).result == 2
    assert all(spec.is_done(store) for spec in specs)
    assert not TaskSpec(seed=9).is_done(store)
    assert not TaskSpec(seed=0, records=["a", "b"]).is_done(store)


def test_the_next_start_restores_a_damaged_specification(store):
    spec = TaskSpec()
    execute_run(spec, store)
    (store.folder(spec) / SPEC_FILE).write_text("{")
    assert not spec.is_done(store)

    execute_run(spec, store)
    assert spec.is_done(store)
    assert list(store.iterate_specs(TaskSpec)) == [spec]


def test_a_run_in_the_folder_of_another_is_skipped(store):
    misplaced = TaskSpec(seed=1)
    overwritten = TaskSpec(seed=2)
    execute_run(misplaced, store)
    store.folder(misplaced).rename(store.folder(overwritten))
    assert list(store.iterate_specs(TaskSpec)) == []
    assert store.read_record(overwritten, "a.json", int) is None
    assert not overwritten.is_done(store)


def pack(spec: Spec, value: int) -> PackedRun:
    """Returns a packed run with two records of a value, and a picture."""
    record = Record[int](run_id=spec.run_id, result=value, provenance=Provenance())
    content = json.loads(record.to_bytes())
    files = {SPEC_FILE: spec.to_dict(), "a.json": content, "scores/b.json": content}
    return PackedRun(run=spec.run_path, files=files, pictures={"a.png": b"cGk="})


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
    assert store.is_packed(spec.run_path)
    by_id = sorted(packed_specs, key=lambda spec: spec.run_id)
    assert list(store.iterate_specs(TaskSpec, "tasks")) == by_id
    assert spec.is_done(store)
    assert store.read_record(spec, "a.json", int).result == 1
    assert store.read_file(spec.run_path, "a.png") == b"pi"
    assert store.read_file(spec.run_path, "b.png") is None
    assert store.list_files(spec.run_path, "scores") == ["scores/b.json"]
    assert os.listdir(tmp_path / "runs") == ["tasks.jsonl"]


def test_the_folder_of_a_packed_run_takes_precedence(tmp_path, packed_specs):
    store = Store(tmp_path)
    spec = packed_specs[1]
    execute_run(spec.model_copy(update={"records": ["b"]}), store)
    assert store.read_record(spec, "a.json", int) is None
    assert store.list_files(spec.run_path, "scores") == []


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
