"""The contract of engines, which each of them passes."""

import pytest
from support.engines import run_open
from support.tasks import RESOURCES, TaskSpec

from pythae_fif.runs.engines import ENGINES
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.worker import Status

CLUSTERS = {
    name: [getattr(pytest.mark, name), pytest.mark.timeout(600)] for name in ("ray", "slurm")
}


@pytest.fixture(params=[pytest.param(name, marks=CLUSTERS.get(name, ())) for name in ENGINES])
def engine(request):
    if request.param == "local":
        return LocalEngine(cpus_per_run=1)
    return request.getfixturevalue(f"{request.param}_engine")


def test_it_describes_itself_in_one_line(engine):
    assert engine.threads_per_run == 1
    parallel_runs = engine.parallel_runs()
    assert parallel_runs is None or parallel_runs >= 1

    description = engine.describe()
    assert len(description.splitlines()) == 1
    assert "1 thread each" in description


def test_failed_runs_are_reported_and_do_not_affect_others(engine, store):
    failing = TaskSpec(action="fail")
    other = TaskSpec(action="report resources")
    outcomes = run_open([failing, other], store, engine)
    assert outcomes.keys() == {failing, other}

    assert "ValueError: broken in" in outcomes[failing]
    assert len(outcomes[failing].splitlines()) == 1
    assert "in _fail" in (store.folder(failing) / "output.log").read_text()
    assert not failing.is_done(store)

    assert outcomes[other] == ""
    assert other.is_done(store)
    assert (store.folder(other) / RESOURCES).read_text() == "/1"  # no GPU, one thread


def test_the_same_call_executes_only_what_is_missing(engine, store):
    specs = [TaskSpec(seed=seed) for seed in range(2)]
    assert run_open(specs[:1], store, engine) == {specs[0]: ""}
    assert run_open(specs, store, engine) == {specs[1]: ""}
    assert run_open(specs, store, engine) == {}
    assert [Status.read(store.folder(spec)).attempt for spec in specs] == [1, 1]


def test_an_interrupted_call_is_completed_by_the_same_call(engine, store):
    specs = [TaskSpec(action="nap", seed=seed) for seed in range(3)]

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_open(specs, store, engine, interrupt)
    errors = run_open(specs, store, engine)
    assert set(errors.values()) <= {""}
    assert all(spec.is_done(store) for spec in specs)
