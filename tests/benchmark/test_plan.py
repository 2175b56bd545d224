"""The plan of an experiment: its runs, their order and their ids; and the leaderboard."""

import dataclasses
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

from pythae_fif.benchmark.config import DataLocation, Settings
from pythae_fif.benchmark.image_run import training_config
from pythae_fif.benchmark.image_spec import ImageSpec
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import ModelClasses, configs_dir, list_configs, read_entry
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store

DIGITS = fake_splits(1, 8, 8)
FACES = fake_splits(3, 64, 64)
SPEC = RESULTS[0].spec
CHANGED_FIELDS = {
    "dataset": "digits", "arch": "convnet", "model": "vae", "classes": read_entry("vae").classes,
    "parameters": {"beta": 10.5, "hutchinson_samples": 1}, "varied": ["beta"],
    "latent_dim": 9, "image_size": 64, "seed": 1, "extractor": "pixels", "profile": "other",
    "data_hash": "0" * 16, "labels_hash": "0" * 16,
    "settings": SPEC.settings.model_copy(update={"epochs": 2}),
}  # fmt: skip


def make_spec(**changes) -> ImageSpec:
    return ImageSpec(**{**{key: getattr(SPEC, key) for key in ImageSpec.model_fields}, **changes})


def make_plan(splits, flags: dict, dataset: str = "digits", file=None) -> list[ImageSpec]:
    return expand(load_experiment(dataset, flags, file), splits)


def test_a_run_has_the_same_id_from_a_grid_and_from_flags():
    splits = fake_splits(1, 28, 28)
    flags = {"models": ["fif"], "profile": "paper"}
    from_grid = make_plan(splits, flags, "mnist")
    flags |= {"beta": [10.0, 5.0], "hutchinson_samples": [2]}
    from_flags = make_plan(splits, flags, "mnist")
    assert len(from_flags) == 2
    assert {spec.run_id for spec in from_flags} < {spec.run_id for spec in from_grid}

    flags["beta"] = [12.0, 0.5]
    betas = [spec.parameters["beta"] for spec in make_plan(splits, flags, "mnist")]
    assert [repr(beta) for beta in betas] == ["12", "0.5"]


def test_order_overrides_and_seeds(tmp_path):
    flags = {"models": ["ae", "fif"], "beta": [3.0, 1.0, 2.0], "seeds": [4, 5]}
    plan = make_tiny_plan(tmp_path, flags, max_configurations=1)
    assert [spec.model for spec in plan] == ["ae"] * 2 + ["fif"] * 12
    assert [spec.seed for spec in plan[:4]] == [4, 5, 4, 5]
    # The profile does not shorten a grid that the user gave.
    assert [spec.parameters["beta"] for spec in plan[2::4]] == [3.0, 1.0, 2.0]
    assert len({spec.run_id for spec in plan}) == len(plan)


def test_a_flag_overrides_what_the_profile_fixes_for_fif():
    flags = {"models": ["fif"], "hutchinson_samples": [4]}
    table2 = configs_dir() / "experiments" / "table2.yaml"
    (spec, *_) = make_plan(FACES, flags, "celeba", table2)
    assert spec.parameters["hutchinson_samples"] == 4
    assert "hutchinson_samples" in spec.varied


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
        (spec, *_) = make_tiny_plan(tmp_path, {"models": [str(file)]})
        ids.append(spec.run_id)
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


@pytest.mark.parametrize("name", sorted({*list_configs("models")} - {"fif_conditional"}))
def test_every_model_builds_and_has_a_training_configuration(name):
    plan = make_plan(DIGITS, {"models": [name], "profile": "full", "latent_dim": 8})
    assert len(plan) in (1, 10)
    assert len({repr(spec.parameters) for spec in plan}) == len(plan)
    for spec in plan:
        model = spec.build((1, 8, 8))
        assert model.latent_dim == 8
        for key in spec.varied:
            assert getattr(model.model_config, key) == spec.parameters[key]
        assert training_config(spec).num_epochs == spec.settings.epochs


def test_every_model_of_all_takes_rows():
    """Their encoders return what the model needs: the loss of a step is finite."""
    flags = {"models": ["all"], "data": "mine.csv", "latent_dim": 2}
    plan = make_plan(fake_splits(4), flags, "csv")
    spec_by_model = {spec.model: spec for spec in plan}
    assert len(spec_by_model) == 23

    rows = DatasetOutput(data=torch.randn(6, 4), labels=torch.ones(6))
    for spec in spec_by_model.values():
        torch.manual_seed(0)
        output = spec.build((4,))(rows, epoch=1, dataset_size=6)
        assert torch.isfinite(torch.as_tensor(output.loss)), spec.model


@pytest.mark.parametrize(("arch", "num_models"), [("convnet", 30), ("fif_convnet", 29)])
def test_every_model_of_all_takes_images(arch, num_models):
    """Except for a VQ-VAE's maps of codes, which `fif_convnet` does not have."""
    flags = {"models": ["all"], "arch": arch, "max_configurations": 1}
    assert len(make_plan(DIGITS, flags)) == num_models


