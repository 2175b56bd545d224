"""The committed runs are found again: their ids follow from YAML files, flags and data."""

import pytest
from support.reference import REFERENCE

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import ImageSpec, Where, load_splits
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import Announced, expand
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.runs.store import Store

TABLE_2 = configs_dir() / "experiments/table2.yaml"
FIGURE_10 = {"profile": "medium", "models": ["fif"], "configurations": 10}
CASES = {
    "digits": ("digits", {"models": ["all"]}, None, (1, 8, 8), 105),
    "mnist": ("mnist", {"models": ["all"], "profile": "quick"}, None, (1, 28, 28), 30),
    "celeba": ("celeba", {"models": ["all"], "profile": "quick"}, None, (3, 64, 64), 30),
    "cifar10": (
        "cifar10", {"models": ["fif"], "profile": "medium", "arch": "resnet",
                    "precision": "bfloat16", "extractor": "efficientnet-lite0"},
        None, (3, 32, 32), 1,
    ),
    "table 2, MNIST": (
        "mnist", {"profile": "table2-quick", "wall_clock": "5min", "train_size": 20_000}, TABLE_2,
        (1, 28, 28), 15,
    ),
    "table 2, faces": (
        "celeba", {"profile": "table2-quick", "wall_clock": "5min", "image_size": 32}, TABLE_2,
        (3, 32, 32), 15,
    ),
    "figure 10": ("mnist", FIGURE_10, None, (1, 28, 28), 10),
    "figure 10 after 2,000 steps": ("mnist", FIGURE_10 | {"epochs": 4}, None, (1, 28, 28), 10),
    "figure 10, another seed": (
        "mnist", FIGURE_10 | {"precision": "bfloat16", "seeds": [1]}, None, (1, 28, 28), 10,
    ),
}  # fmt: skip
"""Commands of tables of the reference: data set, flags, file, an image's shape, and runs."""


@pytest.fixture(scope="module")
def committed():
    stores = [Store(REFERENCE), Store(REFERENCE / "beta")]
    return [spec for store in stores for spec in store.specs(ImageSpec)]


@pytest.mark.parametrize(("dataset", "flags", "file", "shape", "runs"), CASES.values(), ids=CASES)
def test_every_run_of_the_plan_is_committed(dataset, flags, file, shape, runs, committed):
    experiment = load_experiment(dataset, flags, file)
    alike = [
        spec
        for spec in committed
        if (spec.dataset, spec.arch, spec.profile) == (dataset, experiment.arch, experiment.profile)
    ]
    (data_hash,) = {spec.data_hash for spec in alike}
    planned = {spec.run_id for spec in expand(experiment, Announced(shape, data_hash), Where())}
    assert len(planned) == runs and planned <= {spec.run_id for spec in alike}


def test_every_committed_run_has_its_records(committed):
    """But for one that failed: 336 runs with 914 scores were carried over."""
    stores = [Store(REFERENCE), Store(REFERENCE / "beta")]
    found = [ImageResult.read(store, spec) for store in stores for spec in store.specs(ImageSpec)]
    results = [result for result in found if result is not None]
    assert (len(found), len(results)) == (336, 335)
    assert sum(len(result.scores) for result in results) == 914
    assert all(result.training.result.log for result in results)


@pytest.mark.parametrize("arch", ["vit", "resnet"])
def test_runs_of_what_is_gone_are_read(arch, committed):
    """An architecture, and a model's setting, that have left the package."""
    gone = [
        s for s in committed if (s.arch == "vit" or "whiten" in s.parameters) and s.arch == arch
    ]
    assert gone and all(ImageResult.read(Store(REFERENCE), spec) for spec in gone)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_data_are_those_of_the_committed_runs(name, request, committed):
    root = str(request.getfixturevalue("shared_data")) if name == "mnist" else None
    experiment = load_experiment(name, {"profile": "quick", "models": ["fif"]})
    where = Where(data_root=root, offline=True)
    splits = load_splits(name, experiment.image_size, experiment.settings_of("fif"), where)
    planned = {spec.run_id for spec in expand(experiment, splits, where)}
    assert planned <= {spec.run_id for spec in committed}
