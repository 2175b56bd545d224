"""A run of the benchmark on a table with categories, a class, missing values and heavy tails."""

import io

import numpy as np
import pandas as pd
import pytest
from support.experiments import write_tiny

from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read
from pythae_fif.benchmark.trained import load_trained
from pythae_fif.data.load import load
from pythae_fif.reports.figures import draw_figures
from pythae_fif.reports.report import Report
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of"),
    pytest.mark.usefixtures("one_thread", "short_likelihoods"),
]


@pytest.mark.parametrize("model", ["fif", "fif_conditional"])
def test_a_mixed_table_is_trained_sampled_and_drawn(model, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 200).astype(float),
            "work": rng.choice(["public", "private", "none"], 200),
            "tail": rng.standard_t(2, 200).round(3),
            "pays": rng.choice([True, False], 200),
        }
    )
    frame.loc[::9, "age"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = {
        "data": str(tmp_path / "t.csv"),
        "models": [model],
        "label": "pays",
        "quantiles": ["tail"],
        "missing": "mean",
    }
    file = write_tiny(tmp_path, {"epochs": 30}, extractor="columns", arch="tabular")
    experiment = load_experiment("csv", flags, file)
    splits = load("csv", experiment, **experiment.active_profile.data_selection)
    store = Store(tmp_path / "results")
    jobs = plan(experiment, splits)
    for job in jobs:
        execute_run(job, store)

    path = jobs[0].training.run_path
    rows = pd.read_csv(io.BytesIO(store.read_file(path, "samples-normal-columns-20.csv")))
    assert [*rows] == ["age", "work", "tail", *["pays"] * (model == "fif_conditional")]
    assert {*rows["work"]} <= {"public", "private", "none"}
    assert (rows["age"].dropna() % 1 == 0).all()

    results = [read(store, job) for job in jobs]
    report = Report(experiment, results, splits)
    figures = draw_figures(report.frame, report.table, results, store, splits)
    assert "marginals.png" in {figure.name for figure in figures}
    trained = load_trained(store.folder(jobs[0].training))
    assert trained.columns == splits.columns
    assert trained.noise_std > 0