def test_the_id_changes_with_every_field_that_defines_the_result():
    assert set(CHANGED_FIELDS) == set(ImageSpec.model_fields) - ImageSpec.fields_outside_id
    run_id = make_spec().run_id
    for field, value in CHANGED_FIELDS.items():
        assert make_spec(**{field: value}).run_id != run_id, field
    for key in Settings.model_fields:
        settings = SPEC.settings.model_copy(update={key: 10_000})
        assert make_spec(settings=settings).run_id != run_id, key

    requested = make_spec(samplers=["gmm"], location=DataLocation(offline=True))
    assert requested.run_id == run_id


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a\n", "a\x00b"])
def test_names_cannot_lead_out_of_the_store(name):
    for field in ("dataset", "arch", "model"):
        with pytest.raises(ValidationError):
            make_spec(**{field: name})


def store_result(store: Store, spec: ImageSpec) -> None:
    """Stores a made-up result of a run."""
    fill_store(store.root, [make_result("fif", {}, 0, {"normal": (1.0, 2.0)}, spec=spec)])


@pytest.fixture
def board(tmp_path):
    """An experiment, its plan, a store, and `read`, which reads the leaderboard of these."""
    experiment = tiny_experiment(tmp_path, {"models": ["fif", "vae"]})
    splits = load_splits(experiment)
    store = Store(tmp_path / "results")
    plan = expand(experiment, splits)
    read = partial(leaderboard, store, experiment, plan, splits)
    return SimpleNamespace(experiment=experiment, plan=plan, store=store, read=read)


def test_a_leaderboard_holds_all_comparable_runs_those_of_the_plan_first(board):
    fif = board.plan[0]
    vae = board.plan[-1]
    seed2 = fif.model_copy(update={"seed": 2})
    seed1 = fif.model_copy(update={"seed": 1})
    for spec in (seed2, seed1, vae, fif):
        store_result(board.store, spec)
    ids = [result.spec.run_id for result in board.read()]
    assert ids == [spec.run_id for spec in (fif, vae, seed1, seed2)]


def test_models_with_different_batch_sizes_compare_if_the_profile_counts_steps(tmp_path):
    models = {"vae": {"batch_size": 4}}
    flags = {"models": ["fif", "vae"], "beta": [5.0], "hutchinson_samples": [1]}
    experiment = tiny_experiment(tmp_path, flags, epochs=None, steps=20, models=models)
    splits = load_splits(experiment)
    store = Store(tmp_path / "results")
    plan = expand(experiment, splits)
    for spec in plan:
        store_result(store, spec)
    assert plan[0].settings.epochs != plan[1].settings.epochs
    assert len(leaderboard(store, experiment, plan[:1], splits)) == 2


@pytest.mark.parametrize(
    "changes",
    [{"data_hash": "0" * 16}, {"profile": "paper"}, {"extractor": "inception"},
     {"image_size": 32}, {"model": "gone"}, {"latent_dim": 5}, {"settings": {"train_size": 11}},
     {"settings": {"epochs": 9}}, {"settings": {"precision": "bfloat16"}},
     {"labels_hash": "0" * 16}, {"classes": ModelClasses(model="own.Model", config="own.Of")}],
    ids=str,
)  # fmt: skip
def test_a_leaderboard_leaves_out_what_is_not_comparable(board, changes):
    settings = board.plan[0].settings.model_copy(update=changes.get("settings", {}))
    spec = board.plan[0].model_copy(update={"seed": 5, **changes, "settings": settings})
    store_result(board.store, spec)
    assert board.read() == []


def test_a_leaderboard_leaves_out_runs_with_different_fixed_parameters(board):
    spec = board.plan[0]
    entries = board.experiment.entries
    entry = entries["fif"].model_copy(deep=True)
    entries["fif"] = entry
    store_result(board.store, spec.model_copy(update={"seed": 5}))
    assert len(board.read()) == 1
    entry.fixed["noise"] = 0.1
    assert board.read() == []

    no_longer_fixed = {**spec.parameters, "jacobian_at": "reconstruction"}
    changes = {"seed": 6, "parameters": no_longer_fixed}
    store_result(board.store, spec.model_copy(update=changes))
    del entry.fixed["noise"]
    assert len(board.read()) == 1


def test_a_leaderboard_ignores_unfinished_and_damaged_runs(board):
    for number, name in enumerate(("training.json", "evaluation.json", "scores/normal.json")):
        spec = board.plan[0].model_copy(update={"seed": number + 5})
        store_result(board.store, spec)
        (board.store.folder(spec) / name).write_text("{")
    assert board.read() == []


def test_classes_and_labels_define_a_conditional_run(tmp_path):
    flags = {"models": ["fif_conditional", "fif"], "beta": [5.0], "hutchinson_samples": [1]}
    experiment = tiny_experiment(tmp_path, flags)
    splits = load_splits(experiment)
    conditional, plain = expand(experiment, splits)
    assert conditional.parameters["condition_dim"] == 10
    assert conditional.labels_hash == splits.labels_hash
    assert plain.labels_hash is None

    new_labels = {split: 9 - labels for split, labels in splits.labels.items()}
    relabelled = dataclasses.replace(splits, labels=new_labels)
    new_conditional, new_plain = expand(experiment, relabelled)
    assert new_conditional.run_id != conditional.run_id
    assert new_plain.run_id == plain.run_id

    train_labels = np.where(new_labels["train"] == 4, 5, new_labels["train"])
    train_labels[0] = 4
    single = dataclasses.replace(splits, labels={**new_labels, "train": train_labels})
    with pytest.raises(ConfigError, match="class 4 of 10 has 1 training examples, needs 2"):
        expand(experiment, single)
