"""The configuration of the benchmark: YAML files and flags, and which values are refused."""

import pytest
import yaml
from support.experiments import fake_splits, make_tiny_plan, tiny_experiment

from pythae_fif.benchmark.build import training_config
from pythae_fif.benchmark.config import describe_length
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir, list_configs, read_entry, read_yaml
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read
from pythae_fif.data.catalog import find_dataset
from pythae_fif.data.sets.papamakarios import ARCHIVED
from pythae_fif.errors import ConfigError
from pythae_fif.reports.compared import read_published_table
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.sampling.catalog import SAMPLERS

TABLE2 = configs_dir() / "experiments" / "table2.yaml"


@pytest.mark.parametrize("name", list_configs())
def test_every_data_set_loads_with_each_profile(name):
    for profile in load_experiment(name, {}).profiles:
        assert describe_length(load_experiment(name, {"profile": profile}).active_profile)
    if not find_dataset(name).is_table:  # table 2 is for images
        table2 = load_experiment(name, {}, TABLE2)
        assert table2.models == ["fif", "dnf", "trumpet"]
        assert table2.active_profile.wall_clock == 5 * 3600
        assert table2.active_profile.crop == (140 if name == "celeba" else None)


def test_celeba_keeps_its_crop_with_a_file_for_other_images(tmp_path):
    (tmp_path / "mine.yaml").write_text("dataset: mnist")
    for file in (None, tmp_path / "mine.yaml"):
        assert load_experiment("celeba", {"profile": "paper"}, file).active_profile.crop == 140


@pytest.mark.parametrize(
    ("text", "seconds"), [("5h", 18000), ("1h30m", 5400), ("10min", 600), ("1m 5s", 65)]
)
def test_durations(text, seconds):
    profile = load_experiment("digits", {"wall_clock": text}).active_profile
    assert profile.wall_clock == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "-5h", "5d", "1.2.3s", "5s5h", "9" * 20 + "h"])
def test_wrong_durations(tmp_path, text):
    with pytest.raises(ConfigError, match=r"wall.clock.* is not a duration"):
        tiny_experiment(tmp_path, {"wall_clock": text})


def test_wall_clock_replaces_epochs(tmp_path):
    (job,) = make_tiny_plan(tmp_path, {"wall_clock": "90s"})
    assert (job.training.wall_clock, job.training.epochs) == (90, None)
    same, longer = (
        make_tiny_plan(tmp_path, {"wall_clock": text})[0].training for text in ("1m30s", "91s")
    )
    assert job.training == same != longer
    with pytest.raises(ConfigError, match="tiny: give epochs or steps"):
        tiny_experiment(tmp_path, steps=3)


@pytest.mark.parametrize(("size", "epochs"), [(500, 400), (480, 400), (50, 2000), (300_000, 1)])
def test_steps_become_epochs_that_depend_on_the_size_of_the_data(size, epochs):
    """Only the number of epochs is part of a run's id."""
    flags = {"data": "a.npz", "models": ["ae"]}
    experiment = load_experiment("npz", flags)
    assert describe_length(experiment.active_profile) == "2,000 steps or 10 min"
    (job,) = plan(experiment, fake_splits(1, 8, 8, num_train=size))
    assert (job.training.epochs, job.training.wall_clock) == (epochs, 600)


@pytest.mark.parametrize(
    "flags", [{"epochs": 3}, {"wall_clock": 5}, {"epochs": 3, "wall_clock": 5}]
)
def test_a_length_of_the_user_replaces_steps_and_clock(flags):
    profile = load_experiment("npz", {"data": "a.npz", **flags}).active_profile
    limits = profile.model_dump(include={"epochs", "wall_clock", "steps"}, exclude_none=True)
    assert limits == flags


