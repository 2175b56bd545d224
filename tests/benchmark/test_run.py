"""One run of the benchmark: trained, scored, drawn, and none of it done twice."""

import shutil
import weakref

import pytest
import torch
from PIL import Image
from pythae.trainers.trainer_utils import set_seed
from support.experiments import plan_of, splits_of, tiny
from support.folders import contents

import pythae_fif.benchmark.image_run as run_module
from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import build_trainer
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageResult
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
    pytest.mark.usefixtures("one_thread"),
]


def test_leaves_whole_records_and_all_files(tmp_path, store):
    (spec,) = plan_of(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(spec, store)
    folder, result = store.folder(spec), ImageResult.read(store, spec)
    assert Status.read(folder).state == "finished" and set(result.scores) == {"normal", "gmm"}
    assert {name.split("/")[0] for name in result.training.files} == {"model"}
    assert set(result.scores["gmm"].files) == {"samples-gmm.png"}
    assert Image.open(folder / "samples-gmm.png").size == (64, 64)
    assert result.evaluation.result.data.sizes == {"train": 60, "val": 20, "test": 20}
    assert [row.epoch for row in result.training.result.log] == [1]
    for record in result.scores.values():
        assert record.result.num_samples == 20 and record.result.frechet["val"] > 0
    assert {verdict.kind for verdict in verify(store.root)} <= {"fine", "dirty tree"}


def test_each_split_has_its_own_use(tmp_path, store, monkeypatch):
    """Training images train and fit samplers, validation images choose, the others are scored."""
    experiment = tiny(tmp_path)
    splits, (spec,) = splits_of(experiment), plan_of(tmp_path)
    extractor = load_extractor("pixels", splits.input_dim)
    generate, score_samples = run_module.generate, run_module.score_samples
    models, references, trainers = [], {}, []

    def trained(*given):
        trainers.append(weakref.ref(trainer := build_trainer(*given)))
        assert torch.equal(trainer.train_dataset.images, as_tensor(splits.train))
        assert torch.equal(trainer.eval_dataset.images, as_tensor(splits.val))
        return trainer

    def generated(sampler, model, codes, **options):
        models.append(model)
        assert trainers[0]() is None  # with the images that it keeps on a GPU
        assert torch.equal(codes, embed(model, splits.train, seed=spec.seed))
        return generate(sampler, model, codes, **options)

    def scored(samples, extractor, others, *, seed, training):
        references.update(others, train=training)
        return score_samples(samples, extractor, others, seed=seed, training=training)

    monkeypatch.setattr(run_module, "build_trainer", trained)
    monkeypatch.setattr(run_module, "generate", generated)
    monkeypatch.setattr(run_module, "score_samples", scored)
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
    """Whenever a sampler is asked for its numbers are the same."""
    both, (spec,), (more,) = (
        plan_of(tmp_path, {"models": ["fif"], "beta": [5.0], "hutchinson_samples": [1], **of})
        for of in ({"samplers": ["gmm", "normal"]}, {}, {"samplers": ["normal", "gmm"]})
    )
    together = Store(tmp_path / "together")
    execute_run(*both, together)
    execute_run(spec, store)
    before = contents(store.folder(spec))
    monkeypatch.setattr("pythae_fif.training.trainer.Optimizers", None)
    assert spec.run_id == more.run_id and not store.is_done(more)
    execute_run(more, store)
    after = contents(store.folder(spec))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"output.log"} == {"scores/gmm.json", "samples-gmm.png", "status.json"}
    one, other = (ImageResult.read(of, spec) for of in (together, store))
    assert one.evaluation.result == other.evaluation.result
    assert all(of.result == other.scores[name].result for name, of in one.scores.items())


def test_another_extractor_and_more_samples_train_nothing(tmp_path, store, monkeypatch):
    (spec,), (more,), (other,) = (
        plan_of(tmp_path, {"samplers": ["normal"], "models": ["ae"], **of})
        for of in ({}, {"extractor": "classifier", "num_samples": 30}, {"learning_rate": 2.0e-3})
    )
    execute_run(spec, store)
    assert other.training_id != spec.training_id == more.training_id and more.run_id != spec.run_id
    with monkeypatch.context() as patch:
        patch.setattr("pythae_fif.training.trainer.Optimizers", None)
        execute_run(more, store)
        with pytest.raises(TypeError):
            execute_run(other, store)
    one, two = (ImageResult.read(store, of) for of in (spec, more))
    assert one.training.model_copy(update={"run_id": more.run_id}) == two.training
    assert one.evaluation.result == two.evaluation.result
    assert two.scores["normal"].result.num_samples == 30
    assert {verdict.kind for verdict in verify(store.root)} <= {"fine", "failed", "dirty tree"}


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_model_that_is_gone_is_trained_anew(tmp_path, store, damage):
    """To the same weights, so that the scores are still of them."""
    (spec,) = plan_of(tmp_path)
    execute_run(spec, store)
    before, folder = ImageResult.read(store, spec), store.folder(spec)
    if damage == "gone":
        shutil.rmtree(folder / "model")
    else:
        weights = folder / "model" / "model.pt"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (more,) = plan_of(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(more, store)
    after = ImageResult.read(store, more)
    assert set(after.scores) == {"normal", "gmm"}
    assert after.scores["normal"] == before.scores["normal"]
    assert (folder / "model.corrupt").exists() == (damage != "gone")
    assert "corrupt" not in {verdict.kind for verdict in verify(store.root)}


def test_no_score_is_kept_of_other_weights(tmp_path, store, monkeypatch):
    """As after a training on a GPU, which does not end twice in the same weights."""
    (spec,) = plan_of(tmp_path)
    execute_run(spec, store)
    before, folder = ImageResult.read(store, spec), store.folder(spec)
    shutil.rmtree(folder / "model")
    monkeypatch.setattr(run_module, "set_seed", lambda seed: torch.manual_seed(99))
    (more,) = plan_of(tmp_path, {"samplers": ["gmm", "normal"]})
    execute_run(more, store)
    after = ImageResult.read(store, more)
    assert after.scores["normal"].result != before.scores["normal"].result
    for name in ("evaluation.json", "scores/normal.json"):
        assert (folder / f"{name}.corrupt").exists()
    assert "corrupt" not in {verdict.kind for verdict in verify(store.root)}


def test_a_sampler_that_fails_costs_its_own_score(tmp_path, store, monkeypatch):
    (spec,) = plan_of(tmp_path, {"samplers": ["gmm", "normal"]})
    generate = run_module.generate

    def broken(sampler, *rest, **more):
        if sampler == "gmm":
            raise ValueError("broken on purpose")
        return generate(sampler, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "generate", broken)
        with pytest.raises(FIFError, match="sampler gmm: ValueError: broken on purpose"):
            execute_run(spec, store)
    assert Status.read(store.folder(spec)).state == "failed"
    assert set(ImageResult.read(store, spec).scores) == {"normal"} and not store.is_done(spec)
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
    sizes = {"val_size": 20, "test_size": 20}
    plan = [s.model_copy(update={"settings": s.settings.model_copy(update=sizes)}) for s in plan]
    first = {spec.model: spec for spec in reversed(plan)}
    assert first.keys() == {"fif", "dnf", "trumpet"}
    for spec in first.values():
        execute_run(spec, store)
        result = ImageResult.read(store, spec)
        assert set(result.scores) == {"normal"}
        assert 0.2 <= result.training.result.train_seconds < 20
        assert spec.settings.wall_clock == 0.2
