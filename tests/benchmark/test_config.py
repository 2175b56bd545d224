"""The configuration of the benchmark: YAML files, flags and what is refused of them."""

import math
import types

import pytest
import torch
import yaml
from pythae.data.datasets import DatasetOutput
from support.experiments import tiny

from pythae_fif.benchmark.config import experiment_file, load_experiment
from pythae_fif.benchmark.model_entry import ModelEntry, all_models, read_model_entry
from pythae_fif.benchmark.plan import Announced, build_model, expand
from pythae_fif.benchmark.run import training_config
from pythae_fif.benchmark.yaml_files import configs_dir, names_in
from pythae_fif.errors import ConfigError
from pythae_fif.sampling import SAMPLERS
from pythae_fif.validation import parse_duration


class TestConfig:
    @pytest.mark.parametrize("name", names_in())
    def test_every_data_set_loads_with_each_profile(self, name):
        for profile in load_experiment(name, None, {}).profiles:
            assert load_experiment(name, None, {"profile": profile}).settings.epochs >= 1
            if name == "csv":  # table 2 is of images
                continue
            table2 = load_experiment(name, experiment_file(2), {})
            assert table2.models == ["fif", "dnf", "trumpet"]
            assert table2.settings.settings_of("fif").wall_clock == 5 * 3600

    @pytest.mark.parametrize(("name", "arch"), [("digits", "tabular"), ("csv", "resnet")])
    def test_architectures_fit_their_data(self, name, arch):
        with pytest.raises(ConfigError, match="arch tabular is for tables"):
            load_experiment(name, None, {"arch": arch})

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("5h", 18000),
            ("1h30m", 5400),
            ("10min", 600),
            ("90s", 90),
            ("1.5h", 5400),
            ("1m 5s", 65),
        ],
    )
    def test_durations(self, text, seconds):
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize("text", ["", "5", "h", "0s", "-5h", "5d", "5h5", "1.2.3s", "5s5h"])
    def test_no_durations(self, text):
        with pytest.raises(ConfigError, match="is no duration"):
            parse_duration(text)

    def test_wall_clock_takes_the_place_of_epochs(self, tmp_path):
        experiment, splits = tiny(tmp_path, {"wall_clock": "90s"})
        (spec,) = expand(experiment, splits)
        assert spec.settings.wall_clock == 90 and "epochs" not in spec.settings.to_dict()
        ids = [
            expand(*tiny(tmp_path, {"wall_clock": text}))[0].run_id
            for text in ("90s", "1m30s", "91s")
        ]
        assert ids[0] == spec.run_id == ids[1] != ids[2]
        with pytest.raises(ConfigError, match="--wall-clock '90': '90' is no duration"):
            tiny(tmp_path, {"wall_clock": "90"})
        with pytest.raises(ConfigError, match="give epochs, or wall_clock"):
            tiny(tmp_path, wall_clock="90s")

    def test_runs_from_before_the_wall_clock_have_their_ids(self):
        settings = load_experiment("digits", None, {}).settings.settings_of("fif").to_dict()
        assert not {"wall_clock", "weight_decay", "models"} & set(settings)

    def test_settings_and_grid_of_one_model(self, tmp_path):
        of_fif = {"fif": {"batch_size": 7, "grid": {"beta": [3]}, "fixed": {"noise": 0.02}}}
        plan = expand(*tiny(tmp_path, {"models": ["ae", "fif"]}, models=of_fif))
        assert [spec.settings.batch_size for spec in plan] == [50, 7]
        assert plan[1].parameters == {"noise": 0.02, "beta": 3}
        with pytest.raises(ConfigError, match="unknown key 'epoch'"):
            tiny(tmp_path, models={"fif": {"epoch": 7}})
        for model in ("fif", "beta_vae"):  # Pythae's own class drops what it does not know
            experiment = tiny(
                tmp_path, {"models": [model]}, models={model: {"fixed": {"betta": 2.0}}}
            )
            with pytest.raises(ConfigError, match="unknown key 'betta': did you mean 'beta'"):
                expand(*experiment)
        with pytest.raises(ConfigError, match="models='fiff': did you mean 'fif'"):
            tiny(tmp_path, models={"fiff": {"batch_size": 7}})

    @pytest.mark.parametrize(
        ("profile", "message"),
        [
            ({"models": {"ae": {"batch_size": "abc"}}}, "ae: batch_size='abc': a whole number is"),
            ({"models": {"ae": {"batch_size": 0}}}, "models: ae: batch_size=0: at least 1"),
            ({"models": {"ae": {"learning_rate": -1}}}, "ae: learning_rate=-1: above 0 is needed"),
            ({"models": {"ae": {"weight_decay": "x"}}}, "weight_decay='x': a number is needed"),
            ({"models": {"fif": {"fixed": [1]}}}, r"fif: fixed=\[1\]: a mapping is needed"),
            ({"models": {"fif": {"grid": [1]}}}, r"fif: grid=\[1\]: a mapping is needed"),
            ({"models": {"fif": {"grid": {"beta": 5}}}}, "grid: beta=5: a list is needed"),
            ({"models": {"fif": {"grid": {"beta": []}}}}, r"grid: beta=\[\]: give at least one"),
            ({"models": {"fif": {"grid": {"beta": [5, 5.0]}}}}, "none twice"),
            ({"weight_decay": -1.0}, "weight_decay=-1.0: at least 0"),
            ({"learning_rate": math.nan}, "learning_rate=nan"),
        ],
        ids=str,
    )
    def test_wrong_values_of_a_profile(self, tmp_path, profile, message):
        with pytest.raises(ConfigError, match=message):
            tiny(tmp_path, **profile)

    def test_profile_that_is_no_name(self, tmp_path):
        with pytest.raises(ConfigError, match=r"--profile \['quick'\]: a text is needed"):
            load_experiment("digits", None, {"profile": ["quick"]})

    def test_numbers_without_a_point_are_numbers(self, tmp_path):
        file = tmp_path / "own.yaml"
        file.write_text(
            "profile: p\nprofiles: {p: {note: n, epochs: 1, batch_size: 50, learning_rate: 1e-3, "
            "num_samples: 20, models: {fif: {grid: {beta: [2e-1, 1E+1]}}}}}"
        )
        settings = load_experiment("digits", file, {}).settings
        assert settings.learning_rate == 1e-3
        assert settings.of("fif").grid == {"beta": [0.2, 10.0]}

    def test_what_is_not_usual_is_in_the_name(self, tmp_path):
        usual = load_experiment("mnist", None, {"profile": "quick"})
        assert usual.name == "mnist-resnet-quick"
        flags = {"profile": "quick", "latent_dim": 3, "extractor": "pixels", "wall_clock": "5 h"}
        assert load_experiment("mnist", None, flags).name == "mnist-resnet-quick-5h-d3-pixels"
        usual = {"profile": "quick", "latent_dim": load_experiment("cifar10", None, {}).latent_dim}
        named = load_experiment("cifar10", None, usual).name  # which DNF and Trumpet have then, too
        assert named == f"cifar10-resnet-quick-d{usual['latent_dim']}"
        (tmp_path / "own.yaml").write_text("latent_dims: {dnf: 512}")
        own = load_experiment("cifar10", tmp_path / "own.yaml", {"profile": "quick"})
        assert own.name == f"cifar10-resnet-quick-trumpet-d{own.latent_dim}"
        own = load_experiment("cifar10", tmp_path / "own.yaml", {"latent_dim": 7})
        assert own.latent_dim_of("dnf") == own.latent_dim_of("fif") == 7
        table = {"data": "/some/v1.0.parquet", "missing": "impute"}
        assert load_experiment("csv", None, table).name.startswith("csv-v1.0.parquet-tabular-")
        assert load_experiment("csv", None, table).name.endswith("-impute")
        own = {"data": "/some/My faces.npz", "profile": "quick", "image_size": 32}
        assert load_experiment("npz", None, own).name.startswith("npz-My_faces-")
        assert load_experiment("npz", None, own).name.endswith("-32px")

    @pytest.mark.parametrize(
        ("profile", "changed", "name"),
        [
            ("quick", {}, "digits-convnet-quick"),
            ("quick", {"epochs": 3}, "digits-convnet-quick-own"),
            ("mine", {"epochs": 3}, "digits-convnet-mine"),
            ("table2", {}, "digits-convnet-table2"),
            ("table2", {"crop": 100}, "digits-convnet-table2-own"),
        ],
    )
    def test_a_profile_of_your_own_takes_no_name_of_the_package(self, profile, changed, name):
        """Its tables would replace the others."""
        file = experiment_file(2) if profile == "table2" else None
        usual = load_experiment("digits", file, {"arch": "convnet"})
        values = usual.profiles.get(profile, usual.settings).model_copy(update=changed)
        own = usual.model_copy(update={"profile": profile, "profiles": {profile: values}})
        assert own.name == name

    def test_latent_dimension_by_model_unless_one_is_given(self, tmp_path):
        for flags, expected in (({}, [64, 512, 192]), ({"latent_dim": 32}, [32, 32, 32])):
            experiment = load_experiment("celeba", experiment_file(2), {**flags, "seeds": [0]})
            faces = types.SimpleNamespace(input_dim=(3, 32, 32), content_hash="0" * 16)
            dims = dict.fromkeys((s.model, s.latent_dim) for s in expand(experiment, faces))
            assert [dim for _, dim in dims] == expected

    @pytest.mark.parametrize("name", sorted({*names_in("models")} - {"fif_conditional"}))
    def test_every_model_builds_and_has_a_training_configuration(self, name):
        flags = {"models": [name], "profile": "full", "latent_dim": 8}
        images = types.SimpleNamespace(input_dim=(1, 8, 8), content_hash="0" * 16)
        plan = expand(load_experiment("digits", None, flags), images)
        assert len(plan) in (1, 10)
        assert len({repr(spec.parameters) for spec in plan}) == len(plan)
        for spec in plan:
            model = build_model(spec, (1, 8, 8))
            assert model.latent_dim == 8
            for key in spec.varied:
                assert getattr(model.model_config, key) == spec.parameters[key]
            assert training_config(spec).num_epochs == spec.settings.epochs

    def test_every_model_of_all_takes_rows(self):
        """Their encoders give what the model asks for: a step of each is finite."""
        flags = {"models": ["all"], "data": "mine.csv", "latent_dim": 2}
        experiment = load_experiment("csv", None, flags)
        first = {spec.model: spec for spec in expand(experiment, Announced((4,)))}
        assert len(first) == 24
        rows = DatasetOutput(data=torch.randn(6, 4), labels=torch.ones(6))
        for spec in first.values():
            torch.manual_seed(0)
            output = build_model(spec, (4,))(rows, epoch=1, dataset_size=6)
            assert torch.isfinite(torch.as_tensor(output.loss)), spec.model

    def test_fif_grid_is_the_paper_s(self):
        grid = read_model_entry("fif").choices()
        assert {(g["beta"], g["hutchinson_samples"]) for g in grid} == {
            (beta, k) for beta in (5, 10, 15, 20, 25) for k in (1, 2)
        }

    def test_file_equals_flags(self, tmp_path):
        values = {"arch": "resnet", "latent_dim": 5, "models": ["fif", "vae"], "seeds": [1, 2],
                  "beta": [3.0, 0.5], "hutchinson_samples": [2], "samplers": ["maf"],
                  "extractor": "pixels"}  # fmt: skip
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump(values))
        assert load_experiment("digits", file, {}) == load_experiment("digits", None, values)

    def test_flags_go_over_the_file_and_none_is_not_given(self, tmp_path):
        file = tmp_path / "own.yaml"
        file.write_text("latent_dim: 5\nseeds: [3]\n")
        experiment = load_experiment("digits", file, {"latent_dim": 6, "seeds": None})
        assert (experiment.latent_dim, experiment.seeds) == (6, [3])

    def test_flags_go_over_the_profile_and_over_what_it_has_for_one_model(self):
        flags = {"epochs": 3, "learning_rate": 0.5, "num_samples": 50, "train_size": 60}
        usual = load_experiment("celeba", experiment_file(2), {"profile": "table2-quick"})
        given = load_experiment(
            "celeba", experiment_file(2), {"profile": "table2-quick", **flags, "batch_size": 7}
        )
        for model in usual.models:
            before, after = (e.settings.settings_of(model).to_dict() for e in (usual, given))
            assert after.pop("wall_clock", None) is None and before.pop("wall_clock") is not None
            assert after == before | flags | {"batch_size": 7}
            assert given.settings.of(model).grid == usual.settings.of(model).grid
        assert given.name.endswith("-epochs3-batchsize7-learningrate0.5-trainsize60-numsamples50")
        with pytest.raises(ConfigError, match=r"^epochs \(--epochs\) and wall_clock .*: give one"):
            load_experiment("digits", None, {"epochs": 3, "wall_clock": "5s"})

    def test_a_part_of_a_profile_keeps_the_rest(self, tmp_path):
        file = tmp_path / "own.yaml"
        usual = load_experiment("digits", None, {}).settings.model_dump()
        for text, changed in (
            ("{epochs: 3}", {"epochs": 3}),
            (
                "{wall_clock: 5s, batch_size: 7}",
                {"wall_clock": "5s", "epochs": None, "batch_size": 7},
            ),
        ):
            file.write_text(f"profiles: {{quick: {text}}}")
            assert load_experiment("digits", file, {}).settings.model_dump() == usual | changed

    def own_data_set(self, folder, monkeypatch, **changes):
        """A data set `mine` like digits; a key whose change is None is left out."""
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", str(folder))
        values = yaml.safe_load((configs_dir() / "digits.yaml").read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (folder / "mine.yaml").write_text(yaml.safe_dump(kept))

    @pytest.mark.parametrize(
        "key",
        ["description", "arch", "latent_dim", "extractor", "profile", "profiles"],
    )
    def test_a_key_that_a_data_set_lacks_is_named(self, tmp_path, monkeypatch, key):
        self.own_data_set(tmp_path, monkeypatch, **{key: None})
        (tmp_path / "own.yaml").write_text("profiles: {quick: {epochs: 3}}")
        with pytest.raises(ConfigError, match=rf"^mine\.yaml: key '{key}' is missing$"):
            load_experiment("mine", None, {})
        if key != "profiles":
            with pytest.raises(ConfigError, match=rf"own\.yaml: key '{key}' is missing$"):
                load_experiment("mine", tmp_path / "own.yaml", {})

    def test_a_key_that_a_data_set_lacks_may_be_given(self, tmp_path, monkeypatch):
        self.own_data_set(tmp_path, monkeypatch, latent_dim=None, extractor=None)
        given = load_experiment("mine", None, {"latent_dim": 3, "extractor": "pixels"})
        assert given.name == "mine-convnet-quick-d3-pixels"

    @pytest.mark.parametrize("profiles", [3, {"quick": 3}])
    def test_profiles_of_a_data_set_that_are_no_mapping(self, tmp_path, monkeypatch, profiles):
        self.own_data_set(tmp_path, monkeypatch, profiles=profiles)
        (tmp_path / "own.yaml").write_text("profiles: {quick: {epochs: 3}}")
        for file in (None, tmp_path / "own.yaml"):
            with pytest.raises(ConfigError, match=r"profiles.*(is needed|is missing)"):
                load_experiment("mine", file, {})

    def test_own_models_by_file_and_by_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", str(tmp_path))
        (tmp_path / "models").mkdir()
        text = (configs_dir() / "models" / "vae.yaml").read_text()
        (tmp_path / "models" / "mine.yaml").write_text(text.replace("VAE", "Mine", 1))
        (tmp_path / "single.yaml").write_text(text.replace("VAE", "Single", 1))
        (tmp_path / "ae.yaml").write_text(text)
        flags = {"models": ["mine", str(tmp_path / "single.yaml"), "vae"]}
        experiment = load_experiment("digits", None, flags)
        assert experiment.models == ["mine", "single", "vae"]
        assert [read_model_entry(m).label for m in experiment.models] == ["Mine", "Single", "VAE"]
        assert {"mine", "single"} <= set(names_in("models"))
        assert load_experiment("digits", None, flags) == experiment
        flags = {
            "models": [str(configs_dir() / "models/vae.yaml"), str(tmp_path / "models/mine.yaml")]
        }
        assert load_experiment("digits", None, flags).models == ["vae", "mine"]  # known already
        with pytest.raises(ConfigError, match=r"'ae' is a model already: rename the file"):
            load_experiment("digits", None, {"models": [str(tmp_path / "ae.yaml")]})
        with pytest.raises(ConfigError, match=r"--models nowhere\.yaml: no such file"):
            load_experiment("digits", None, {"models": ["nowhere.yaml"]})

    def test_a_model_without_any_of_the_samplers_is_refused_or_left_out(self):
        images = types.SimpleNamespace(input_dim=(1, 8, 8), content_hash="0" * 16)
        flags = {"models": ["vae", "fif"], "samplers": ["two_stage"]}
        with pytest.raises(ConfigError, match="two_stage: model fif has none of them; it has nor"):
            expand(load_experiment("digits", None, flags), images)
        every = load_experiment("digits", None, {**flags, "models": ["all"]}).models
        assert "vae" in every and not {"fif", "svae"} & set(every)

    def test_all_models_and_all_samplers(self):
        experiment = load_experiment("digits", None, {"models": ["all"], "samplers": ["all"]})
        assert experiment.models == all_models()
        assert {*names_in("models")} - {*all_models()} == {
            "fif_conditional",
            "fif_plus",
            "rhvae",
        }  # in no committed table
        assert experiment.samplers == list(SAMPLERS)

    @pytest.mark.parametrize(
        ("model", "asked", "expected"),
        [
            ("ae", ["normal", "gmm"], ["normal", "gmm"]),
            ("ae", ["gmm", "two_stage"], ["gmm"]),
            ("vae", ["two_stage", "maf"], ["two_stage", "maf"]),
            ("vamp", ["normal", "gmm"], ["vamp", "gmm"]),
            ("vamp", ["normal", "vamp"], ["vamp"]),
            ("svae", ["gmm", "maf"], []),
            ("poincare_vae", ["normal"], ["poincare"]),
            ("vqvae", list(SAMPLERS), ["normal", "gaussian", "gmm", "pixelcnn"]),
            ("vqvae_spatial", ["normal", "gmm"], ["pixelcnn"]),
        ],
    )
    def test_a_model_gets_the_samplers_that_make_sense_for_it(self, model, asked, expected):
        assert read_model_entry(model).samplers_of(asked) == expected

    @pytest.mark.parametrize(("variational", "more"), [(False, []), (True, ["two_stage"])])
    def test_what_a_model_file_leaves_out(self, variational, more):
        required = {"label": "A", "model": "a.A", "config": "a.AConfig", "source": "ours"}
        entry = ModelEntry(**required, variational=variational)
        assert entry.trainer == "pythae.trainers.BaseTrainerConfig"
        assert entry.samplers == ["normal", "gaussian", "gmm", "maf", "iaf", *more]
        assert ModelEntry(**required).variational is False
        for key in required:
            with pytest.raises(ConfigError, match=f"key '{key}' is missing"):
                ModelEntry(**{name: required[name] for name in required if name != key})

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            ({"samplers": ["normale"]}, "did you mean 'normal'"),
            ({"samplers": []}, "at least one"),
            ({"configurations": [{"a": 1}], "grid": {"a": [1]}}, "not both"),
            ({"fixed": {"a": 1}, "grid": {"a": [2]}}, "a is in fixed and in grid"),
            ({"notes": "one"}, "notes='one': a list is needed"),
        ],
    )
    def test_bad_model_file(self, tmp_path, monkeypatch, change, part):
        (tmp_path / "models").mkdir()
        good = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
        (tmp_path / "models" / "ae.yaml").write_text(yaml.safe_dump({**good, **change}))
        monkeypatch.setattr("pythae_fif.benchmark.yaml_files.configs_dir", lambda: tmp_path)
        with pytest.raises(ConfigError, match=rf"^{tmp_path}/models/ae\.yaml: ") as error:
            read_model_entry("ae")
        assert part in str(error.value)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("latent_dimm: 3", ["own.yaml", "'latent_dimm'", "did you mean 'latent_dim'"]),
            ("profiles: {quick: {epoch: 3}}", ["own.yaml", "quick", "'epoch'", "mean 'epochs'"]),
            ("profiles: {swift: {epochs: 3}}", ["own.yaml", "swift", "'batch_size' is missing"]),
            (
                "profiles: {quick: {models: {ae: {fixed: {a: 1}, grid: {a: [2]}}}}}",
                ["own.yaml", "a is in fixed and in grid"],
            ),
            ("profiles: 3", ["own.yaml", "profiles", "mapping", "3"]),
            ("profiles: {quick: 3}", ["own.yaml", "quick", "mapping"]),
            ("latent_dim: .nan", ["own.yaml", "latent_dim=nan", "whole number"]),
            ("latent_dim: .inf", ["own.yaml", "latent_dim=inf", "whole number"]),
            ("latent_dim: 0", ["own.yaml", "latent_dim=0", "at least 1"]),
            ("image_size: 0", ["own.yaml", "image_size=0", "at least 1"]),
            ("models: fif", ["own.yaml", "models", "list", "'fif'"]),
            ("models: [fi]", ["own.yaml", "models='fi'", "did you mean 'fif'"]),
            ("models: []", ["own.yaml", "models", "at least one"]),
            ("{models: [all], samplers: 3}", ["own.yaml", "samplers=3", "list"]),
            ("{models: [all], samplers: gmm}", ["own.yaml", "samplers='gmm'", "list"]),
            ("seeds: [1, 1]", ["own.yaml", "seeds", "none twice"]),
            ("seeds: [-1]", ["own.yaml", "seeds=-1", "at least 0"]),
            ("arch: convnt", ["own.yaml", "arch='convnt'", "did you mean 'convnet'"]),
            ("extractor: pixel", ["own.yaml", "extractor='pixel'", "did you mean 'pixels'"]),
            ("samplers: [normale]", ["own.yaml", "'normale'", "did you mean 'normal'"]),
            ("profile: quic", ["own.yaml", "profile='quic'", "did you mean 'quick'"]),
            ("dataset: mnist", ["own.yaml", "'mnist'", "'digits'"]),
            ("beta: [3]\nmodels: [ae]", ["own.yaml", "beta=[3]", "model fif"]),
            ("- a", ["own.yaml", "mapping"]),
            ("", ["own.yaml", "mapping"]),
            ("a: [", ["own.yaml", "not YAML"]),
            ("a: 2020-13-45", ["own.yaml", "not YAML"]),
            ("models: [all]\nsamplers: [{a: b}]", ["own.yaml", "samplers"]),
        ],
    )
    def test_bad_file_is_one_line_that_says_where_and_what(self, tmp_path, text, parts):
        file = tmp_path / "own.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_experiment("digits", file, {})
        message = str(error.value)
        assert "\n" not in message
        for part in parts:
            assert part in message

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("epochs", 0), ("batch_size", 0), ("num_samples", 9), ("train_size", 9),
            ("val_size", 0), ("test_size", -1), ("configurations", 0), ("learning_rate", 0.0),
            ("learning_rate", math.nan), ("plateau_factor", 1.0), ("plateau_patience", -1),
        ],
    )  # fmt: skip
    def test_profile_values_out_of_range(self, tmp_path, key, value):
        with pytest.raises(ConfigError, match=f"profiles: tiny: {key}={value}"):
            tiny(tmp_path, **{key: value})

    def test_own_profile_is_added_to_those_of_the_data_set(self, tmp_path):
        experiment, _ = tiny(tmp_path)
        assert set(experiment.profiles) == {"quick", "full", "tiny"}

    @pytest.mark.parametrize(
        ("model", "fixed", "message"),
        [
            ("vae", {"reconstruction_loss": "x"}, "reconstruction_loss='x': valid: bce, mse"),
            ("vqvae", {"num_embeddings": [1]}, r"num_embeddings=\[1\]: a whole number is needed"),
            ("ciwae", {"beta": 3.0}, r"Beta parameter must be in \[0-1\]. Got 3.0."),
        ],
    )
    def test_values_that_a_class_of_pythae_does_not_take(
        self, tmp_path, monkeypatch, model, fixed, message
    ):
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
        good = yaml.safe_load((configs_dir() / "models" / f"{model}.yaml").read_text())
        good["grid"] = {key: of for key, of in good["grid"].items() if key not in fixed}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**good, "fixed": fixed}))
        flags = {"models": [str(tmp_path / "mine.yaml")], "samplers": ["gmm"]}
        with pytest.raises(ConfigError, match=rf"^models/mine\.yaml: {message}$"):
            expand(load_experiment("digits", None, flags), Announced((1, 8, 8)))

    @pytest.mark.parametrize(
        ("name", "wrong", "said"),
        [
            ("right", "0", None),
            ("sizes", "torch.ones(2) @ torch.ones(3)", "inconsistent tensor size"),
            ("names", "small", "name 'small' is not defined"),
        ],
    )
    def test_networks_that_read_numbers_of_a_tensor(self, tmp_path, monkeypatch, name, wrong, said):
        """Which a plan builds without weights, where that can be."""
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / f"reading_nets_{name}.py").write_text(
            "import torch\nfrom pythae_fif.nn import build_networks\n"
            "def nets(arch, shape, latent_dim):\n"
            "    rates = torch.linspace(0, 1, 3).tolist()\n"
            f"    rates = rates[0] + ({wrong})\n"
            "    return build_networks(arch, shape, latent_dim)\n"
        )
        good = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
        of_mine = {**good, "networks": f"reading_nets_{name}.nets"}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(of_mine))
        experiment = load_experiment("digits", None, {"models": [str(tmp_path / "mine.yaml")]})
        if said is None:
            assert expand(experiment, Announced((1, 8, 8)))
            return
        with pytest.raises(ConfigError, match=rf"^models/mine\.yaml: {said}"):
            expand(experiment, Announced((1, 8, 8)))

    @pytest.mark.parametrize("key", ["model", "config", "trainer", "networks", "discriminator"])
    def test_model_file_with_a_class_that_is_not_there(self, tmp_path, monkeypatch, key):
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
        good = yaml.safe_load((configs_dir() / "models" / "ae.yaml").read_text())
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**good, key: "pythae.models.AEE"}))
        flags = {"models": [str(tmp_path / "mine.yaml")]}
        message = rf"^mine\.yaml: {key}: cannot import 'pythae\.models\.AEE'"
        with pytest.raises(ConfigError, match=message):
            expand(load_experiment("digits", None, flags), Announced((1, 8, 8)))

    def test_configs_of_a_wheel_lie_inside_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pythae_fif.__file__", str(tmp_path / "pythae_fif" / "__init__.py"))
        assert configs_dir() == tmp_path / "pythae_fif" / "configs"


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "celeba"])
def test_published_protocol_is_scored_by_inception_unless_another_is_named(dataset, tmp_path):
    def extractor(**flags):
        return load_experiment(dataset, None, flags).extractor

    assert extractor() == "inception"
    assert extractor(extractor="pixels") == "pixels"
    assert extractor(profile="quick") in ("classifier", "efficientnet-lite0")
    file = tmp_path / "mine.yaml"
    file.write_text("extractor: pixels\n")
    assert load_experiment(dataset, file, {}).extractor == "pixels"


