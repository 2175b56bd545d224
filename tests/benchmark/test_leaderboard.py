"""A table of all like runs in a store, whichever commands made them."""

import dataclasses
import os

import pytest
import yaml
from support import report_store

from pythae_fif.benchmark.leaderboard import leaderboard
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.selection import Result
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.files import write_json
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.store import Store

EXPERIMENT = report_store.experiment()
HASH = "d" * 16


def kept(store: Store, index: int, **changed) -> RunSpec:
    """A finished run of the stored results, with some fields of its specification changed."""
    result = report_store.RESULTS[index]
    settings = result.spec.settings.model_copy(update=changed.pop("settings", {}))
    spec = dataclasses.replace(result.spec, settings=settings, **changed)
    record = result.record.model_copy(update={"run_id": spec.run_id})
    write_json(store.prepare(spec, Environment()) / "result.json", record.to_dict())
    return spec


def found(store: Store) -> list[str]:
    return [result.spec.run_id for result in leaderboard(store, EXPERIMENT, HASH)]


def test_all_models_in_the_order_of_names_grids_and_seeds(tmp_path):
    store = report_store.store(tmp_path)
    specs = [kept(store, index) for index in (6, 1, 0, 2, 4)]
    vae, second, first, small_beta, ae = [spec.run_id for spec in specs]
    assert found(store) == [ae, first, second, small_beta, vae]


def test_a_run_has_the_samplers_that_it_has_scores_of(tmp_path):
    store = report_store.store(tmp_path)
    kept(store, 4, samplers=("gmm",))  # the last command asked for one alone
    (found,) = leaderboard(store, EXPERIMENT, HASH)
    assert found.spec.samplers == tuple(found.record.scores) == ("normal", "gmm", "maf")


def test_a_run_has_the_samplers_that_are_still_asked_of_it(tmp_path):
    store = report_store.store(tmp_path)
    kept(store, 4, samplers=("gmm", "iaf"))
    (found,) = leaderboard(store, EXPERIMENT, HASH)
    assert found.spec.samplers == ("normal", "gmm", "maf", "iaf")


@pytest.mark.parametrize(
    "changed",
    [
        {"data_hash": "0" * 16},
        {"labels_hash": "0" * 16},
        {"model_hash": "0" * 12},
        {"parameters": {"embedding_weight": 3}},  # which no grid varies
        {"profile": "paper"},
        {"extractor": "inception"},
        {"latent_dim": 8},
        {"image_size": 32},
        {"settings": {"epochs": 1}},
        {"settings": {"wall_clock": 60.0, "epochs": None}},
        {"settings": {"weight_decay": 1.0}},
    ],
    ids=str,
)
def test_a_run_of_another_experiment_is_left_out(tmp_path, changed):
    store = report_store.store(tmp_path)
    kept(store, 4, **changed)
    assert found(store) == []


@pytest.mark.parametrize("setting", [{"note": "other words"}, {"configurations": 1}], ids=str)
def test_what_defines_no_result_does_not_part_runs(tmp_path, setting):
    store = report_store.store(tmp_path)
    assert found(store) == []
    spec = kept(store, 4)
    config = store.run_dir(spec) / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["spec"]["settings"] |= setting  # of another profile, as older specifications have it
    config.write_text(yaml.safe_dump(content))
    assert found(store) == [spec.run_id]


def test_unfinished_and_foreign_folders_are_left_out(tmp_path):
    store = report_store.store(tmp_path)
    run_dir = store.run_dir(kept(store, 4))
    (run_dir / "result.json").unlink()
    other = run_dir.with_name("not-a-run")
    other.mkdir()
    (other / "config.yaml").write_text("spec: [")
    kept(store, 6, model="gone_from_this_version")
    assert found(store) == []


def test_a_broken_model_file_of_the_user_s_costs_no_table(tmp_path, monkeypatch):
    (tmp_path / "own/models").mkdir(parents=True)
    (tmp_path / "own/models/bad.yaml").write_text("label: [")
    (tmp_path / "folder.of").mkdir()
    places = (tmp_path / "own", tmp_path / "folder.of")
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", os.pathsep.join(map(str, places)))
    assert "bad" in names_in("models") and "folder" not in names_in("models")
    store = report_store.store(tmp_path / "results")
    run_id = kept(store, 0).run_id
    assert found(store) == [run_id]


def test_what_is_known_is_not_read_again(tmp_path):
    """A command has read the thousands of runs of its plan."""
    store = report_store.store(tmp_path)
    known, further = kept(store, 4), kept(store, 6)
    result = Result(known, store.record(known))
    (store.run_dir(known) / "config.yaml").write_text("a: [")
    assert found(store) == [further.run_id]
    all_of_them = leaderboard(store, EXPERIMENT, HASH, [result])
    assert [r.spec.run_id for r in all_of_them] == [known.run_id, further.run_id]
