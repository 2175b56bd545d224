"""With what a record was made, and nothing of whose machine it was."""

import platform
import subprocess

import pytest
import torch
from support.tasks import TaskSpec

import pythae_fif.runs.provenance as provenance_module
from pythae_fif.runs.provenance import command_line, git_state
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run


def made(folder, spec=TaskSpec()):  # noqa: B008 - it is frozen
    """The provenance of a record that is written now."""
    store = Store(folder)
    Run(spec, store).save("a.json", 1)
    return store.record(spec, "a.json", int).provenance


def test_says_with_what_and_nothing_of_the_machine_s_name(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: pytest.fail("the name was asked for"))
    found = made(tmp_path)
    assert found.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"pythae", "scipy", "torchvision", "zuko", "pillow"} <= set(found.versions)
    assert (found.threads, found.attempts) == (torch.get_num_threads(), 1)
    assert platform.node() not in found.model_dump_json() or not platform.node()


def test_a_clock_that_is_set_back_makes_no_negative_time(tmp_path, monkeypatch):
    ticks = iter([100.0] + [0.0] * 99)
    monkeypatch.setattr("time.time", lambda: next(ticks))
    found = made(tmp_path)
    assert found.started == "1970-01-01T00:01:40Z" and found.seconds >= 0


def test_tree_is_dirty_when_code_or_configurations_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "pythae_fif" / "runs" / "x"))
    assert git_state.__wrapped__() == (None, None)
    for folder in ("pythae_fif", "benchmark_configs", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    found = []
    for name, text in [("results/a", "2"), ("pythae_fif/a", "2"), ("pythae_fif/a", "1"),
                       ("benchmark_configs/new", "1")]:  # fmt: skip
        (tmp_path / name).write_text(text)
        revision, dirty = git_state.__wrapped__()
        found.append(dirty)
    assert found == [False, True, False, True] and len(revision) == 7


def test_a_command_without_this_machine_s_folders(monkeypatch):
    words = [
        "--data",
        "/home/me/my faces",
        "--results=/home/me/x=1/r",
        "--seeds",
        "1",
        "/d/",
        "a/b",
    ]
    monkeypatch.setattr("sys.argv", ["/x/run_benchmark.py", *words])
    shown = "run_benchmark.py --data 'my faces' --results=r --seeds 1 d/ a/b"
    assert command_line() == shown