def test_what_the_authors_code_and_appendix_e3_have_and_the_committed_runs_have_not():
    def settings(dataset, profile):
        flags = {"profile": profile}
        file = experiment_file(2) if profile.startswith("table2") else None
        return load_experiment(dataset, file, flags).settings.settings_of("fif").to_dict()

    for profile in ("paper", "table2"):
        assert settings("celeba", profile)["crop"] == 140
        assert "crop" not in settings("mnist", profile)
    for profile in ("quick", "medium", "table2-quick"):
        assert "crop" not in settings("celeba", profile)
    assert settings("celeba", "table2")["plateau_factor"] is None
    assert settings("celeba", "paper")["plateau_factor"] == 0.5
    fif = load_experiment("celeba", experiment_file(2), {}).settings.of("fif")
    assert fif.fixed["latent_distribution"] == "multivariate_student_t"


@pytest.mark.parametrize("model", ["fif", "vaegan"])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_the_optimizers_are_those_of_the_profile(tmp_path, model, factor):
    profile = {"batch_size": 7, "learning_rate": 3e-3, "weight_decay": 0.1}
    profile |= {"plateau_factor": factor, "plateau_patience": 4}
    spec = expand(*tiny(tmp_path, {"models": [model]}, **profile))[0]
    config = training_config(spec)
    assert config.per_device_train_batch_size == config.per_device_eval_batch_size == 7
    assert (config.seed, config.num_epochs) == (spec.seed, spec.settings.epochs)
    parts = {"fif": [""], "vaegan": ["encoder_", "decoder_", "discriminator_"]}[model]
    for part in parts:
        given = {
            key: getattr(config, part + key)
            for key in ("learning_rate", "optimizer_params", "scheduler_cls", "scheduler_params")
        }
        schedule = None if factor is None else "ReduceLROnPlateau"
        assert given == {
            "learning_rate": 3e-3,
            "optimizer_params": {"weight_decay": 0.1},
            "scheduler_cls": schedule,
            "scheduler_params": schedule and {"factor": 0.5, "patience": 4},
        }


def test_no_name_of_a_profile_leads_out_of_the_folder(tmp_path):
    quick = load_experiment("digits", None, {}).profiles["quick"].model_dump(exclude_none=True)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"profiles": {"a/../../x": quick}}))
    experiment = load_experiment("digits", tmp_path / "own.yaml", {"profile": "a/../../x"})
    assert experiment.name == "digits-convnet-a_.._.._x"
