"""The tabular studies: their runs, the choice of the learning rate, tables and protocols."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas
import pytest
import torch
from support.engines import InProcess
from support.networks import linear_decoder, linear_encoder
from support.tabular_files import LATENT, table, write_csv
from torch.distributions import MultivariateNormal

from pythae_fif.ensemble import Ensemble
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.names import DataOptions
from pythae_fif.reports.compared import read_published_table
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import execute_run
from pythae_fif.study import RESULT_FILE, StudyOptions, run_study
from studies.tabular import models, tables
from studies.tabular.models import (
    CONFIGURATIONS,
    RF_CODE,
    NetSizes,
    TabularBudget,
    TabularModel,
    TabularSettings,
    train,
)
from studies.tabular.scores import TabularScores, score_model
from studies.tabular.tables import TabularProtocol

SMALL = NetSizes(hidden_dim=8, data_blocks=2, latent_blocks=1, block_dim=8)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Returns options of a study of a small table: two seeds, few steps, small nets."""
    load = TabularProtocol.load.__func__

    def load_small(cls, options):
        loaded = load(cls, options)
        changes = {"nets": SMALL, "learning_rates": [1e-3, 1e-2], "epochs": 5}
        profile = loaded.profile.model_copy(update=changes)
        return dataclasses.replace(loaded, profile=profile)

    monkeypatch.setattr(TabularProtocol, "load", classmethod(load_small))
    write_csv(tmp_path / "t.csv", table())
    return StudyOptions(
        results=tmp_path / "results",
        dataset="csv",
        location=DataOptions(data=str(tmp_path / "t.csv")),
        latent_dim=2,
        seeds=[0, 1],
        engine=InProcess(executed=[]),
    )


class WrittenTable(NamedTuple):
    """A table of a study: the path and rows of its page, and the numbers of its CSV file."""

    path: Path
    rows: list[dict[str, str]]
    numbers: pandas.DataFrame


def run(study, options, **changes):
    """Runs a study and returns its tables."""
    options = dataclasses.replace(options, **changes)
    paths = run_study(study, options, lambda _: None)
    return [read_table(path) for path in paths if path.suffix == ".md"]


