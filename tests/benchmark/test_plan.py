"""A plan: which runs an experiment has, in which order, and what their ids are made of."""

import dataclasses
import sys
import types

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.experiments import tiny
from support.records import SETTINGS, spec_of
from support.reference import REFERENCE, lines

from pythae_fif.benchmark.config import experiment_file, load_experiment
from pythae_fif.benchmark.plan import RunSpec, expand
from pythae_fif.benchmark.run import IMAGES, trainer_of
from pythae_fif.benchmark.settings import OPTIONAL, RunSettings
from pythae_fif.benchmark.yaml_files import configs_dir
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.lazy import own_code
from pythae_fif.runs.execute import execute
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.store import Store, read_config

CHANGED = {
    "dataset": "mnist", "arch": "resnet", "model": "vae",
    "parameters": {"beta": 10.5, "hutchinson_samples": 1}, "varied": ("beta",),
    "latent_dim": 9, "image_size": 64, "seed": 1, "extractor": "classifier",
    "profile": "other", "data_hash": "0123456789abcdee", "labels_hash": "0" * 16,
    "model_hash": "0" * 12,
    "settings": SETTINGS.model_copy(update={"epochs": 2}),
}  # fmt: skip


def test_a_run_has_one_id_however_it_is_asked_for():
    images = types.SimpleNamespace(input_dim=(1, 8, 8), content_hash="0" * 16)
    flags = {"models": ["fif"], "profile": "paper"}
    grid = expand(load_experiment("mnist", None, flags), images)
    flags |= {"beta": [10.0, 5.0], "hutchinson_samples": [2]}
    chosen = expand(load_experiment("mnist", None, flags), images)
    assert len(chosen) == 2 and {s.run_id for s in chosen} < {s.run_id for s in grid}
    flags["beta"] = [12.0, 0.5]
    assert [
        repr(spec.parameters["beta"])
        for spec in expand(load_experiment("mnist", None, flags), images)
    ] == ["12", "0.5"]


def test_order_overrides_and_seeds(tmp_path):
    flags = {"models": ["ae", "fif"], "beta": [3.0, 1.0, 2.0], "seeds": [4, 5]}
    plan = expand(*tiny(tmp_path, flags, configurations=1))
    assert [s.model for s in plan] == ["ae"] * 2 + ["fif"] * 12
    assert [s.seed for s in plan[:4]] == [4, 5, 4, 5]
    # A grid that was asked for is not cut by the profile.
    assert [s.parameters["beta"] for s in plan[2::4]] == [3.0, 1.0, 2.0]
    assert len({s.run_id for s in plan}) == len(plan)


def test_profile_cuts_the_grid(tmp_path):
    plan = expand(*tiny(tmp_path, {"models": ["fif"]}, configurations=3))
    assert [s.configuration for s in plan] == [
        "beta=10, hutchinson_samples=1",
        "beta=10, hutchinson_samples=2",
        "beta=5, hutchinson_samples=1",
    ]


@pytest.mark.parametrize(
    ("model", "fixed", "varied"),
    [
        ("fif", {"hutchinson_samples": 2}, ["beta=10", "beta=5", "beta=15"]),
        ("disentangled_beta_vae", {"beta": 7}, ["C=25", "C=10", "C=50"]),
    ],
)
def test_what_a_profile_fixes_is_in_no_grid(tmp_path, model, fixed, varied):
    profile = {"configurations": 3, "models": {model: {"fixed": fixed}}}
    plan = expand(*tiny(tmp_path, {"models": [model]}, **profile))
    assert [s.configuration for s in plan] == varied
    assert all(fixed.items() <= s.parameters.items() for s in plan)


def test_flow_samplers_of_one_latent_dimension(tmp_path):
    flags = {"latent_dim": 1, "samplers": ["normal", "maf", "iaf"]}
    with pytest.raises(ConfigError, match=r"--samplers maf iaf: need .* model ae has one"):
        expand(*tiny(tmp_path, flags))


def test_model_that_the_architecture_does_not_serve(tmp_path):
    experiment, _ = tiny(tmp_path, {"models": ["vqvae_spatial"]})
    faces = types.SimpleNamespace(input_dim=(3, 64, 64), content_hash="0" * 16)
    with pytest.raises(ConfigError, match=r"model vqvae_spatial: arch 'fif_convnet'"):
        expand(experiment.model_copy(update={"arch": "fif_convnet"}), faces)


