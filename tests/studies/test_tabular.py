"""The tabular studies: their runs, tables and protocols, and the committed records."""

import csv
import dataclasses
import io
import json
import math
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pythae.models import AutoModel
from support.engines import InProcess, Refuses
from support.reference import unpack
from support.tabular_files import LATENT, table, write_csv

from pythae_fif.cli.main import main
from pythae_fif.data.tabular import load_tabular
from pythae_fif.errors import ConfigError, DataError, RunsLeftError
from pythae_fif.evaluation.frechet import squared_wasserstein
from pythae_fif.files import write_json
from pythae_fif.reports.published import load_published
from pythae_fif.runs.engines.common import Outcome
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import RunFolder
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.record import Provenance
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.studies import (
    StudyOptions,
    ablation,
    tabular,
    tabular_plan,
    tabular_protocol,
    tabular_run,
)
from pythae_fif.studies.kinds import KINDS
from pythae_fif.studies.tabular_run import TABULAR, TabularRecord, TabularSpec, _scores


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A study of a minute table: two seeds, few steps, small nets."""
    small = tabular_protocol.Nets(hidden_dim=8, data_blocks=2, latent_blocks=1, block_dim=8)
    monkeypatch.setattr(tabular_plan, "Nets", lambda: small)
    load = tabular_protocol.load_table

    def load_small(dataset, options):
        loaded = load(dataset, options)
        changes = {"nets": small, "learning_rates": [1e-3, 1e-2], "epochs": 5}
        profile = loaded.profile.model_copy(update=changes)
        return dataclasses.replace(loaded, profile=profile)

    for study in (tabular, ablation):
        monkeypatch.setattr(study, "load_table", load_small)
    monkeypatch.setattr(tabular_plan, "TIMED_BATCH", 16)
    monkeypatch.setattr(tabular_plan, "ROUNDS", 2)
    write_csv(tmp_path / "t.csv", table())
    return StudyOptions(
        results=tmp_path / "results",
        dataset="csv",
        data=str(tmp_path / "t.csv"),
        latent_dim=2,
        seeds=[0, 1],
        engine=InProcess(),
        command="run_benchmark.py --dataset csv",
    )


def test_table_one_has_a_row_a_model_and_their_speedup(options, monkeypatch):
    told = []
    markdown, values = tabular.run(options, lambda label, share: told.append(share))
    assert told == sorted(told) and told[-1] == 1
    rows = list(csv.DictReader(io.StringIO(values.read_text())))
    assert [row["Model"] for row in rows] == ["FIF", "RF"]
    for row in rows:
        assert float(row["FID-like ↓"]) > 0 and float(row["recon. ↓"]) > 0
        assert not any("published" in heading for heading in row)  # nothing is of one's own data
    ratio = float(rows[1]["ms a step"]) / float(rows[0]["ms a step"])
    assert float(rows[0]["speedup ↑"]) == pytest.approx(ratio)
    assert 0 < float(rows[1]["CG steps"]) <= 2
    text = markdown.read_text()
    for word in ("±", "96/12/12", "smaller nets and few steps", "run_benchmark.py"):
        assert word in text
    records = {path: path.read_text() for path in options.results.rglob("result.json")}
    check_choice(options, rows)
    for path in records:  # Pythae's own form
        for folder in (path.parent / "model").iterdir():
            assert AutoModel.load_from_folder(str(folder), trust=True).sample(3).shape == (3, 3)
    tabular.run(dataclasses.replace(options, engine=Refuses()), lambda *_: None)  # all is there
    assert {f.kind for f in verify(options.results, KINDS)} <= {"fine", "dirty tree"}
    edited = min(records)
    edited.write_text(records[edited].replace('"steps": ', '"steps": 1'))
    options = dataclasses.replace(options, engine=InProcess())
    tabular.run(options, lambda *_: None)  # that one alone is done again
    assert options.engine.done == [edited.parent]
    assert (edited.parent / "result.json.corrupt").exists()
    again, before = json.loads(edited.read_text()), json.loads(records[edited])
    assert all(again[key] == before[key] for key in ("steps", "wasserstein", "run_id"))
    monkeypatch.setattr(tabular_plan, "provenance", lambda *_: Provenance(device="another"))
    tabular.run(options, lambda *_: None)  # drawn elsewhere: no step is timed beside old times
    rows = list(csv.DictReader(io.StringIO(values.read_text())))
    assert all(not row["ms a step"] and not row["speedup ↑"] for row in rows)
    assert all(float(row["training CPU s"]) > 0 for row in rows)
    assert f"Machine: {Provenance(**again['provenance']).machine}, " in markdown.read_text()


def test_runs_are_processes_and_a_failed_one_is_named(options):
    """The local engine: the second run finds its data gone; what was finished is kept."""
    told = []
    options = dataclasses.replace(options, engine=None, models=["fif", "fif_silu"])

    def watch(label, share):
        told.append((label, share))
        if share >= 0.25:  # the first of four
            Path(options.data).unlink(missing_ok=True)

    with pytest.raises(RunsLeftError, match=r"1 of 2 runs failed: fif_silu: .*t\.csv: no such"):
        tabular.run(options, watch)
    assert told[0][0] == "csv fif" and sorted(told, key=lambda pair: pair[1]) == told
    found = {f.kind: f.run for f in verify(options.results, KINDS)}
    assert found["fine"].startswith("csv/fif/") and found["failed"].startswith("csv/fif_silu/")


SPEC = TabularSpec(
    dataset="csv", configuration="fif", data_hash="0123", latent_dim=2,
    budget={"epochs": 1, "batch_size": 9}, learning_rates=[1e-3, 1e-5], seeds=[0, 1],
)  # fmt: skip
SCORES = (
    "wasserstein", "reconstruction", "validation_wasserstein", "validation_reconstruction",
    "code_square", "log_likelihood",
)  # fmt: skip
RECORD = TabularRecord(
    run_id=SPEC.run_id, provenance=Provenance(), **{key: [1.0, math.nan] for key in SCORES},
    steps=3, seconds=1.0, cg_iterations=None, backend="eager", parameters=3,
)  # fmt: skip


def test_a_diverged_score_survives_the_file(tmp_path):
    store = Store(tmp_path, TABULAR)
    run_dir = store.prepare(SPEC, Environment())
    assert list(store.specs()) == [SPEC]
    write_json(run_dir / "result.json", RECORD.to_dict())
    found = store.record(SPEC)
    assert found.wasserstein[0] == 1 and math.isnan(found.wasserstein[1])
    assert found.to_dict()["checksum"] == RECORD.to_dict()["checksum"]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [1],
        lambda record: {},
        lambda record: record | {"run_id": "0" * 12},
        lambda record: {k: v for k, v in record.items() if k != "code_square"},
        lambda record: record | {"wasserstein": ["one", 2.0]},
        lambda record: record | {"wasserstein": [1.0]},
        lambda record: record | {"schema": 1},
    ],
)
def test_what_is_no_record_of_the_run_is_set_aside(tmp_path, change):
    store = Store(tmp_path, TABULAR)
    path = store.prepare(SPEC, Environment()) / "result.json"
    unsealed = {k: v for k, v in RECORD.to_dict().items() if k != "checksum"}
    path.write_text(json.dumps(change(unsealed)))
    assert store.record(SPEC) is None and path.with_name("result.json.corrupt").exists()


class Fails(InProcess):
    """Every run fails."""

    def run_all(self, batch, on_change):
        return [Outcome(batch.run_dirs[0], "failed", "no luck")]


class Leaves(InProcess):
    """Its jobs go on, as Slurm's do with `--no-wait`."""

    parting = "jobs 7 go on"

    def run_all(self, batch, on_change):
        return []