def read_table(path):
    """Reads a table from its page and its CSV file."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    headings, _, *cells = [line.strip("| ").split(" | ") for line in lines]
    rows = [dict(zip(headings, row, strict=True)) for row in cells]
    return WrittenTable(path, rows, pandas.read_csv(path.with_suffix(".csv")))


def test_table_one_has_a_row_for_each_model_and_its_speedup(options):
    (table_one,) = run("tabular", options)
    fif, rectangular_flow, gaussian, ppca = table_one.rows
    models = [row["model"] for row in table_one.rows]
    assert models == ["FIF", "RF", "one Gaussian", "probabilistic PCA"]
    assert not any("published" in heading for heading in fif)  # nothing is published of own data

    ratio = float(rectangular_flow["CPU ms a step"]) / float(fif["CPU ms a step"])
    assert float(fif["speedup ↑"]) == pytest.approx(ratio, rel=0.02)
    assert 0 < float(rectangular_flow["CG steps"]) <= 2
    for row in (gaussian, ppca):
        assert [row[key] for key in ("CPU ms a step", "speedup ↑", "learning rate")] == ["–"] * 3

    assert table_one.path.name == "tabular-csv-quick.md"
    page = table_one.path.read_text()
    for text in ("±", "96/12/12", "smaller networks and few steps"):
        assert text in page


def read_scores(store, configuration):
    """Returns (learning rate, seed) -> scores of the models of a configuration."""
    scores = {}
    for spec in store.iterate_specs(TabularModel, f"studies/tabular/csv/{configuration}"):
        record = store.read_record(spec, RESULT_FILE, TabularScores)
        scores[spec.learning_rate, spec.seed] = record.result
    return scores


def test_the_learning_rate_is_the_best_of_the_first_seed(options):
    (table_one,) = run("tabular", options)
    store = Store(options.results)
    groups = table_one.numbers.groupby("configuration", sort=False)
    for row, (name, group) in zip(table_one.rows, groups, strict=True):
        if name in tables.CLOSED_FORM:
            continue
        scores = read_scores(store, name)
        assert len(scores) == 3  # no model is trained twice
        best_rate = min((1e-3, 1e-2), key=lambda rate: scores[rate, 0].validation_wasserstein)
        assert float(row["learning rate"]) == best_rate
        expected = [scores[best_rate, seed].wasserstein for seed in (0, 1)]
        assert list(group.wasserstein) == pytest.approx(expected, 1e-5)

    assert {verdict.kind for verdict in verify(options.results)} <= {"fine", "dirty tree"}
    options.engine.executed.clear()
    run("tabular", options)
    assert options.engine.executed == []


def test_tables_six_and_seven(options, monkeypatch):
    trainings = []

    def record_training(model, rows, budget, settings, *arguments):
        config = model.model_config
        assert settings.beta == config.beta
        assert settings.noise == config.noise
        trainings.append((settings == RF_CODE, config.hutchinson_kind, budget.warmup))
        return train(model, rows, budget, settings, *arguments)

    monkeypatch.setattr(models, "train", record_training)
    table_six, table_seven = run("ablation", options)
    assert trainings.count((False, "orthogonal", None)) == 30
    assert trainings.count((True, "gaussian", (5, 10))) == 3

    *autoencoders, flow_matching, _, _ = CONFIGURATIONS.values()
    assert flow_matching.name == "flow_matching"
    labels = []
    for configuration in autoencoders:
        model = "FIF" if configuration.model == "fif" else "RF"
        labels.append((model, configuration.net, configuration.place))
    labels += [("one Gaussian", "–", "–"), ("probabilistic PCA", "–", "–")]
    assert [(row["model"], row["net"], row["Jacobian"]) for row in table_six.rows] == labels
    assert len(table_six.numbers) == 2 * len(labels)

    relu_trainings = [
        "Off manifold",
        "On manifold",
        "On manifold (outliers removed)",
        "On manifold, detached",
        "On manifold, detached (outliers removed)",
    ]
    silu_trainings = [f"{training}, SiLU" for training in relu_trainings]
    assert [row["Training"] for row in table_seven.rows] == [*relu_trainings, *silu_trainings]
    is_fif_on = table_six.numbers.configuration == "fif_on"
    errors = table_six.numbers[is_fif_on].reconstruction
    assert table_seven.rows[2]["reconstruction loss ↓"] == f"{errors.min():.2f}"


def test_flow_matching_finds_the_data_and_has_no_codes(options):
    pytest.importorskip("flow_matching", reason="needs flow-matching")
    data = 0.5 * torch.randn(2000, 3) + torch.tensor([2.0, 0.0, -1.0])
    model = CONFIGURATIONS["flow_matching"].build((3,), 2, NetSizes(hidden_dim=32))
    train(model, data, TabularBudget(epochs=40, batch_size=200), TabularSettings(), 1e-2)
    assert frechet_distance(Features(model.sample(2000)), Features(data)) < 0.05

    (table_one,) = run("tabular", options, models=["flow_matching"])
    (row,) = table_one.rows
    assert [row[key] for key in ("model", "Jacobian", "squared error ↓")] == [
        "flow matching",
        "–",
        "–",
    ]
    assert float(row["FID-like ↓"].split()[0]) > 0


@pytest.mark.parametrize("name", ["fif", "fif_on", "fif_silu_on_detached"])
def test_a_model_ends_where_a_member_of_an_ensemble_does(name):
    """The committed runs were trained as ensembles, and the numbers must stay comparable."""
    configuration = CONFIGURATIONS[name]
    rows = torch.randn(100, 4)

    def build():
        torch.manual_seed(3)
        return configuration.build((4,), 2, SMALL)

    single = build()
    member = build()
    torch.manual_seed(3)
    settings = configuration.settings.model_copy(update={"weight_decay": 0.0})
    train(single, rows, TabularBudget(epochs=3, batch_size=32, nets=SMALL), settings, 1e-3)

    ensemble = Ensemble([member], [3])
    ensemble.train(rows, epochs=3, batch_size=32, learning_rate=1e-3, one_cycle=True)
    for parameter, expected in zip(single.parameters(), member.parameters(), strict=True):
        assert torch.allclose(parameter, expected, atol=1e-6)


def test_a_table_that_changed_since_the_plan_is_refused(options):
    planned = TabularProtocol.load(options).plan_run("fif", 1e-3, 0)
    changed = planned.model_copy(update={"data_hash": "0123"})
    with pytest.raises(DataError, match="the table csv changed since the plan"):
        execute_run(changed, Store(options.results))


def test_published_values_have_separate_columns(options, archive):
    (table_one,) = run(
        "tabular",
        options,
        dataset="miniboone",
        location=DataOptions(data_root=str(archive)),
        latent_dim=None,
        models=["fif"],
    )
    (row,) = table_one.rows
    assert row["published FID-like"] == "0.598 ± 0.024" != row["FID-like ↓"]
    assert row["published speedup"] == "1.5"
    assert row["published min"] == "49"


def test_a_diverged_seed_is_reported_and_not_averaged(options):
    splits = TabularProtocol.load(options).splits
    model = CONFIGURATIONS["fif"].build((3,), 2, NetSizes())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))

    scores = score_model(model.eval(), splits, 0, 1.0, None)
    assert math.isnan(scores.wasserstein)
    assert math.isnan(scores.energy)
    assert math.isnan(scores.reconstruction)
    assert tables.spread(pandas.Series([1.0, math.nan])) == "diverged (1 of 2)"
    assert tables.spread(pandas.Series([1.0, 3.0])) == "2.00 ± 1.41"


def gaussian_splits(scale=1.0):
    """Returns splits of normal rows with D = 4, most of it in two directions."""
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(2, 4))

    def draw(count):
        rows = generator.normal(size=(count, 2)) @ directions
        return (scale * rows + 0.3 * generator.normal(size=(count, 4))).astype(np.float32)

    return SimpleNamespace(train=draw(8000), val=draw(3000), test=draw(4000))


@pytest.mark.parametrize(("name", "rank"), [("gaussian", 4), ("ppca", 2)])
def test_gaussians_are_fitted_by_maximum_likelihood(name, rank):
    splits = gaussian_splits()
    rows = torch.from_numpy(splits.train)
    model = CONFIGURATIONS[name].build((4,), 2, NetSizes())
    model.fit(rows)
    covariance = torch.cov(rows.double().T)
    values, vectors = torch.linalg.eigh(covariance)
    values[: 4 - rank] = values[: 4 - rank].mean()
    expected = MultivariateNormal(rows.double().mean(0), vectors @ values.diag() @ vectors.T)
    assert model.log_prob(rows).allclose(expected.log_prob(rows.double()))

    scores = score_model(model, splits, 0, 0.0, None)
    assert scores.reconstruction == pytest.approx((4 - rank) * 0.3**2, abs=0.01)
    assert scores.wasserstein < 0.02
    assert abs(scores.energy) < 0.005
    assert math.isnan(scores.log_likelihood)
    assert set(scores.errors) == {"wasserstein", "energy", "data_log_likelihood"}


def test_a_manifold_with_its_noise_is_scored_as_the_gaussian_that_it_is():
    """A linear FIF with the decoder of probabilistic PCA has the same density with noise."""
    splits = gaussian_splits()
    rows = torch.from_numpy(splits.train)
    ppca = CONFIGURATIONS["ppca"].build((4,), 2, NetSizes())
    ppca.fit(rows)
    variances = ppca.pca.explained_variance_ - ppca.pca.noise_variance_
    loadings = torch.from_numpy(ppca.pca.components_.T * np.sqrt(variances)).float()

    networks = linear_encoder(torch.linalg.pinv(loadings)), linear_decoder(loadings)
    fif = FIF(FIFConfig(input_dim=(4,), latent_dim=2), *networks)  # without the mean, which is 0
    expected = score_model(ppca, splits, 0, 0.0, None)
    scores = score_model(fif.eval(), splits, 0, 0.0, None)
    assert scores.noise_std == pytest.approx(0.3, rel=0.02)
    assert scores.noisy_wasserstein < 0.02 < scores.wasserstein
    assert abs(scores.noisy_energy) < 0.005
    assert scores.data_log_likelihood == pytest.approx(expected.data_log_likelihood, abs=0.02)
    assert scores.reconstruction == pytest.approx(expected.reconstruction, rel=0.01)
    assert scores.log_likelihood == pytest.approx(
        float(fif.log_prob(splits.test[:2000]).mean()), rel=1e-5
    )
    assert set(scores.errors) == {
        *expected.errors, "log_likelihood", "noisy_wasserstein", "noisy_energy"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["vae"]}, "model 'vae' has no tabular study"),
        ({"latent_dim": None}, "needs --latent-dim"),
        ({"profile": "fast"}, "valid: paper, quick"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, change, message):
    with pytest.raises(ConfigError, match=message):
        run("tabular", options, **change)


@pytest.mark.parametrize("name", LATENT)
def test_protocols_match_table_five(archive, name):
    location = DataOptions(data_root=str(archive))
    options = StudyOptions(archive, location, dataset=name, profile="paper")
    cells = read_published_table(5).query("dataset == @name").set_index("metric").text.astype(float)
    paper = TabularProtocol.load(options)
    assert paper.profile.epochs == cells["epochs"]
    assert paper.latent_dim == cells["latent_dim"]
    assert paper.profile.learning_rates == [3e-4 if name == "hepmass" else 1e-4]

    released = TabularProtocol.load(dataclasses.replace(options, profile="released"))
    assert released.profile.epochs == cells["epochs"] / 5
    assert released.profile.learning_rates == [3e-4]

    batch_size = {"power": 5000, "gas": 2500, "hepmass": 750, "miniboone": 400}[name]
    for protocol in (paper, released):
        profile = protocol.profile.for_configuration("rectangular_flow_published")
        assert profile.batch_size == batch_size
        assert profile.warmup == (25, 50)
        assert profile.learning_rates == [1e-4]
        assert profile.nets == paper.profile.nets


def hidden_widths(flow, layers):
    """Returns the widths of the hidden layers of each of a flow's nets with this many layers."""
    widths = [
        len(parameter) for name, parameter in flow.named_parameters() if name.endswith("bias")
    ]
    size = layers + 1  # the last layer is the output
    nets = [widths[start : start + size] for start in range(0, len(widths), size)]
    return [net[:-1] for net in nets]


def test_published_rectangular_flows_have_the_authors_nets():
    """10 couplings of four layers of 128 in data space, 5 of two layers of 32 in latent space."""
    flow = CONFIGURATIONS["rectangular_flow_published"].build((6,), 3, NetSizes()).encoder.flow
    assert hidden_widths(flow.w, layers=4) == [[128] * 4] * 10
    assert hidden_widths(flow.h, layers=2) == [[32] * 2] * 5
    assert any(isinstance(module, torch.nn.Tanh) for module in flow.modules())
