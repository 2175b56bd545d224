"""A plan: which runs an experiment has, in which order, what their ids are made of."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from pythae.data.datasets import DatasetOutput
from support.experiments import of_shape, plan_of, splits_of, tiny
from support.report_store import RESULTS, fill, result

from pythae_fif.benchmark.config import DataLocation, Settings, load_experiment
from pythae_fif.benchmark.image_run import ImageSpec, training_config
from pythae_fif.benchmark.models import ModelClasses, configs_dir, list_configs, read_entry
from pythae_fif.benchmark.plan import expand, leaderboard
from pythae_fif.errors import ConfigError
from pythae_fif.runs.store import Store

DIGITS, FACES = of_shape(1, 8, 8), of_shape(3, 64, 64)
SPEC = RESULTS[0].spec
CHANGED = {
    "dataset": "digits", "arch": "convnet", "model": "vae", "classes": read_entry("vae").classes,
    "parameters": {"beta": 10.5, "hutchinson_samples": 1}, "varied": ["beta"],
    "latent_dim": 9, "image_size": 64, "seed": 1, "extractor": "pixels", "profile": "other",
    "data_hash": "0" * 16, "labels_hash": "0" * 16,
    "settings": SPEC.settings.model_copy(update={"epochs": 2}),
}  # fmt: skip


def spec_of(**changes) -> ImageSpec:
    return ImageSpec(**{**{key: getattr(SPEC, key) for key in ImageSpec.model_fields}, **changes})


def expanded(data, flags: dict, dataset: str = "digits", file=None) -> list[ImageSpec]:
    return expand(load_experiment(dataset, flags, file), data)


def test_a_run_has_one_id_however_it_is_asked_for():
    flags = {"models": ["fif"], "profile": "paper"}
    grid = expanded(of_shape(1, 28, 28), flags, "mnist")
    flags |= {"beta": [10.0, 5.0], "hutchinson_samples": [2]}
    chosen = expanded(of_shape(1, 28, 28), flags, "mnist")
    assert len(chosen) == 2 and {s.run_id for s in chosen} < {s.run_id for s in grid}
    flags["beta"] = [12.0, 0.5]
    betas = [spec.parameters["beta"] for spec in expanded(of_shape(1, 28, 28), flags, "mnist")]
    assert [repr(beta) for beta in betas] == ["12", "0.5"]


def test_order_overrides_and_seeds(tmp_path):
    flags = {"models": ["ae", "fif"], "beta": [3.0, 1.0, 2.0], "seeds": [4, 5]}
    plan = plan_of(tmp_path, flags, max_configurations=1)
    assert [s.model for s in plan] == ["ae"] * 2 + ["fif"] * 12
    assert [s.seed for s in plan[:4]] == [4, 5, 4, 5]
    # A grid that was asked for is not cut by the profile.
    assert [s.parameters["beta"] for s in plan[2::4]] == [3.0, 1.0, 2.0]
    assert len({s.run_id for s in plan}) == len(plan)


def test_a_flag_of_fifs_goes_over_what_the_profile_fixes():
    flags = {"models": ["fif"], "hutchinson_samples": [4]}
    table2 = configs_dir() / "experiments" / "table2.yaml"
    (spec, *_) = expanded(FACES, flags, "celeba", table2)
    assert spec.parameters["hutchinson_samples"] == 4 and "hutchinson_samples" in spec.varied


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"models": ["fif"], "samplers": ["two_stage"]}, "model fif has none of them; it has nor"),
        ({"models": ["vqvae_spatial"], "arch": "fif_convnet"}, "vqvae_spatial: arch 'fif_convnet'"),
        ({"samplers": ["maf"], "latent_dim": 1}, "ae: its one latent dimension is too few for maf"),
        ({"models": ["fif_conditional"]}, "is told class labels, and digits has none"),
    ],
)
def test_what_does_not_fit_is_one_line(flags, message):
    data = FACES if "arch" in flags else DIGITS
    with pytest.raises(ConfigError, match=message):
        expanded(data, {"models": ["ae"], **flags})


@pytest.mark.parametrize(
    ("model", "fixed", "message"),
    [
        ("vae", {"reconstruction_loss": "x"}, "reconstruction_loss='x': valid: bce, mse"),
        ("vqvae", {"num_embeddings": [1]}, r"num_embeddings=\[1\]: should be a valid integer"),
        ("ciwae", {"beta": 3.0}, r"Beta parameter must be in \[0-1\]. Got 3.0."),
    ],
)
def test_values_that_a_class_of_pythae_does_not_take(tmp_path, model, fixed, message):
    good = yaml.safe_load((configs_dir() / "models" / f"{model}.yaml").read_text())
    good["grid"] = {key: of for key, of in good["grid"].items() if key not in fixed}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**good, "fixed": fixed}))
    flags = {"models": [str(tmp_path / "mine.yaml")], "samplers": ["gmm"]}
    with pytest.raises(ConfigError, match=rf"^model mine: {message}$"):
        expanded(DIGITS, flags)


@pytest.mark.parametrize("key", ["model", "config", "trainer", "networks", "discriminator"])
def test_model_file_with_a_class_that_is_not_there(tmp_path, key):
    good = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**good, key: "pythae.models.AEE"}))
    with pytest.raises(ConfigError, match=r"^model mine: cannot import 'pythae\.models\.AEE'"):
        expanded(DIGITS, {"models": [str(tmp_path / "mine.yaml")]})


def test_a_model_of_ones_own_is_part_of_the_id_without_its_words(tmp_path):
    file, ids = tmp_path / "weak.yaml", []
    text = (configs_dir() / "models" / "vae.yaml").read_text()
    for changed in (
        text,
        text + "keep_last: true\n",
        text.replace("models.VAE", "models.BetaVAE"),
        text.replace("label: VAE", "label: weak"),  # which defines no result
    ):
        file.write_text(changed)
        (spec, *_) = plan_of(tmp_path, {"models": [str(file)]})
        ids.append(spec.run_id)
    assert len(set(ids)) == 3 and ids[0] == ids[3]


@pytest.mark.parametrize("name", sorted({*list_configs("models")} - {"fif_conditional"}))
def test_every_model_builds_and_has_a_training_configuration(name):
    plan = expanded(DIGITS, {"models": [name], "profile": "full", "latent_dim": 8})
    assert len(plan) in (1, 10) and len({repr(spec.parameters) for spec in plan}) == len(plan)
    for spec in plan:
        model = spec.build((1, 8, 8))
        assert model.latent_dim == 8
        for key in spec.varied:
            assert getattr(model.model_config, key) == spec.parameters[key]
        assert training_config(spec).num_epochs == spec.settings.epochs


def test_every_model_of_all_takes_rows():
    """Their encoders give what the model asks for: a step of each is finite."""
    flags = {"models": ["all"], "data": "mine.csv", "latent_dim": 2}
    first = {spec.model: spec for spec in expanded(of_shape(4), flags, "csv")}
    assert len(first) == 23
    rows = DatasetOutput(data=torch.randn(6, 4), labels=torch.ones(6))
    for spec in first.values():
        torch.manual_seed(0)
        output = spec.build((4,))(rows, epoch=1, dataset_size=6)
        assert torch.isfinite(torch.as_tensor(output.loss)), spec.model


def test_every_model_of_all_takes_images():
    for arch, runs in {"convnet": 30, "fif_convnet": 29}.items():  # without a VQ-VAE's maps
        assert (
            len(expanded(DIGITS, {"models": ["all"], "arch": arch, "max_configurations": 1}))
            == runs
        )


def test_the_id_changes_with_every_field_but_what_is_asked():
    assert set(CHANGED) == set(ImageSpec.model_fields) - ImageSpec.fields_outside_id
    for field, value in CHANGED.items():
        assert spec_of(**{field: value}).run_id != spec_of().run_id, field
    assert spec_of(samplers=["gmm"], location=DataLocation(offline=True)).run_id == spec_of().run_id
    for key in Settings.model_fields:
        changed = SPEC.settings.model_copy(update={key: 10_000})
        assert spec_of(settings=changed).run_id != spec_of().run_id, key


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a\n", "a\x00b"])
def test_no_name_leads_out_of_the_store(name):
    for field in ("dataset", "arch", "model"):
        with pytest.raises(ValidationError):
            spec_of(**{field: name})


def kept(store: Store, spec: ImageSpec) -> None:
    """Puts a made-up run into a store."""
    fill(store.root, [result("fif", {}, 0, {"normal": (1.0, 2.0)}, spec=spec)])


@pytest.fixture
def board(tmp_path):
    """An experiment, its plan, a store, and `found`, which reads the leaderboard of these."""
    experiment = tiny(tmp_path, {"models": ["fif", "vae"]})
    splits, store = splits_of(experiment), Store(tmp_path / "results")
    plan = expand(experiment, splits)
    found = partial(leaderboard, store, experiment, plan, splits)
    return SimpleNamespace(experiment=experiment, plan=plan, store=store, found=found)


def test_a_leaderboard_holds_all_like_runs_those_of_the_plan_first(board):
    fif, vae = board.plan[0], board.plan[-1]
    others = [fif.model_copy(update={"seed": seed}) for seed in (2, 1)]
    for spec in (*others, vae, fif):
        kept(board.store, spec)
    ids = [result.spec.run_id for result in board.found()]
    assert ids == [spec.run_id for spec in (fif, vae, *reversed(others))]


def test_models_of_other_batches_compare_where_a_profile_counts_steps(tmp_path):
    models = {"vae": {"batch_size": 4}}
    flags = {"models": ["fif", "vae"], "beta": [5.0], "hutchinson_samples": [1]}
    experiment = tiny(tmp_path, flags, epochs=None, steps=20, models=models)
    splits, store = splits_of(experiment), Store(tmp_path / "results")
    plan = expand(experiment, splits)
    for spec in plan:
        kept(store, spec)
    assert plan[0].settings.epochs != plan[1].settings.epochs
    assert len(leaderboard(store, experiment, plan[:1], splits)) == 2


@pytest.mark.parametrize(
    "changed",
    [{"data_hash": "0" * 16}, {"profile": "paper"}, {"extractor": "inception"},
     {"image_size": 32}, {"model": "gone"}, {"latent_dim": 5}, {"settings": {"train_size": 11}},
     {"settings": {"epochs": 9}}, {"settings": {"precision": "bfloat16"}},
     {"labels_hash": "0" * 16}, {"classes": ModelClasses(model="own.Model", config="own.Of")}],
    ids=str,
)  # fmt: skip
def test_a_leaderboard_leaves_out_what_does_not_compare(board, changed):
    settings = board.plan[0].settings.model_copy(update=changed.get("settings", {}))
    other = board.plan[0].model_copy(update={"seed": 5, **changed, "settings": settings})
    kept(board.store, other)
    assert board.found() == []


def test_a_leaderboard_leaves_out_what_its_file_fixed_otherwise(board):
    first, entries = board.plan[0], board.experiment.entries
    kept(board.store, first.model_copy(update={"seed": 5}))
    entries["fif"] = plan_entry = entries["fif"].model_copy(deep=True)
    assert len(board.found()) == 1
    plan_entry.fixed["noise"] = 0.1
    assert board.found() == []
    changed = {**first.parameters, "jacobian_at": "reconstruction"}  # no longer fixed
    kept(board.store, first.model_copy(update={"seed": 6, "parameters": changed}))
    del plan_entry.fixed["noise"]
    assert len(board.found()) == 1


def test_a_leaderboard_passes_over_what_is_unfinished_or_damaged(board):
    for number, name in enumerate(("training.json", "evaluation.json", "scores/normal.json")):
        spec = board.plan[0].model_copy(update={"seed": number + 5})
        kept(board.store, spec)
        (board.store.folder(spec) / name).write_text("{")
    assert board.found() == []


def test_classes_and_labels_define_a_conditional_run(tmp_path):
    experiment = tiny(tmp_path, {"models": ["fif_conditional", "fif"], "beta": [5.0],
                                 "hutchinson_samples": [1]})  # fmt: skip
    splits = splits_of(experiment)
    conditional, plain = expand(experiment, splits)
    assert conditional.parameters["condition_dim"] == 10
    assert (conditional.labels_hash, plain.labels_hash) == (splits.labels_hash, None)
    others = {split: 9 - of_split for split, of_split in splits.labels.items()}
    relabelled = dataclasses.replace(splits, labels=others)
    other, same = expand(experiment, relabelled)
    assert other.run_id != conditional.run_id and same.run_id == plain.run_id
    few = {**others, "train": np.where(others["train"] == 4, 5, others["train"])}
    few["train"][0] = 4
    with pytest.raises(ConfigError, match="class 4 of 10 has 1 training examples, needs 2"):
        expand(experiment, dataclasses.replace(splits, labels=few))
