"""One run of the benchmark: trained, scored, drawn, and none of it done twice."""

import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.trainers.trainer_utils import set_seed
from support.experiments import ENVIRONMENT, tiny

import pythae_fif.benchmark.run as run_module
from pythae_fif.benchmark.config import experiment_file, load_experiment
from pythae_fif.benchmark.inputs import (
    load_extractor,
    load_splits,
    reference_of,
)
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.run import IMAGES, trainer_of
from pythae_fif.benchmark.selection import Result
from pythae_fif.data.dataset import as_tensor
from pythae_fif.errors import ConfigError, FIFError, NonFiniteError, StoreError
from pythae_fif.files import read_json, write_json
from pythae_fif.pictures import read_pixels
from pythae_fif.reports.published_tables import table2
from pythae_fif.reports.report import build_report
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import Status
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import WRONG, verify
from pythae_fif.sampling.models import embed, reconstruction_mse

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def prepared(tmp_path):
    """Makes run folders of a tiny plan: prepared(flags, **profile) -> store, plan, folders."""

    def prepare(flags: dict | None = None, **profile):
        store = Store(tmp_path / "results", IMAGES)
        plan = expand(*tiny(tmp_path, flags, **profile))
        return store, plan, [store.prepare(spec, ENVIRONMENT) for spec in plan]

    return prepare


def kept(record: ImageRecord) -> tuple:
    """What no later sampler may change."""
    return record.training, record.parameters, record.reconstruction_mse


def test_leaves_a_whole_record_and_all_files(prepared):
    store, (spec,), (run_dir,) = prepared({"samplers": ["normal", "gmm"]})
    record = execute(run_dir, IMAGES)
    assert store.record(spec).to_dict() == record.to_dict()
    assert Status.read(run_dir).state == "finished"
    sealed = {
        "samples-normal.png", "samples-gmm.png", "reconstructions.png", "interpolations.png",
        "latents.png", "train_log.jsonl", "training.json",
    }  # fmt: skip
    assert sealed < record.files.keys()
    assert {name.split("/")[0] for name in record.files} == sealed | {"model"}
    assert Image.open(run_dir / "samples-gmm.png").size == (64, 64)
    assert record.data.sizes == {"train": 60, "val": 20, "test": 20}
    assert record.provenance.attempts == 1
    assert ImageRecord.parse(read_json(run_dir / "result.json")).checksum
    for scores in record.scores.values():
        assert scores.num_samples == 20
        assert scores.frechet["val"] > 0


def test_a_reference_is_of_the_split_that_it_is_named_by(tmp_path):
    _, splits = tiny(tmp_path)
    extractor = load_extractor("pixels", splits, ENVIRONMENT)
    for split in ("train", "val", "test"):
        expected = extractor(as_tensor(splits[split])).features
        assert torch.equal(reference_of(splits, split, extractor).features, expected)


def test_trains_on_training_images_and_keeps_what_is_best_on_validation_images(tmp_path):
    experiment, splits = tiny(tmp_path)
    trainer = trainer_of(*expand(experiment, splits), splits, tmp_path / "run")
    assert torch.equal(trainer.train_dataset.images, as_tensor(splits.train))
    assert torch.equal(trainer.eval_dataset.images, as_tensor(splits.val))


def test_samplers_are_fitted_on_training_images_and_scored_against_the_others(
    tmp_path, monkeypatch
):
    experiment, splits = tiny(tmp_path)
    (spec,) = expand(experiment, splits)
    extractor = load_extractor("pixels", splits, ENVIRONMENT)
    generate, score_samples = run_module.generate, run_module.score_samples
    models, references = [], {}

    def generated(sampler, model, codes, **options):
        models.append(model)
        assert torch.equal(codes, embed(model, splits.train, seed=spec.seed))
        return generate(sampler, model, codes, **options)

    def scored(samples, extractor, others, *, seed, training):
        references.update(others, train=training)
        return score_samples(samples, extractor, others, seed=seed, training=training)

    monkeypatch.setattr(run_module, "generate", generated)
    monkeypatch.setattr(run_module, "score_samples", scored)
    record = execute(Store(tmp_path / "results", IMAGES).prepare(spec, ENVIRONMENT), IMAGES)
    assert references.keys() == {"train", "val", "test"}
    for split, reference in references.items():
        assert torch.equal(reference.features, extractor(as_tensor(splits[split])).features)
    errors = record.reconstruction_mse
    for split in ("val", "test"):
        set_seed(spec.seed)
        assert errors.pop(split) == reconstruction_mse(*models, splits[split])
    assert not errors