@pytest.mark.parametrize(
    ("engine", "line"),
    [(Fails, r"1 of 1 runs failed: fif: .*: no luck"), (Leaves, "jobs 7 go on")],
)
def test_the_exit_code_counts_records(tmp_path, monkeypatch, capsys, engine, line):
    """A run without a record is exit code 1, as in the benchmark, and a line says why."""
    monkeypatch.setattr(tabular_plan, "LocalEngine", lambda **_: engine())
    write_csv(tmp_path / "t.csv", table())
    words = ["study", "tabular", "--dataset", "csv", "--data", str(tmp_path / "t.csv")]
    words += ["--models", "fif", "--latent-dim", "2", "--seeds", "0", "--quiet"]
    words += ["--results", str(tmp_path / "r")]
    assert main(words) == 1
    assert re.fullmatch(f"error: {line}\n", capsys.readouterr().err)


def test_a_table_that_changed_since_the_plan_is_refused(options):
    store = Store(options.results, TABULAR)
    run_dir = store.prepare(SPEC, Environment(data=options.data))
    with pytest.raises(DataError, match="the table csv changed since the plan was made"):
        execute(run_dir, TABULAR)


@pytest.mark.parametrize("torch_then", [torch.__version__, "1.0"])
def test_a_run_that_was_cut_off_goes_on(options, monkeypatch, caplog, torch_then):
    data = load_tabular("csv", None, data=options.data, latent_dim=2)
    budget = {"epochs": 4, "batch_size": 9, "nets": {"hidden_dim": 8}}
    spec = SPEC.model_copy(
        update={"data_hash": data.content_hash, "budget": tabular_protocol.Budget(**budget)}
    )
    told, tell, interrupted = [], RunFolder.tell, False

    def watch(self, state, stage="", progress=0.0, **more):
        told.extend([progress] if stage == "training" and progress else [])
        tell(self, state, stage, progress, **more)

    @contextmanager
    def interrupted_here():
        def check_interrupt():
            if interrupted and told[-1] == 0.75:
                raise KeyboardInterrupt

        yield check_interrupt

    def done(name):
        told.clear()
        where = Environment(data=options.data)
        return execute(Store(options.results / name, TABULAR).prepare(spec, where), TABULAR)

    monkeypatch.setattr(RunFolder, "tell", watch)
    monkeypatch.setattr(tabular_run, "interrupted_here", interrupted_here)
    whole = done("whole")
    epochs = [epoch / (4 * len(spec.seeds)) for epoch in range(1, 4 * len(spec.seeds) + 1)]
    assert told == epochs
    monkeypatch.setattr(torch, "__version__", torch_then)
    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        done("cut")
    monkeypatch.setattr(torch, "__version__", str(torch.version.__version__))
    interrupted = False
    (checkpoint,) = options.results.glob("cut/runs/csv/fif/*/checkpoint.pt")
    resumed = done("cut")
    fits = torch_then != "1.0"
    assert told == ([share for share in epochs if share > 0.75] if fits else epochs)
    assert not checkpoint.exists()
    aside = checkpoint.with_name("checkpoint.pt.corrupt").exists()
    assert aside == ("of another run, device or version" in caplog.text) == (not fits)
    assert resumed.provenance.attempts == 2
    for score in (*SCORES, "steps", "cg_iterations"):
        assert getattr(resumed, score) == getattr(whole, score), score


