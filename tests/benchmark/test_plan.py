"""The plan of an experiment: its jobs, their order and their ids; and the comparable results."""

import dataclasses
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from pythae.data.datasets import DatasetOutput
from support.experiments import fake_splits, load_splits, make_tiny_plan, tiny_experiment
from support.report_store import RESULTS, fill_store, make_result

from pythae_fif.benchmark.build import build_model, training_config
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir, list_configs, read_entry
from pythae_fif.benchmark.plan import find_job, make_job, plan
from pythae_fif.benchmark.results import read_comparable
from pythae_fif.benchmark.training import Training
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store

DIGITS = fake_splits(1, 8, 8)
FACES = fake_splits(3, 64, 64)
TRAINING = RESULTS[0].job.training
CHANGED_FIELDS = {
    "dataset": "digits", "arch": "convnet", "model": "vae", "model_class": "a.B",
    "config_class": "a.C", "trainer_class": "a.D", "variational": True, "networks": "a.e",
    "discriminator": "a.F", "keep_last": True,
    "parameters": {"beta": 10.5, "hutchinson_samples": 1}, "latent_dim": 9, "image_size": 64,
    "batch_size": 9, "learning_rate": 0.5, "epochs": 9, "wall_clock": 9.0, "weight_decay": 0.5,
    "plateau_factor": 0.25, "one_cycle": True, "precision": "bfloat16", "train_size": 11,
    "val_size": 11, "test_size": 11, "crop": 9, "seed": 1, "data_hash": "0" * 16,
    "labels_hash": "0" * 16,
}  # fmt: skip


def make_training(**changes) -> Training:
    return Training(**{**dict(TRAINING), **changes})


def make_plan(splits, flags: dict, dataset: str = "digits", file=None) -> list[Job]:
    return plan(load_experiment(dataset, flags, file), splits)


def test_a_run_has_the_same_id_from_a_grid_and_from_flags():
    splits = fake_splits(1, 28, 28)
    flags = {"models": ["fif"], "profile": "paper"}
    from_grid = make_plan(splits, flags, "mnist")
    flags |= {"beta": [10.0, 5.0], "hutchinson_samples": [2]}
    from_flags = make_plan(splits, flags, "mnist")
    assert len(from_flags) == 2
    assert {job.training for job in from_flags} < {job.training for job in from_grid}

    flags["beta"] = [12.0, 0.5]
    betas = [job.training.parameters["beta"] for job in make_plan(splits, flags, "mnist")]
    assert [repr(beta) for beta in betas] == ["12", "0.5"]


def test_order_overrides_and_seeds(tmp_path):
    flags = {"models": ["ae", "fif"], "beta": [3.0, 1.0, 2.0], "seeds": [4, 5]}
    jobs = make_tiny_plan(tmp_path, flags, max_configurations=1)
    trainings = [job.training for job in jobs]
    assert [training.model for training in trainings] == ["ae"] * 2 + ["fif"] * 12
    assert [training.seed for training in trainings[:4]] == [4, 5, 4, 5]
    # The profile does not shorten a grid that the user gave.
    assert [training.parameters["beta"] for training in trainings[2::4]] == [3.0, 1.0, 2.0]
    assert len({*trainings}) == len(jobs)


def test_a_flag_overrides_what_the_profile_fixes_for_fif():
    flags = {"models": ["fif"], "hutchinson_samples": [4]}
    table2 = configs_dir() / "experiments" / "table2.yaml"
    (job, *_) = make_plan(FACES, flags, "celeba", table2)
    assert job.training.parameters["hutchinson_samples"] == 4
    assert "hutchinson_samples" in job.varied


