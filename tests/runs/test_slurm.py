"""The Slurm engine on a real Slurm: arrays are preempted, requeued, resumed and finished."""

import json
import subprocess

import pytest
from support.engines import run_open
from support.experiments import make_tiny_plan
from support.tasks import TaskSpec

from pythae_fif.errors import ConfigError
from pythae_fif.runs import slurm as module
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status
from pythae_fif.validation import read_checked

pytest.importorskip("submitit", reason="needs submitit")
pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")


def needs_slurm(test):
    """Marks a test that starts Slurm."""
    return pytest.mark.slurm(pytest.mark.timeout(600)(test))


def run_command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def log_lines(folder) -> list[str]:
    """Returns the lines of the training log, one for each epoch with its duration."""
    log = folder / "train_log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@needs_slurm
def test_requeued_runs_resume_and_finish(make_slurm_engine, tmp_path):
    """First by scontrol once there is a checkpoint, then by the signal of the time limit."""
    store = Store(tmp_path / "results")
    (task,) = make_tiny_plan(tmp_path, epochs=6000)
    folder = store.folder(task.spec)
    first_epochs = []
    requeue_commands = [("scontrol", "requeue"), ("scancel", "--signal=USR2")]

    def requeue_twice(progress):
        job = module._read_slurm_id(folder)
        # Without this the job would wait for two minutes in the queue.
        words = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(words, stderr=subprocess.DEVNULL, check=False)

        status = progress.running.get(task)
        attempt = len(first_epochs) + 1
        if status is None or status.attempt != attempt or not requeue_commands:
            return
        if status.share > 0.05 and (folder / "checkpoint.pt").exists():
            first_epochs.append(log_lines(folder)[0])
            run_command(*requeue_commands.pop(0), job)

    assert run_open([task], store, make_slurm_engine(), requeue_twice) == {task: ""}
    assert len(first_epochs) == 2
    assert Status.read(folder).attempt == 3
    assert {log_lines(folder)[0], *first_epochs} == {first_epochs[0]}, "it did not resume"
    epochs = [json.loads(line)["epoch"] for line in log_lines(folder)]
    assert epochs == list(range(1, 6001))


@needs_slurm
def test_an_interrupt_leaves_the_jobs_and_the_same_call_collects_them(make_slurm_engine, tmp_path):
    store = Store(tmp_path)
    plan = make_tiny_plan(tmp_path, {"seeds": [0, 1]}, epochs=300)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_open(plan, store, make_slurm_engine(), interrupt)
    jobs = [module._read_slurm_id(store.folder(task.spec)) for task in plan]
    assert set(jobs) <= set(module._queue())
    assert run_open(plan, store, make_slurm_engine()) == dict.fromkeys(plan, "")
    assert [module._read_slurm_id(store.folder(task.spec)) for task in plan] == jobs, (
        "submitted twice"
    )


@needs_slurm
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=nowhere", "sbatch: .*[Ii]nvalid partition"),
        ("frobnicate=1", "sbatch: .*frobnicate"),
    ],
)
def test_options_that_slurm_refuses(make_slurm_engine, tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        run_open([TaskSpec()], Store(tmp_path), make_slurm_engine(sbatch=["gres=none", option]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "tomorrow"}, "time='tomorrow': 'tomorrow' is not a duration"),
        ({"time": "1h", "sbatch": ["comment=a\n#SBATCH --x"]}, "string should match pattern"),
        ({"time": "1h", "sbatch": ["a\nb=c"]}, "string should match pattern"),
        ({"time": "1h", "sbatch": ["mem"]}, "string should match pattern"),
    ],
)
def test_options_that_are_refused_before_submitting(options, message):
    with pytest.raises(ConfigError, match=message):
        read_checked(SlurmEngine, options, "engine slurm")


def test_a_machine_without_slurm_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="--engine slurm: squeue does not answer"):
        run_open([TaskSpec()], Store(tmp_path), SlurmEngine(time="4h"))


@pytest.mark.parametrize(("limit", "minutes"), [("4h", 240), ("90min", 90), ("30s", 1)])
def test_time_limits_are_rounded_up_to_minutes(limit, minutes):
    assert SlurmEngine(time=limit).time == minutes
