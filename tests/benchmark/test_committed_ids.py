"""The committed runs are found again: their ids follow from YAML files, flags and data."""

import types

import pytest
from support.reference import REFERENCE, lines

from pythae_fif.benchmark import expand, load_experiment
from pythae_fif.benchmark.config import experiment_file
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.store import Store

CASES = {
    "digits": ("digits", None, {"models": ["all"]}, (1, 8, 8)),
    "mnist": ("mnist", None, {"models": ["all"], "profile": "quick"}, (1, 28, 28)),
    "celeba": ("celeba", None, {"models": ["all"], "profile": "quick"}, (3, 64, 64)),
    "table 2": (
        "celeba", experiment_file(2), {"profile": "table2-quick", "image_size": 32, "seeds": [0]},
        (3, 32, 32),
    ),
}  # fmt: skip
"""Commands of results/reference/README.md: data set, file, flags, and the shape of an image."""


PINNED = {
    "digits": (
        "f49f43239b85 674a72cc3708 e1df421fbec5 9c4eeb8ccc65 aaae32f6637b 53ec7c36536b "
        "30693b804dda a1e9e68f02fc 5b568bcbeb3a 3663f289cc0c aa00d95ca9f1 f1835000898f"
    ),
    "mnist": (
        "130cd31921ac c3e9145fdfad 374015936e72 ea4d8b206e25 44fd6bc929a2 d00d661a6394 "
        "15bf2f9d6ee7 7e392a1e3804 f1b6b1eefe67 650a139cf3ad 42464ce34800 b04864ea206a"
    ),
    "celeba": (
        "85b0532dde79 42684ea92bad 940cc48b2f87 d5c4e0a92dcc e09e12282f68 df32c0cd21e0 "
        "8bf2df6fb3f6 01c5c4043446 8dc3cd018aa9 aa4569d15df6 941ea938ee47 51a752bcdf89"
    ),
    "table 2": ("ea211ed9dbdb 5e7f3f60709b 94cc817fbc5d"),
}
"""Ids of every kind, as they were when their runs were committed."""


@pytest.fixture(params=CASES)
def case(request):
    """The name of a command, its plan, and id -> specification of the committed runs like it."""
    dataset, file, flags, shape = CASES[request.param]
    experiment = load_experiment(dataset, file, flags)
    specs = Store(REFERENCE, IMAGES).specs(f"{dataset}/{experiment.arch}")
    committed = {spec.run_id: spec for spec in specs if spec.profile == experiment.profile}
    (data_hash,) = {spec.data_hash for spec in committed.values()}
    images = types.SimpleNamespace(input_dim=shape, content_hash=data_hash)
    return request.param, expand(experiment, images), committed


def test_every_run_of_the_plan_is_committed(case):
    name, plan, committed = case
    planned = {spec.run_id for spec in plan}
    assert set(PINNED[name].split()) <= planned <= set(committed)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_data_are_those_of_the_committed_runs(name, request):
    root = str(request.getfixturevalue("shared_data")) if name == "mnist" else None
    experiment = load_experiment(name, None, {"profile": "quick"})
    environment = Environment(data_root=root, offline=True)
    splits = load_splits(name, experiment.image_size, experiment.settings, environment)
    plan = expand(experiment.model_copy(update={"models": ["fif"]}), splits)
    assert {f"{spec.folder}/{spec.run_id}" for spec in plan} <= lines().keys()
