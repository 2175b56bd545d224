"""Studies draw their committed pages from the committed records, without training."""

import dataclasses
import shutil

import pandas as pd
import pytest
from support.engines import InProcess
from support.reference import REFERENCE

from pythae_fif.names import DataOptions
from pythae_fif.runs.store import Store
from pythae_fif.study import StudyOptions, run_study
from studies.cost import CostTraining
from studies.equal_time import EpochTimes, EqualTimeTraining
from studies.known_densities import ModelOfChart
from studies.spectrum import SpectrumModel
from studies.surrogate_fraction import FractionTraining

RUNS = {
    CostTraining: 158, EqualTimeTraining: 110, EpochTimes: 4, SpectrumModel: 8,
    FractionTraining: 44, ModelOfChart: 720,
}  # fmt: skip
"""Kind of run -> number of committed runs."""


@pytest.mark.parametrize("kind", RUNS, ids=lambda kind: kind.kind)
def test_every_committed_run_has_its_record(kind):
    """And its id: a store ignores runs that are stored under another id."""
    store = Store(REFERENCE)
    specs = list(store.iterate_specs(kind, f"studies/{kind.kind}"))
    assert len(specs) == RUNS[kind]
    assert all(spec.is_done(store) for spec in specs)


@pytest.fixture
def options(shared_data, tmp_path):
    """Options of a study of the committed runs; its engine records the runs that it is given."""
    (tmp_path / "runs").mkdir()
    shutil.copy(REFERENCE / "runs/studies.jsonl", tmp_path / "runs")
    location = DataOptions(data_root=str(shared_data), offline=True)
    return StudyOptions(tmp_path, location, engine=InProcess(executed=[]))


def draw(name, options, **changes):
    """Runs a study that trains nothing; returns its written files by their suffix."""
    paths = run_study(name, dataclasses.replace(options, **changes), lambda _: None)
    assert options.engine.executed == []
    return {path.suffix: path for path in paths}


def lines_of_tables(text):
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("study", "profile", "page"),
    [
        ("cost", "paper", "cost"),
        ("equal_time", "paper", "equal-time"),
        ("surrogate_fraction", "paper", "surrogate_fraction"),
        ("known_densities", "paper", "known-densities"),
        ("explained_entropy", "paper", "explained-entropy"),
        ("outliers", "paper", "outliers"),
        ("likelihood_over_time", "paper", "likelihood-over-time"),
    ],
)
def test_a_page_is_drawn_as_it_is_committed(study, profile, page, options):
    draw(study, options, profile=profile)
    drawn = (options.results / f"tables/{page}.md").read_text()
    committed = (REFERENCE / f"tables/{page}.md").read_text()
    assert lines_of_tables(drawn) == lines_of_tables(committed)


@pytest.mark.shared
def test_spectra_are_measured_as_they_are_committed(options):
    spectra = pd.read_csv(draw("spectrum", options)[".csv"])
    assert list(spectra.above_one) == [0, 1, 2, 4, 10, 11, 11, 11]
    entropy = [-23.81, -19.93, -5.87, 1.13, 19.68, 23.6, 22.39, 23.55]
    assert list(spectra.entropy) == pytest.approx(entropy, abs=0.01)
