"""One run of the benchmark: it trains, scores and draws, and does nothing twice."""

import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.trainers.trainer_utils import set_seed
from support.experiments import load_splits, make_tiny_plan, tiny_experiment
from support.folders import read_folder

import pythae_fif.benchmark.image_run as run_module
from pythae_fif.benchmark.image_run import build_trainer
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import ImageResult, expand
from pythae_fif.data import load_images
from pythae_fif.data.splits import as_tensor
from pythae_fif.errors import FIFError
from pythae_fif.evaluation import load_extractor
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Status, execute_run
from pythae_fif.sampling.samplers import embed, reconstruction_mse

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread", "few_draws"),
]


def verdict_kinds(store) -> set[str]:
    """Returns the kinds of verdicts on the runs of a store."""
    return {verdict.kind for verdict in verify(store.root)}


def test_writes_complete_records_and_all_files(tmp_path, store):
    (spec,) = make_tiny_plan(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(spec, store)

    folder = store.folder(spec)
    assert Status.read(folder).state == "finished"
    assert Image.open(folder / "samples-gmm.png").size == (64, 64)

    result = ImageResult.read(store, spec)
    assert {name.split("/")[0] for name in result.training.files} == {"model", "train_log.jsonl"}
    assert [row.epoch for row in result.training.result.log] == [1]
    assert result.evaluation.result.data.sizes == {"train": 60, "val": 20, "test": 20}
    assert set(result.scores) == {"normal", "gmm"}
    assert set(result.scores["gmm"].files) == {"samples-gmm.png", "likelihood-gmm.csv"}
    likelihoods = np.genfromtxt(folder / "likelihood-gmm.csv", delimiter=",", names=True)
    assert likelihoods["nats"].mean() == pytest.approx(
        result.scores["gmm"].result.tube["test"].nats, rel=1e-5
    )
    for record in result.scores.values():
        assert record.result.num_samples == 20
        assert record.result.frechet["val"] > 0
    assert verdict_kinds(store) <= {"fine", "dirty tree"}


def test_each_split_has_its_own_use(tmp_path, store, monkeypatch):
    """Training images train and fit samplers, validation images choose, test images score."""
    experiment = tiny_experiment(tmp_path)
    splits = load_splits(experiment)
    (spec,) = make_tiny_plan(tmp_path)
    extractor = load_extractor("pixels", splits.input_dim)
    generate = run_module.generate
    score_samples = run_module.score_samples
    models = []
    references = {}
    trainers = []

    def build_trainer_checked(*args):
        trainer = build_trainer(*args)
        trainers.append(weakref.ref(trainer))
        assert torch.equal(trainer.train_dataset.images, as_tensor(splits.train))
        assert torch.equal(trainer.eval_dataset.images, as_tensor(splits.val))
        return trainer

    def generate_checked(sampler, model, codes, **options):
        models.append(model)
        assert trainers[0]() is None  # it would keep images on a GPU
        assert torch.equal(codes, embed(model, splits.train, seed=spec.seed))
        return generate(sampler, model, codes, **options)

    def score_samples_checked(samples, extractor, split_features, **options):
        references.update(split_features, train=options["training"])
        return score_samples(samples, extractor, split_features, **options)

    monkeypatch.setattr(run_module, "build_trainer", build_trainer_checked)
    monkeypatch.setattr(run_module, "generate", generate_checked)
    monkeypatch.setattr(run_module, "score_samples", score_samples_checked)
    execute_run(spec, store)

    assert references.keys() == {"train", "val", "test"}
    for split, reference in references.items():
        expected = extractor(as_tensor(splits[split]))[0]
        assert torch.equal(reference.values, expected)
    errors = ImageResult.read(store, spec).evaluation.result.reconstruction_mse
    assert errors.keys() == {"val", "test"}
    for split, error in errors.items():
        set_seed(spec.seed)
        assert error == reconstruction_mse(*models, splits[split])


def test_a_further_sampler_trains_nothing_and_changes_nothing(tmp_path, store, monkeypatch):
    """A sampler's numbers do not depend on when it is requested."""
    flags = {"models": ["fif"], "beta": [5.0], "hutchinson_samples": [1]}
    (both_spec,) = make_tiny_plan(tmp_path, {**flags, "samplers": ["gmm", "normal"]})
    (first_spec,) = make_tiny_plan(tmp_path, flags)
    (second_spec,) = make_tiny_plan(tmp_path, {**flags, "samplers": ["normal", "gmm"]})
    both_store = Store(tmp_path / "together")
    execute_run(both_spec, both_store)
    execute_run(first_spec, store)
    files_before = read_folder(store.folder(first_spec))

    monkeypatch.setattr("pythae_fif.training.trainer.Optimizers", None)
    assert first_spec.run_id == second_spec.run_id
    assert not store.is_done(second_spec)
    execute_run(second_spec, store)

    files = read_folder(store.folder(first_spec))
    changed = {name for name in files if files[name] != files_before.get(name)}
    files = {"scores/gmm.json", "samples-gmm.png", "likelihood-gmm.csv", "status.json"}
    assert changed - {"output.log"} == files
    together = ImageResult.read(both_store, first_spec)
    one_by_one = ImageResult.read(store, first_spec)
    assert together.evaluation.result == one_by_one.evaluation.result
    for sampler, record in together.scores.items():
        assert record.result == one_by_one.scores[sampler].result


def test_another_extractor_and_more_samples_train_nothing(tmp_path, store, monkeypatch):
    flags = {"samplers": ["normal"], "models": ["ae"]}
    (spec,) = make_tiny_plan(tmp_path, flags)
    (rescored,) = make_tiny_plan(tmp_path, {**flags, "extractor": "classifier", "num_samples": 30})
    (retrained,) = make_tiny_plan(tmp_path, {**flags, "learning_rate": 2.0e-3})
    assert rescored.training_id == spec.training_id
    assert rescored.run_id != spec.run_id
    assert retrained.training_id != spec.training_id

    execute_run(spec, store)
    with monkeypatch.context() as patch:
        patch.setattr("pythae_fif.training.trainer.Optimizers", None)
        execute_run(rescored, store)
        with pytest.raises(TypeError):
            execute_run(retrained, store)

    first = ImageResult.read(store, spec)
    second = ImageResult.read(store, rescored)
    assert first.training.model_copy(update={"run_id": rescored.run_id}) == second.training
    assert first.evaluation.result == second.evaluation.result
    assert second.scores["normal"].result.num_samples == 30
    assert verdict_kinds(store) <= {"fine", "failed", "dirty tree"}


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_missing_model_is_trained_again(tmp_path, store, damage):
    """It has the same weights as before, so the scores stay valid."""
    (spec,) = make_tiny_plan(tmp_path)
    execute_run(spec, store)
    first = ImageResult.read(store, spec)
    folder = store.folder(spec)
    if damage == "gone":
        shutil.rmtree(folder / "model")
    else:
        weights = folder / "model" / "model.pt"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    (extended,) = make_tiny_plan(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(extended, store)
    second = ImageResult.read(store, extended)
    assert set(second.scores) == {"normal", "gmm"}
    assert second.scores["normal"] == first.scores["normal"]
    assert (folder / "model.corrupt").exists() == (damage != "gone")
    assert "corrupt" not in verdict_kinds(store)


@pytest.mark.parametrize("name", ["train_log.jsonl", "model/training.json", "model/model.pt"])
def test_verify_notices_files_of_another_training(tmp_path, store, name):
    first, second = make_tiny_plan(tmp_path, {"seeds": [0, 1]})
    for spec in (first, second):
        execute_run(spec, store)
    assert "corrupt" not in verdict_kinds(store)
    shutil.copy(store.folder(second) / name, store.folder(first) / name)
    (verdict,) = [verdict for verdict in verify(store.root) if verdict.kind == "corrupt"]
    assert (verdict.run, verdict.detail) == (first.path, f"{name} was changed")


def test_scores_of_other_weights_are_set_aside(tmp_path, store, monkeypatch):
    """As after a training on a GPU, which does not end twice with the same weights."""
    (spec,) = make_tiny_plan(tmp_path)
    execute_run(spec, store)
    first = ImageResult.read(store, spec)
    folder = store.folder(spec)
    shutil.rmtree(folder / "model")

    monkeypatch.setattr(run_module, "set_seed", lambda seed: torch.manual_seed(99))
    (extended,) = make_tiny_plan(tmp_path, {"samplers": ["gmm", "normal"]})
    execute_run(extended, store)
    second = ImageResult.read(store, extended)
    assert second.scores["normal"].result != first.scores["normal"].result
    for name in ("evaluation.json", "scores/normal.json"):
        assert (folder / f"{name}.corrupt").exists()
    assert "corrupt" not in verdict_kinds(store)


def test_a_sampler_that_fails_loses_only_its_own_score(tmp_path, store, monkeypatch):
    (spec,) = make_tiny_plan(tmp_path, {"samplers": ["gmm", "normal"]})
    generate = run_module.generate

    def generate_or_fail(sampler, *args, **options):
        if sampler == "gmm":
            raise ValueError("broken on purpose")
        return generate(sampler, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "generate", generate_or_fail)
        with pytest.raises(FIFError, match="sampler gmm: ValueError: broken on purpose"):
            execute_run(spec, store)
    assert Status.read(store.folder(spec)).state == "failed"
    assert set(ImageResult.read(store, spec).scores) == {"normal"}
    assert not store.is_done(spec)

    monkeypatch.setattr("pythae_fif.training.trainer.Optimizers", None)
    execute_run(spec, store)
    assert store.is_done(spec)


def test_the_models_of_table_2_train_by_the_wall_clock(tmp_path, store):
    file = configs_dir() / "experiments" / "table2.yaml"
    flags = {
        "profile": "table2-quick", "wall_clock": "0.2s", "seeds": [0], "extractor": "pixels",
        "num_samples": 20, "train_size": 60, "latent_dim": 4, "samplers": ["normal"],
    }  # fmt: skip
    experiment = load_experiment("digits", flags, file)
    plan = expand(experiment, load_images("digits").subset(train=60, val=20, test=20))
    first_specs = {spec.model: spec for spec in reversed(plan)}
    assert first_specs.keys() == {"fif", "dnf", "trumpet"}

    sizes = {"val_size": 20, "test_size": 20}
    for planned in first_specs.values():
        settings = planned.settings.model_copy(update=sizes)
        spec = planned.model_copy(update={"settings": settings})
        execute_run(spec, store)
        result = ImageResult.read(store, spec)
        assert set(result.scores) == {"normal"}
        assert 0.2 <= result.training.result.train_seconds < 20
        assert spec.settings.wall_clock == 0.2
