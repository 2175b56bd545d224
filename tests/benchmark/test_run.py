"""One run of the benchmark: it trains, scores and draws, and does nothing twice."""

import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.trainers.trainer_utils import set_seed
from support.experiments import load_splits, make_tiny_plan, tiny_experiment
from support.folders import read_folder

import pythae_fif.benchmark.build as build_module
import pythae_fif.benchmark.job as job_module
from pythae_fif.benchmark.build import build_trainer
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read
from pythae_fif.data import load_images
from pythae_fif.data.splits import as_tensor
from pythae_fif.errors import FIFError
from pythae_fif.evaluation import load_extractor
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import Status, execute_run
from pythae_fif.sampling.samplers import embed, reconstruction_mse

pytestmark = [
    pytest.mark.filterwarnings("ignore:scores of [23]0 samples"),
    pytest.mark.usefixtures("one_thread", "short_likelihoods"),
]


def verdict_kinds(store) -> set[str]:
    """Returns the kinds of verdicts on the runs of a store."""
    return {verdict.kind for verdict in verify(store.root)}


def test_writes_complete_records_and_all_files(tmp_path, store):
    (job,) = make_tiny_plan(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(job, store)

    folder = store.folder(job.spec)
    assert Status.read(folder).state == "finished"
    assert Image.open(folder / "samples-gmm-pixels-20.png").size == (64, 64)

    result = read(store, job)
    assert {name.split("/")[0] for name in result.training.files} == {"model", "train_log.jsonl"}
    assert [row.epoch for row in result.training.result.log] == [1]
    assert result.evaluation.result.data.sizes == {"train": 60, "val": 20, "test": 20}
    assert set(result.scores) == {"normal", "gmm"}
    name = "gmm-pixels-20"
    assert set(result.scores["gmm"].files) == {f"samples-{name}.png", f"likelihood-{name}.csv"}
    likelihoods = np.genfromtxt(folder / f"likelihood-{name}.csv", delimiter=",", names=True)
    summary = result.scores["gmm"].result.scores.marginal_likelihood["test"]
    assert likelihoods["nats"].mean() == pytest.approx(summary.nats, rel=1e-5)
    for record in result.scores.values():
        assert record.result.scores.num_samples == 20
        assert record.result.scores.frechet["val"] > 0
    assert verdict_kinds(store) <= {"fine", "dirty tree"}


def test_each_split_has_its_own_use(tmp_path, store, monkeypatch):
    """Training images train and fit samplers, validation images choose, test images score."""
    experiment = tiny_experiment(tmp_path)
    splits = load_splits(experiment)
    (job,) = make_tiny_plan(tmp_path)
    extractor = load_extractor("pixels", splits.input_dim)
    generate = job_module.generate
    score_samples = job_module.score_samples
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
        assert torch.equal(codes, embed(model, splits.train, seed=job.training.seed))
        return generate(sampler, model, codes, **options)

    def score_samples_checked(samples, extractor, split_features, **options):
        references.update(split_features, train=options["training"])
        return score_samples(samples, extractor, split_features, **options)

    monkeypatch.setattr(job_module, "build_trainer", build_trainer_checked)
    monkeypatch.setattr(job_module, "generate", generate_checked)
    monkeypatch.setattr(job_module, "score_samples", score_samples_checked)
    execute_run(job, store)

    assert references.keys() == {"train", "val", "test"}
    for split, reference in references.items():
        expected = extractor(as_tensor(splits[split]))[0]
        assert torch.equal(reference.values, expected)
    errors = read(store, job).evaluation.result.reconstruction_mse
    assert errors.keys() == {"val", "test"}
    for split, error in errors.items():
        set_seed(job.training.seed)
        assert error == reconstruction_mse(*models, splits[split])


def test_a_further_sampler_trains_nothing_and_changes_nothing(tmp_path, store, monkeypatch):
    """A sampler's numbers do not depend on when it is requested."""
    flags = {"models": ["fif"], "beta": [5.0], "hutchinson_samples": [1]}
    (both_job,) = make_tiny_plan(tmp_path, {**flags, "samplers": ["gmm", "normal"]})
    (first_job,) = make_tiny_plan(tmp_path, flags)
    (second_job,) = make_tiny_plan(tmp_path, {**flags, "samplers": ["normal", "gmm"]})
    both_store = Store(tmp_path / "together")
    execute_run(both_job, both_store)
    execute_run(first_job, store)
    files_before = read_folder(store.folder(first_job.spec))

    monkeypatch.setattr("pythae_fif.training.trainer.Optimizers", None)
    assert first_job.spec == second_job.spec
    assert not second_job.is_done(store)
    execute_run(second_job, store)

    files = read_folder(store.folder(first_job.spec))
    changed = {name for name in files if files[name] != files_before.get(name)}
    name = "gmm-pixels-20"
    files = {f"scores/{name}.json", f"samples-{name}.png", f"likelihood-{name}.csv", "status.json"}
    assert changed - {"output.log"} == files
    together = read(both_store, first_job)
    one_by_one = read(store, first_job)
    assert together.evaluation.result == one_by_one.evaluation.result
    for sampler, record in together.scores.items():
        assert record.result == one_by_one.scores[sampler].result


def test_another_extractor_and_more_samples_train_nothing(tmp_path, store, monkeypatch):
    """They are more files beside the same training, also if the first scoring was interrupted."""
    (job,) = make_tiny_plan(tmp_path)
    (more,) = make_tiny_plan(tmp_path, {"num_samples": 30})
    (other,) = make_tiny_plan(tmp_path, {"extractor": "efficientnet-lite0"})
    (retrained,) = make_tiny_plan(tmp_path, {"learning_rate": 2.0e-3})
    assert job.spec == more.spec == other.spec != retrained.spec

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "load_extractor", None)
        with pytest.raises(TypeError):
            execute_run(job, store)
    with monkeypatch.context() as patch:
        patch.setattr("pythae_fif.training.trainer.Optimizers", None)
        patch.setattr(job_module, "load_extractor", lambda name, *_, **__: extractor(name))
        for scored in (other, more, job):
            execute_run(scored, store)
        with pytest.raises(TypeError):
            execute_run(retrained, store)

    names = ["normal-efficientnet-lite0-20", "normal-pixels-20", "normal-pixels-30"]
    run_path = job.spec.run_path
    assert store.list_files(run_path, "scores") == [f"scores/{name}.json" for name in names]
    for scored, num_samples in ((job, 20), (more, 30)):
        (record,) = read(store, scored).scores.values()
        assert record.result.scoring == scored.scorings[0]
        assert record.result.scores.num_samples == num_samples
    assert verdict_kinds(store) <= {"fine", "failed", "dirty tree"}