def test_flags_of_fif_reach_a_users_subclass_and_no_other_model(tmp_path, monkeypatch):
    """A subclass is a model with a configuration of FIF's class or of a subclass of it."""
    (tmp_path / "my_fif.py").write_text(
        "from pydantic.dataclasses import dataclass\n"
        "from pythae_fif import FIF, FIFConfig\n\n\n"
        "@dataclass\nclass MyConfig(FIFConfig):\n    penalty: float = 0.1\n\n\n"
        "class MyFIF(FIF):\n    config_class = MyConfig\n"
    )
    entry = {"label": "Mine", "source": "ours", "model": "my_fif.MyFIF"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**entry, "config": "my_fif.MyConfig"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    flags = {"models": ["fif", str(file), "beta_vae"], "beta": [5.0], "hutchinson_samples": [1]}
    for models, count in ((flags["models"], 6), (flags["models"][1:2], 1)):
        jobs = make_tiny_plan(tmp_path, {**flags, "models": models})
        mine = next(job for job in jobs if job.training.model == "mine")
        assert mine.training.parameters == {"beta": 5, "hutchinson_samples": 1}
        assert mine.configuration == "beta=5, hutchinson_samples=1"
        assert len(jobs) == count - 2 * (count == 6)
    betas = [job.training.parameters["beta"] for job in jobs if job.training.model == "beta_vae"]
    assert 5 not in betas
    sys.modules.pop("my_fif")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"models": ["fif"], "samplers": ["two_stage"]}, "model fif has none of them; it has nor"),
        ({"models": ["vqvae_spatial"], "arch": "fif_convnet"}, "vqvae_spatial: arch 'fif_convnet'"),
        ({"samplers": ["maf"], "latent_dim": 1}, "ae: sampler maf needs 2 latent dim"),
        ({"models": ["fif_conditional"]}, "needs class labels, and digits has none"),
    ],
)
def test_a_model_that_does_not_work_with_data_or_samplers_is_one_line(flags, message):
    splits = FACES if "arch" in flags else DIGITS
    with pytest.raises(ConfigError, match=message):
        make_plan(splits, {"models": ["ae"], **flags})


@pytest.mark.parametrize(
    ("model", "fixed", "message"),
    [
        ("vae", {"reconstruction_loss": "x"}, "reconstruction_loss='x': valid: bce, mse"),
        ("vqvae", {"num_embeddings": [1]}, r"num_embeddings=\[1\]: should be a valid integer"),
        ("ciwae", {"beta": 3.0}, r"Beta parameter must be in \[0-1\]. Got 3.0."),
    ],
)
def test_values_that_a_class_of_pythae_does_not_take(tmp_path, model, fixed, message):
    entry = yaml.safe_load((configs_dir() / "models" / f"{model}.yaml").read_text())
    entry["grid"] = {key: values for key, values in entry["grid"].items() if key not in fixed}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**entry, "fixed": fixed}))
    flags = {"models": [str(tmp_path / "mine.yaml")], "samplers": ["gmm"]}
    with pytest.raises(ConfigError, match=rf"^model mine: {message}$"):
        make_plan(DIGITS, flags)


@pytest.mark.parametrize("key", ["model", "config", "trainer", "networks", "discriminator"])
def test_model_file_with_a_class_that_does_not_exist(tmp_path, key):
    entry = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**entry, key: "pythae.models.AEE"}))
    with pytest.raises(ConfigError, match=r"^model mine: cannot import 'pythae\.models\.AEE'"):
        make_plan(DIGITS, {"models": [str(tmp_path / "mine.yaml")]})


def test_the_id_depends_on_a_models_classes_and_not_on_its_label(tmp_path):
    file = tmp_path / "weak.yaml"
    text = (configs_dir() / "models" / "vae.yaml").read_text()
    variants = [
        text,
        text + "keep_last: true\n",
        text.replace("models.VAE", "models.BetaVAE"),
        text.replace("label: VAE", "label: weak"),
    ]

    ids = []
    for variant in variants:
        file.write_text(variant)
        (job, *_) = make_tiny_plan(tmp_path, {"models": [str(file)]})
        ids.append(job.training.run_id)
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


@pytest.mark.parametrize("name", sorted({*list_configs("models")} - {"fif_conditional"}))
def test_every_model_builds_and_has_a_training_configuration(name):
    splits, dataset = (fake_splits(9), "csv") if read_entry(name).rows_only else (DIGITS, "digits")
    flags = {"models": [name], "profile": "full", "latent_dim": 8, "data": "mine.csv"}
    jobs = make_plan(splits, flags, dataset)
    assert len(jobs) in (1, 10)
    assert len({repr(job.training.parameters) for job in jobs}) == len(jobs)
    for job in jobs:
        model = build_model(job.training, splits.input_dim)
        assert model.latent_dim == (9 if read_entry(name).all_dims else 8)
        for key in job.varied:
            assert getattr(model.model_config, key) == job.training.parameters[key]
        assert training_config(job.training).num_epochs == job.training.epochs