# ---------------------------------------------------------------- the committed records

FIF = "fif fif_on fif_silu fif_silu_on"
OTHERS = "fif_coupling fif_coupling_on rectangular_flow rectangular_flow_off"


@pytest.mark.shared
@pytest.mark.parametrize(
    "dataset, profile, names",
    [
        ("power", "quick", f"{FIF} {OTHERS}"),
        ("power", "equal_time", f"{FIF} fif_silu_on_detached fif_on_detached rectangular_flow"),
        ("miniboone", "quick", f"{FIF} {OTHERS}"),
        ("miniboone", "equal_time", f"{FIF} fif_silu_on_detached rectangular_flow"),
    ],
)
def test_committed_runs_are_not_done_again(tmp_path, shared_data, dataset, profile, names):
    """Neither those of the tables nor those that their learning rates were chosen by."""
    unpack(f"{dataset}/", tmp_path)
    options = StudyOptions(
        tmp_path, str(shared_data), profile=profile, seeds=range(5), engine=Refuses()
    )
    loaded = tabular_protocol.load_table(dataset, options)
    tabular_plan.train_configurations(names.split(), loaded, options, lambda *_: None)


# ---------------------------------------------------------------- tables and protocols


def test_names_of_files_tell_the_table_and_the_latent_dimension(options, archive, tmp_path):
    def name(dataset, **changes):
        changed = dataclasses.replace(options, data_root=str(archive), **changes)
        return tabular_protocol.load_table(dataset, changed).name

    (tmp_path / "my own, v2.0.csv").write_text((tmp_path / "t.csv").read_text())
    own = name("csv")
    assert re.fullmatch("csv-t-[0-9a-f]{6}-d2", own)
    mine = str(tmp_path / "my own, v2.0.csv")
    assert name("csv", data=mine, latent_dim=1) == f"csv-my_own_v2.0-{own[6:12]}-d1"
    named = [name("power", data=None, latent_dim=d) for d in (None, 3, 5)]
    assert named == ["power", "power", "power-d5"]
    for study in (tabular, ablation):
        one = dataclasses.replace(options, models=["fif"])
        assert {path.stem.split("-fif-")[0] for path in study.run(one, lambda *_: None)} == {
            f"{study.__name__.rpartition('.')[2]}-{own}"
        }


