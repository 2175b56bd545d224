"""The Slurm engine on a real Slurm: an array that is preempted, requeued, resumed and finished."""

import json
import os
import subprocess
import sys

import pytest
from support import slurm_cluster
from support.experiments import plan_of
from support.tasks import TaskSpec

from pythae_fif.errors import ConfigError
from pythae_fif.runs import slurm as module
from pythae_fif.runs.launch import run_all
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status
from pythae_fif.validation import read_checked

pytest.importorskip("submitit", reason="needs submitit")
pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")


def real(test):
    """A test that starts a Slurm."""
    return pytest.mark.slurm(pytest.mark.timeout(600)(test))


@pytest.fixture(scope="module")
def cluster():
    """The environment of a Slurm of this module's own."""
    if why := slurm_cluster.missing():
        pytest.skip(why)
    with slurm_cluster.slurm_cluster() as environment:
        yield environment


@pytest.fixture
def slurm(cluster, monkeypatch):
    """Lets this process find the cluster, which has no GPU, and look at its queue every second."""
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(module, "QUEUE_SECONDS", 1.0)

    def engine(**options) -> SlurmEngine:
        usual = {"cpus_per_run": 1, "time": "1h", "sbatch": ["gres=none"]}
        return SlurmEngine(**{**usual, **options})

    return engine


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def rows(folder) -> list[str]:
    """The epochs of the log, with the seconds that they took."""
    log = folder / "train_log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@real
def test_requeued_runs_resume_and_finish(slurm, tmp_path):
    """By scontrol once there is a checkpoint, in a minute, then by the notice of the time limit."""
    store, (spec,) = Store(tmp_path / "results"), plan_of(tmp_path, epochs=6000)
    folder, firsts = store.folder(spec), []

    def disturb(progress):
        job = module._read_job_id(folder)
        words = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(words, stderr=subprocess.DEVNULL, check=False)  # else it waits two minutes
        status = progress.running.get(spec)
        ready = status and status.share > 0.05 and (folder / "checkpoint.pt").exists()
        if ready and status.attempt == len(firsts) + 1 <= 2:
            firsts.append(rows(folder)[0])
            words = ("scancel", "--signal=USR2") if len(firsts) == 2 else ("scontrol", "requeue")
            command(*words, job)

    assert run_all([spec], store, slurm(), disturb) == {spec: ""}
    assert len(firsts) == 2 and Status.read(folder).attempt == 3
    assert rows(folder)[0] == firsts[0] == firsts[1], "it began again, and did not resume"
    epochs = [json.loads(line)["epoch"] for line in rows(folder)]
    assert epochs == list(range(1, 6001))


@real
def test_an_interrupt_leaves_the_jobs_and_the_same_call_collects_them(slurm, tmp_path):
    store, plan = Store(tmp_path), plan_of(tmp_path, {"seeds": [0, 1]}, epochs=300)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(plan, store, slurm(), interrupt)
    jobs = [module._read_job_id(store.folder(spec)) for spec in plan]
    assert set(jobs) <= set(module._queue())
    assert run_all(plan, store, slurm()) == dict.fromkeys(plan, "")
    assert [module._read_job_id(store.folder(spec)) for spec in plan] == jobs, "submitted twice"


@real
def test_failures_are_named(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LATE_SECONDS", 2.0)
    spec = TaskSpec(deed="fail")
    assert "ValueError: broken in" in run_all([spec], Store(tmp_path), slurm())[spec]


@real
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=nowhere", "sbatch: .*[Ii]nvalid partition"),
        ("frobnicate=1", "sbatch: .*frobnicate"),
    ],
)
def test_refused_by_slurm(slurm, tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        run_all([TaskSpec()], Store(tmp_path), slurm(sbatch=["gres=none", option]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "tomorrow"}, "time='tomorrow': 'tomorrow' is not a duration"),
        ({"time": "1h", "sbatch": ["comment=a\n#SBATCH --x"]}, "string should match pattern"),
        ({"time": "1h", "sbatch": ["a\nb=c"]}, "string should match pattern"),
        ({"time": "1h", "sbatch": ["mem"]}, "string should match pattern"),
    ],
)
def test_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        read_checked(SlurmEngine, options, "engine slurm")


def test_where_there_is_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="--engine slurm: squeue does not answer"):
        run_all([TaskSpec()], Store(tmp_path), SlurmEngine(time="4h"))


def test_limits_are_whole_minutes():
    assert [SlurmEngine(time=of).time for of in ("4h", "90min", "30s")] == [240, 90, 1]
