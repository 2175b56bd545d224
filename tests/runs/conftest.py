"""Fixtures of the engines: a Ray cluster and a Slurm, both real."""

import os
import signal
import sys

import pytest
from support import slurm_cluster as slurm_support

from pythae_fif.runs import slurm as slurm_module
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
"""Resources of a Ray node."""


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory):
    """A Ray cluster with a head that executes nothing, and two nodes with one core each."""
    pytest.importorskip("ray", reason="needs ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_failure_threshold", "2")
        patch.setenv("RAY_health_check_period_ms", "500")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        cluster.nodes = [cluster.add_node(**NODE) for _ in range(2)]
        yield cluster
        cluster.shutdown()


@pytest.fixture
def ray_engine(ray_cluster):
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    yield RayEngine(ray_address=ray_cluster.address, cpus_per_run=1)
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def slurm_environment():
    """The environment of a Slurm that runs during a module's tests."""
    pytest.importorskip("submitit", reason="needs submitit")
    reason = slurm_support.missing()
    if reason:
        pytest.skip(reason)
    with slurm_support.slurm_cluster() as environment:
        yield environment


@pytest.fixture
def make_slurm_engine(slurm_environment, monkeypatch):
    """Makes engines for the Slurm, which has no GPU; they look at its queue every second."""
    monkeypatch.setenv("SLURM_CONF", slurm_environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(slurm_module, "QUEUE_SECONDS", 1.0)
    monkeypatch.setattr(slurm_module, "LATE_SECONDS", 2.0)

    def engine(**options) -> SlurmEngine:
        defaults = {"cpus_per_run": 1, "time": "1h", "sbatch": ["gres=none"]}
        return SlurmEngine(**{**defaults, **options})

    return engine


@pytest.fixture
def slurm_engine(make_slurm_engine):
    return make_slurm_engine()