def check_choice(options, rows):
    """Each model has the learning rate at which its first seed is best on validation rows."""
    store = Store(options.results, TABULAR)
    for row, model in zip(rows, ("fif", "rectangular_flow"), strict=True):
        found = {spec.seeds: spec for spec in store.specs(f"csv/{model}")}
        tried, final = found[0, 0], found[0, 1]
        assert tried.learning_rates == (1e-3, 1e-2)
        best = int(np.argmin(store.record(tried).validation_wasserstein))
        rate = tried.learning_rates[best]
        assert final.learning_rates == (rate, rate) and float(row["learning rate"]) == rate
        # the first seed trains among others as it trained at another rate's side
        there, here = store.record(tried).wasserstein[best], store.record(final).wasserstein[0]
        assert here == pytest.approx(there, rel=1e-3)


def test_ablation_has_every_row_of_tables_six_and_seven(options, monkeypatch):
    train, trained = tabular_run._train, []
    splits = tabular.load_table("csv", options).splits

    def spy(models, rows, spec, folder):
        assert np.array_equal(rows, splits.train)
        config, weight = models[0].model_config, spec.budget.likelihood_weight
        settings = tabular_protocol.CONFIGURATIONS[spec.configuration].settings
        rest = not settings.one_cycle, settings.weight_decay, weight(5), weight(8), weight(99)
        if hasattr(models[0].encoder, "flow"):  # coupling nets
            trained.append((config.beta, config.noise, config.hutchinson_kind, *rest))
        return train(models, rows, spec, folder)

    monkeypatch.setattr(tabular_run, "_train", spy)
    paths = ablation.run(options, lambda label, share: None)
    six, seven = (list(csv.DictReader(io.StringIO(p.read_text()))) for p in paths[1::2])
    assert [tuple(row.values())[:3] for row in six] == [
        ("FIF", "free-form", "off manifold"),
        ("FIF", "free-form", "on manifold"),
        ("FIF", "free-form", "on manifold, detached"),
        ("FIF", "free-form, SiLU", "off manifold"),
        ("FIF", "free-form, SiLU", "on manifold"),
        ("FIF", "free-form, SiLU", "on manifold, detached"),
        ("FIF", "coupling", "off manifold"),
        ("RF", "coupling", "off manifold"),
        ("FIF", "coupling", "on manifold"),
        ("RF", "coupling", "on manifold"),
        ("RF", "coupling, tanh", "on manifold"),
    ]
    assert [row["settings of"] for row in six] == (
        ["FIF's text", "FIF's text", "ours", "FIF's code", "FIF's code, eq. 10", "ours"]
        + ["FIF's text"] * 4
        + ["RF's code"]
    )
    assert [row["Training"] for row in seven[:5]] == [
        "On manifold", "On manifold (outliers removed)", "On manifold, detached",
        "On manifold, detached (outliers removed)", "Off manifold",
    ]  # fmt: skip
    for row, in_six in ((0, 1), (2, 2), (4, 0), (5, 4), (7, 5), (9, 3)):
        assert seven[row]["reconstruction loss ↓"] == six[in_six]["recon. ↓"]
    assert seven[9]["Training"] == "Off manifold, SiLU" and len(seven) == 10
    usual = (10.0, 0.01, "orthogonal", False, 1e-4, 1.0, 1.0, 1.0)
    theirs = (50.0, 0.0, "gaussian", True, 0.0, 0.0, pytest.approx(0.6), 1.0)
    assert trained == [*[usual] * 4, theirs] * 2  # to choose the rate, and then all seeds
    part = dataclasses.replace(options, models=["fif_on"])  # trained already
    markdown, values = ablation.run(part, lambda label, share: None)
    assert re.fullmatch(r"ablation-csv-t-\w{6}-d2-fif_on-quick.md", markdown.name)
    (row,) = csv.DictReader(io.StringIO(values.read_text()))
    assert row["FID-like ↓"] == six[1]["FID-like ↓"]
    assert "Adam with one cycle" in markdown.read_text()
    for path in paths:  # nothing is of one's own data
        assert "published" not in path.read_text().replace(tabular_protocol.SOURCES_NOTE, "")
        assert "Published" not in path.read_text()
    orders = [
        ablation.run(dataclasses.replace(options, models=models), lambda *_: None)
        for models in (["fif_on", "fif"], ["fif", "fif_on"])
    ]
    assert orders[0] == orders[1]
    theirs = dataclasses.replace(options, models=["rectangular_flow_published"])
    text = ablation.run(theirs, lambda *_: None)[0].read_text()
    assert "Adam at a constant rate" in text and "one cycle" not in text
    assert "Of several learning rates" in text
    unknown = dataclasses.replace(options, models=["fif_of"])
    with pytest.raises(ConfigError, match=r"'fif_of' of the ablation is unknown.*fif_on"):
        ablation.run(unknown, lambda label, share: None)


