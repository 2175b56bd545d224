"""With what a record was made, and nothing of whose machine it was."""

import platform
import subprocess

import pytest
import torch

import pythae_fif.runs.provenance as provenance_module
from pythae_fif.runs.provenance import GitState, command_line, git_state, provenance


def test_says_with_what_and_nothing_of_the_machine_s_name(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: pytest.fail("the name was asked for"))
    found = provenance("cpu", 0.0, 1.0, attempts=2)
    assert found.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"pythae", "scipy", "torchvision", "zuko", "pillow"} <= set(found.versions)
    assert (found.threads, found.attempts) == (torch.get_num_threads(), 2)
    assert found.started == "1970-01-01T00:00:00Z"
    assert found.cuda is None and found.peak_memory_mb > 10
    assert platform.node() not in found.model_dump_json() or not platform.node()


def test_tree_is_dirty_when_code_or_configurations_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "pythae_fif" / "runs" / "x"))
    assert git_state.__wrapped__() == GitState(None, None)
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
        state = git_state.__wrapped__()
        found.append(state.dirty)
    assert found == [False, True, False, True] and len(state.revision) == 7


def test_a_command_without_this_machine_s_folders(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["/x/run_benchmark.py", "--data", "/home/me/my faces", "--seeds", "1"]
    )
    assert command_line() == "run_benchmark.py --data 'my faces' --seeds 1"
