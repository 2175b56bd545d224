"""What `verify` finds: every kind of finding."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from support.folders import flipped
from support.tasks import TASKS, TaskSpec, prepared, task_store

from pythae_fif.benchmark.run import IMAGES
from pythae_fif.errors import StoreError
from pythae_fif.runs import verify as verify_module
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.execute import execute
from pythae_fif.runs.record import SEAL, _checksum
from pythae_fif.runs.verify import KINDS_OF_FINDINGS, WRONG, verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with one finished run, as if made with a clean tree and what is installed here."""
    root = tmp_path_factory.mktemp("finished")
    (run_dir,) = prepared(task_store(root), TaskSpec(asked=("a", "b")))
    execute(run_dir, TASKS)
    changed(run_dir, lambda record: record["provenance"].update(git_dirty=False))
    return root


@pytest.fixture
def run_dir(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return next((tmp_path / "runs" / "tasks").iterdir())


def changed(folder: Path, change) -> None:
    """Changes a record and seals it again."""
    path = folder / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps({**content, SEAL: _checksum(content)}))


def resealed(change):
    return lambda folder: changed(folder, change)


def edited(name: str, old: bytes, new: bytes):
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return edit


def status(**content):
    def without_record(folder: Path) -> None:
        (folder / "result.json").unlink()
        (folder / "status.json").write_text(json.dumps(content))

    return without_record


def of_another(folder: Path) -> None:
    other = dict(yaml.safe_load((folder / "config.yaml").read_text()))
    other["spec"]["seed"] = 99
    (folder / "config.yaml").write_text(yaml.safe_dump(other))


def swapped_record(folder: Path) -> None:
    resealed(lambda record: record.update(run_id="0" * 12))(folder)


def cut(name: str):
    def shorten(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])

    return shorten


def flip(name: str):
    return lambda folder: (folder / name).write_bytes(flipped((folder / name).read_bytes()))


def removed(name: str):
    return lambda folder: (folder / name).unlink()