def test_same_specification_same_numbers(prepared):
    flags = {"models": ["fif"], "beta": [5.0], "hutchinson_samples": [1]}
    _, _, (run_dir,) = prepared(flags)
    first = execute(run_dir, IMAGES)
    shutil.rmtree(run_dir)
    prepared(flags)
    assert execute(run_dir, IMAGES).scores == first.scores


def test_a_further_sampler_of_a_finished_run_trains_nothing(prepared, monkeypatch):
    store, _, (run_dir,) = prepared({"models": ["vae"], "samplers": ["normal"]})
    first = execute(run_dir, IMAGES)
    monkeypatch.setattr(run_module, "trainer_of", None)
    more = prepared({"models": ["vae"], "samplers": ["normal", "gmm"]})[1][0]
    assert store.run_dir(more) == run_dir
    assert not store.is_done(more)
    record = execute(run_dir, IMAGES)
    assert record.scores.keys() == {"normal", "gmm"}
    assert kept(record) == kept(first)
    assert record.provenance == first.provenance
    assert record.scores["normal"] == first.scores["normal"]
    assert first.later_provenance == {}
    assert set(record.later_provenance) == {"gmm"}
    assert {"samples-normal.png", "samples-gmm.png"} < record.files.keys()
    assert store.is_done(more)


def test_pictures_that_are_gone_or_damaged_are_drawn_again(prepared, monkeypatch, caplog):
    store, (spec,), (run_dir,) = prepared({"samplers": ["normal", "gmm"]})
    record = execute(run_dir, IMAGES)
    before = {path.name: path.read_bytes() for path in run_dir.glob("*.png")}
    damaged, gone = run_dir / "samples-gmm.png", run_dir / "latents.png"
    damaged.write_bytes(before[damaged.name][:100])
    assert read_pixels(damaged) is None and not damaged.exists()
    assert f"{damaged} is damaged" in caplog.text
    gone.unlink()
    assert not store.is_done(spec)
    monkeypatch.setattr(run_module, "trainer_of", None)
    monkeypatch.setattr(run_module, "score_samples", None)
    again = execute(store.prepare(spec, ENVIRONMENT), IMAGES)
    assert again.to_dict() == record.to_dict()
    assert {path.name: path.read_bytes() for path in run_dir.glob("*.png")} == before
    shutil.rmtree(run_dir / "model")
    gone.unlink()
    assert store.is_done(spec)  # nothing can draw it, and the record is whole


def test_scores_do_not_depend_on_when_the_sampler_was_asked_for(prepared):
    flags = {"models": ["vae"], "samplers": ["normal", "gmm"]}
    _, _, (run_dir,) = prepared(flags)
    together = execute(run_dir, IMAGES).scores
    shutil.rmtree(run_dir)
    prepared({"models": ["vae"], "samplers": ["normal"]})
    execute(run_dir, IMAGES)
    shutil.rmtree(run_dir / "model")  # not in git: trained again, to the same weights
    prepared(flags)
    assert execute(run_dir, IMAGES).scores == together


def test_no_score_is_kept_of_a_model_that_is_gone(prepared):
    store, (spec,), (run_dir,) = prepared({"samplers": ["normal"]})
    first = execute(run_dir, IMAGES)
    scores = dataclasses.replace(first.scores["normal"], frechet={"val": 1.0, "test": 1e6})
    elsewhere = first.provenance.model_copy(update={"device": "another"})
    changes = {"scores": {"normal": scores}, "provenance": elsewhere}  # as if made elsewhere
    write_json(run_dir / "result.json", first.model_copy(update=changes).to_dict())
    shutil.rmtree(run_dir / "model")
    prepared({"samplers": ["gmm"]})
    record = execute(run_dir, IMAGES)
    assert set(record.scores) == {"normal", "gmm"}
    assert record.scores["normal"] == first.scores["normal"]
    assert record.provenance.device == first.provenance.device
    assert store.is_done(spec)


