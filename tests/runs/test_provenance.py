"""Provenance names software and hardware, but neither the machine nor its folders."""

import errno
import platform
import subprocess

import pytest
import torch
from support.tasks import TaskSpec

import pythae_fif.runs.provenance as provenance_module
from pythae_fif.runs.provenance import command_line, git_state, processor
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run


def save_record(folder):
    """Writes a record and returns its provenance."""
    spec = TaskSpec()
    store = Store(folder)
    Run(spec, store).save("a.json", 1)
    return store.read_record(spec, "a.json", int).provenance


def test_provenance_has_versions_and_not_the_name_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: pytest.fail("the host name was read"))
    provenance = save_record(tmp_path)
    assert provenance.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"pythae", "scipy", "torchvision", "zuko", "pillow"} <= set(provenance.versions)
    assert provenance.threads == torch.get_num_threads()
    assert provenance.attempts == 1
    assert platform.node() not in provenance.model_dump_json() or not platform.node()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD  EPYC\ncpu MHz\t: 2445\n",
            "AMD EPYC, family 25, model 1",
        ),
        ("model name\t: ARMv7 Processor\n", "ARMv7 Processor"),
        ("processor\t: 0\n", platform.machine()),
        (None, platform.machine()),
    ],
)
def test_a_processor_has_its_family_and_model(tmp_path, monkeypatch, text, expected):
    """None stands for a system that has no /proc, such as macOS."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(provenance_module, "Path", lambda _: file)
    assert processor.__wrapped__() == expected


def test_setting_the_clock_back_does_not_make_the_duration_negative(tmp_path, monkeypatch):
    times = iter([100.0] + [0.0] * 99)
    monkeypatch.setattr("time.time", lambda: next(times))
    provenance = save_record(tmp_path)
    assert provenance.started == "1970-01-01T00:01:40Z"
    assert provenance.seconds >= 0


def test_tree_is_dirty_when_code_or_configurations_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "pythae_fif" / "runs" / "x"))
    assert git_state.__wrapped__() == (None, None)

    for folder in ("pythae_fif", "benchmark_configs", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)

    def is_dirty_after_writing(name: str, text: str) -> bool:
        (tmp_path / name).write_text(text)
        revision, is_dirty = git_state.__wrapped__()
        assert len(revision) == 7
        return is_dirty

    assert not is_dirty_after_writing("results/a", "2")
    assert is_dirty_after_writing("pythae_fif/a", "2")
    assert not is_dirty_after_writing("pythae_fif/a", "1")
    assert is_dirty_after_writing("benchmark_configs/new", "1")


def test_the_command_line_has_no_folders_of_this_machine(monkeypatch):
    words = ["/x/run_benchmark.py", "--data", "/home/me/my faces", "--results=/home/me/x=1/r",
             "--seeds", "1", "/d/", "a/b"]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    shortened = "run_benchmark.py --data 'my faces' --results=r --seeds 1 d/ a/b"
    assert command_line() == shortened


def test_too_many_open_files_are_no_missing_revision(monkeypatch):
    def run_git(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(subprocess, "run", run_git)
    with pytest.raises(OSError, match="Too many open files"):
        git_state.__wrapped__()
