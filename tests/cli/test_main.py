"""The command line: help, one-line errors, exit codes, studies, and an interrupt."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest import mock

import pytest
from support.experiments import write_tiny
from support.folders import score_times
from support.processes import wait_until
from support.reference import ROOT

import pythae_fif
from pythae_fif import cli
from pythae_fif.benchmark.models import configs_dir, list_configs
from pythae_fif.cli import study as study_module
from pythae_fif.cli.flags import read_request
from pythae_fif.evaluation.catalog import EXTRACTORS
from pythae_fif.files import read_json
from pythae_fif.names import DataOptions
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.sampling.catalog import SAMPLERS
from pythae_fif.study import StudyOptions, study_descriptions


@pytest.fixture(autouse=True)
def restore_signal_handler():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def read_help(capsys, *words: str) -> str:
    """Returns what a command prints before it exits with success."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_list_shows_every_name_in_lines_that_fit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (*list_configs("models"), *list_configs(), *SAMPLERS, *EXTRACTORS):
        assert f"  {name} " in out
    for name in study_descriptions():
        assert f"  {name} " in out
    words = " ".join(out.split())
    assert "FIF; Sorrenson" in words
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_help_has_two_levels(capsys):
    flag_pattern = re.compile(r"^  (--[a-z-]+)", re.M)
    usual_flags = set(flag_pattern.findall(read_help(capsys, "--help")))
    all_flags = set(flag_pattern.findall(read_help(capsys, "--help-all")))
    rare_flags = all_flags - usual_flags
    assert usual_flags < all_flags
    assert len(usual_flags) <= 18
    assert {"--dataset", "--beta", "--dry-run"} <= usual_flags
    assert {"--runs-per-gpu", "--sbatch", "--learning-rate", "--columns"} <= rare_flags


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("run", ["--dataset celeba --arch resnet", "study NAME", "130 interrupted"]),
        ("study", ["sinusoid", "Figure 6"]),
        ("study estimator", ["--data", "--results", "--latent-dim", "data sets: mnist, "]),
        ("study linear --help-all", ["--sbatch", "runs at once on a GPU"]),
        ("verify", ["RESULTS"]),
        ("score", ["--training", "for memorisation", "--trust"]),
        ("--dataset=circle", ["study toy", "von_mises_circle"]),
    ],
)
def test_help_of_a_command(capsys, words, parts):
    text = read_help(capsys, *words.split(), "-h")
    assert all(part in text for part in parts)
    assert ("--arch" in text) is (words == "run")
    assert "run_benchmark.py" not in text  # an installed wheel does not have it


def test_without_a_clone_help_and_errors_say_where_studies_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pythae_fif.study.CHECKOUT", tmp_path / "site-packages")
    advice = "no studies here: start it in a clone of the repository"
    assert advice in " ".join(read_help(capsys, "study", "--help").split())
    assert cli.main(["list"]) == 0
    assert advice in " ".join(capsys.readouterr().out.split())
    assert cli.main(["study", "toy"]) == 2
    assert f"study 'toy': {advice}" in capsys.readouterr().err


def test_version(capsys):
    assert read_help(capsys, "--version") == f"pythae-fif {pythae_fif.__version__}\n"