def test_a_model_of_ones_own_that_becomes_another_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")  # which naming a file changes
    file, ids = tmp_path / "weak.yaml", set()
    text = (configs_dir() / "models" / "vae.yaml").read_text()
    for changed in (text, text + "keep_last: true\n", text.replace("models.VAE", "models.BetaVAE")):
        file.write_text(changed)
        ids |= {spec.run_id for spec in expand(*tiny(tmp_path, {"models": [str(file)]}))}
    assert len(ids) == 3
    (spec, *_) = expand(*tiny(tmp_path, {"models": [str(file)]}))
    file.write_text(text)
    folder = Store(tmp_path / "results", IMAGES).prepare(spec, Environment())
    with pytest.raises(DataError, match=r"models/weak\.yaml, or code that it names, changed since"):
        execute(folder, IMAGES)
    file.write_text(text.replace("label: VAE", "label: weak"))  # which defines no result
    assert {spec.run_id for spec in expand(*tiny(tmp_path, {"models": [str(file)]}))} < ids


def test_code_of_ones_own_that_changes_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    entry = (configs_dir() / "models" / "ae.yaml").read_text()
    (tmp_path / "wide.yaml").write_text(entry + "networks: wide_nets.build\n")
    code = (
        "import pythae_fif.nn as nn\n\ndef build(*shape):\n    return nn.build_networks(*shape)\n"
    )
    id_of = {}
    for name, text in {
        "first": code,
        "comment": "# of mine\n" + code.replace("(*shape)", "( *shape )"),
        "changed": code.replace("return", "print(shape)\n    return"),
    }.items():
        (tmp_path / "wide_nets.py").write_text(text)
        (spec,) = expand(*tiny(tmp_path, {"models": [str(tmp_path / "wide.yaml")]}))
        id_of[name] = spec.run_id
    assert id_of["first"] == id_of["comment"] != id_of["changed"]
    folder = Store(tmp_path / "results", IMAGES).prepare(spec, Environment())
    (tmp_path / "wide_nets.py").write_text(code)
    with pytest.raises(
        DataError, match=r"wide\.yaml, or code that it names, changed since the plan"
    ):
        execute(folder, IMAGES)
    (tmp_path / "wide_nets.py").unlink()
    sys.modules.pop("wide_nets")
    with pytest.raises(ConfigError, match=r"wide\.yaml: networks: cannot import 'wide_nets.build'"):
        execute(folder, IMAGES)


def test_own_code_is_that_of_no_installed_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = "# -*- coding: latin-1 -*-\nname = 'é'  # of mine\n"
    (tmp_path / "latin.py").write_text(text, encoding="latin-1")
    assert own_code("latin") == "name = 'é'"
    for module in ("torch.nn", "zuko.nn", "pythae.models", "pythae_fif.nn", "nowhere", "own", ""):
        assert own_code(module) is None


def test_a_flag_of_fifs_where_the_profile_fixes_it_and_where_there_is_no_grid(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
    images = types.SimpleNamespace(input_dim=(3, 64, 64), content_hash="0" * 16)
    flags = {"models": ["fif"], "hutchinson_samples": [4]}
    (spec, *_) = expand(load_experiment("celeba", experiment_file(2), flags), images)
    assert spec.parameters["hutchinson_samples"] == 4 and "hutchinson_samples" in spec.varied
    entry = yaml.safe_load((configs_dir() / "models" / "fif.yaml").read_text())
    del entry["grid"]
    (tmp_path / "listed.yaml").write_text(yaml.safe_dump(entry | {"configurations": [{"beta": 3}]}))
    asked = {"models": [str(tmp_path / "listed.yaml")], "beta": [5.0]}
    with pytest.raises(ConfigError, match="--beta: FIF has its configurations one by one, no grid"):
        expand(*tiny(tmp_path, asked))


def test_latent_dimension_of_a_model_with_a_limit(tmp_path):
    plan = expand(*tiny(tmp_path, {"models": ["ae", "svae"], "latent_dim": 64}))
    assert [spec.latent_dim for spec in plan] == [64, 32]


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(RunSpec) if f.name != "samplers"]
)
def test_run_id_changes_with_every_field_but_the_samplers(field):
    assert spec_of(**{field: CHANGED[field]}).run_id != spec_of().run_id
    assert spec_of(samplers=("gmm",)).run_id == spec_of().run_id