def test_scores_that_are_made_anew_are_all_made(prepared, monkeypatch):
    """The model is gone, a further sampler is asked for, and the run is cut off at the second."""
    store, _, (run_dir,) = prepared({"samplers": ["normal", "gmm"]})
    first = execute(run_dir, IMAGES)
    shutil.rmtree(run_dir / "model")
    prepared({"samplers": ["gaussian"]})
    score, scored = run_module.score_samples, []

    def interrupted(*arguments, **more):
        if scored:
            raise KeyboardInterrupt
        scored.append(score(*arguments, **more))
        return scored[-1]

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run_dir, IMAGES)
    assert Status.read(run_dir).state == "interrupted"
    assert {path.name for path in run_dir.glob("samples-*")} == {"samples-gaussian.png"}
    assert "unfinished" in {finding.kind for finding in verify(store.root, [IMAGES])}
    record = execute(run_dir, IMAGES)
    assert set(record.scores) == {"normal", "gmm", "gaussian"}
    assert record.scores["normal"] == first.scores["normal"]


def test_a_sampler_that_fails_costs_its_own_score(prepared, monkeypatch):
    store, (spec,), (run_dir,) = prepared({"samplers": ["gmm", "normal"]})
    generate = run_module.generate

    def broken(sampler, *rest, **more):
        if sampler == "gmm":
            raise ValueError("broken on purpose")
        return generate(sampler, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "generate", broken)
        with pytest.raises(FIFError, match="sampler gmm: ValueError: broken on purpose"):
            execute(run_dir, IMAGES)
    assert Status.read(run_dir).state == "failed"
    assert set(store.record(spec).scores) == {"normal"}
    assert not store.is_done(spec)
    execute(run_dir, IMAGES)
    assert store.is_done(spec)


def test_an_interrupt_costs_the_sampler_under_way_alone(prepared, monkeypatch):
    store, (spec,), (run_dir,) = prepared({"samplers": ["normal", "gmm", "gaussian"]})
    score, scored, stages = run_module.score_samples, [], []

    def interrupted(*arguments, **more):
        stages.append(Status.read(run_dir))
        if len(scored) == 1:
            raise KeyboardInterrupt
        scored.append(score(*arguments, **more))
        return scored[-1]

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run_dir, IMAGES)
    assert [status.stage for status in stages] == ["sampler normal", "sampler gmm"]
    assert stages[0].progress < stages[1].progress < 1
    assert set(store.record(spec).scores) == {"normal"} and not store.is_done(spec)
    kinds = {finding.kind for finding in verify(store.root, [IMAGES])}
    assert "unfinished" in kinds and not kinds & {*WRONG, "failed"}
    monkeypatch.setattr(run_module, "trainer_of", None)
    record = execute(run_dir, IMAGES)
    assert set(record.scores) == {"normal", "gmm", "gaussian"} and store.is_done(spec)
    assert record.scores["normal"] == scored[0]
    assert set(record.later_provenance) == {"gmm", "gaussian"}


def test_a_record_knows_the_code_of_training_and_of_later_samplers(prepared):
    _, _, (run_dir,) = prepared()
    record = execute(run_dir, IMAGES)
    made, training = record.provenance, record.training
    clean = made.model_copy(update={"git_revision": "a", "git_dirty": False})
    changed = record.model_copy(
        update={
            "training": training.model_copy(update={"git_revision": "b", "git_dirty": True}),
            "provenance": clean,
            "later_provenance": {"gmm": clean.model_copy(update={"git_revision": "c+"})},
        }
    )
    assert changed.revisions == ["b+", "a", "c+"]
    write_json(run_dir / "result.json", changed.to_dict())
    found = verify(run_dir.parents[4], [IMAGES])
    assert [f.detail for f in found if f.kind == "dirty tree"] == ["b", "c"]


def test_loss_that_is_not_finite(prepared):
    flags = {"models": ["fif"], "beta": [1e39], "hutchinson_samples": [1]}
    _, _, (run_dir,) = prepared(flags, batch_size=60)
    with pytest.raises(NonFiniteError):
        execute(run_dir, IMAGES)
    error = Status.read(run_dir).error
    assert "epoch 1" in error and "inf in one of 1 batches" in error


