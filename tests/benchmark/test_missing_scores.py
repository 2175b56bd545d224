"""Scores that finished runs lack: computed from the kept model, and shown in the tables."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from pythae_fif.benchmark.results import read_all
from pythae_fif.evaluation import scores as scores_module
from pythae_fif.evaluation.distances import frechet_distance
from pythae_fif.evaluation.scores import ScoreColumn
from pythae_fif.runs.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")
NAME = "own_scores:noisy_mean"
SCORES = """
import torch

def noisy_mean(samples, reference):
    return (samples.mean() - reference.mean()) + 1e-6 * torch.rand(())

def other(samples, reference):
    return len(samples) / len(reference)

def broken(samples, reference):
    raise ValueError("on purpose")
"""


@pytest.fixture(autouse=True)
def own_scores(tmp_path, monkeypatch):
    """The user's module in the working directory."""
    (tmp_path / "own_scores.py").write_text(SCORES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_scores", None)


def read_scores(run) -> dict:
    """Returns (seed, sampler) -> scores of all runs in the store."""
    return {
        (result.job.training.seed, sampler): record.result.scores
        for result in read_all(Store(run.results))
        for sampler, record in result.scores.items()
    }


def read_table(run) -> pd.DataFrame:
    return pd.read_csv(run.results / "tables/digits-convnet-tiny.csv")


def find_folder(run, seed: int) -> Path:
    """Returns the folder of the run of a seed."""
    store = Store(run.results)
    trainings = [result.job.training for result in read_all(store)]
    return store.folder(next(training for training in trainings if training.seed == seed))


def remove_scores(run, seed: int) -> None:
    """Removes some scores from the records of a seed, as if they had not existed then."""
    for result in read_all(Store(run.results)):
        if result.job.training.seed != seed:
            continue
        for record in result.scores.values():
            scores = dataclasses.replace(
                record.result.scores, memorisation=None, marginal_likelihood=None, extra={}
            )
            content = dataclasses.replace(record.result, scores=scores)
            changed = record.model_copy(update={"result": content})
            path = find_folder(run, seed) / record.result.scoring.file
            path.write_bytes(changed.to_bytes())


def test_own_scores_of_finished_runs(run, tiny):
    words = ("--config", tiny(samplers=["normal", "gmm"]))
    assert run(*words)[0] == 0
    before = read_scores(run)
    models = {path: path.stat().st_mtime_ns for path in run.results.rglob("model.pt")}

    code, out, _ = run(*words, "--scores", NAME)
    assert (code, run.executed) == (0, 1)
    assert "missing" not in out
    scores = read_scores(run)
    for key, values in scores.items():
        assert values.extra.pop(NAME).keys() == {"val", "test"}
        assert values == before[key]
    assert {path: path.stat().st_mtime_ns for path in run.results.rglob("model.pt")} == models
    page = run.results / "tables/digits-convnet-tiny.md"
    assert "| noisy_mean |" in page.read_text()
    values = read_table(run).set_index("sampler")[NAME]
    assert values["gmm"] == read_scores(run)[0, "gmm"].extra[NAME]["test"]

    assert run(*words, "--scores", NAME)[0] == 0
    assert run.executed == 0


def test_a_score_does_not_depend_on_when_it_is_computed(run, tiny, tmp_path):
    """Another score of the user in the same record is kept."""
    words = ("--config", tiny(samplers=["gmm"]))
    run(*words, "--scores", NAME)
    run(*words, "--scores", "own_scores:other")
    one_by_one = read_scores(run)
    run.results = tmp_path / "at_once"
    run(*words, "--scores", "own_scores:other", NAME)
    assert read_scores(run) == one_by_one


def test_the_same_command_computes_what_records_lack(run, tiny):
    words = ("--config", tiny(seeds=[0, 1], samplers=["gmm"]))
    run(*words)
    complete = read_scores(run)
    remove_scores(run, seed=1)
    assert run(*words)[0] == 0
    assert run.executed == 1
    assert read_scores(run) == complete
    assert run(*words)[0] == 0
    assert run.executed == 0


def test_a_model_without_a_density_is_not_scored_for_ever(run, tiny):
    words = ("--config", tiny(models=["vae"]))
    run(*words)
    assert read_scores(run)[0, "normal"].marginal_likelihood == {}
    assert run(*words)[0] == 0
    assert run.executed == 0


def test_runs_without_a_model_are_left_alone(run, tiny):
    words = ("--config", tiny(seeds=[0, 1]), "--scores", NAME)
    run(*words[:2])
    remove_scores(run, seed=1)
    before = read_scores(run)
    shutil.rmtree(find_folder(run, seed=1) / "model")

    code, out, _ = run(*words)
    assert (code, run.executed) == (0, 1)
    assert "noisy_mean is missing for 1 of 2 pairs of run and sampler" in out
    assert read_scores(run)[1, "normal"] == before[1, "normal"]
    table = read_table(run)
    assert (table["nearer_seeds"] == 1).all()
    text = (run.results / "tables/digits-convnet-tiny.md").read_text()
    assert " (1 of 2 seeds) |" in text


@pytest.mark.parametrize("has_model", [True, False])
def test_a_damaged_picture_is_drawn_again_from_the_model(run, tiny, has_model, caplog):
    words = ("--config", tiny())
    run(*words)
    before = read_scores(run)
    (picture,) = run.results.rglob("samples-normal-*.png")
    content = picture.read_bytes()
    picture.write_bytes(b"damaged")
    if not has_model:
        shutil.rmtree(picture.parent / "model")

    assert run(*words)[0] == 0
    assert run.executed == has_model
    assert (picture.read_bytes() == content) == has_model
    assert ("is left out of the figures" in caplog.text) == (not has_model)
    assert read_scores(run) == before


def test_a_further_built_in_score_needs_one_record(run, tiny, monkeypatch):
    run("--config", tiny())
    column = ScoreColumn("new", "new, units", "↓", function=frechet_distance)
    columns = [*scores_module.SCORE_COLUMNS, column]
    monkeypatch.setattr(scores_module, "SCORE_COLUMNS", columns)

    assert run("--config", tiny())[0] == 0
    page = run.results / "tables/digits-convnet-tiny.md"
    (scores,) = read_scores(run).values()
    assert scores.extra["new"] == scores.frechet
    assert "| new, units ↓ |" in page.read_text()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("own_scores", 2, "error: --scores 'own_scores': string should match pattern"),
        ("own_scores:gone", 2, "error: cannot import 'own_scores:gone'"),
        ("own_scores:broken", 1, "score 'own_scores:broken' fails: ValueError: on purpose"),
    ],
)
def test_mistakes_are_one_line(run, tiny, name, code, message):
    result = run("--config", tiny(), "--scores", name)
    assert result[0] == code
    assert message in "".join(result[1:])
    assert run.results.exists() == (code == 1)