@given(
    key=st.sampled_from(list(RunSettings.model_fields)),
    change=st.integers(1, 1000),
)
@settings(deadline=None)
def test_run_id_changes_with_every_setting_that_defines_a_result(key, change):
    changed = SETTINGS.model_copy(update={key: change + 10_000})
    assert spec_of(settings=changed).run_id != spec_of().run_id


def test_settings_that_define_no_result_are_left_out_of_older_specifications():
    values = spec_of().to_dict()
    for key, value in (
        ("note", "words"), ("configurations", 4), ("extractor", "pixels"), ("runs_per_gpu", 2)
    ):  # fmt: skip
        values["settings"][key] = value
    assert RunSpec.from_dict(values) == spec_of()
    values["settings"]["epoch"] = 3
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        RunSpec.from_dict(values)


def test_settings_that_came_later_are_absent_where_they_are_not_used():
    """Runs of before have their ids."""
    assert set(OPTIONAL) & set(SETTINGS.to_dict()) == {"epochs"}
    used = SETTINGS.model_copy(update={"epochs": None, "wall_clock": 3.0})
    assert set(OPTIONAL) & set(used.to_dict()) == {"wall_clock"}
    assert RunSettings(**used.to_dict()) == used


@pytest.mark.parametrize("model", ["fif", "ae", "rae_l2"])
def test_a_profile_says_how_its_trainer_works(model, tmp_path):
    asked = {"models": [model]}
    experiment, splits = tiny(tmp_path, asked, configurations=1, precision="bfloat16")
    (spec,) = expand(experiment, splits)
    trainer = trainer_of(spec, splits, tmp_path / "run")
    images = next(weight for weight in trainer.model.parameters() if weight.dim() == 4)
    assert images.is_contiguous(memory_format=torch.channels_last)  # as in bfloat16 alone
    assert trainer.training_config.seed == spec.seed
    (plain,) = expand(*tiny(tmp_path, {"models": [model]}, configurations=1))
    assert spec.run_id != plain.run_id
    (explicit,) = expand(
        *tiny(tmp_path, {"models": [model]}, configurations=1, precision="float32", compile=False)
    )
    assert explicit.run_id == plain.run_id


def test_the_flag_of_precision_trains_every_model_in_it():
    flags = {"models": ["ae"], "precision": "bfloat16"}
    experiment = load_experiment("digits", None, flags)
    assert experiment.name == "digits-convnet-quick-bfloat16"
    assert experiment.settings.settings_of("ae").precision == "bfloat16"


@given(st.floats(0, 1e6), st.floats(0, 1e6))
@settings(deadline=None)
def test_run_id_tells_values_apart(one, other):
    ids = [spec_of(parameters={"beta": b}, varied=("beta",)).run_id for b in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


@given(
    parameters=st.dictionaries(
        st.text("abc_", min_size=1),
        st.one_of(st.integers(-9, 9), st.floats(allow_nan=False), st.text(), st.booleans()),
    ),
    profile=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
@settings(max_examples=12, deadline=None)
def test_round_trip_through_the_run_folder(tmp_path_factory, parameters, profile):
    spec = spec_of(parameters=parameters, varied=tuple(parameters), profile=profile)
    ids = set()
    for folder in ("one", "other"):
        environment = Environment(data_root=folder, offline=True)
        root = tmp_path_factory.getbasetemp() / "round-trip" / folder
        run_dir = Store(root, IMAGES).prepare(spec, environment)
        read = read_config(run_dir).spec_of(IMAGES, run_dir)
        assert read == spec
        assert Environment.read(run_dir) == environment
        ids.add(read.run_id)
    assert ids == {spec.run_id} == {run_dir.name}


def test_committed_runs_have_the_ids_of_their_specifications():
    runs = {run for run in lines() if run.count("/") == 3}
    assert len(runs) > 100
    assert {f"{spec.folder}/{spec.run_id}" for spec in Store(REFERENCE, IMAGES).specs()} == runs