def test_a_profile_that_one_table_lacks_is_told_before_any_is_trained(options, archive):
    everything = dataclasses.replace(options, dataset=None, data=None, latent_dim=None)
    changes = {"data_root": str(archive), "profile": "equal_time"}
    with pytest.raises(ConfigError, match="profile 'equal_time' of gas: valid: paper, released"):
        ablation.run(dataclasses.replace(everything, **changes), lambda *_: None)
    assert options.engine.done == []


@pytest.mark.parametrize("train_size, said", [(None, "as many"), (9, "9")])
def test_the_floor_says_how_many_training_rows_it_is_of(options, train_size, said):
    loaded = tabular.load_table("csv", options)
    profile = loaded.profile.model_copy(update={"train_size": train_size})
    table = dataclasses.replace(loaded, profile=profile)
    few = loaded.splits.train[: train_size or len(table.test)]
    assert len(few) == (train_size or len(table.test))
    floor = squared_wasserstein(torch.from_numpy(few), table.test)
    notes = " ".join(tabular.protocol_notes(table, [], options))
    assert f"of which {said} training rows have {floor:.3g};" in notes


def test_published_values_stand_in_columns_of_their_own(options, archive):
    options = dataclasses.replace(options, dataset="miniboone", data=None, data_root=str(archive))
    options = dataclasses.replace(options, latent_dim=None, models=["fif"])
    markdown, _ = tabular.run(options, lambda *_: None)
    header, _, row = [line for line in markdown.read_text().splitlines() if line.startswith("|")]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["published FID-like"] == "0.598 ± 0.024" and cells["FID-like ↓"] != "0.598 ± 0.024"


def test_a_diverged_seed_is_said_and_not_averaged(options):
    splits = tabular_protocol.load_table("csv", options).splits
    model = tabular_protocol.CONFIGURATIONS["fif"].build((3,), 2, tabular_protocol.Nets())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    assert np.isnan(list(_scores(model.eval(), splits, 0).values())).any()