def test_help_list_and_errors_do_not_import_slow_packages():
    code = """
import sys
from pythae_fif.cli import main

SLOW = {"torch", "pythae", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "zuko"}
for words in (
    "--help", "list", "--betas", "study --help", "study toys", "--latent-dim 0"
):
    try:
        main(words.split())
    except SystemExit:
        pass
    imported = SLOW & sys.modules.keys()
    if imported:
        sys.exit(f"{words} imports {imported}")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert result.returncode == 0, result.stderr


def test_flags_of_engines():
    def read_engine(words: str):
        _, _, engine = read_request(words.split())
        return engine

    options = ["mem=4G", "mail_type=BEGIN,END"]
    words = "--engine slurm --time 4h --sbatch mem=4G mail_type=BEGIN,END"
    assert read_engine(words) == SlurmEngine(time="4h", sbatch=options)
    assert read_engine("--engine ray --ray-address auto") == RayEngine(ray_address="auto")
    assert read_engine("") == LocalEngine()


def test_settings_of_table_2_and_of_a_user(tmp_path):
    def read_experiment(*words: str):
        _, experiment, _ = read_request(list(words))
        return experiment

    table2 = read_experiment("--experiment", "table2")
    assert table2.dataset == "celeba"
    assert table2.models == ["fif", "dnf", "trumpet"]

    words = "--experiment table2 --dataset digits --wall-clock 1h30m"
    assert read_experiment(*words.split()).active_profile.wall_clock == 5400

    config = tmp_path / "own.yaml"
    config.write_text("dataset: mnist\nextractor: pixels")
    assert read_experiment("--config", str(config)).dataset == "mnist"


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--data-root there", {"location": DataOptions(data_root="there")}),
        ("--offline", {"location": DataOptions(offline=True)}),
        ("--latent-dim 3", {"latent_dim": 3}),
        ("--cpus-per-run 1", {"engine": LocalEngine(cpus_per_run=1)}),
        ("--engine local", {"engine": LocalEngine()}),
        ("--dataset digits --seeds 3 4", {"dataset": "digits", "seeds": [3, 4]}),
    ],
)
def test_flags_reach_the_study(tmp_path, monkeypatch, flags, options):
    calls = []

    def run_study(name, study_options, on_change):
        calls.append(study_options)
        return []

    monkeypatch.setattr(study_module, "run_study", run_study)
    words = ["study", "estimator", "--results", str(tmp_path)]
    assert cli.main(words) == 0
    assert cli.main([*words, *flags.split()]) == 0

    default_options, changed_options = calls
    assert default_options == StudyOptions(tmp_path)
    assert vars(changed_options) == vars(default_options) | options


def test_slurms_jobs_are_mentioned_only_where_there_are_some(monkeypatch, capsys):
    monkeypatch.setattr(
        sys.modules["pythae_fif.cli.main"],
        "_split_command",
        mock.Mock(side_effect=[KeyboardInterrupt] * 2),
    )
    assert cli.main(["run", "--engine", "slurm", "--time", "4h"]) == 130
    assert "and Slurm's jobs continue" in capsys.readouterr().err
    assert cli.main(["run"]) == 130
    assert "Slurm" not in capsys.readouterr().err


def descendants(pid: int) -> set[int]:
    """Returns the children of a process, their children and so on, from Linux' /proc."""
    descendant_pids: set[int] = set()
    unvisited = [pid]
    while unvisited:
        children: set[int] = set()
        for file in Path(f"/proc/{unvisited.pop()}/task").glob("*/children"):
            children.update(map(int, file.read_text().split()))
        unvisited += children - descendant_pids
        descendant_pids |= children
    return descendant_pids


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
@pytest.mark.filterwarnings("ignore:scores of 20 samples")
def test_an_interrupted_grid_is_resumed_by_the_same_command(tmp_path, run):
    """The program is a process of its own when it is interrupted, but not when it resumes."""
    results = run.results
    words = ["--config", str(write_tiny(tmp_path, {"epochs": 30}, seeds=[0, 1]))]

    def states() -> list[str]:
        return [(read_json(path) or {}).get("state", "") for path in results.rglob("status.json")]

    def prepare() -> None:
        # If the tests run in the background of a shell without job control, they ignore SIGINT,
        # and so would this program, which represents one in the foreground.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # On one core the second run starts when the first is finished.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    program = subprocess.Popen(
        [sys.executable, str(ROOT / "run_benchmark.py"), *words, "--results", str(results)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=prepare,
    )
    try:
        while len(states()) < 2 or set(states()) != {"finished", "running"}:
            assert program.poll() is None
            time.sleep(0.02)
        run_processes = descendants(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 130
    assert run_processes
    message = "finished runs are kept; the same command resumes"
    assert err.decode() == f"interrupted: {message}\n"
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in run_processes), 10)
    assert set(states()) == {"finished", "interrupted"}
    finished = score_times(results)
    assert finished

    code, _, err = run(*words)
    assert (code, run.executed, err) == (0, 1, "")
    assert states() == ["finished"] * 2
    all_scores = score_times(results)
    assert len(all_scores) == 2
    assert finished.items() <= all_scores.items()


def test_wheel_contains_the_package_and_the_configurations(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"  # a copy, because setuptools leaves files in its source
    for name in ("pythae_fif", "benchmark_configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )  # fmt: skip

    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = [path.relative_to(configs_dir()) for path in configs_dir().rglob("*.*")]
    assert {f"pythae_fif/configs/{path.as_posix()}" for path in configs} <= names
    package = [path.relative_to(source) for path in (source / "pythae_fif").rglob("*.*")]
    assert {path.as_posix() for path in package} <= names
