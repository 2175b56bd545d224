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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of git that the package would run from."""
    package = tmp_path / "pythae_fif"
    (package / "runs").mkdir(parents=True)
    for folder in ("benchmark_configs", "results"):
        (tmp_path / folder).mkdir()
    (package / "a.py").write_text("1")
    (tmp_path / "results" / "table.md").write_text("1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance_module, "__file__", str(package / "runs" / "provenance.py"))
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("", False),
        ("pythae_fif/a.py", True),
        ("benchmark_configs/b.yaml", True),
        ("results/table.md", False),
    ],
)
def test_tree_is_dirty_when_code_or_configurations_changed(checkout, changed, dirty):
    if changed:
        (checkout / changed).write_text("2")
    state = git_state.__wrapped__()
    assert len(state.revision) == 7
    assert state.dirty == dirty


def test_a_package_that_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert git_state.__wrapped__() == GitState(None, None)


def test_a_command_without_this_machine_s_folders(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["/x/run_benchmark.py", "--data", "/home/me/my faces", "--seeds", "1"]
    )
    assert command_line() == "run_benchmark.py --data 'my faces' --seeds 1"