def test_a_score_is_of_the_split_that_it_is_named_by(monkeypatch):
    """Of a model that knows one point and takes rows for their codes."""
    model = SimpleNamespace(
        sample=lambda count: torch.zeros(count, 3), reconstruct=torch.zeros_like,
        embed=lambda rows: rows, log_prob=lambda rows: rows.sum(1),
    )  # fmt: skip
    test, val = np.full((4, 3), 2, np.float32), np.full((5, 3), 5, np.float32)
    test[2:] = 100  # beyond the first two rows
    monkeypatch.setattr(tabular_run, "LIKELIHOOD_ROWS", 2)
    monkeypatch.setattr(tabular_run, "squared_wasserstein", lambda of, rows: float(rows.sum()))
    assert _scores(model, SimpleNamespace(test=test, val=val), 0) == {
        "wasserstein": test.sum(),
        "reconstruction": (test**2).sum(1).mean(),
        "validation_wasserstein": 75,
        "validation_reconstruction": 75,
        "code_square": 25,
        "log_likelihood": 6,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ["vae"]}, "model 'vae' has no tabular study"),
        ({"dataset": "powr"}, "did you mean 'power'"),
        ({"latent_dim": None}, "needs --latent-dim"),
        ({"latent_dim": 0}, "1 to 3 is needed"),
        ({"profile": "fast"}, "valid: paper, quick"),
    ],
)
def test_wrong_options_are_one_line(options, change, said):
    with pytest.raises(ConfigError, match=said):
        tabular.run(dataclasses.replace(options, **change), lambda *_: None)


@pytest.mark.parametrize("name", LATENT)
def test_protocols_are_those_of_table_five(archive, name):
    options = StudyOptions(results=archive, data_root=str(archive), profile="paper")
    loaded = tabular_protocol.load_table(name, options)
    epochs = {c.at["metric"]: c for c in load_published(5).find(dataset=name)}
    assert loaded.profile.epochs == epochs["epochs"].value
    assert loaded.latent_dim == epochs["latent_dim"].value
    assert loaded.profile.learning_rates == [3e-4 if name == "hepmass" else 1e-4]
    released = tabular_protocol.load_table(name, dataclasses.replace(options, profile="released"))
    assert released.profile.epochs == epochs["epochs"].value / 5
    assert released.profile.learning_rates == [3e-4]
    own = [of.profile.own("rectangular_flow_published") for of in (loaded, released)]
    batch = {"power": 5000, "gas": 2500, "hepmass": 750, "miniboone": 400}[name]
    for profile in own:
        assert (profile.batch_size, profile.warmup) == (batch, (25, 50))
        assert profile.learning_rates == [1e-4] and profile.budget().nets == loaded.profile.nets


def test_rectangular_flows_of_their_own_authors_have_their_nets():
    """10 couplings of four layers of 128 in data space, 5 of two layers of 32 in latent space."""
    configuration = tabular_protocol.CONFIGURATIONS["rectangular_flow_published"]
    flow = configuration.build((6,), 3, tabular_protocol.Nets()).encoder.flow
    for part, blocks, hidden in ((flow.w, 10, [128] * 4), (flow.h, 5, [32] * 2)):
        widths = [len(p) for name, p in part.named_parameters() if name.endswith("bias")]
        size = len(hidden) + 1
        nets = [widths[i : i + size] for i in range(0, len(widths), size)]
        assert [net[:-1] for net in nets] == [hidden] * blocks
    assert any(isinstance(module, torch.nn.Tanh) for module in flow.modules())


def test_what_a_configuration_has_of_its_own_is_checked(options):
    profile = dict(tabular_protocol.load_table("csv", options).profile)
    for of, said in (({"fif_": {}}, "'fif_'"), ({"fif": {"epoch": 3}}, "did you mean 'epochs'")):
        with pytest.raises(ConfigError, match=said):
            tabular_protocol.Profile(**profile | {"of": of}).own("fif")