def test_every_model_of_all_takes_rows():
    """Their encoders return what the model needs: the loss of a step is finite."""
    flags = {"models": ["all"], "data": "mine.csv", "latent_dim": 2}
    jobs = make_plan(fake_splits(4), flags, "csv")
    trainings = {job.training.model: job.training for job in jobs}
    assert len(trainings) == 24

    rows = DatasetOutput(data=torch.randn(6, 4), labels=torch.ones(6))
    for name, training in trainings.items():
        torch.manual_seed(0)
        output = build_model(training, (4,))(rows, epoch=1, dataset_size=6)
        assert torch.isfinite(torch.as_tensor(output.loss)), name


@pytest.mark.parametrize(("arch", "num_models"), [("convnet", 30), ("fif_convnet", 29)])
def test_every_model_of_all_takes_images(arch, num_models):
    """Except for a VQ-VAE's maps of codes, which `fif_convnet` does not have."""
    flags = {"models": ["all"], "arch": arch, "max_configurations": 1}
    assert len(make_plan(DIGITS, flags)) == num_models


def test_the_id_changes_with_every_field_that_defines_the_model():
    assert set(CHANGED_FIELDS) == set(Training.model_fields)
    run_id = make_training().run_id
    for field, value in CHANGED_FIELDS.items():
        assert make_training(**{field: value}).run_id != run_id, field


def test_a_profile_of_another_name_and_other_scorings_make_no_new_run(tmp_path):
    (job, *_) = make_tiny_plan(tmp_path)
    for flags in ({"samplers": ["gmm"]}, {"extractor": "classifier"}, {"num_samples": 30}):
        (other, *_) = make_tiny_plan(tmp_path, flags)
        assert other.training == job.training
        assert other != job

    text = (tmp_path / "tiny.yaml").read_text().replace("tiny", "renamed")
    (tmp_path / "other.yaml").write_text(text)
    experiment = load_experiment("digits", {}, tmp_path / "other.yaml")
    assert experiment.profile == "renamed"
    assert plan(experiment, load_splits(experiment))[0].training == job.training


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a\n", "a\x00b"])
def test_names_cannot_lead_out_of_the_store(name):
    for field in ("dataset", "arch", "model"):
        with pytest.raises(ValidationError):
            make_training(**{field: name})


def store_result(store: Store, experiment, training: Training) -> None:
    """Stores a made-up result of a training."""
    result = make_result("fif", {}, 0, {"normal": (1, 2)}, job=make_job(experiment, training))
    fill_store(store.root, [result])


@pytest.fixture
def board(tmp_path):
    """An experiment with its trainings, a store, and functions that write and read results."""
    experiment = tiny_experiment(tmp_path, {"models": ["fif", "vae"]})
    splits = load_splits(experiment)
    store = Store(tmp_path / "results")
    jobs = plan(experiment, splits)
    return SimpleNamespace(
        experiment=experiment,
        trainings=[job.training for job in jobs],
        store=store,
        write=partial(store_result, store, experiment),
        read=partial(read_comparable, store, experiment, jobs, splits),
    )


def test_a_table_holds_all_comparable_runs_those_of_the_plan_first(board):
    fif = board.trainings[0]
    vae = board.trainings[-1]
    seed2 = fif.model_copy(update={"seed": 2})
    seed1 = fif.model_copy(update={"seed": 1})
    beta = seed1.model_copy(update={"parameters": {**fif.parameters, "beta": 7}})
    for training in (seed2, seed1, beta, vae, fif):
        board.write(training)
    trainings = [result.job.training for result in board.read()]
    assert trainings == [fif, vae, seed1, seed2, beta]


