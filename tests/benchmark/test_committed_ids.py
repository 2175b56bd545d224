"""The committed runs are found again: their ids follow from YAML files, flags and data."""

import dataclasses
import runpy

import pandas
import pytest
from support.engines import InProcess
from support.experiments import of_shape
from support.reference import REFERENCE, ROOT

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data.load import load
from pythae_fif.names import DataOptions
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.studies.spectrum import SpectrumModel
from pythae_fif.studies.study import StudyOptions, run_study
from pythae_fif.studies.tabular import TabularProtocol, train_configurations
from pythae_fif.studies.tabular_models import TabularModels

TABLE_2 = configs_dir() / "experiments/table2.yaml"
BEST_OF_TEN = configs_dir() / "experiments/best_of_ten.yaml"
STORES = [REFERENCE / name for name in ("", "beta", "best_of_ten", "best_of_ten/seeds")]
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
}  # fmt: skip
"""Commands of tables of the reference: data set, flags, file, an image's shape, and runs."""


@pytest.fixture(scope="module")
def committed():
    return [spec for store in map(Store, STORES) for spec in store.specs(ImageSpec)]


@pytest.mark.parametrize(("dataset", "flags", "file", "shape", "runs"), CASES.values(), ids=CASES)
def test_every_run_of_the_plan_is_committed(dataset, flags, file, shape, runs, committed):
    experiment = load_experiment(dataset, flags, file)
    alike = [
        spec
        for spec in committed
        if (spec.dataset, spec.arch, spec.profile) == (dataset, experiment.arch, experiment.profile)
    ]
    (data_hash,) = {spec.data_hash for spec in alike}
    planned = {spec.run_id for spec in expand(experiment, of_shape(*shape, content_hash=data_hash))}
    assert len(planned) == runs and planned <= {spec.run_id for spec in alike}


def test_every_committed_run_has_its_records(committed):
    """But for one that failed; some are of an architecture, or a setting, that left the package."""
    stores = map(Store, STORES)
    found = [ImageResult.read(store, spec) for store in stores for spec in store.specs(ImageSpec)]
    results = [result for result in found if result is not None]
    assert (len(found), len(results)) == (415, 414)
    assert sum(len(result.scores) for result in results) == 1160
    assert all(result.training.result.log for result in results)


@pytest.mark.parametrize("root", STORES)
def test_every_committed_record_is_of_code_that_a_revision_holds(root):
    assert {verdict.kind for verdict in verify(root)} <= {"packed", "unfinished"}


def test_the_committed_order_is_what_its_command_makes():
    page = runpy.run_path(str(ROOT / "benchmarks/order.py"))["page"]
    text, figures = page(REFERENCE)
    assert text == (REFERENCE / "tables/order.md").read_text()
    assert all((REFERENCE / name).exists() for name in figures)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_data_are_those_of_the_committed_runs(name, request, committed):
    root = str(request.getfixturevalue("shared_data")) if name == "mnist" else None
    flags = {"profile": "quick", "models": ["fif"], "data_root": root, "offline": True}
    experiment = load_experiment(name, flags)
    splits = load(name, experiment, **experiment.settings_for("fif").data_subset)
    planned = {spec.run_id for spec in expand(experiment, splits)}
    assert planned <= {spec.run_id for spec in committed}


@pytest.fixture
def copied(shared_data, tmp_path):
    """A study of the committed runs, whose engine notes what it is asked for."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/studies.jsonl").write_bytes((REFERENCE / "runs/studies.jsonl").read_bytes())
    where = DataOptions(data_root=str(shared_data), offline=True)
    return StudyOptions(tmp_path, where, engine=InProcess(done=[]))


FIF = "fif fif_on fif_silu fif_silu_on"
OTHERS = "fif_coupling fif_coupling_on rectangular_flow rectangular_flow_off"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("dataset", "profile", "names"),
    [
        ("power", "quick", f"{FIF} {OTHERS}"),
        ("power", "equal_time", f"{FIF} fif_silu_on_detached fif_on_detached rectangular_flow"),
        ("miniboone", "quick", f"{FIF} {OTHERS}"),
        ("miniboone", "equal_time", f"{FIF} fif_silu_on_detached rectangular_flow"),
    ],
)
def test_committed_tables_are_not_trained_again(copied, dataset, profile, names):
    """Neither their models nor those that their learning rates were chosen by."""
    options = dataclasses.replace(copied, dataset=dataset, profile=profile, seeds=range(5))
    found = train_configurations(TabularProtocol.load(options), names.split(), lambda _: None)
    assert options.engine.done == [] and len(found) == 5 * len(names.split())


@pytest.mark.parametrize(
    ("kind", "runs", "records"), [(TabularModels, 92, 311), (SpectrumModel, 8, 8)]
)
def test_every_committed_run_of_a_study_has_its_records(kind, runs, records):
    """And its id: a store passes over those whose folder has another."""
    store = Store(REFERENCE)
    found = list(store.specs(kind))
    assert len(found) == runs and all(map(store.is_done, found))
    assert sum(len(spec.outputs) for spec in found) == records


@pytest.mark.shared
def test_committed_spectra_are_not_trained_again(copied):
    paths = run_study("spectrum", copied, lambda _: None)
    assert copied.engine.done == []
    found = pandas.read_csv(next(path for path in paths if path.suffix == ".csv"))
    assert list(found.above_one) == [0, 1, 2, 4, 10, 11, 11, 11]
    entropy = [-23.81, -19.93, -5.87, 1.13, 19.68, 23.6, 22.39, 23.55]
    assert list(found.entropy) == pytest.approx(entropy, abs=0.01)
