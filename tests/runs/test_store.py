"""The store: what is there, in folders and in packed files, and what is not a run's."""

import json
import os

import pytest
from support.tasks import TaskSpec

from pythae_fif.errors import StoreError
from pythae_fif.runs.record import Provenance, Record
from pythae_fif.runs.spec import SPEC_FILE, Spec, read_spec
from pythae_fif.runs.store import PackedRun, Store, read_file
from pythae_fif.runs.worker import execute_run


def test_opening_a_store_writes_nothing(store):
    assert not store.root.exists() and list(store.specs(TaskSpec)) == []


def test_the_id_is_of_what_defines_the_result():
    spec = TaskSpec(seed=1)
    assert spec.run_id == TaskSpec(seed=1, wanted=["a", "b"]).run_id != TaskSpec(seed=2).run_id
    assert spec.model_copy(update={"seed": 2}).run_id == TaskSpec(seed=2).run_id
    assert spec.to_dict() == {"schema": 3, "kind": "tasks", "spec": {"seed": 1}}
    assert read_spec(json.dumps(spec.to_dict()).encode()) == spec


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"kind": "unknown"}', b'{"kind": "tasks", "schema": 2, "spec": {}}',
     b'{"kind": "tasks", "schema": 3, "spec": {"sed": 1}}', b'{"kind": ["a"]}'],
)  # fmt: skip
def test_what_is_no_specification_is_one_line(content):
    with pytest.raises(StoreError, match=SPEC_FILE):
        read_spec(content)


def test_runs_are_found_again(store):
    specs = [TaskSpec(seed=seed) for seed in range(3)]
    for spec in specs:
        execute_run(spec, store)
    assert sorted(store.specs(TaskSpec), key=lambda s: s.seed) == specs
    assert list(store.specs(TaskSpec, "elsewhere")) == []
    assert store.record(specs[2], "a.json", int).result == 2
    assert all(map(store.is_done, specs)) and not store.is_done(TaskSpec(seed=9))
    assert not store.is_done(TaskSpec(seed=0, wanted=["a", "b"]))
    (store.folder(specs[0]) / SPEC_FILE).write_text("{")  # restored by the next start
    assert not store.is_done(specs[0])
    execute_run(specs[0], store)
    assert store.is_done(specs[0]) and sorted(store.specs(TaskSpec), key=lambda s: s.seed) == specs


def test_a_run_in_another_s_folder_is_passed_over(store):
    one, other = TaskSpec(seed=1), TaskSpec(seed=2)
    execute_run(one, store)
    store.folder(one).rename(store.folder(other))
    assert list(store.specs(TaskSpec)) == []
    assert store.record(other, "a.json", int) is None and not store.is_done(other)


def packed(spec: Spec, value: int) -> PackedRun:
    record = Record[int](run_id=spec.run_id, result=value, provenance=Provenance())
    files = {SPEC_FILE: spec.to_dict(), "a.json": json.loads(record.to_bytes()),
             "scores/b.json": json.loads(record.to_bytes())}  # fmt: skip
    return PackedRun(run=f"{spec.folder}/{spec.run_id}", files=files, pictures={"a.png": b"cGk="})


def test_packed_runs_are_read_where_they_have_no_folder(tmp_path):
    specs = [TaskSpec(seed=seed) for seed in range(2)]
    runs = tmp_path / "runs"
    runs.mkdir()
    lines = [packed(spec, spec.seed).model_dump_json() for spec in specs]
    (runs / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    store = Store(tmp_path)
    assert list(store.specs(TaskSpec, "tasks")) == sorted(specs, key=lambda s: s.run_id)
    assert store.is_done(specs[1])
    assert store.record(specs[1], "a.json", int).result == 1
    assert store.read(specs[1], "a.png") == b"pi" and store.read(specs[1], "b.png") is None
    assert store.names(specs[1], "scores") == ["scores/b.json"]
    assert os.listdir(runs) == ["tasks.jsonl"]
    execute_run(TaskSpec(seed=1, wanted=["b"]), store)  # now its folder counts
    assert store.record(specs[1], "a.json", int) is None
    assert store.names(specs[1], "scores") == []


def test_a_damaged_packed_file_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits.jsonl").write_text("{}\n")
    with pytest.raises(
        StoreError, match=r"digits.jsonl, line 1 is not a packed run: restore the file"
    ):
        Store(tmp_path)


def test_links(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"x"
    assert read_file(tmp_path / "none") is None and read_file(tmp_path / "file" / "none") is None
