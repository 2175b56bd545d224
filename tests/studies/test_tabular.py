"""The tabular studies: their runs, the choice of a learning rate, tables and protocols."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from support.engines import InProcess
from support.tabular_files import LATENT, table, write_csv

from pythae_fif.ensemble import Ensemble
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.names import DataOptions
from pythae_fif.reports.compared import read_published_table
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import execute_run
from pythae_fif.studies import tabular, tabular_models
from pythae_fif.studies.study import StudyOptions, run_study
from pythae_fif.studies.tabular import TabularProtocol
from pythae_fif.studies.tabular_models import (
    CONFIGURATIONS,
    RF_CODE,
    NetSizes,
    TabularBudget,
    TabularModels,
    TabularScores,
    TabularSettings,
    score_model,
    train,
)

SMALL = NetSizes(hidden_dim=8, data_blocks=2, latent_blocks=1, block_dim=8)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A study of a minute table: two seeds, few steps, small nets."""
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
        engine=InProcess(done=[]),
    )


def run(study, options, **changes):
    """The Markdown rows and the CSV file of a study's tables."""
    options = dataclasses.replace(options, **changes)
    pages = [p for p in run_study(study, options, lambda _: None) if p.suffix == ".md"]
    rows = []
    for page in pages:
        lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
        heading, _, *cells = [line.strip("| ").split(" | ") for line in lines]
        rows.append([dict(zip(heading, row, strict=True)) for row in cells])
    return rows, [pandas.read_csv(page.with_suffix(".csv")) for page in pages], pages


def test_table_one_has_a_row_a_model_and_their_speedup(options):
    (rows,), (numbers,), (page,) = run("tabular", options)
    assert [row["model"] for row in rows] == ["FIF", "RF"]
    assert not any("published" in heading for heading in rows[0])  # nothing is of one's own data
    ratio = float(rows[1]["CPU ms a step"]) / float(rows[0]["CPU ms a step"])
    assert float(rows[0]["speedup ↑"]) == pytest.approx(ratio, rel=0.02)
    assert 0 < float(rows[1]["CG steps"]) <= 2
    assert page.name == "tabular-csv-quick.md"
    for word in ("±", "96/12/12", "smaller nets and few steps"):
        assert word in page.read_text()
    store = Store(options.results)
    for row, (name, of) in zip(rows, numbers.groupby("configuration", sort=False), strict=True):
        found = {
            (*spec.learning_rates, *spec.seeds): store.record(spec, file, TabularScores).result
            for spec in store.specs(TabularModels, f"studies/tabular/csv/{name}")
            for file in spec.outputs
        }
        tried = {rate: found[rate, 0].validation_wasserstein for rate in (1e-3, 1e-2)}
        rate = min(tried, key=tried.get)
        assert len(found) == 3 and float(row["learning rate"]) == rate  # no model is trained twice
        scores = [found[rate, seed].wasserstein for seed in (0, 1)]
        assert list(of.wasserstein) == pytest.approx(scores, 1e-5)
    assert {of.kind for of in verify(options.results)} <= {"fine", "dirty tree"}
    options.engine.done.clear()
    run("tabular", options)
    assert options.engine.done == []


def test_tables_six_and_seven(options, monkeypatch):
    trained = []

    def spy(model, rows, budget, settings, *rest):
        config = model.model_config
        assert (settings.beta, settings.noise) == (config.beta, config.noise)
        trained.append((settings == RF_CODE, config.hutchinson_kind, budget.warmup))
        return train(model, rows, budget, settings, *rest)

    monkeypatch.setattr(tabular_models, "train", spy)
    (six, seven), (numbers, _), _ = run("ablation", options)
    (*ours, (flow, _)) = CONFIGURATIONS.items()
    labels = [("FIF" if of.model == "fif" else "RF", of.net, of.place) for _, of in ours]
    assert [(row["model"], row["net"], row["Jacobian"]) for row in six] == labels
    assert len(numbers) == 2 * len(ours) and flow == "flow_matching"
    assert trained.count((False, "orthogonal", None)) == 30
    assert trained.count((True, "gaussian", (5, 10))) == 3
    of_fif = numbers[numbers.configuration == "fif_on"].reconstruction
    both = ["Off manifold", "On manifold", "On manifold (outliers removed)",
            "On manifold, detached", "On manifold, detached (outliers removed)"]  # fmt: skip
    assert [row["Training"] for row in seven] == [*both, *(f"{of}, SiLU" for of in both)]
    assert seven[2]["reconstruction loss ↓"] == f"{of_fif.min():.2f}"


def test_flow_matching_finds_the_data_and_has_no_codes(options):
    pytest.importorskip("flow_matching", reason="needs flow-matching")
    data = 0.5 * torch.randn(2000, 3) + torch.tensor([2.0, 0.0, -1.0])
    model = CONFIGURATIONS["flow_matching"].build((3,), 2, NetSizes(hidden_dim=32))
    train(model, data, TabularBudget(epochs=40, batch_size=200), TabularSettings(), 1e-2)
    assert frechet_distance(Features(model.sample(2000)), Features(data)) < 0.05
    (row,) = run("tabular", options, models=["flow_matching"])[0][0]
    assert [row[key] for key in ("model", "Jacobian", "recon. ↓")] == ["flow matching", "–", "–"]
    assert float(row["FID-like ↓"].split()[0]) > 0