def test_settings_and_grid_of_one_model(tmp_path):
    fif_settings = {"batch_size": 7, "grid": {"beta": [3]}, "fixed": {"noise": 0.02}}
    ae, fif = make_tiny_plan(tmp_path, {"models": ["ae", "fif"]}, models={"fif": fif_settings})
    assert (ae.training.batch_size, fif.training.batch_size) == (50, 7)
    assert fif.training.parameters == {"noise": 0.02, "beta": 3}
    assert fif.configuration == "beta=3"
    for model in ("fif", "beta_vae"):  # Pythae's class would ignore an unknown key
        with pytest.raises(ConfigError, match="unknown key 'betta': did you mean 'beta'"):
            make_tiny_plan(tmp_path, {"models": [model]}, models={model: {"fixed": {"betta": 2.0}}})


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            {"models": {"fif": {"fixed": [1]}}},
            r"model fif: fixed=\[1\]: should be a valid dict",
        ),
        ({"models": {"fif": {"grid": {"beta": [5, 5.0]}}}}, "none twice"),
        ({"num_samples": 9}, "profiles: tiny: num_samples=9"),
    ],
    ids=str,
)
def test_wrong_values_of_a_profile(tmp_path, profile, message):
    with pytest.raises(ConfigError, match=message):
        tiny_experiment(tmp_path, **profile)


def test_the_default_name_is_data_set_architecture_and_profile():
    assert load_experiment("mnist", {"profile": "quick"}).name == "mnist-resnet-quick"
    assert load_experiment("digits", {"epochs": 3}).profile_summary == "`quick` with epochs 3"
    assert load_experiment("mnist", {"name": "a/../../x"}).name == "a_.._.._x"


def test_a_latent_dimension_of_the_user_replaces_those_of_models(tmp_path):
    for flags, expected in (({}, [64, 512, 192]), ({"latent_dim": 32}, [32, 32, 32])):
        experiment = load_experiment("celeba", {**flags, "profile": "table2-quick"}, TABLE2)
        jobs = plan(experiment, fake_splits(3, 64, 64))
        latent_dims = {job.training.model: job.training.latent_dim for job in jobs}
        assert [*latent_dims.values()] == expected
    jobs = make_tiny_plan(tmp_path, {"models": ["ae", "svae"], "latent_dim": 64})
    assert [job.training.latent_dim for job in jobs] == [64, 32]


def test_a_file_equals_flags_and_flags_override_it(tmp_path):
    values = {"arch": "resnet", "latent_dim": 5, "models": ["fif", "vae"], "seeds": [1, 2],
              "beta": [3.0, 0.5], "hutchinson_samples": [2], "samplers": ["maf"],
              "extractor": "pixels", "epochs": 3}  # fmt: skip
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(values))
    assert load_experiment("digits", {}, file) == load_experiment("digits", values)
    experiment = load_experiment("digits", {"latent_dim": 6, "seeds": None}, file)
    assert (experiment.latent_dim, experiment.seeds) == (6, [1, 2])


def test_flags_override_the_profile_and_its_settings_for_single_models():
    flags = {"epochs": 3, "learning_rate": 0.5, "num_samples": 50, "batch_size": 7}
    splits = fake_splits(3, 64, 64)
    default = plan(load_experiment("celeba", {"profile": "table2-quick"}, TABLE2), splits)
    changed = plan(load_experiment("celeba", {"profile": "table2-quick", **flags}, TABLE2), splits)
    del flags["num_samples"]
    assert {job.scorings[0].num_samples for job in changed} == {50}
    for before, after in zip(default, changed, strict=True):
        expected = before.training.model_copy(update={**flags, "wall_clock": None})
        assert after.training == expected


