"""The command line: what is shown, one-line errors, exit codes, studies, an interrupt."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from support.experiments import write_tiny
from support.folders import score_times
from support.processes import until
from support.reference import ROOT

import pythae_fif
from pythae_fif import cli
from pythae_fif.benchmark.models import configs_dir, list_configs
from pythae_fif.cli import study as study_module
from pythae_fif.cli.flags import read_request
from pythae_fif.errors import strip_control_characters
from pythae_fif.files import read_json
from pythae_fif.names import DATASETS, EXTRACTORS, SAMPLERS, DataOptions
from pythae_fif.runs.local import LocalEngine, cores
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.studies.study import STUDIES, StudyOptions


@pytest.fixture(autouse=True)
def handlers_as_before():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_list_names_all_and_its_lines_fit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (*list_configs("models"), *DATASETS, *SAMPLERS, *EXTRACTORS, *STUDIES):
        assert f"  {name} " in out
    words = " ".join(out.split())
    assert "FIF; Sorrenson" in words
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out


def test_help_has_two_levels(capsys):
    usual, everything = (
        {*re.findall(r"^  (--[a-z-]+)", help_of(capsys, flag), re.M)}
        for flag in ("--help", "--help-all")
    )
    assert usual < everything and len(usual) <= 18
    assert {"--dataset", "--beta", "--dry-run"} <= usual
    assert {"--runs-per-gpu", "--sbatch", "--learning-rate", "--columns"} <= everything - usual


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("run", ["--dataset celeba --arch resnet", "study NAME", "130 interrupted"]),
        ("study", ["sinusoid", "figure 6"]),
        ("study tabular", ["--data", "--results", "--latent-dim", "data sets: miniboone, "]),
        ("study linear --help-all", ["--sbatch", "runs at once on a GPU"]),
        ("verify", ["RESULTS"]),
        ("score", ["--training", "for memorisation", "--trust"]),
        ("--dataset=circle", ["study toy", "von_mises_circle"]),
    ],
)
def test_help_of_a_command(capsys, words, parts):
    text = help_of(capsys, *words.split(), "-h")
    assert all(part in text for part in parts)
    assert ("--arch" in text) is (words == "run")


def test_version(capsys):
    assert help_of(capsys, "--version") == f"pythae-fif {pythae_fif.__version__}\n"


def test_showing_waits_for_no_torch():
    code = """
import sys
from pythae_fif.cli import main

SLOW = {"torch", "pythae", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "zuko"}
for words in (
    "--help", "list", "--betas", "study toy --help", "--dataset circle -h", "--latent-dim 0"
):
    try:
        main(words.split())
    except SystemExit:
        pass
    if found := SLOW & sys.modules.keys():
        sys.exit(f"{words} imports {found}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_flags_of_engines():
    words = "--engine slurm --time 4h --sbatch mem=4G mail_type=BEGIN,END"
    options = ["mem=4G", "mail_type=BEGIN,END"]
    assert read_request(words.split())[2] == SlurmEngine(time="4h", sbatch=options)
    words = "--engine ray --ray-address auto"
    assert read_request(words.split())[2] == RayEngine(ray_address="auto")
    assert read_request([])[2] == LocalEngine()


def test_table_2_is_a_file_of_keys_for_any_data_set(tmp_path):
    _, asked, _ = read_request(["--experiment", "table2"])
    assert asked.dataset == "celeba" and asked.models == ["fif", "dnf", "trumpet"]
    _, asked, _ = read_request(
        ["--experiment", "table2", "--dataset", "digits", "--wall-clock", "1h30m"]
    )
    assert asked.active_profile.wall_clock == 5400
    (tmp_path / "own.yaml").write_text("dataset: mnist\nextractor: pixels")
    assert read_request(["--config", str(tmp_path / "own.yaml")])[1].dataset == "mnist"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("lst", ["unknown command 'lst': did you mean 'list'? valid: run, study, list, "]),
        ("run digits", ["run does not take 'digits'"]),
        ("--betas 3", ["run does not take '--betas': did you mean '--beta'?"]),
        ("--latent-dims=3", ["run does not take '--latent-dims': did you mean '--latent-dim'?"]),
        ("--lr 3", ["run does not take '--lr': did you mean '--learning-rate'?"]),
        ("--latent-dim 0", ["--latent-dim 0: should be greater than or equal to 1"]),
        ("--dataset digit", ["--dataset 'digit' is unknown", "did you mean 'digits'"]),
        ("--beta -1", ["--beta '-1': should be greater than or equal to 0"]),
        ("--data here", ["--data", "folder, npz and csv"]),
        ("--dataset folder", ["'folder'", "--data"]),
        ("--config toy.yaml", ["dataset 'circle' is unknown"]),
        ("--dataset mnist --data-root nowhere --extractor pixels", ["nowhere", "--data-root"]),
        ("--dataset mnist --data-root . --offline --extractor pixels", ["mnist", "--offline"]),
        ("--experiment table3", ["--experiment 'table3': did you mean 'table2'? valid: table2"]),
        ("--experiment table2 --config own.yaml", ["--experiment and --config"]),
        ("--engine ray --time 4h", ["engine ray: unknown key 'time'"]),
        ("--engine slurm", ["--time: field required"]),
        ("list --lr 3", ["list does not take '--lr': see its --help"]),
        ("verify", ["RESULTS"]),
        ("verify nowhere", ["no runs in nowhere"]),
        ("study", ["NAME"]),
        ("study lineer", ["study 'lineer' is unknown: did you mean 'linear'?"]),
        ("study linear --beta 3", ["study linear does not take '--beta'"]),
        ("--dataset circle --dry-run", ["study toy does not take '--dry-run'"]),
        ("study linear --profile slow", ["study linear has no profile 'slow'"]),
        ("study toy --dataset torsu", ["study toy has no data set 'torsu': did you mean 'torus'"]),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    Path("own.yaml").write_text("profiles: {quick: {epoch: 1}}")
    Path("toy.yaml").write_text("dataset: circle")
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(part in err for part in parts)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--data-root there", {"location": DataOptions(data_root="there")}),
        ("--offline", {"location": DataOptions(offline=True)}),
        ("--models fif rectangular_flow", {"models": ["fif", "rectangular_flow"]}),
        ("--cpus-per-run 1", {"engine": LocalEngine(cpus_per_run=1)}),
        ("--engine local", {"engine": LocalEngine()}),
        ("--dataset power --seeds 3 4", {"dataset": "power", "seeds": [3, 4]}),
    ],
)
def test_flags_reach_the_study(tmp_path, monkeypatch, flags, told):
    asked = []
    monkeypatch.setattr(study_module, "run_study", lambda _, of, __: asked.append(of) or [])
    words = ["study", "tabular", "--results", str(tmp_path)]
    assert cli.main(words) == cli.main([*words, *flags.split()]) == 0
    usual, options = asked
    assert usual == StudyOptions(tmp_path)
    assert vars(options) == vars(usual) | told