@pytest.mark.parametrize("name", ["fif", "fif_on", "fif_silu_on_detached"])
def test_a_model_ends_where_a_member_of_an_ensemble_does(name):
    """So today's numbers are those of the committed runs, which were trained as ensembles."""
    configuration, budget = CONFIGURATIONS[name], TabularBudget(epochs=3, batch_size=32, nets=SMALL)
    rows, models = torch.randn(100, 4), []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(configuration.build((4,), 2, SMALL))
    torch.manual_seed(3)
    settings = configuration.settings.model_copy(update={"weight_decay": 0.0})
    train(models[0], rows, budget, settings, 1e-3)
    ensemble = Ensemble([models[1]], [3])
    ensemble.train(rows, epochs=3, batch_size=32, learning_rate=1e-3, one_cycle=True)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_table_that_changed_since_the_plan_is_refused(options):
    (planned,) = TabularProtocol.load(options).runs([("fif", 1e-3, 0)])
    changed = planned.model_copy(update={"data_hash": "0123"})
    with pytest.raises(DataError, match="the table csv changed since the plan"):
        execute_run(changed, Store(options.results))


def test_published_values_stand_in_columns_of_their_own(options, archive):
    where = DataOptions(data_root=str(archive))
    changes = {"dataset": "miniboone", "location": where, "latent_dim": None, "models": ["fif"]}
    (row,) = run("tabular", options, **changes)[0][0]
    assert row["published FID-like"] == "0.598 ± 0.024" != row["FID-like ↓"]
    assert (row["published speedup"], row["published min"]) == ("1.5", "49")


def test_a_diverged_seed_is_said_and_not_averaged(options):
    splits = TabularProtocol.load(options).splits
    model = CONFIGURATIONS["fif"].build((3,), 2, NetSizes())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    scores = score_model(model.eval(), splits, 0, 1.0, None)
    assert math.isnan(scores.wasserstein) and math.isnan(scores.reconstruction)
    assert tabular.spread(pandas.Series([1.0, math.nan])) == "diverged (1 of 2)"
    assert tabular.spread(pandas.Series([1.0, 3.0])) == "2.00 ± 1.41"


def test_a_score_is_of_the_split_that_it_is_named_by(monkeypatch):
    """Of a model that knows one point and takes rows for their codes."""
    model = SimpleNamespace(
        sample=lambda count: torch.zeros(count, 3), reconstruct=torch.zeros_like,
        log_prob=lambda rows: rows.sum(1),
    )  # fmt: skip
    test, val = np.full((4, 3), 2, np.float32), np.full((5, 3), 5, np.float32)
    test[2:] = 100  # beyond the first two rows
    monkeypatch.setattr(tabular_models, "LIKELIHOOD_ROWS", 2)
    of_rows = lambda _, rows: float(rows.values.sum())  # noqa: E731
    monkeypatch.setattr(tabular_models, "frechet_distance", of_rows)
    found = score_model(model, SimpleNamespace(test=test, val=val), 0, 1.5, None)
    assert found == TabularScores(test.sum(), (test**2).sum(1).mean(), 75, 6, 1.5, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ["vae"]}, "model 'vae' has no tabular study"),
        ({"latent_dim": None}, "needs --latent-dim"),
        ({"profile": "fast"}, "valid: paper, quick"),
    ],
)
def test_wrong_options_are_one_line(options, change, said):
    with pytest.raises(ConfigError, match=said):
        run("tabular", options, **change)


@pytest.mark.parametrize("name", LATENT)
def test_protocols_are_those_of_table_five(archive, name):
    where = DataOptions(data_root=str(archive))
    options = StudyOptions(archive, where, dataset=name, profile="paper")
    loaded = TabularProtocol.load(options)
    cells = read_published_table(5).query("dataset == @name").set_index("metric").text.astype(float)
    assert loaded.profile.epochs == cells["epochs"]
    assert loaded.latent_dim == cells["latent_dim"]
    assert loaded.profile.learning_rates == [3e-4 if name == "hepmass" else 1e-4]
    released = TabularProtocol.load(dataclasses.replace(options, profile="released"))
    assert released.profile.epochs == cells["epochs"] / 5
    assert released.profile.learning_rates == [3e-4]
    batch = {"power": 5000, "gas": 2500, "hepmass": 750, "miniboone": 400}[name]
    for profile in (
        of.profile.for_configuration("rectangular_flow_published") for of in (loaded, released)
    ):
        assert (profile.batch_size, profile.warmup) == (batch, (25, 50))
        assert profile.learning_rates == [1e-4] and profile.nets == loaded.profile.nets


def test_rectangular_flows_of_their_own_authors_have_their_nets():
    """10 couplings of four layers of 128 in data space, 5 of two layers of 32 in latent space."""
    flow = CONFIGURATIONS["rectangular_flow_published"].build((6,), 3, NetSizes()).encoder.flow
    for part, blocks, hidden in ((flow.w, 10, [128] * 4), (flow.h, 5, [32] * 2)):
        widths = [len(p) for name, p in part.named_parameters() if name.endswith("bias")]
        size = len(hidden) + 1
        nets = [widths[i : i + size] for i in range(0, len(widths), size)]
        assert [net[:-1] for net in nets] == [hidden] * blocks
    assert any(isinstance(module, torch.nn.Tanh) for module in flow.modules())
