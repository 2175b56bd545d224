"""The Slurm engine on a real Slurm: an array that is preempted, requeued, resumed and finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.runs.engines.common import Batch
from pythae_fif.runs.engines.options import SlurmOptions, build_engine
from pythae_fif.runs.folder import Status
from support import slurm_cluster
from support.experiments import ENVIRONMENT, PROFILE, tiny

from pythae_fif import cli
from pythae_fif.benchmark.plan import expand
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store

pytest.importorskip("submitit", reason="needs submitit")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def cluster():
    """The environment of a Slurm of this module's own."""
    if why := slurm_cluster.missing():
        pytest.skip(why)
    with slurm_cluster.slurm_cluster() as environment:
        yield environment


@pytest.fixture
def slurm(cluster, monkeypatch):
    """Lets this process find the cluster, and look at its queue every second."""
    from pythae_fif.runs.engines import slurm as module

    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    monkeypatch.setattr(module, "QUEUE_SECONDS", 1.0)
    return module


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def first_row(run_dir: Path) -> str:
    """The first epoch's line of the log, with the seconds that it took."""
    return (run_dir / "train_log.jsonl").read_text().partition("\n")[0]


def test_preempted_and_requeued_runs_resume_and_finish(slurm, tmp_path):
    """One by scontrol, all by a partition of higher priority, one by the notice of its limit."""
    store = Store(tmp_path / "results", IMAGES)
    plan = expand(*tiny(tmp_path, {"seeds": [0, 1, 2]}, epochs=3000))
    run_dirs = [store.prepare(spec, ENVIRONMENT) for spec in plan]
    options = SlurmOptions(cpus_per_run=1, time="60", sbatch={"comment": "a test"})
    engine = build_engine(options, store.root)
    seen: dict[str, dict[Path, str]] = {}

    def disturb(running, outcomes):
        for run_dir in run_dirs:  # Slurm lets a requeued job wait for two minutes
            job = slurm._job_of(run_dir)
            subprocess.run(
                ["scontrol", "update", f"JobId={job}", "StartTime=now"], stderr=subprocess.DEVNULL
            )
        training = [d for d, s in running.items() if s.progress > 0.05]
        rows = {run_dir: first_row(run_dir) for run_dir in training}
        jobs = {run_dir: slurm._job_of(run_dir) for run_dir in training}
        if training and "requeued" not in seen:
            seen["requeued"] = {training[0]: rows[training[0]]}
            command("scontrol", "requeue", jobs[training[0]])
        elif len(training) == 2 and "preempted" not in seen:
            seen["preempted"] = rows
            urgent = ("--partition=urgent", "--cpus-per-task=2", "--wrap=sleep 2")
            command("sbatch", "--output=/dev/null", *urgent)
        elif "preempted" in seen and "notified" not in seen and training:
            attempts = [Status.read(d).attempt for d in training]
            if min(attempts) > 1:
                seen["notified"] = {training[0]: rows[training[0]]}
                command("scancel", "--signal=USR2", jobs[training[0]])

    outcomes = engine.run_all(Batch(IMAGES, run_dirs), disturb)
    assert [outcome.state for outcome in outcomes] == ["finished"] * 3, outcomes
    assert seen.keys() == {"requeued", "preempted", "notified"}
    assert all(store.is_done(spec) for spec in plan)
    for rows in seen.values():
        for run_dir, row in rows.items():
            assert Status.read(run_dir).attempt > 1
            assert first_row(run_dir) == row, "it began again, and did not resume"
    lines = (run_dirs[0] / "train_log.jsonl").read_text().splitlines()
    assert [yaml.safe_load(line)["epoch"] for line in lines] == list(range(1, 3001))
    until = time.monotonic() + 20  # a job leaves the queue shortly after its run is finished
    while slurm._queue() and time.monotonic() < until:
        time.sleep(0.2)
    assert not slurm._queue()


def test_submit_and_collect_later(slurm, tmp_path, capsys, monkeypatch):
    file = tmp_path / "tiny.yaml"
    content = {"profile": "tiny", "profiles": {"tiny": {**PROFILE, "epochs": 300}},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("engine: slurm\ntime: '10'\npartition: main\ncpus_per_run: 1\n")
    words = ["--config", file, "--results", tmp_path / "r", "--engine-config", cluster]
    words = [str(word) for word in (*words, "--seeds", 0, 1)]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main([*words, "--no-wait"]) == 0
        out = capsys.readouterr().out
        assert "go on; the same command collects their runs" in out
        jobs = {path: path.read_text() for path in (tmp_path / "r").rglob("slurm.json")}
        assert len(jobs) == 2 and len(slurm._queue()) == 2
        assert cli.main(words) == 0
        assert {path: path.read_text() for path in jobs} == jobs, "submitted twice"
        assert "[2/2] finished" in capsys.readouterr().out
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_interrupt_leaves_the_jobs(slurm, tmp_path):
    store = Store(tmp_path / "results", IMAGES)
    (spec,) = expand(*tiny(tmp_path, epochs=100_000))
    run_dirs = [store.prepare(spec, ENVIRONMENT)]
    engine = build_engine(SlurmOptions(cpus_per_run=1, time="10"), store.root)

    def interrupt(running, outcomes):
        if running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"jobs \d+ go on; the same command collects"):
        engine.run_all(Batch(IMAGES, run_dirs), interrupt)
    job = slurm._job_of(run_dirs[0])
    assert job in slurm._queue()
    command("scancel", job)
    (outcome,) = slurm._watch(Batch(IMAGES, run_dirs), {run_dirs[0]: job}, lambda *_: None)
    assert outcome.state == "interrupted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": None}, "needs --time"),
        ({"partition": "nowhere"}, "sbatch: .*[Ii]nvalid partition"),
        ({"sbatch": {"frobnicate": 1}}, "sbatch: .*frobnicate"),
        ({"time": "tomorrow"}, "--time tomorrow: needs minutes"),
        ({"time": "-5"}, "--time -5: needs minutes"),
    ],
)
def test_refused(slurm, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        store = Store(tmp_path / "results", IMAGES)
        engine = build_engine(SlurmOptions(**{"time": "5", **options}), store.root)
        (spec,) = expand(*tiny(tmp_path))
        batch = Batch(IMAGES, [store.prepare(spec, ENVIRONMENT)])
        engine.run_all(batch, lambda *_: None)


def test_no_slurm_here(tmp_path):
    code = "import sys; from pythae_fif.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["--engine", "slurm", "--time", "5", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: --engine slurm: sbatch is not on the PATH of this machine\n"
