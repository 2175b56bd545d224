"""The recipes of docs/extend.md, followed literally in an empty working directory."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.image_files import noise
from support.reference import ROOT

from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.results import read_all
from pythae_fif.cli import main
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store
from pythae_fif.study import find_study, study_descriptions

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")

PAGE = (ROOT / "docs/extend.md").read_text()
FILES = dict(
    re.findall(r"`([\w/]+\.\w+)`[^`]*?:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
)
"""Name of a file of the page -> its content."""
COMMANDS = re.findall(r"^python run_benchmark\.py (.*)$", PAGE, re.MULTILINE)
MODULES = {name.removesuffix(".py").replace("/", ".") for name in FILES if name.endswith(".py")}


@pytest.fixture
def page_files(tmp_path, monkeypatch):
    """The files of the page are in the working directory, with data for its data set."""
    (tmp_path / "studies").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    general = (configs_dir() / "npz.yaml").read_text()
    (tmp_path / "my_shapes.yaml").write_text(f"{general}\nreader: shapes:SHAPES\n")

    sizes = {"train": 60, "val": 20, "test": 20}
    images = {split: noise(size, 1, 8, 8) for split, size in sizes.items()}
    np.savez(tmp_path / "shapes.npz", **images)

    monkeypatch.setenv("PYTHAE_FIF_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


EXPECTED = {
    "--models vae weak_vae.yaml": {"model": {"vae", "weak_vae"}},
    "--models fif small_codes.yaml": {"model": {"fif", "small_codes"}},
    "--dataset shapes:SHAPES --data-root . --models fif ae": {"model": {"fif", "ae"}},
    "--dataset my_shapes.yaml --data-root .": {"model": {"ae"}},
    "--extractor my_features:network": {"model": {"ae"}},
    "--samplers normal my_sampler:Bootstrap": {"sampler": {"normal", "my_sampler:Bootstrap"}},
    "--scores my_scores:spread_ratio": {"model": {"ae"}},
}
"""Command of the page -> what a column of the runs' table has."""

STUDY_COMMAND = "study circle --seeds 0"


def test_the_page_has_these_recipes():
    assert set(COMMANDS) == {*EXPECTED, STUDY_COMMAND}
    modules = {"my_model", "shapes", "my_features", "my_sampler", "my_scores", "studies.circle"}
    assert modules == MODULES


@pytest.mark.usefixtures("page_files")
@pytest.mark.parametrize("command", EXPECTED)
def test_a_recipe_works_as_the_page_shows_it(run, tiny, command):
    code, _, err = run("--config", tiny(seeds=[0]), *shlex.split(command))
    assert (code, err) == (0, "")
    (file,) = run.results.glob("tables/*-runs.csv")
    table = pd.read_csv(file)
    for column, values in EXPECTED[command].items():
        assert set(table[column]) == values

    store = Store(run.results)
    results = list(read_all(store))
    records = [record for result in results for record in result.scores.values()]
    scores = [record.result.scores for record in records]
    datasets = {"shapes:SHAPES": "SHAPES", "my_shapes.yaml": "my_shapes"}
    expected = next((name for word, name in datasets.items() if word in command), "digits")
    assert {result.job.training.dataset for result in results} == {expected}
    if "--extractor" in command:
        assert {score.distance_name for score in scores} == {"FD-my_features:network"}
    if "--scores" in command:
        assert table["my_scores:spread_ratio"].between(0, 10).all()
        assert [score.extra["my_scores:spread_ratio"].keys() for score in scores] == [
            {"val", "test"}
        ]
        assert "| spread_ratio |" in next(run.results.glob("tables/*.md")).read_text()


def test_an_engine_of_the_users_executes_runs(run, tiny):
    engine = "support.engines:InProcess"
    assert run("--config", tiny(seeds=[0]), "--models", "ae", "--engine", engine)[0] == 0


@pytest.mark.usefixtures("page_files")
def test_the_recipe_of_a_study_works_as_the_page_shows_it(run, capsys):
    code, _, err = run(*shlex.split(STUDY_COMMAND))
    assert (code, err) == (0, "")
    table = pd.read_csv(run.results / "tables/circle-beta.csv")
    assert list(table.beta) == [1, 10]
    assert table.squared_error[1] < table.squared_error[0] < 1

    assert main(["list"]) == 0
    assert "How beta changes the reconstruction of a circle" in capsys.readouterr().out
    assert main(["verify", str(run.results)]) == 0
    assert "2 runs checked, none corrupt" in capsys.readouterr().out


@pytest.mark.usefixtures("page_files")
def test_a_file_that_is_no_study_is_neither_listed_nor_imported():
    Path("studies/script.py").write_text("raise SystemExit\n")
    assert "script" not in study_descriptions()
    with pytest.raises(ConfigError, match="study 'script' is neither a file in "):
        find_study("script")