def extractor(name: str):
    """Returns the extractor of pixels under another name."""
    pixels = load_extractor("pixels", (1, 8, 8))
    return dataclasses.replace(pixels, name=name)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_missing_model_is_trained_again(tmp_path, store, damage):
    """It has the same weights as before, so the scores stay valid."""
    (job,) = make_tiny_plan(tmp_path)
    execute_run(job, store)
    first = read(store, job)
    folder = store.folder(job.spec)
    if damage == "gone":
        shutil.rmtree(folder / "model")
    else:
        weights = folder / "model" / "model.pt"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    (extended,) = make_tiny_plan(tmp_path, {"samplers": ["normal", "gmm"]})
    execute_run(extended, store)
    second = read(store, extended)
    assert set(second.scores) == {"normal", "gmm"}
    assert second.scores["normal"] == first.scores["normal"]
    assert (folder / "model.corrupt").exists() == (damage != "gone")
    assert "corrupt" not in verdict_kinds(store)


def test_scores_of_other_weights_are_set_aside(tmp_path, store, monkeypatch):
    """As after a training on a GPU, which does not end twice with the same weights."""
    (job,) = make_tiny_plan(tmp_path)
    execute_run(job, store)
    first = read(store, job)
    folder = store.folder(job.spec)
    shutil.rmtree(folder / "model")

    monkeypatch.setattr(build_module, "set_seed", lambda seed: torch.manual_seed(99))
    (extended,) = make_tiny_plan(tmp_path, {"samplers": ["gmm", "normal"]})
    execute_run(extended, store)
    second = read(store, extended)
    assert second.scores["normal"].result != first.scores["normal"].result
    for name in ("evaluation.json", "scores/normal-pixels-20.json"):
        assert (folder / f"{name}.corrupt").exists()
    assert "corrupt" not in verdict_kinds(store)


def test_a_sampler_that_fails_loses_only_its_own_score(tmp_path, store, monkeypatch):
    (job,) = make_tiny_plan(tmp_path, {"samplers": ["gmm", "normal"]})
    generate = job_module.generate

    def generate_or_fail(sampler, *args, **options):
        if sampler == "gmm":
            raise ValueError("broken on purpose")
        return generate(sampler, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "generate", generate_or_fail)
        with pytest.raises(FIFError, match="sampler gmm: ValueError: broken on purpose"):
            execute_run(job, store)
    assert Status.read(store.folder(job.spec)).state == "failed"
    assert set(read(store, job).scores) == {"normal"}
    assert not job.is_done(store)

    monkeypatch.setattr("pythae_fif.training.trainer.Optimizers", None)
    execute_run(job, store)
    assert job.is_done(store)


def test_the_models_of_table_2_train_by_the_wall_clock(tmp_path, store):
    file = configs_dir() / "experiments" / "table2.yaml"
    flags = {
        "profile": "table2-quick", "wall_clock": "0.2s", "seeds": [0], "extractor": "pixels",
        "num_samples": 20, "train_size": 60, "latent_dim": 4, "samplers": ["normal"],
    }  # fmt: skip
    experiment = load_experiment("digits", flags, file)
    jobs = plan(experiment, load_images("digits").subset(train=60, val=20, test=20))
    first_jobs = {job.training.model: job for job in reversed(jobs)}
    assert first_jobs.keys() == {"fif", "dnf", "trumpet"}

    sizes = {"val_size": 20, "test_size": 20}
    for planned in first_jobs.values():
        training = planned.training.model_copy(update=sizes)
        job = dataclasses.replace(planned, training=training)
        execute_run(job, store)
        result = read(store, job)
        assert set(result.scores) == {"normal"}
        assert 0.2 <= result.training.result.train_seconds < 20
        assert training.wall_clock == 0.2
