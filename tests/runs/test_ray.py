"""The Ray engine on a real cluster of several nodes; workers, a node and the driver are killed."""

import os
import signal
import subprocess
import sys

import pytest
from support.engines import run_open
from support.experiments import make_tiny_plan
from support.processes import is_locked, wait_until
from support.tasks import TaskSpec

from pythae_fif.benchmark.results import read
from pythae_fif.errors import ConfigError
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Status

pytest.importorskip("ray", reason="needs ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DRIVER = """
import sys
from pathlib import Path
from support.engines import run_open
from support.experiments import make_tiny_plan
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.store import Store
folder, address = sys.argv[1:]
plan = make_tiny_plan(Path(folder), {"seeds": [0, 1]}, epochs=500)
engine = RayEngine(ray_address=address, cpus_per_run=1)
sys.exit(any(run_open(plan, Store(folder), engine).values()))
"""


def workers() -> list[int]:
    """Returns the processes that are executing a run."""
    result = subprocess.run(["pgrep", "-f", "^ray::_task"], capture_output=True, text=True)
    return [int(pid) for pid in result.stdout.split()]


def test_runs_survive_a_killed_worker_and_a_lost_node(ray_cluster, ray_engine, tmp_path):
    plan = make_tiny_plan(tmp_path, {"seeds": [0, 1, 2]}, epochs=400)
    store = Store(tmp_path / "ray")
    killed: list[str] = []

    def kill_worker_then_node(progress):
        training = [s for s in progress.running.values() if s.stage == "training"]
        if training and not killed:
            killed.append("worker")
            os.kill(workers()[0], signal.SIGKILL)
        elif killed == ["worker"] and len(progress.outcomes) == 1 and training:
            killed.append("node")
            ray_cluster.remove_node(ray_cluster.nodes.pop(), allow_graceful=False)
            ray_cluster.nodes.append(
                ray_cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            )

    outcomes = run_open(plan, store, ray_engine, kill_worker_then_node)
    assert killed == ["worker", "node"]
    assert outcomes == dict.fromkeys(plan, "")
    assert sum(Status.read(store.folder(job.spec)).attempt for job in plan) >= 4

    local_store = Store(tmp_path / "local")
    run_open(plan, local_store, LocalEngine(cpus_per_run=1))
    for job in plan:
        ray_result = read(store, job)
        local_result = read(local_store, job)
        assert ray_result.evaluation.result == local_result.evaluation.result
        ray_files = ray_result.training.files
        assert ray_files["model/model.pt"] == local_result.training.files["model/model.pt"]


def test_runs_of_a_killed_driver_end_and_another_driver_resumes_them(ray_cluster, tmp_path):
    words = [sys.executable, "-c", DRIVER, str(tmp_path), ray_cluster.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen(words, env=environment)
    store = Store(tmp_path)
    plan = make_tiny_plan(tmp_path, {"seeds": [0, 1]}, epochs=500)
    wait_until(lambda: list(tmp_path.rglob("train_log.jsonl")), 120)
    driver.kill()
    driver.wait()
    wait_until(lambda: not workers())  # Ray ends the tasks of a dead driver
    assert not any(job.is_done(store) for job in plan)

    assert subprocess.run(words, env=environment, check=False).returncode == 0
    assert all(job.is_done(store) for job in plan)


def test_an_interrupt_ends_the_runs(ray_engine, tmp_path):
    store = Store(tmp_path)
    specs = [TaskSpec(action="sleep", seed=seed) for seed in range(3)]

    def interrupt(progress):
        if len(progress.running) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_open(specs, store, ray_engine, interrupt)
    wait_until(lambda: not any(is_locked(store.folder(spec)) for spec in specs))
    states = sorted(Status.read(store.folder(spec)).state for spec in specs)
    assert states == ["", "interrupted", "interrupted"]


def test_an_address_without_a_cluster_is_an_error(tmp_path):
    engine = RayEngine(ray_address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"--ray-address 127.0.0.1:1: no Ray cluster answers"):
        run_open([TaskSpec()], Store(tmp_path), engine)
