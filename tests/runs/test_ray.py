"""The Ray engine on a real cluster of several nodes: workers, a node and the driver are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.runs.engines.common import Batch, Outcome
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.folder import Status
from support.experiments import ENVIRONMENT, PROFILE, tiny

from pythae_fif.benchmark.plan import expand
from pythae_fif.data.locations import CONFIGS_VARIABLE, own_configs
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store

ray = pytest.importorskip("ray", reason="needs ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head that runs nothing, and two nodes of one core."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_failure_threshold", "2")
        patch.setenv("RAY_health_check_period_ms", "500")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        cluster.nodes = [cluster.add_node(**NODE) for _ in range(2)]
        yield cluster
        cluster.shutdown()


@pytest.fixture
def engine(cluster):
    from pythae_fif.runs.engines.ray import RayEngine

    handler = signal.getsignal(signal.SIGTERM)
    yield RayEngine(ray_address=cluster.address, cpus_per_run=1)
    signal.signal(signal.SIGTERM, handler)


def workers() -> list[int]:
    """Processes in which a run is under way."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_task"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_killed_worker_and_a_lost_node_cost_nothing(cluster, engine, tmp_path):
    experiment, splits = tiny(tmp_path, {"seeds": [0, 1, 2]}, epochs=400)
    plan = expand(experiment, splits)
    store, local = Store(tmp_path / "ray", IMAGES), Store(tmp_path / "local", IMAGES)
    run_dirs = [store.prepare(spec, ENVIRONMENT) for spec in plan]
    done: list[str] = []

    def disturb(running, outcomes):
        training = [s for s in running.values() if s.stage == "training"]
        if training and not done:
            done.append("worker")
            os.kill(workers()[0], signal.SIGKILL)
        elif done == ["worker"] and len(outcomes) == 1 and training:
            done.append("node")
            cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
            cluster.nodes.append(cluster.add_node(**NODE))

    outcomes = engine.run_all(Batch(IMAGES, run_dirs, lent=splits), disturb)
    assert done == ["worker", "node"]
    assert sorted(outcomes, key=str) == sorted((Outcome(d, "finished") for d in run_dirs), key=str)
    assert sum(Status.read(d).attempt for d in run_dirs) >= 4
    assert len(list(store.root.rglob("result.json"))) == len(plan)

    alone = LocalEngine(gpus=[], cpus_per_run=1)
    alone_dirs = [local.prepare(spec, ENVIRONMENT) for spec in plan]
    alone.run_all(Batch(IMAGES, alone_dirs), lambda *_: None)
    for spec in plan:
        ours, theirs = store.record(spec), local.record(spec)
        for key in ("scores", "reconstruction_mse", "parameters", "data"):
            assert getattr(ours, key) == getattr(theirs, key)
        assert ours.training.best_eval_loss == theirs.training.best_eval_loss


def test_driver_dies_and_is_started_again(cluster, tmp_path):
    content = {"profile": "tiny", "profiles": {"tiny": {**PROFILE, "epochs": 1500}},
               "extractor": "pixels", "models": ["ae"], "samplers": ["normal"]}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    code = "import sys; from pythae_fif.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["--config", tmp_path / "tiny.yaml", "--results", tmp_path / "results", "--seeds", 0, 1,
             "--engine", "ray", "--ray-address", cluster.address]  # fmt: skip
    command = [sys.executable, "-c", code, *map(str, words)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _wait_for(lambda: list((tmp_path / "results").rglob("train_log.jsonl")), driver)
    driver.kill()
    driver.wait()
    _wait_for(lambda: not workers())  # a dead driver's tasks end
    assert not list((tmp_path / "results").rglob("result.json"))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "[2/2] finished" in again.stdout
    assert len(list((tmp_path / "results").rglob("result.json"))) == 2


def _wait_for(ready, process=None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "nothing happened"
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.1)


def test_a_run_that_kills_its_worker_each_time_has_failed(engine, tmp_path, monkeypatch):
    from pythae_fif.runs.engines import ray as module

    monkeypatch.setattr(module, "MAX_CRASHES", 0)
    store = Store(tmp_path / "results", IMAGES)
    (spec,) = expand(*tiny(tmp_path, epochs=100_000))
    run_dir = store.prepare(spec, ENVIRONMENT)

    def kill(running, outcomes):
        if running:
            os.kill(workers()[0], signal.SIGKILL)

    (outcome,) = engine.run_all(Batch(IMAGES, [run_dir]), kill)
    assert outcome.state == "failed" == Status.read(run_dir).state
    assert outcome.error.startswith("its process was lost 1 times")


def test_interrupt_marks_the_runs_and_ends_their_processes(engine, tmp_path):
    store = Store(tmp_path / "results", IMAGES)
    plan = expand(*tiny(tmp_path, {"seeds": [0, 1, 2]}, epochs=100_000))
    run_dirs = [store.prepare(spec, ENVIRONMENT) for spec in plan]

    def interrupt(running, outcomes):
        if len([s for s in running.values() if s.stage == "training"]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run_all(Batch(IMAGES, run_dirs), interrupt)
    states = [Status.read(run_dir).state for run_dir in run_dirs]
    assert sorted(states) == ["interrupted", "interrupted", "waiting"]
    _wait_for(lambda: not workers(), seconds=30)


def test_a_worker_knows_the_user_s_own_models(monkeypatch):
    """The processes of a cluster that runs already have not inherited the driver's variables."""
    from pythae_fif.runs.engines import ray as module

    known = []
    monkeypatch.setattr(module, "execute", lambda *_: known.extend(own_configs()))
    monkeypatch.setattr(module, "enter_run", lambda *_: None)
    monkeypatch.delenv(CONFIGS_VARIABLE, raising=False)
    assert module._task(None, ".", 1, ".", ["/models/mine.yaml"], None, None)[0] == "finished"
    assert known == [Path("/models/mine.yaml")]


def test_no_cluster_at_the_address(tmp_path):
    from pythae_fif.runs.engines.ray import RayEngine

    with pytest.raises(ConfigError, match=r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers"):
        RayEngine(ray_address="127.0.0.1:1").run_all(Batch(IMAGES, [tmp_path]), lambda *_: None)