def written(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def texts(old: str, new: str):
    return edited("config.yaml", old.encode(), new.encode())


SEALED = {
    "as it was": (lambda f: None, "fine", ""),
    "made before files were sealed": (resealed(lambda r: r.pop("files")), "unsealed", ""),
    "cut record": (cut("result.json"), "corrupt", "cut off"),
    "edited record": (edited("result.json", b'"answers"', b'"Answers"'), "corrupt", "was changed"),
    "record of another run": (swapped_record, "corrupt", "of another run"),
    "edited log": (edited("log.jsonl", b"seed=0", b"seed=1"), "corrupt", "log.jsonl"),
    "no log": (removed("log.jsonl"), "missing", "log.jsonl"),
    "damaged picture": (flip("picture.png"), "corrupt", "picture.png"),
    "no picture": (removed("picture.png"), "missing", "picture.png"),
    "changed model": (flip("model/weights"), "corrupt", "model/weights"),
    "a part of the model": (removed("model/weights"), "missing", "model/weights"),
    "no model": (lambda f: shutil.rmtree(f / "model"), "no model", ""),
    "no config": (removed("config.yaml"), "missing", "config.yaml"),
    "neither config nor record": (
        lambda f: (removed("config.yaml")(f), removed("result.json")(f)),
        "missing", "config.yaml"),
    "bad config": (written("config.yaml", "a: ["), "corrupt", "config.yaml"),
    "config of an unknown kind": (texts("kind: tasks", "kind: others"), "corrupt", "config.yaml"),
    "config of another": (of_another, "misplaced", "config.yaml is that of"),
    "copied folder": (
        lambda f: shutil.copytree(f, f.with_name("0123456789ab")),
        "misplaced", "config.yaml is that of"),
    "other schema": (texts("schema: 1", "schema: 0"), "other schema", "0, not 1"),
    "finished without record": (status(state="finished"), "missing", "result.json"),
    "failed": (status(state="failed", error="it broke"), "failed", "it broke"),
    "a part failed": (
        resealed(lambda r: r["answers"].pop("b")), "failed", "answers a part of what was asked"),
    "interrupted": (status(state="interrupted"), "unfinished", "interrupted"),
    "trained anew and interrupted": (
        lambda f: (
            written("log.jsonl", "")(f), written("status.json", '{"state": "interrupted"}')(f)),
        "unfinished", "interrupted"),
    "trained anew and failed": (
        lambda f: (
            written("log.jsonl", "")(f),
            written("status.json", '{"state": "failed", "error": "no room"}')(f)),
        "failed", "no room"),
    "status that is a list": (
        lambda f: (status()(f), written("status.json", "[1]")(f)), "unfinished", "no status"),
    "no status": (
        lambda f: (status()(f), removed("status.json")(f)), "unfinished", "no status"),
    "dirty": (
        resealed(lambda r: r["provenance"].update(git_dirty=True)), "dirty tree", ""),
    "dirty, of an early version": (
        resealed(lambda r: r["provenance"].update(git_revision="abcdefg+")),
        "dirty tree", "abcdefg"),
    "other version": (
        resealed(lambda r: r["provenance"]["versions"].update(torch="0.1")),
        "other versions", "torch 0.1 ("),
    "package that is not here": (
        resealed(lambda r: r["provenance"]["versions"].update(nowhere="3")),
        "other versions", "nowhere 3 (not here)"),
    "set aside": (written("result.json.corrupt", "?"), "set aside", "result.json.corrupt"),
    "model set aside": (
        lambda f: shutil.copytree(f / "model", f / "model.corrupt"), "set aside", "model.corrupt"),
}  # fmt: skip


def check(root: Path, case: tuple) -> None:
    """One finding of the wanted kind, all else fine, and nothing written."""
    _, kind, detail = case
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    findings = verify(root, [TASKS, IMAGES])
    (found,) = [finding for finding in findings if finding.kind == kind]
    assert detail in found.detail
    assert {finding.kind for finding in findings} <= {kind, "fine", "unsealed"}
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("name", SEALED)
def test_every_kind_in_a_run_that_is_sealed(run_dir, tmp_path, name):
    SEALED[name][0](run_dir)
    check(tmp_path, SEALED[name])


def test_every_kind_is_tried():
    tried = {kind for _, kind, _ in SEALED.values()}
    assert tried == set(KINDS_OF_FINDINGS) - {"under way", "unreadable", "packed"}


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "picture.png", "model/weights"])
def test_a_file_that_may_not_be_read(run_dir, tmp_path, monkeypatch, name):
    """Root may read all, so that the system's answer is made up."""

    def refused(real):
        def read(path, *rest):
            if Path(path) == run_dir / name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest)

        return read

    monkeypatch.setattr("pythae_fif.files.open", refused(open), raising=False)
    monkeypatch.setattr(Path, "read_bytes", refused(Path.read_bytes))
    (found,) = verify(tmp_path, [TASKS])
    assert (found.kind, found.detail) == ("unreadable", f"{name}: Permission denied")
    assert found.kind in WRONG


def test_a_folder_that_may_not_be_read(run_dir, tmp_path, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if path in (run_dir, str(run_dir)):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(verify_module.os, "scandir", refused)
    (found,) = verify(tmp_path, [TASKS])
    assert (found.kind, found.run) == ("unreadable", f"tasks/{run_dir.name}")


def test_run_under_way(run_dir, tmp_path):
    status(state="running", stage="training")(run_dir)
    with Claim(run_dir):
        (found,) = verify(tmp_path, [TASKS])
    assert (found.kind, found.detail) == ("under way", "training")


def test_no_runs(tmp_path):
    with pytest.raises(StoreError, match="holds no runs: the folder that --results names"):
        verify(tmp_path / "nowhere", [TASKS])