def test_verify_names_what_is_wrong_and_nothing_acts_on_the_terminal(tmp_path, capsys):
    """A folder's name and a status that clear the screen, set its title and turn the text round."""
    hostile = "x\x1b[2J\x1b]0;mine\x07\x9b31m\u202e"
    run = tmp_path / "runs/a" / hostile
    run.mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    assert cli.main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "x[2J]0;mine31m" in "".join(out.split()) and strip_control_characters(out) == out
    assert "corrupt" in out and "1 run checked, 1 corrupt" in out
    assert cli.main(["run", "--dataset", hostile]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and strip_control_characters(err) == err


def descendants(pid: int) -> set[int]:
    """The processes below one, by Linux' /proc."""
    found, todo = set(), [pid]
    while todo:
        tasks = Path(f"/proc/{todo.pop()}/task").glob("*/children")
        children = {int(child) for file in tasks for child in file.read_text().split()}
        todo += children - found
        found |= children
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
def test_interrupt_in_the_middle_of_a_grid_then_the_same_command(tmp_path, capsys):
    results = tmp_path / "results"
    # One run more than there is room for: it starts when the first one is finished.
    file = write_tiny(tmp_path, {"epochs": 30}, seeds=[0, 1])
    words = ["--config", file, "--results", results, "--cpus-per-run", cores()]
    arguments = [*map(str, words)]

    def states() -> list[str]:
        return [(read_json(path) or {}).get("state", "") for path in results.rglob("status.json")]

    program = subprocess.Popen(
        [sys.executable, str(ROOT / "run_benchmark.py"), *arguments],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job in the background of a shell without job control ignores SIGINT, and with it
        # whatever it starts; this program is to stand for one in the foreground.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while len(states()) < 2 or set(states()) != {"finished", "running"}:
            assert program.poll() is None
            time.sleep(0.02)
        below = descendants(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 130 and below
    said = "finished runs are kept and Slurm's jobs continue; the same command resumes"
    assert err.decode() == f"interrupted: {said}\n"
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 10)
    assert set(states()) == {"finished", "interrupted"}
    finished = score_times(results)
    assert finished
    assert cli.main(arguments) == 0
    assert capsys.readouterr().err == "" and states() == ["finished"] * 2
    assert len(score_times(results)) == 2 and finished.items() <= score_times(results).items()


def test_wheel_contains_the_package_and_the_configurations(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"  # a copy, for setuptools leaves its own files behind
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
