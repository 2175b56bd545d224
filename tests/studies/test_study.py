"""What all studies share: declarations, runs that are done once, and files that are written."""

import numpy as np
import pandas
import pytest
from support.engines import InProcess

from pythae_fif.data.tables import ARCHIVED
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.errors import RunsLeftError, StoreError
from pythae_fif.runs.spec import SPECS
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.studies import curvature, estimator, linear, toy
from pythae_fif.studies.study import DATASETS, STUDIES, StudyOptions, import_studies, run_study

SMALL = {
    "sinusoid": (
        toy, "SINUSOID_SIZES", {"points": 256, "epochs": 1, "blocks": 1, "width": 8},
        {"seeds": [0, 7]}, 3,
    ),
    "linear": (linear, "SIZES", {"restarts": 2, "steps": 20, "batch_size": 8}, {}, 1),
    "estimator": (
        estimator, "SIZES",
        {"steps": 2, "repeats": 1, "batches": (1, 2), "channel_multiplier": 0.25},
        {"dataset": "digits", "latent_dim": 2}, 1,
    ),
    "toy": (
        toy, "SIZES", {"points": 400, "epochs": 2, "blocks": 1, "width": 8},
        {"dataset": "sphere", "seeds": [0, 7]}, 1,
    ),
    "curvature": (curvature, "EPOCHS", 12, {"seeds": [0]}, 2),
}  # fmt: skip
"""Study -> its module, a size and options with which it takes no time, and its number of runs."""
FINDINGS = {
    "sinusoid": {"sinusoid-quick"},
    "linear": {"linear-quick"},
    "estimator": {"estimator-digits-quick"},
    "toy": {"toy-sphere-quick"},
    "curvature": {"curvature-quick", "curvature-radius"},
}


def test_every_dataset_starts_the_study_that_is_about_it():
    tables = dict.fromkeys(ARCHIVED, "tabular")
    of_toy = dict.fromkeys(TOY_DATA, "toy")
    assert set(STUDIES["toy"].datasets) == set(TOY_DATA)
    assert set(STUDIES["tabular"].datasets) == {*ARCHIVED, "csv"}
    assert of_toy | {"sinusoid": "sinusoid"} | tables == DATASETS


def test_the_runs_of_all_studies_are_known_to_who_reads_a_store():
    import_studies()
    assert STUDIES.keys() - {"ablation", "sinusoid"} <= SPECS.keys()


def test_a_results_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file: Not a directory"):
        run_study("linear", StudyOptions(tmp_path / "file"), lambda _: None)


@pytest.fixture(scope="module", params=SMALL)
def small(request, tmp_path_factory):
    """A study's name, its options, its files, and the specifications that were run."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    module, attribute, size, values, _ = SMALL[name]
    options, told = StudyOptions(root, engine=InProcess(done=[]), **values), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, attribute, {"quick": size})
        patch.setattr(curvature, "FIT_STEPS", 9)
        paths = run_study(name, options, lambda progress: told.append(progress.share))
        assert told == sorted(told) and told[-1] == 1
        ran = list(options.engine.done)
        options.engine.done.clear()
        yield name, options, paths, ran


def test_a_finding_is_a_figure_two_sentences_and_numbers(small):
    name, options, paths, ran = small
    assert len(ran) == SMALL[name][4] and all(path.exists() for path in paths)
    assert {path.stem for path in paths} == FINDINGS[name]
    for stem in FINDINGS[name]:
        assert (options.results / "figures" / f"{stem}.png").stat().st_size > 10_000
        page = (options.results / "tables" / f"{stem}.md").read_text()
        heading, table = page.partition("\n* ")[0].strip().split("\n\n")
        assert heading.startswith("## ") and len(table.splitlines()) >= 3
        assert f"](../figures/{stem}.png)" in page
        rows = pandas.read_csv(options.results / "tables" / f"{stem}.csv")
        assert len(rows) > 0 and not rows.columns.str.contains("Unnamed").any()


def test_a_second_start_trains_nothing_and_writes_the_same(small):
    name, options, paths, _ = small
    before = {path: path.read_bytes() for path in paths if path.suffix != ".png"}
    assert {path for path in run_study(name, options, lambda _: None)} == set(paths)
    assert options.engine.done == []
    assert {path: path.read_bytes() for path in before} == before
    assert {of.kind for of in verify(options.results)} <= {"fine", "dirty tree"}


class Fails(InProcess):
    """Its first run is interrupted by an error."""

    def execute(self, specs, *given):
        yield from super().execute(specs[1:], *given)


def test_runs_that_are_left_are_told_and_the_others_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "SIZES", {"quick": SMALL["linear"][2]})
    options = StudyOptions(tmp_path, seeds=[0, 1], engine=Fails(done=[]))
    line = r"1 of 2 runs failed: studies/linear/\w{12}: no record"
    with pytest.raises(RunsLeftError, match=line):
        run_study("linear", options, lambda _: None)
    assert not (tmp_path / "figures").exists()
    assert len(list(Store(tmp_path).specs(linear.LinearModels))) == 1


def test_runs_are_processes_that_say_what_they_are_made_on(tmp_path, monkeypatch):
    """The local engine; linear models are on the CPU whatever else there is."""
    monkeypatch.setattr(linear, "SIZES", {"quick": SMALL["linear"][2]})
    run_study("linear", StudyOptions(tmp_path), lambda _: None)
    for spec in Store(tmp_path).specs(linear.LinearModels):
        record = Store(tmp_path).record(spec, "result.json", linear.LinearResult)
        assert record.provenance.device.startswith("cpu")
        assert np.isfinite(record.result.loss_above_theorem).all()
