"""The committed runs are found again: their ids follow from YAML files, flags and data."""

import types

import pytest
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.runs.kind import Environment
from support.reference import REFERENCE, lines

from pythae_fif.benchmark.config import experiment_file, load_experiment
from pythae_fif.benchmark.plan import expand
from pythae_fif.runs.store import Store

TABLE_2 = {"profile": "table2-quick", "wall_clock": "5min"}
CASES = {
    "digits": ("digits", None, {"models": ["all"]}, (1, 8, 8), 105),
    "mnist": ("mnist", None, {"models": ["all"], "profile": "quick"}, (1, 28, 28), 30),
    "celeba": ("celeba", None, {"models": ["all"], "profile": "quick"}, (3, 64, 64), 30),
    "table 2, MNIST": (
        "mnist", experiment_file(2), TABLE_2 | {"train_size": 20_000}, (1, 28, 28), 15,
    ),
    "table 2, faces": ("celeba", experiment_file(2), TABLE_2 | {"image_size": 32}, (3, 32, 32), 15),
    "figure 10, MNIST": (
        "mnist", None, {"profile": "medium", "models": ["fif"], "configurations": 10, "epochs": 4},
        (1, 28, 28), 10,
    ),
    "figure 10, MNIST, after 6,000 steps": (
        "mnist", None, {"profile": "medium", "models": ["fif"], "configurations": 10},
        (1, 28, 28), 10,
    ),
    "figure 10, MNIST, after 6,000 steps, another seed": (
        "mnist", None,
        {"profile": "medium", "models": ["fif"], "configurations": 10, "precision": "bfloat16",
         "seeds": [1]},
        (1, 28, 28), 10,
    ),
}  # fmt: skip
"""Commands of tables of the reference: data set, file, flags, an image's shape, and runs."""


@pytest.mark.parametrize(("dataset", "file", "flags", "shape", "runs"), CASES.values(), ids=CASES)
def test_every_run_of_the_plan_is_committed(dataset, file, flags, shape, runs):
    experiment = load_experiment(dataset, file, flags)
    specs = (
        spec
        for store in (REFERENCE, REFERENCE / "beta")
        for spec in Store(store, IMAGES).specs(f"{dataset}/{experiment.arch}")
    )
    committed = [spec for spec in specs if spec.profile == experiment.profile]
    (data_hash,) = {spec.data_hash for spec in committed}
    images = types.SimpleNamespace(input_dim=shape, content_hash=data_hash)
    planned = {spec.run_id for spec in expand(experiment, images)}
    assert len(planned) == runs and planned <= {spec.run_id for spec in committed}


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_data_are_those_of_the_committed_runs(name, request):
    root = str(request.getfixturevalue("shared_data")) if name == "mnist" else None
    experiment = load_experiment(name, None, {"profile": "quick"})
    environment = Environment(data_root=root, offline=True)
    splits = load_splits(name, experiment.image_size, experiment.settings, environment)
    plan = expand(experiment.model_copy(update={"models": ["fif"]}), splits)
    assert {f"{spec.folder}/{spec.run_id}" for spec in plan} <= lines().keys()
