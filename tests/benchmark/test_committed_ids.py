"""The committed runs have the ids that follow from YAML files, flags and data."""

import runpy

import pytest
from support.experiments import fake_splits
from support.reference import REFERENCE, ROOT

from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read_all
from pythae_fif.benchmark.training import Training
from pythae_fif.data.load import load
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify

TABLE_2 = configs_dir() / "experiments/table2.yaml"
TABLE_6 = configs_dir() / "experiments/table6.yaml"
TABLES_1_AND_6 = {
    "wall_clock": "90s", "seeds": [0, 1, 2],
    "models": ["fif", "fif_on_manifold", "fif_coupling", "rectangular_flow", "flow_matching"],
}  # fmt: skip
BEST_OF_TEN = configs_dir() / "experiments/best_of_ten.yaml"
STORES = [
    REFERENCE / name for name in ("", "beta", "best_of_ten", "best_of_ten/seeds", "fitted_priors")
]
FIGURE_10 = {"profile": "medium", "models": ["fif"], "max_configurations": 10}
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
        "mnist", {"profile": "table2-quick", "wall_clock": "5min", "train_size": 20_000,
                  "max_configurations": 1},
        TABLE_2, (1, 28, 28), 9,
    ),
    "table 2, faces": (
        "celeba", {"profile": "table2-quick", "wall_clock": "5min", "image_size": 32,
                   "max_configurations": 1},
        TABLE_2, (3, 32, 32), 9,
    ),
    "figure 10": ("mnist", FIGURE_10, None, (1, 28, 28), 10),
    "figure 10 after 2,000 steps": ("mnist", FIGURE_10 | {"epochs": 4}, None, (1, 28, 28), 10),
    "figure 10, another seed": (
        "mnist", FIGURE_10 | {"precision": "bfloat16", "seeds": [1]}, None, (1, 28, 28), 10,
    ),
    "best of ten": (
        "mnist", FIGURE_10 | {"precision": "bfloat16", "seeds": [1],
                              "models": ["fif", "wae_imq", "beta_vae", "rae_l2", "vae", "ae"]},
        None, (1, 28, 28), 42,
    ),
    "best of ten, three seeds": ("mnist", {}, BEST_OF_TEN, (1, 28, 28), 15),
    "tables 1 and 6, POWER": ("power", TABLES_1_AND_6, TABLE_6, (6,), 15),
    "tables 1 and 6, MINIBOONE": ("miniboone", TABLES_1_AND_6, TABLE_6, (43,), 15),
}  # fmt: skip
"""Commands of committed tables: data set, flags, file, shape of an image, and number of runs."""


@pytest.fixture(scope="module")
def committed():
    """Trainings of all committed runs of the benchmark."""
    stores = map(Store, STORES)
    return [training for store in stores for training in store.iterate_specs(Training)]


@pytest.mark.parametrize(("dataset", "flags", "file", "shape", "runs"), CASES.values(), ids=CASES)
def test_every_run_of_the_plan_is_committed(dataset, flags, file, shape, runs, committed):
    experiment = load_experiment(dataset, flags, file)
    selection = experiment.active_profile.data_selection
    same_data = [
        training
        for training in committed
        if (training.dataset, training.arch) == (dataset, experiment.arch)
        and training.image_size == experiment.image_size
        and training.data_selection == selection
    ]
    (data_hash,) = {training.data_hash for training in same_data}
    jobs = plan(experiment, fake_splits(*shape, content_hash=data_hash))
    planned = {job.training for job in jobs}
    assert len(planned) == runs
    assert planned <= {*same_data}


def test_every_committed_run_has_its_records(committed):
    """Except for one that failed."""
    results = []
    num_trainings = 0
    for store in map(Store, STORES):
        results_of_store = list(read_all(store))
        results += results_of_store
        num_trainings += len({result.job.training for result in results_of_store})
    assert (len(committed), num_trainings, len(results)) == (464, 463, 473)
    assert sum(len(result.scores) for result in results) == 1281
    assert all(result.training.result.log for result in results)


@pytest.mark.parametrize("root", STORES)
def test_every_committed_record_was_made_by_committed_code(root):
    assert {verdict.kind for verdict in verify(root)} <= {"packed", "unfinished"}


@pytest.mark.slow
def test_the_committed_order_is_what_its_command_makes():
    make_page = runpy.run_path(str(ROOT / "results/reference/order.py"))["page"]
    text, figures = make_page(REFERENCE)
    assert text == (REFERENCE / "tables/order.md").read_text()
    assert all((REFERENCE / name).exists() for name in figures)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_committed_runs_used_the_same_data(name, request, committed):
    data_root = str(request.getfixturevalue("shared_data")) if name == "mnist" else None
    flags = {"profile": "quick", "models": ["fif"], "data_root": data_root, "offline": True}
    experiment = load_experiment(name, flags)
    splits = load(name, experiment, **experiment.active_profile.data_selection)
    assert {job.training for job in plan(experiment, splits)} <= {*committed}
