"""`pythae-fif verify`: every kind of finding, its place in the table, and the exit code."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pythae_fif.benchmark.plan import SCHEMA, RunSpec
from pythae_fif.cli.main import main
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.records import SEAL, seal
from pythae_fif.runs.verify import KINDS, WRONG, verify

RESULTS = Path(__file__).parents[2] / "results"
FINISHED = next((RESULTS / "runs" / "digits" / "convnet" / "ae").iterdir())


@pytest.fixture
def run_dir(tmp_path):
    """A finished run of the checkout, sealed and as if made with what is installed here."""
    folder = tmp_path / FINISHED.relative_to(RESULTS)
    shutil.copytree(FINISHED, folder, ignore=shutil.ignore_patterns("model"))
    changed(folder, lambda record: record["provenance"].update(versions={}, git_dirty=False))
    return folder


def changed(folder: Path, change, sealed: bool = True) -> None:
    path = folder / "result.json"
    record = json.loads(path.read_text())
    record.pop(SEAL, None)
    change(record)
    path.write_text(json.dumps(seal(record) if sealed else record))


def status(folder: Path, **content) -> None:
    (folder / "result.json").unlink()
    (folder / "status.json").write_text(json.dumps(content))


def other_config(folder: Path) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["spec"]["seed"] = 99
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def other_schema(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    text = text.replace(f"schema: {SCHEMA}", "schema: 1").replace("latent_dim", "dimension")
    (folder / "config.yaml").write_text(text)


def cut(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-40])


def moved(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("0123456789ab"))


CASES = {
    "as it was": (lambda f: None, "fine", ""),
    "no seal": (lambda f: changed(f, lambda r: None, sealed=False), "unsealed", ""),
    "cut record": (lambda f: cut(f, "result.json"), "corrupt", "cut off"),
    "edited record": (
        lambda f: (f / "result.json").write_text(
            (f / "result.json").read_text().replace('"parameters": ', '"parameters": 1')
        ),
        "corrupt",
        "was changed",
    ),
    "record without scores": (
        lambda f: changed(f, lambda r: r.update(scores={})), "corrupt", "not whole"),
    "provenance that is none": (
        lambda f: changed(f, lambda r: r.update(provenance=5), sealed=False),
        "corrupt", "not whole"),
    "data that are none": (
        lambda f: changed(f, lambda r: r.update(data=[])), "corrupt", "not whole"),
    "config with a number for a name": (
        lambda f: (f / "config.yaml").write_text(
            re.sub("dataset: .*", "dataset: 3", (f / "config.yaml").read_text())),
        "corrupt", "config.yaml"),
    "other data": (
        lambda f: changed(f, lambda r: r["data"].update(hash="0" * 16)), "corrupt", "other data"),
    "cut picture": (lambda f: cut(f, "samples-normal.png"), "corrupt", "samples-normal.png"),
    "empty picture": (
        lambda f: (f / "samples-gmm.png").write_bytes(b""), "corrupt", "samples-gmm.png"),
    "no picture": (lambda f: (f / "reconstructions.png").unlink(), "missing", "reconstructions"),
    "no log": (lambda f: (f / "train_log.jsonl").unlink(), "missing", "train_log.jsonl"),
    "cut log": (lambda f: cut(f, "train_log.jsonl"), "corrupt", "train_log.jsonl"),
    "short log": (
        lambda f: (f / "train_log.jsonl").write_text("{}\n"), "corrupt", "1 of 40 epochs"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "missing", "config.yaml"),
    "bad config": (lambda f: (f / "config.yaml").write_text("a: ["), "corrupt", "config.yaml"),
    "config of another": (other_config, "misplaced", "config.yaml is that of"),
    "copied folder": (moved, "misplaced", "config.yaml is that of"),
    "other schema": (other_schema, "other schema", "1, not"),
    "finished without record": (lambda f: status(f, state="finished"), "missing", "result.json"),
    "failed": (lambda f: status(f, state="failed", error="it broke"), "failed", "it broke"),
    "a sampler failed": (
        lambda f: changed(f, lambda r: r["scores"].pop("gmm")), "failed", "no scores of gmm"),
    "interrupted": (lambda f: status(f, state="interrupted"), "unfinished", "interrupted"),
    "no status": (
        lambda f: (status(f), (f / "status.json").unlink()), "unfinished", "no status"),
    "dirty": (
        lambda f: changed(f, lambda r: r["provenance"].update(git_dirty=True)), "dirty tree", ""),
    "dirty, of an earlier version": (
        lambda f: changed(f, lambda r: r["provenance"].update(git_revision="abcdefg+")),
        "dirty tree", "abcdefg"),
    "other version": (
        lambda f: changed(f, lambda r: r["provenance"].update(versions={"torch": "0.1"})),
        "other versions", "torch 0.1 ("),
    "package that is not here": (
        lambda f: changed(f, lambda r: r["provenance"].update(versions={"nowhere": "3"})),
        "other versions", "nowhere 3 (not here)"),
    "set aside": (
        lambda f: (f / "result.json.corrupt").write_text("?"), "set aside", "result.json.corrupt"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_kind(run_dir, tmp_path, case, capsys):
    damage, kind, detail = CASES[case]
    damage(run_dir)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    findings = verify(tmp_path)
    (found,) = [f for f in findings if f.kind == kind]
    assert detail in found.detail
    assert found.run.startswith("digits/convnet/ae/")
    assert {f.kind for f in findings} <= {kind, "fine"}
    assert main(["verify", str(tmp_path)]) == (kind in WRONG)
    shown = " ".join(capsys.readouterr().out.split())
    assert kind in shown and "read" in shown
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_every_kind_is_tried():
    assert {kind for _, kind, _ in CASES.values()} == set(KINDS) - {"under way"}


def test_run_under_way(run_dir, tmp_path):
    status(run_dir, state="running", stage="training")
    with Claim(run_dir):
        (found,) = verify(tmp_path)
    assert (found.kind, found.detail) == ("under way", "training")


def test_run_id_is_that_of_the_specification(run_dir):
    spec = RunSpec.from_dict(yaml.safe_load((run_dir / "config.yaml").read_text())["spec"])
    assert spec.run_id == run_dir.name


def test_record_of_a_study(tmp_path):
    import hashlib

    specification = {"schema": 1, "seeds": [0]}
    key = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:12]
    folder = tmp_path / "runs" / "power" / "fif" / key
    folder.mkdir(parents=True)
    record = {"specification": specification, "provenance": {"versions": {}}, "seconds": 1.0}
    (folder / "result.json").write_text(json.dumps(record))
    assert [f.kind for f in verify(tmp_path)] == ["unsealed"]
    (folder / "result.json").write_text(json.dumps(record | {"specification": {"seeds": [1]}}))
    assert [f.kind for f in verify(tmp_path)] == ["misplaced"]
    (folder / "result.json").write_text(json.dumps(seal(record)))
    assert [f.kind for f in verify(tmp_path)] == ["fine"]
    (folder / "result.json").write_text(json.dumps(seal(record) | {"seconds": 2.0}))
    (found,) = verify(tmp_path)
    assert (found.kind, found.detail) == ("corrupt", "result.json was changed")
    cut(folder, "result.json")
    (found,) = verify(tmp_path)
    assert (found.kind, found.detail) == ("corrupt", "result.json is cut off")


def test_committed_results_are_in_order(capsys):
    assert main(["verify", str(RESULTS)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere"], "nowhere holds no runs"),
        ([], "RESULTS"),
        (["results", "more"], "unknown flag 'more'"),
        (["results", "--result"], "unknown flag '--result'"),
    ],
)
def test_bad_input(arguments, part, capsys):
    assert main(["verify", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and part in line
