"""What `verify` finds: every kind of verdict."""

import json
import os
import shutil

import pytest
from support.folders import contents, flipped
from support.tasks import TaskSpec

from pythae_fif.errors import StoreError
from pythae_fif.runs.record import CHECKSUM_KEY, _checksum
from pythae_fif.runs.spec import SPEC_FILE
from pythae_fif.runs.store import PackedRun, Store
from pythae_fif.runs.verify import Verdict, verify
from pythae_fif.runs.worker import STATUS_FILE, execute_run

SPEC = TaskSpec(wanted=["a", "b"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with one finished run, as if made with a clean tree."""
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


def edited(name: str, old: bytes, new: bytes):
    def edit(folder) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return edit


def flip(name: str):
    return lambda folder: (folder / name).write_bytes(flipped((folder / name).read_bytes()))


def removed(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def written(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def pipe(name: str):
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def without_records(**status):
    def change(folder) -> None:
        removed("a.json", "b.json")(folder)
        (folder / "status.json").write_text(json.dumps(status))

    return change


def linked(name: str):
    """The file is elsewhere, which a run would follow, too."""

    def link(folder) -> None:
        shutil.move(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return link


CASES = {
    "as it was": (lambda f: None, "fine", ""),
    "a file behind a link": (linked("a.png"), "fine", ""),
    "damaged record": (written("a.json", "{"), "corrupt", "a.json: the record is incomplete"),
    "edited record": (edited("b.json", b'"result": 0', b'"result": 1'), "corrupt", "was changed"),
    "damaged picture": (flip("a.png"), "corrupt", "a.png was changed"),
    "no picture": (removed("a.png"), "corrupt", "a.png is missing"),
    "a picture that is a pipe": (pipe("a.png"), "corrupt", "a.png is missing"),
    "changed model": (flip("model/weights"), "corrupt", "model/weights was changed"),
    "no specification": (removed(SPEC_FILE), "corrupt", SPEC_FILE),
    "bad specification": (written(SPEC_FILE, "{"), "corrupt", SPEC_FILE),
    "other schema": (edited(SPEC_FILE, b'"schema": 3', b'"schema": 1'), "corrupt", "needs 3"),
    "specification of another": (
        written(SPEC_FILE, json.dumps(TaskSpec(seed=9).to_dict())), "corrupt", "belongs to run"),
    "failed": (without_records(state="failed", error="why"), "failed", "why"),
    "failed in part": (
        written(STATUS_FILE, '{"state":"failed","error":"why"}'), "failed", "why"),
    "interrupted": (without_records(state="interrupted"), "unfinished", ""),
    "called finished": (without_records(state="finished"), "corrupt", "marked as finished"),
    "set aside": (written("a.json.corrupt", ""), "set aside", "a.json.corrupt"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "detail"), CASES.values(), ids=CASES)
def test_what_is_found(store, folder, change, kind, detail):
    change(folder)
    before = contents(store.root)
    found = verify(store.root)
    (verdict,) = [verdict for verdict in found if verdict.kind == kind]
    assert detail in verdict.detail and verdict.run.startswith("tasks/")
    assert [of.kind for of in found].count("corrupt") == (kind == "corrupt")
    assert contents(store.root) == before


def test_a_record_of_another_run(store, folder):
    other = TaskSpec(seed=1)
    execute_run(other, store)
    shutil.copy(store.folder(other) / "a.json", folder / "a.json")
    detail = "a.json: the record was changed, or belongs to another run"
    assert Verdict("corrupt", SPEC.path, detail) in verify(store.root)


def test_a_packed_run(store, folder):
    names = ("a.json", "b.json", SPEC_FILE)
    files = {name: json.loads((folder / name).read_text()) for name in names}
    line = PackedRun(run=SPEC.path, files=files).model_dump_json()
    shutil.rmtree(folder.parent)
    (store.runs / "tasks.jsonl").write_text(line + "\n")
    assert [verdict.kind for verdict in verify(store.root)] == ["packed"]
    (store.runs / "tasks.jsonl").write_text(line.replace('"result":0', '"result":1', 1) + "\n")
    assert [verdict.kind for verdict in verify(store.root)] == ["corrupt"]


def test_code_that_no_revision_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("pythae_fif.runs.worker.git_state", lambda: ("abc", True))
    execute_run(TaskSpec(), Store(tmp_path))
    assert Verdict("dirty tree", TaskSpec().path, "abc") in verify(tmp_path)


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(
        StoreError, match=r"no runs in .*: give the folder that was passed to --results"
    ):
        verify(tmp_path)
