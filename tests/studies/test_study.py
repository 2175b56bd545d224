"""What all studies share: their declarations, their runs and the files that they write."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
from support.engines import InProcess

from pythae_fif.data.toy import TOY_DATA
from pythae_fif.errors import ConfigError, FailedRunsError, StoreError
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.study import (
    STUDY_OF_DATASET,
    StudyOptions,
    check_one_device,
    find_study,
    run_study,
)
from studies import curvature, estimator, linear, sinusoid, toy


class SmallStudy(NamedTuple):
    """A study with a size at which it takes no time.

    Attributes:
        module: The study's module.
        constant: Name of the module's table of sizes.
        size: The small size, of profile quick.
        options: Further options of the study.
        run_count: Expected number of runs.
    """

    module: Any
    constant: str
    size: Any
    options: dict[str, Any]
    run_count: int


SMALL_STUDIES = {
    "sinusoid": SmallStudy(
        module=sinusoid,
        constant="SIZES",
        size={"points": 256, "epochs": 1, "blocks": 1, "width": 8},
        options={"seeds": [0, 7]},
        run_count=3,
    ),
    "linear": SmallStudy(
        module=linear,
        constant="SIZES",
        size={"restarts": 2, "steps": 20, "batch_size": 8},
        options={},
        run_count=1,
    ),
    "estimator": SmallStudy(
        module=estimator,
        constant="SIZES",
        size={"steps": 2, "repeats": 1, "batches": (1, 2), "channel_multiplier": 0.25},
        options={"dataset": "digits", "latent_dim": 2},
        run_count=1,
    ),
    "toy": SmallStudy(
        module=toy,
        constant="SIZES",
        size={"points": 400, "epochs": 2, "blocks": 1, "width": 8},
        options={"dataset": "sphere", "seeds": [0, 7]},
        run_count=1,
    ),
    "curvature": SmallStudy(
        module=curvature,
        constant="EPOCHS",
        size=12,
        options={"seeds": [0]},
        run_count=2,
    ),
}
REPORT_NAMES = {
    "sinusoid": {"sinusoid-quick"},
    "linear": {"linear-quick"},
    "estimator": {"estimator-digits-quick"},
    "toy": {"toy-sphere-quick"},
    "curvature": {"curvature-quick", "curvature-radius"},
}


def test_every_dataset_starts_its_study():
    assert set(find_study("toy").datasets) == set(TOY_DATA)
    assert dict.fromkeys(TOY_DATA, "toy") == STUDY_OF_DATASET


def test_a_results_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file: Not a directory"):
        run_study("linear", StudyOptions(tmp_path / "file"), lambda _: None)


class FinishedStudy(NamedTuple):
    """A small study that was run: its name, its options, its files and its runs."""

    name: str
    options: StudyOptions
    paths: list[Path]
    specs: list[Any]


@pytest.fixture(scope="module", params=SMALL_STUDIES)
def finished_study(request, tmp_path_factory):
    """Runs a small study; its sizes stay patched during the tests."""
    study = SMALL_STUDIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    options = StudyOptions(folder, engine=InProcess(executed=[]), **study.options)
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.module, study.constant, {"quick": study.size})
        patch.setattr(curvature, "FIT_STEPS", 9)
        paths = run_study(request.param, options, lambda progress: shares.append(progress.share))
        assert shares == sorted(shares)
        assert shares[-1] == 1

        specs = list(options.engine.executed)
        options.engine.executed.clear()
        yield FinishedStudy(request.param, options, paths, specs)


def test_a_report_is_a_figure_a_table_and_a_file_of_numbers(finished_study):
    name = finished_study.name
    results = finished_study.options.results
    assert len(finished_study.specs) == SMALL_STUDIES[name].run_count
    assert all(path.exists() for path in finished_study.paths)
    assert {path.stem for path in finished_study.paths} == REPORT_NAMES[name]

    for stem in REPORT_NAMES[name]:
        assert (results / "figures" / f"{stem}.png").stat().st_size > 10_000
        page = (results / "tables" / f"{stem}.md").read_text()
        heading, table = page.partition("\n* ")[0].strip().split("\n\n")
        assert heading.startswith("## ")
        assert len(table.splitlines()) >= 3
        assert f"](../figures/{stem}.png)" in page

        rows = pandas.read_csv(results / "tables" / f"{stem}.csv")
        assert len(rows) > 0
        assert not rows.columns.str.contains("Unnamed").any()


def test_a_second_start_trains_nothing_and_writes_the_same_files(finished_study):
    name, options, paths, _ = finished_study
    contents = {path: path.read_bytes() for path in paths if path.suffix != ".png"}
    assert set(run_study(name, options, lambda _: None)) == set(paths)
    assert options.engine.executed == []
    assert {path: path.read_bytes() for path in contents} == contents
    assert {verdict.kind for verdict in verify(options.results)} <= {"fine", "dirty tree"}


class FailingEngine(InProcess):
    """An engine that does not execute the first run."""

    def execute(self, specs, *arguments):
        yield specs[0], "it was lost"
        yield from super().execute(specs[1:], *arguments)


def test_failed_runs_are_named_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "SIZES", {"quick": SMALL_STUDIES["linear"].size})
    options = StudyOptions(tmp_path, seeds=[0, 1], engine=FailingEngine(executed=[]))
    message = r"1 of 2 runs failed: studies/linear/\w{12}: it was lost at its start"
    with pytest.raises(FailedRunsError, match=message):
        run_study("linear", options, lambda _: None)
    assert not (tmp_path / "figures").exists()
    assert len(list(Store(tmp_path).iterate_specs(linear.LinearModels))) == 1


def test_runs_under_a_clock_must_have_one_device(tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "SIZES", {"quick": SMALL_STUDIES["linear"].size})
    engine = InProcess(executed=[])
    for seed, name in enumerate(("slow", "slow", "fast")):
        monkeypatch.setattr("pythae_fif.runs.worker.processor", lambda name=name: name)
        run_study("linear", StudyOptions(tmp_path, seeds=[seed], engine=engine), lambda _: None)

    specs = sorted(engine.executed, key=lambda spec: spec.seed)
    records = [Store(tmp_path).read_record(s, "result.json", linear.LinearResult) for s in specs]
    check_one_device(records[:2])
    message = rf"{specs[2].run_id} on cpu \(fast\) and {specs[1].run_id} on cpu \(slow\)"
    with pytest.raises(ConfigError, match=message):
        check_one_device(records)


def test_runs_of_the_local_engine_record_their_device(tmp_path, monkeypatch):
    """Linear models are on the CPU even if there is a GPU."""
    monkeypatch.setattr(linear, "SIZES", {"quick": SMALL_STUDIES["linear"].size})
    run_study("linear", StudyOptions(tmp_path), lambda _: None)

    for spec in Store(tmp_path).iterate_specs(linear.LinearModels):
        record = Store(tmp_path).read_record(spec, "result.json", linear.LinearResult)
        assert record.provenance.device.startswith("cpu")
        assert np.isfinite(record.result.loss_above_theorem).all()