def test_a_file_with_a_part_of_a_profile_keeps_its_other_keys(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("profiles: {quick: {wall_clock: 5s, learning_rate: 0.001}}")
    changes = {"wall_clock": 5, "epochs": None, "learning_rate": 0.001}
    default = load_experiment("digits", {}).active_profile.model_dump()
    assert load_experiment("digits", {}, file).active_profile.model_dump() == default | changes


def test_models_of_the_user_by_file(tmp_path):
    text = (configs_dir() / "models" / "vae.yaml").read_text()
    for name in ("mine", "ae"):
        (tmp_path / f"{name}.yaml").write_text(text.replace("VAE", "Mine", 1))
    experiment = load_experiment("digits", {"models": [str(tmp_path / "mine.yaml"), "vae"]})
    assert experiment.models == ["mine", "vae"]
    assert [experiment.entries[model].label for model in experiment.models] == ["Mine", "VAE"]
    with pytest.raises(ConfigError, match=r"has a model of this name: rename the file"):
        load_experiment("digits", {"models": [str(tmp_path / "ae.yaml")]})
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.yaml: No such file"):
        load_experiment("digits", {"models": ["nowhere.yaml"]})


def test_all_models_and_all_samplers():
    experiment = load_experiment("digits", {"models": ["all"], "samplers": ["all"]})
    assert experiment.samplers == list(SAMPLERS)
    left_out = {*list_configs("models")} - {*experiment.models}
    assert left_out == {
        "fif_conditional", "fif_coupling", "fif_coupling_on_manifold", "fif_on_manifold",
        "flow_matching", "rectangular_flow", "rectangular_flow_off_manifold",
        "rectangular_flow_published",
    }  # fmt: skip

    experiment = load_experiment("digits", {"models": ["all"], "samplers": ["two_stage"]})
    assert "vae" in experiment.models
    assert not {"fif", "svae"} & set(experiment.models)


def test_wrong_model_file(tmp_path):
    entry = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**entry, "samplers": ["normale"]}))
    with pytest.raises(ConfigError, match=r"^mine\.yaml: .*did you mean 'normal'"):
        read_entry(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("profiles: {quick: {epoch: 3}}", ["own.yaml", "quick", "'epoch'", "mean 'epochs'"]),
        ("profiles: {swift: {epochs: 3}}", ["own.yaml", "swift", "note: field required"]),
        ("profiles: 3", ["own.yaml", "profiles=3", "dict"]),
        ("profiles: {quick: {models: {beta-vae: {batch_size: 5}}}}", ["own.yaml", "'beta_vae'?"]),
        ("latent_dims: 5", ["own.yaml", "latent_dims=5", "dictionary"]),
        ("reader: 5", ["own.yaml: reader=5: a str is needed"]),
        ("latent_dims: {fiff: 3}", ["own.yaml: model 'fiff' is unknown", "did you mean 'fif'"]),
        ("models: [fi]", ["'fi' is unknown", "did you mean 'fif'"]),
        ("epoch: 5", ["own.yaml: unknown key 'epoch'", "did you mean 'epochs'"]),
        ("models: []", ["own.yaml", "models", "at least one"]),
        ("seeds: [1, 1]", ["own.yaml", "seeds", "none twice"]),
        ("models: [ae, ae]", ["own.yaml", "models", "none twice"]),
        ("arch: convnt", ["own.yaml", "arch='convnt'", "did you mean 'convnet'"]),
        ("profile: quic", ["own.yaml", "profile 'quic'", "did you mean 'quick'"]),
        ("beta: [3]\nmodels: [ae]", ["beta", "model fif"]),
        ("- a", ["own.yaml", "mapping"]),
        ("a: [", ["own.yaml", "not YAML"]),
        ("a: " + 5000 * "{b: " + 5000 * "}", ["own.yaml", "not YAML"]),
        ("models: &a [*a]", ["is not YAML", "Circular reference"]),
        ("latent_dim: 1" + 400 * "0", ["own.yaml", "less than or equal to 1000000000000000"]),
        ("latent_dim: 1" + 5000 * "0", ["own.yaml", "not YAML"]),
        (
            f"seeds: [{','.join(map(str, range(15_000)))}]",
            ["own.yaml: seeds", "at most 1000 items"],
        ),
        ("beta: [.inf]", ["own.yaml", "beta=inf: should be a finite number"]),
        (f"name: {100 * 'é'}", ["name='ééé", "at most 70 characters"]),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where_and_what(tmp_path, text, parts):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", {}, file)
    assert all(part in str(error.value) for part in parts)


def test_the_published_protocol_is_scored_by_inception_by_default(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extractor: pixels\n")
    for dataset in ("mnist", "cifar10", "celeba"):
        assert load_experiment(dataset, {}).extractor == "inception"
        assert load_experiment(dataset, {"extractor": "pixels"}).extractor == "pixels"
        quick = load_experiment(dataset, {"profile": "quick"}).extractor
        assert quick == ("classifier" if dataset == "mnist" else "efficientnet-lite0")
        assert load_experiment(dataset, {}, file).extractor == "pixels"


@pytest.mark.parametrize("model", ["fif", "vaegan"])
@pytest.mark.parametrize(
    ("change", "schedule", "parameters"),
    [
        ({"plateau_factor": None}, None, None),
        ({"plateau_factor": 0.5}, "ReduceLROnPlateau", {"factor": 0.5, "patience": 10}),
        ({"one_cycle": True}, "OneCycleLR", {"max_lr": 3e-3}),
    ],
)
def test_the_profile_sets_the_optimizers(tmp_path, model, change, schedule, parameters):
    profile = {"batch_size": 7, "learning_rate": 3e-3, "weight_decay": 0.1, **change}
    (job, *_) = make_tiny_plan(tmp_path, {"models": [model]}, **profile)
    config = training_config(job.training)
    assert config.per_device_train_batch_size == 7
    assert config.per_device_eval_batch_size == 7
    assert config.seed == job.training.seed
    assert config.num_epochs == job.training.epochs

    prefixes = {"fif": [""], "vaegan": ["encoder_", "decoder_", "discriminator_"]}
    for prefix in prefixes[model]:
        assert getattr(config, f"{prefix}learning_rate") == 3e-3
        assert getattr(config, f"{prefix}optimizer_params") == {"weight_decay": 0.1}
        assert getattr(config, f"{prefix}scheduler_cls") == schedule
        assert getattr(config, f"{prefix}scheduler_params") == parameters


def test_one_cycle_ends_with_the_training(tmp_path):
    (job,) = make_tiny_plan(tmp_path, one_cycle=True, epochs=2, learning_rate=1e-2)
    execute_run(job, Store(tmp_path))
    rows = read(Store(tmp_path), job).training.result.log
    rates = [row.learning_rates["learning_rate"] for row in rows]
    assert rates[0] > 1e-3 > 1e-6 > rates[1]  # four steps, after the second and the last one
    with pytest.raises(ConfigError, match="one_cycle needs epochs or steps, and no wall_clock"):
        tiny_experiment(tmp_path, {"wall_clock": "1min"}, one_cycle=True)


@pytest.mark.parametrize("name", ARCHIVED)
def test_the_protocols_of_tables_match_table_five(name):
    cells = read_published_table(5).query("dataset == @name").set_index("metric").text.astype(float)
    paper, released = (
        load_experiment(name, {"profile": profile}) for profile in ("paper", "released")
    )
    assert paper.latent_dim == cells["latent_dim"]
    assert paper.active_profile.epochs == cells["epochs"]
    assert paper.active_profile.learning_rate == (3e-4 if name == "hepmass" else 1e-4)
    assert released.active_profile.epochs == cells["epochs"] / 5
    assert released.active_profile.learning_rate == 3e-4


@pytest.mark.parametrize("name", ARCHIVED)
def test_tables_one_and_six_share_runs_and_have_the_profiles_of_the_data(name):
    """Their pages compare what has trained in the same way."""
    trainings = []
    for table in ("table1", "table6"):
        file = configs_dir() / f"experiments/{table}.yaml"
        experiment = load_experiment(name, {"seeds": [0]}, file)
        jobs = plan(experiment, fake_splits(30))
        assert len(jobs) == len(experiment.models)
        trainings.append({job.training.model: job.training for job in jobs})
        assert all(job.training.wall_clock == 300 for job in jobs)

        paper = load_experiment(name, {"profile": "paper", "arch": "tabular_relu"}, file)
        assert paper.active_profile == load_experiment(name, {"profile": "paper"}).active_profile
    first, second = trainings
    shared_models = first.keys() & second.keys()
    assert shared_models == {"fif", "rectangular_flow"}
    assert all(first[model] == second[model] for model in shared_models)


@pytest.mark.parametrize(
    "text", ["profiles: &p\n  a: *p\n", "profiles:\n  p: &p\n    note: x\n    self: *p\n"]
)
def test_a_file_that_contains_itself_is_one_line(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml is not YAML: ValueError: Circular"):
        read_yaml(tmp_path / "mine.yaml")