@pytest.mark.parametrize("lends", ["none", "those of the plan", "others"])
def test_data_are_those_of_the_plan_whoever_lends_them(tmp_path, monkeypatch, lends):
    experiment, splits = tiny(tmp_path)
    (spec,) = expand(experiment, splits)
    run_dir = Store(tmp_path, IMAGES).prepare(spec, ENVIRONMENT)
    other = dataclasses.replace(splits, train=np.zeros_like(splits.train))
    lent = {"none": None, "those of the plan": splits, "others": other}[lends]
    if lends == "those of the plan":
        monkeypatch.setattr(run_module, "load_splits", None)
    used, trainer = [], run_module.trainer_of
    monkeypatch.setattr(
        run_module, "trainer_of", lambda *given: used.append(given[1]) or trainer(*given)
    )
    execute(run_dir, IMAGES, lent)
    assert used[0].content_hash == spec.data_hash


def test_data_that_changed_since_the_plan(tmp_path):
    (spec,) = expand(*tiny(tmp_path))
    spec = dataclasses.replace(spec, data_hash="0" * 16)
    run_dir = Store(tmp_path, IMAGES).prepare(spec, ENVIRONMENT)
    with pytest.raises(FIFError, match="digits changed since the plan"):
        execute(run_dir, IMAGES)


def test_a_run_that_was_trained_is_not_trained_again(prepared, monkeypatch):
    _, _, (run_dir,) = prepared()
    first = execute(run_dir, IMAGES)
    (run_dir / "result.json").unlink()
    monkeypatch.setattr(run_module, "trainer_of", None)
    again = execute(run_dir, IMAGES)
    assert (again.scores, *kept(again)) == (first.scores, *kept(first))


@pytest.mark.parametrize(
    ("function", "error", "told"),
    [
        ("checksum", OSError(5, "Input/output error"), StoreError),
        ("rebuild_model", OSError(5, "Input/output error"), StoreError),
        ("rebuild_model", ConfigError("rhvae needs the package x"), ConfigError),
        ("rebuild_model", ImportError("x"), ImportError),
        ("json_content", StoreError("cannot read training.json"), StoreError),
    ],
)
def test_an_error_that_says_nothing_of_the_model_leaves_it(
    prepared, monkeypatch, function, error, told
):
    _, _, (run_dir,) = prepared()
    first = execute(run_dir, IMAGES)
    (run_dir / "result.json").unlink()

    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(run_module, function, fails)
        with pytest.raises(told):
            execute(run_dir, IMAGES)
    monkeypatch.setattr(run_module, "trainer_of", None)
    assert execute(run_dir, IMAGES).scores == first.scores


def test_the_models_of_table_2_train_by_the_wall_clock(tmp_path):
    flags = {"profile": "table2-quick", "wall_clock": "0.2s", "seeds": [0], "extractor": "pixels"}
    experiment = load_experiment("digits", experiment_file(2), flags)
    sizes = {"num_samples": 20, "val_size": 20, "test_size": 20, "epochs": None}
    profile = experiment.settings.model_copy(update=sizes)
    experiment = experiment.model_copy(update={"profiles": {"table2-quick": profile}})
    splits = load_splits("digits", None, experiment.settings, ENVIRONMENT)
    store = Store(tmp_path, IMAGES)
    results = [
        Result(spec, execute(store.prepare(spec, ENVIRONMENT), IMAGES))
        for spec in expand(experiment, splits)
    ]
    for result in results:
        assert set(result.record.scores) == {"normal", "gaussian", "gmm"}
        assert 0.2 <= result.record.training.train_seconds < 20
        assert result.spec.settings.wall_clock == 0.2
    grid = table2(build_report(experiment, results))
    assert [row[0].text.split()[0] for row in grid.rows] == ["DNF", "Trumpet", "FIF"]
    assert "FID published ↓" not in " ".join(grid.headings)


def test_a_failed_sampler_lets_its_tensors_go():
    tensors = []

    def failing():
        held = torch.ones(3)
        tensors.append(weakref.ref(held))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def wrapping():
        try:
            failing()
        except RuntimeError as error:
            raise FIFError("sampler maf") from error

    with pytest.raises(FIFError) as caught:
        wrapping()
    assert tensors[0]() is not None
    run_module._let_go(caught.value)
    assert tensors[0]() is None