def test_a_grid_can_vary_the_learning_rate(tmp_path):
    models = {"ae": {"grid": {"learning_rate": [1.0e-3, 3.0e-3]}}}
    jobs = make_tiny_plan(tmp_path, models=models)
    assert [job.configuration for job in jobs] == ["learning_rate=0.001", "learning_rate=0.003"]
    (usual,) = make_tiny_plan(tmp_path, learning_rate=3e-3)
    assert jobs[1].training == usual.training  # the id does not depend on where the rate is given

    (by_flag,) = make_tiny_plan(tmp_path, {"learning_rate": 3e-3}, models=models)
    assert by_flag.training == usual.training

    experiment = tiny_experiment(tmp_path, models=models)
    splits = load_splits(experiment)
    stored = usual.training.model_copy(update={"learning_rate": 0.5, "seed": 3})
    job = find_job(experiment, stored, splits)
    assert job.training == stored
    assert job.configuration == "learning_rate=0.5"
    assert find_job(tiny_experiment(tmp_path), stored, splits) is None


def test_models_with_different_batch_sizes_compare_if_the_profile_counts_steps(tmp_path):
    models = {"vae": {"batch_size": 4}}
    flags = {"models": ["fif", "vae"], "beta": [5.0], "hutchinson_samples": [1]}
    experiment = tiny_experiment(tmp_path, flags, epochs=None, steps=20, models=models)
    splits = load_splits(experiment)
    store = Store(tmp_path / "results")
    jobs = plan(experiment, splits)
    for job in jobs:
        store_result(store, experiment, job.training)
    assert jobs[0].training.epochs != jobs[1].training.epochs
    assert len(read_comparable(store, experiment, jobs[:1], splits)) == 2


@pytest.mark.parametrize(
    "changes",
    [{"data_hash": "0" * 16}, {"image_size": 32}, {"model": "gone"}, {"latent_dim": 5},
     {"train_size": 11}, {"epochs": 9}, {"precision": "bfloat16"}, {"labels_hash": "0" * 16},
     {"model_class": "own.Model"}, {"parameters": {"beta": 10, "noise": 0.1}}],
    ids=str,
)  # fmt: skip
def test_a_table_leaves_out_what_is_not_comparable(board, changes):
    training = board.trainings[0].model_copy(update={"seed": 5})
    board.write(training)
    assert len(board.read()) == 1

    job = RESULTS[0].job
    changed = training.model_copy(update={"seed": 6, **changes})
    job = dataclasses.replace(make_job(board.experiment, training), training=changed)
    fill_store(board.store.root, [make_result("fif", {}, 0, {"normal": (1, 2)}, job=job)])
    assert len(board.read()) == 1


def test_a_table_leaves_out_other_scorings(board):
    training = board.trainings[0]
    job = make_job(board.experiment, training)
    scorings = [scoring.model_copy(update={"num_samples": 99}) for scoring in job.scorings]
    job = dataclasses.replace(job, scorings=tuple(scorings))
    fill_store(board.store.root, [make_result("fif", {}, 0, {"normal": (1, 2)}, job=job)])
    assert board.read() == []


def test_a_table_ignores_unfinished_and_damaged_runs(board):
    names = ("training.json", "evaluation.json", "scores/normal-pixels-20.json")
    for number, name in enumerate(names):
        training = board.trainings[0].model_copy(update={"seed": number + 5})
        board.write(training)
        (board.store.folder(training) / name).write_text("{")
    assert board.read() == []


def test_classes_and_labels_define_a_conditional_run(tmp_path):
    flags = {"models": ["fif_conditional", "fif"], "beta": [5.0], "hutchinson_samples": [1]}
    experiment = tiny_experiment(tmp_path, flags)
    splits = load_splits(experiment)
    conditional, plain = (job.training for job in plan(experiment, splits))
    assert conditional.parameters["condition_dim"] == 10
    assert conditional.labels_hash == splits.labels_hash
    assert plain.labels_hash is None

    new_labels = {split: 9 - labels for split, labels in splits.labels.items()}
    relabelled = dataclasses.replace(splits, labels=new_labels)
    new_conditional, new_plain = (job.training for job in plan(experiment, relabelled))
    assert new_conditional.run_id != conditional.run_id
    assert new_plain.run_id == plain.run_id

    train_labels = np.where(new_labels["train"] == 4, 5, new_labels["train"])
    train_labels[0] = 4
    single = dataclasses.replace(splits, labels={**new_labels, "train": train_labels})
    with pytest.raises(ConfigError, match="class 4 of 10 has 1 training examples, needs 2"):
        plan(experiment, single)
