"""`best` loads the model that validation chose; `load_trained` loads the model of any run."""

import math
import shutil

import pandas as pd
import pytest
import torch
from pythae.models import AutoModel
from support.experiments import train_on_table
from support.report_store import RESULTS, fill_store, make_result

from pythae_fif.benchmark import best, load_trained
from pythae_fif.benchmark.build import build_model
from pythae_fif.benchmark.record import ScoringResult
from pythae_fif.benchmark.results import read
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import as_density

pytestmark = pytest.mark.filterwarnings("ignore:scores of")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The store and the runs of FIF, in two configurations, and of an AE, with two seeds each."""
    return train_on_table(tmp_path_factory.mktemp("table"), ["fif", "ae"])


def test_best_is_the_configuration_of_lowest_mean_validation_distance(trained):
    store, jobs = trained
    model = best(store.root, dataset="csv", model="fif")
    distances = pd.Series(
        {
            (job.configuration, job.training.seed): read(store, job)
            .scores["normal"]
            .result.scores.frechet["val"]
            for job in jobs
            if job.training.model == "fif"
        }
    )
    means = distances.groupby(level=0).mean()
    assert len(means) == 2
    assert model.run.configuration == means.idxmin()
    assert model.run.training.seed == distances[means.idxmin()].idxmin()
    assert model.run.folder == store.folder(model.run.training)
    weights = torch.load(model.run.folder / "model/model.pt")["model_state_dict"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_runs_on_tables_keep_samples_in_original_units(trained):
    store, jobs = trained
    table = pd.read_csv(store.root.parent / "table.csv")
    for job in jobs:
        (scoring,) = job.scorings
        name = f"samples-{scoring.name}.csv"
        frame = pd.read_csv(store.folder(job.training) / name)
        assert [*frame] == ["a", "b", "c"]
        assert len(frame) == scoring.num_samples
        assert ((frame.mean() - table.mean()) / table.std()).abs().max() < 2
        record = store.read_record(job.training, scoring.file, ScoringResult)
        assert name in record.files
        assert record.result.scores.extra["energy"].keys() == {"val", "test"}


def test_a_run_of_a_users_model_names_what_loads_it(trained, tmp_path):
    store, jobs = trained
    fif = next(job.training for job in jobs if job.training.model == "fif")
    run = shutil.copytree(store.folder(fif), tmp_path / "run")
    changes = {
        "spec.json": (f'"{fif.model_class}"', '"my_models.MyFIF"'),
        "model/model_config.json": ('"FIFConfig"', '"MyFIFConfig"'),
    }
    for file, change in changes.items():
        text = (run / file).read_text()
        assert change[0] in text
        (run / file).write_text(text.replace(*change))

    with pytest.raises(ConfigError, match=r"my_models.MyFIF is neither in Pythae.*trust=True"):
        load_trained(run)


@pytest.mark.parametrize("name", ["fif", "ae"])
def test_runs_on_tables_save_their_columns(trained, name):
    store, jobs = trained
    frame = pd.read_csv(store.root.parent / "table.csv")
    training = next(job.training for job in jobs if job.training.model == name)
    for folder in (store.folder(training), store.folder(training) / "model"):
        model = load_trained(folder)
        assert model.columns.names == ["a", "b", "c"]
        assert as_density(model).log_prob(frame[["c", "a", "b"]]).isfinite().all()
        if name == "fif":
            assert AutoModel.load_from_folder(str(folder)).columns == model.columns


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"model": "dnf"},
            DataError,
            r"no finished run of dnf on mnist: there are ae, fif on mnist$",
        ),
        (
            {"model": "fif", "epochs": 5, "arch": "resnet", "sampler": "normal"},
            DataError,
            r"of fif on mnist with these fields: there are epochs 3, 9; arch resnet; sampler .*nor",
        ),
        (
            {"model": "fif", "archs": "resnet"},
            ConfigError,
            "'archs' is unknown: did you mean 'arch'?",
        ),
        ({"model": "fif"}, ConfigError, r"choose epochs \(3, 9\)$"),
        (
            {"model": "fif", "epochs": 3, "num_samples": 2000},
            DataError,
            "fif/.*: neither a saved model nor a run with a model",
        ),
    ],
)
def test_what_cannot_be_chosen_is_one_line(tmp_path, fields, error, message):
    quick = RESULTS[0]
    longer = make_result("fif", {"beta": 1}, 0, {"normal": (1, 1)}, epochs=9)
    autoencoder = make_result("ae", {}, 0, {"normal": (1, 1)})
    store = fill_store(tmp_path, [quick, longer, autoencoder])
    with pytest.raises(error, match=message):
        best(store.root, dataset="mnist", **fields)


def test_a_file_is_a_data_set_by_its_name(trained, tmp_path):
    store, _ = trained
    by_name = best(store.root, dataset="table.csv", model="fif")
    assert by_name.run == best(store.root, dataset="csv", model="fif").run
    assert by_name.run == best(store.root, dataset=store.root.parent / "table.csv", model="fif").run
    with pytest.raises(DataError, match=r"of fif on other.csv: there are ae, fif on table.csv$"):
        best(store.root, dataset="other.csv", model="fif")
    with pytest.raises(DataError, match=r"of fif on csv: there is none at all$"):
        best(tmp_path, dataset="csv", model="fif")


def test_runs_on_two_files_are_told_apart_by_their_names(tmp_path):
    results = []
    for letter in ("a", "b"):
        fields = {"dataset": "csv", "data_hash": 16 * letter, "source": f"{letter}.csv, 3 columns"}
        results.append(make_result("ae", {}, 0, {"normal": (1, 1)}, **fields))
        save_model(fill_store(tmp_path, results[-1:]), results[-1].job.training)
    with pytest.raises(ConfigError, match=r"compared: choose dataset \(a.csv, b.csv\)$"):
        best(tmp_path, dataset="csv", model="ae")
    assert best(tmp_path, dataset="b.csv", model="ae").run.training == results[1].job.training


def save_model(store, training) -> None:
    """Saves a new model as that of a training."""
    build_model(training, (1, 28, 28)).save(str(store.folder(training) / "model"))


@pytest.mark.parametrize("distances", [{"normal": math.nan}, {"normal": math.nan, "gmm": 2.0}])
def test_a_diverged_run_is_chosen_last(tmp_path, distances):
    pairs = {sampler: (value, value) for sampler, value in distances.items()}
    result = make_result("ae", {}, 0, pairs)
    store = fill_store(tmp_path, [result])
    save_model(store, result.job.training)
    assert best(store.root, dataset="mnist", model="ae").run.sampler == [*distances][-1]


@pytest.mark.parametrize(("sampler", "beta"), [("normal", 10), ("gmm", 5), (None, 5)])
def test_each_sampler_chooses(tmp_path, sampler, beta):
    store = fill_store(tmp_path, RESULTS)
    for result in RESULTS:
        if result.job.training.model == "fif":
            save_model(store, result.job.training)
    run = best(store.root, dataset="mnist", model="fif", sampler=sampler).run
    assert run.training.parameters["beta"] == beta
    assert run.sampler == (sampler or "gmm")
