"""`verify` reports every kind of verdict."""

import json
import os
import shutil
from typing import ClassVar

import pytest
from support.folders import flip_bit, read_folder
from support.tasks import TaskSpec

from pythae_fif.errors import StoreError
from pythae_fif.runs.store import CHECKSUM_KEY, SPEC_FILE, PackedRun, Store, _checksum
from pythae_fif.runs.verify import Verdict, verify
from pythae_fif.runs.worker import STATUS_FILE, execute_run

SPEC = TaskSpec(records=["a", "b"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a store with one finished run, as if it was made with a clean tree."""
    store = Store(tmp_path_factory.mktemp("finished"))
    execute_run(SPEC, store)
    for name in ("a.json", "b.json"):
        path = store.folder(SPEC) / name
        content = json.loads(path.read_text())
        content["provenance"]["git_dirty"] = False
        del content[CHECKSUM_KEY]
        path.write_text(json.dumps({**content, CHECKSUM_KEY: _checksum(content)}))
    return store.root


@pytest.fixture
def store(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Store(tmp_path)


@pytest.fixture
def folder(store):
    return store.folder(SPEC)


def edit(name: str, old: bytes, new: bytes):
    def change(folder) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return change


def flip_bit_in(name: str):
    return lambda folder: (folder / name).write_bytes(flip_bit((folder / name).read_bytes()))


def remove(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def overwrite(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def replace_by_pipe(name: str):
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def replace_records_by_status(**status):
    def change(folder) -> None:
        remove("a.json", "b.json")(folder)
        (folder / "status.json").write_text(json.dumps(status))

    return change


def replace_by_link(name: str):
    def change(folder) -> None:
        shutil.move(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


CASES = {
    "as it was": (lambda f: None, "fine", ""),
    "a file behind a link": (replace_by_link("a.png"), "fine", ""),
    "damaged record": (overwrite("a.json", "{"), "corrupt", "a.json: the record is incomplete"),
    "edited record": (edit("b.json", b'"result": 0', b'"result": 1'), "corrupt", "was changed"),
    "damaged picture": (flip_bit_in("a.png"), "corrupt", "a.png was changed"),
    "no picture": (remove("a.png"), "corrupt", "a.png is missing"),
    "a picture that is a pipe": (replace_by_pipe("a.png"), "corrupt", "a.png is missing"),
    "changed model": (flip_bit_in("model/weights"), "corrupt", "model/weights was changed"),
    "no specification": (remove(SPEC_FILE), "corrupt", SPEC_FILE),
    "bad specification": (overwrite(SPEC_FILE, "{"), "corrupt", SPEC_FILE),
    "another kind": (
        edit(SPEC_FILE, b'"kind": "tasks"', b'"kind": "own"'), "corrupt", "belongs to run"),
    "another schema": (edit(SPEC_FILE, b'"schema": 1', b'"schema": 2'), "corrupt", "belongs to"),
    "specification of another": (
        overwrite(SPEC_FILE, json.dumps(TaskSpec(seed=9).to_dict())), "corrupt", "belongs to run"),
    "failed": (replace_records_by_status(state="failed", error="why"), "failed", "why"),
    "failed in part": (
        overwrite(STATUS_FILE, '{"state":"failed","error":"why"}'), "failed", "why"),
    "interrupted": (replace_records_by_status(state="interrupted"), "unfinished", ""),
    "no records": (replace_records_by_status(state="finished"), "corrupt", "marked as finished"),
    "set aside": (overwrite("a.json.corrupt", ""), "set aside", "a.json.corrupt"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "detail"), CASES.values(), ids=CASES)
def test_verdict_on_a_changed_run(store, folder, change, kind, detail):
    change(folder)
    files = read_folder(store.root)
    verdicts = verify(store.root)
    kinds = [verdict.kind for verdict in verdicts]
    assert kinds.count(kind) == 1
    verdict = verdicts[kinds.index(kind)]
    assert detail in verdict.detail
    assert verdict.run_path.startswith("tasks/")
    assert kinds.count("corrupt") == (kind == "corrupt")
    assert read_folder(store.root) == files


def test_a_record_of_another_run(store, folder):
    foreign = TaskSpec(seed=1)
    execute_run(foreign, store)
    shutil.copy(store.folder(foreign) / "a.json", folder / "a.json")
    detail = "a.json: the record was changed, or belongs to another run"
    assert Verdict("corrupt", SPEC.run_path, detail) in verify(store.root)


def test_a_packed_run(store, folder):
    names = ("a.json", "b.json", SPEC_FILE)
    files = {name: json.loads((folder / name).read_text()) for name in names}
    line = PackedRun(run=SPEC.run_path, files=files).model_dump_json()
    packed_file = store.runs / "tasks.jsonl"
    shutil.rmtree(folder.parent)
    packed_file.write_text(line + "\n")
    assert [verdict.kind for verdict in verify(store.root)] == ["packed"]

    packed_file.write_text(line.replace('"result":0', '"result":1', 1) + "\n")
    assert [verdict.kind for verdict in verify(store.root)] == ["corrupt"]


def test_runs_of_a_strangers_study_are_checked_without_its_code(store, folder, monkeypatch):
    """Even if the working directory has a file of its name."""
    code = store.root / "studies/own.py"
    code.parent.mkdir()
    code.write_text('"""Own."""\nraise SystemExit("it was run")\nSTUDY = None\n')
    monkeypatch.chdir(store.root)

    class OwnSpec(TaskSpec):
        kind: ClassVar[str] = "own"

    execute_run(OwnSpec(), store)
    kinds = [verdict.kind for verdict in verify(store.root)]
    assert kinds.count("fine") == 2
    (store.folder(OwnSpec()) / "a.json").write_text("{")
    assert "corrupt" in [verdict.kind for verdict in verify(store.root)]


def test_a_run_with_uncommitted_code(tmp_path, monkeypatch):
    monkeypatch.setattr("pythae_fif.runs.worker.git_state", lambda: ("abc", True))
    execute_run(TaskSpec(), Store(tmp_path))
    assert Verdict("dirty tree", TaskSpec().run_path, "abc") in verify(tmp_path)


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(
        StoreError, match=r"no runs in .*: give the folder that was passed to --results"
    ):
        verify(tmp_path)
