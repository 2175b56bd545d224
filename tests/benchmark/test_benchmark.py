"""The benchmark's parts: configuration, plan, store, selection, one run, and the engine."""

import builtins
import dataclasses
import json
import math
import platform
import random
import shutil
import statistics
import subprocess
import types

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pythae.models import AE
from pythae_fif.runs.records import is_intact, is_whole, seal
from support.experiments import ENVIRONMENT, PROFILE, tiny

import pythae_fif.benchmark.plan as plan_module
import pythae_fif.benchmark.run as run_module
import pythae_fif.runs.provenance as provenance_module
import pythae_fif.sampling.samplers as samplers_module
from pythae_fif.benchmark import RunSpec, Store, execute, expand, load_experiment, select
from pythae_fif.benchmark.config import experiment_file
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.benchmark.plan import SCHEMA
from pythae_fif.errors import ConfigError, FIFError, NonFiniteError, StoreError
from pythae_fif.files import read_json
from pythae_fif.reports import build_report
from pythae_fif.reports.published_tables import table2
from pythae_fif.runs.provenance import git_state, provenance

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec_of(**changes) -> RunSpec:
    base = RunSpec(
        dataset="digits", arch="convnet", model="fif",
        parameters={"beta": 10.0, "hutchinson_samples": 1},
        varied=("beta", "hutchinson_samples"), latent_dim=8, image_size=None, seed=0,
        extractor="pixels", samplers=("normal", "gmm"), profile="tiny",
        settings=dict(PROFILE), data_hash="0123456789abcdef",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def record_of(spec: RunSpec, distances: dict[str, tuple[float, float]] | None = None) -> dict:
    """A record with given (validation, test) distances of each sampler."""
    distances = distances or {}
    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "scores": {
            sampler: {
                "frechet": dict(zip(("val", "test"), distances.get(sampler, (1, 2)), strict=True)),
                "score": None,
            }
            for sampler in spec.samplers
        },
        "reconstruction_mse": {"val": 0.1, "test": 0.2},
        "training": {"seconds": 3.0},
        "parameters": 7,
        "data": {},
        "provenance": {},
    }


def test_table_2_trains_and_scores_all_its_models(tmp_path):
    flags = {"profile": "table2-quick", "wall_clock": "0.2s", "seeds": [0]}
    flags["extractor"] = "pixels"
    experiment = load_experiment("digits", experiment_file(2), flags)
    sizes = {"num_samples": 20, "val_size": 20, "test_size": 20, "epochs": None}
    tiny_settings = experiment.settings.model_copy(update=sizes)
    experiment = experiment.model_copy(update={"profiles": {"table2-quick": tiny_settings}})
    splits = load_splits(experiment, ENVIRONMENT, vars(experiment.settings))
    plan, store = expand(experiment, splits), Store(tmp_path)
    results = [(spec, execute(store.prepare(spec, ENVIRONMENT))) for spec in plan]
    for spec, record in results:
        assert set(record["scores"]) == {"normal", "gmm"}
        assert 0.2 <= record["training"]["train_seconds"] < 20
        assert spec.settings["wall_clock"] == 0.2
    report = build_report(experiment, results, "c")
    grid = table2(experiment, results, report)
    assert [row[0].text.split()[0] for row in grid.rows] == ["DNF", "Trumpet", "FIF"]
    assert "FID published ↓" not in " ".join(grid.headings)


CHANGED = {
    "dataset": "mnist", "arch": "resnet", "model": "vae",
    "parameters": {"beta": 10.5, "hutchinson_samples": 1}, "varied": ("beta",),
    "latent_dim": 9, "image_size": 64, "seed": 1, "extractor": "classifier",
    "profile": "other", "data_hash": "0123456789abcdee",
    "settings": {**PROFILE, "epochs": 2},
}  # fmt: skip


class TestPlan:
    def test_a_run_has_one_id_however_it_is_asked_for(self):
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

    def test_order_overrides_and_seeds(self, tmp_path):
        flags = {"models": ["ae", "fif"], "beta": [3.0, 1.0, 2.0], "seeds": [4, 5]}
        plan = expand(*tiny(tmp_path, flags, configurations=1))
        assert [s.model for s in plan] == ["ae"] * 2 + ["fif"] * 12
        assert [s.seed for s in plan[:4]] == [4, 5, 4, 5]
        # A grid that was asked for is not cut by the profile.
        assert [s.parameters["beta"] for s in plan[2::4]] == [3.0, 1.0, 2.0]
        assert len({s.run_id for s in plan}) == len(plan)

    def test_profile_cuts_the_grid(self, tmp_path):
        plan = expand(*tiny(tmp_path, {"models": ["fif"]}, configurations=3))
        assert [s.configuration for s in plan] == [
            "beta=10, hutchinson_samples=1",
            "beta=10, hutchinson_samples=2",
            "beta=5, hutchinson_samples=1",
        ]

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            ({"beta": [-1.0]}, "beta=-1.0"),
            ({"beta": [math.nan]}, "beta=nan"),
            ({"hutchinson_samples": [99]}, "hutchinson_samples=99: at most 8"),
            ({"hutchinson_samples": [0]}, "hutchinson_samples=0: input should be greater"),
        ],
    )
    def test_grid_values_out_of_range(self, tmp_path, flags, part):
        with pytest.raises(ConfigError) as error:
            expand(*tiny(tmp_path, {"models": ["fif"], **flags}))
        assert "--beta/--hutchinson-samples" in str(error.value)
        assert part in str(error.value)
        assert "\n" not in str(error.value)

    def test_model_that_the_architecture_does_not_serve(self, tmp_path):
        experiment, _ = tiny(tmp_path, {"models": ["vqvae_spatial"]})
        faces = types.SimpleNamespace(input_dim=(3, 64, 64), content_hash="0" * 16)
        with pytest.raises(ConfigError, match=r"model vqvae_spatial: arch 'fif_convnet'"):
            expand(experiment.model_copy(update={"arch": "fif_convnet"}), faces)

    def test_latent_dimension_of_a_model_with_a_limit(self, tmp_path):
        plan = expand(*tiny(tmp_path, {"models": ["ae", "svae"], "latent_dim": 64}))
        assert [spec.latent_dim for spec in plan] == [64, 32]

    @pytest.mark.parametrize(
        "field", [f.name for f in dataclasses.fields(RunSpec) if f.name != "samplers"]
    )
    def test_run_id_changes_with_every_field_but_the_samplers(self, field):
        assert spec_of(**{field: CHANGED[field]}).run_id != spec_of().run_id
        assert spec_of(samplers=("gmm",)).run_id == spec_of().run_id

    @given(
        key=st.sampled_from([key for key in PROFILE if key not in ("note", "configurations")]),
        change=st.integers(1, 1000),
    )
    @settings(deadline=None)
    def test_run_id_changes_with_every_setting(self, key, change):
        changed = spec_of(settings={**PROFILE, key: PROFILE[key] + change})
        assert changed.run_id != spec_of().run_id

    @given(st.text(), st.integers())
    @settings(deadline=None)
    def test_run_id_does_not_change_with_note_and_number_of_runs(self, note, count):
        changed = {**PROFILE, "note": note, "configurations": count}
        assert spec_of(settings=changed).run_id == spec_of().run_id

    @given(st.floats(0, 1e6), st.floats(0, 1e6))
    @settings(deadline=None)
    def test_run_id_tells_values_apart(self, one, other):
        ids = [spec_of(parameters={"beta": b}, varied=("beta",)).run_id for b in (one, other)]
        assert (ids[0] == ids[1]) == (one == other)

    @given(
        parameters=st.dictionaries(
            st.text("abc_", min_size=1),
            st.one_of(st.integers(-9, 9), st.floats(allow_nan=False), st.text(), st.booleans()),
        ),
        note=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    )
    @settings(max_examples=12, deadline=None)
    def test_round_trip_through_the_run_folder(self, tmp_path_factory, parameters, note):
        spec = spec_of(
            parameters=parameters,
            varied=tuple(parameters),
            settings={**PROFILE, "note": note},
        )
        ids = set()
        for folder in ("one", "other"):
            environment = {**ENVIRONMENT, "data_root": folder}
            root = tmp_path_factory.getbasetemp() / "round-trip" / folder
            run_dir = Store(root).prepare(spec, environment)
            read = RunSpec.from_dict(yaml.safe_load((run_dir / "config.yaml").read_text())["spec"])
            assert read == spec
            assert read_json(run_dir / "environment.json") == environment
            ids.add(read.run_id)
        assert ids == {spec.run_id} == {run_dir.name}


def _with(*path, value):
    def damage(text: str) -> str:
        record = inner = json.loads(text)
        for key in path[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return json.dumps(record)

    return damage


DAMAGES = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "binary": lambda text: "\x00" * len(text),
    "list": lambda text: "[1]",
    "number": lambda text: "3",
    "schema": _with("schema", value=0),
    "no schema": _with("schema", value=...),
    "run id": _with("run_id", value="0" * 12),
    "no scores": _with("scores", value=...),
    "scores of a number": _with("scores", value=3),
    "scores of none": _with("scores", value={}),
    "one sampler more": _with("scores", "maf", value={}),
    "distance as text": _with("scores", "gmm", "frechet", "val", value="1.5"),
    "distance NaN": _with("scores", "gmm", "frechet", "test", value=math.nan),
    "distance null": _with("scores", "normal", "frechet", "test", value=None),
    "no test distance": _with("scores", "normal", "frechet", "test", value=...),
    "no error": _with("reconstruction_mse", "test", value=...),
    "no seconds": _with("training", value={}),
    "no provenance": _with("provenance", value=...),
    "edited by hand": lambda text: json.dumps(
        {**seal(json.loads(text)), "reconstruction_mse": {"val": 0.1, "test": 0.001}}
    ),
}


class TestStore:
    @pytest.fixture
    def stored(self, tmp_path):
        """A store, a specification and the file of its record."""
        store, spec = Store(tmp_path / "results"), spec_of()
        path = store.prepare(spec, ENVIRONMENT) / "result.json"
        path.write_text(json.dumps(record_of(spec)))
        return store, spec, path

    def test_whole_record(self, stored):
        store, spec, path = stored
        assert store.record(spec) == record_of(spec)
        assert path.exists()
        assert store.record(spec_of(seed=1)) is None

    def test_record_of_some_of_the_samplers(self, stored):
        store, spec, _ = stored
        assert store.is_done(spec)
        assert store.is_done(dataclasses.replace(spec, samplers=("gmm",)))
        more = dataclasses.replace(spec, samplers=("normal", "maf"))
        assert not store.is_done(more)
        assert store.record(more) == record_of(spec)

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_record_is_set_aside_whole(self, stored, caplog, damage):
        store, spec, path = stored
        text = DAMAGES[damage](path.read_text())
        path.write_text(text)
        assert store.record(spec) is None
        assert not path.exists()
        assert path.with_name("result.json.corrupt").read_text() == text
        assert str(path) in caplog.text
        assert "result.json.corrupt" in caplog.text

    def test_nothing_that_was_set_aside_is_lost(self, stored):
        store, spec, path = stored
        for text in ("a", "b", "c"):
            path.write_text(text)
            assert store.record(spec) is None
        kept = {file.read_text() for file in path.parent.glob("result.json.corrupt*")}
        assert kept == {"a", "b", "c"}

    @given(st.data())
    @settings(max_examples=25, deadline=None)
    def test_cut_off_anywhere(self, tmp_path_factory, data):
        store, spec = Store(tmp_path_factory.getbasetemp() / "cut"), spec_of()
        text = json.dumps(record_of(spec))
        path = store.prepare(spec, ENVIRONMENT) / "result.json"
        path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
        assert store.record(spec) is None

    def test_folder_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"file/results cannot be written.*--results"):
            Store(tmp_path / "file" / "results")

    def test_prepare_forgets_the_state_but_counts_the_attempts(self, tmp_path):
        store, spec = Store(tmp_path), spec_of()
        status = store.prepare(spec, ENVIRONMENT) / "status.json"
        status.write_text('{"state": "failed", "attempt": 3, "error": "old"}')
        store.prepare(spec, ENVIRONMENT)
        assert read_json(status) == {"state": "waiting", "attempt": 3}


class TestSeal:
    RECORD = record_of(spec_of())

    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_one_character_changed_is_not_the_record(self, data):
        """Whatever JSON an edit leaves: it is no record, or it says the same."""
        text = json.dumps(seal(self.RECORD), indent=1)
        place = data.draw(st.integers(0, len(text) - 1))
        changed = text[:place] + data.draw(st.sampled_from("0123456789aef.-,")) + text[place + 1 :]
        try:
            record = json.loads(changed)
        except ValueError:
            return
        if is_whole(record, spec_of()) and "checksum" in record:
            assert {**record, "checksum": ""} == {**seal(self.RECORD), "checksum": ""}

    def test_survives_json_and_the_order_of_keys(self):
        record = seal({**self.RECORD, "odd": [0.1, 1e-300, "Poincaré", None, True, 1 / 3]})
        again = json.loads(json.dumps(dict(reversed(record.items()))))
        assert is_intact(again)
        assert is_whole(again, spec_of())
        assert seal(record) == record

    def test_record_of_an_earlier_version_has_no_seal_and_is_whole(self):
        assert is_intact(self.RECORD) is None
        assert is_whole(self.RECORD, spec_of())


def grid_results(distances: np.ndarray) -> list:
    """Results of (configuration, seed, sampler, val/test) distances."""
    results = []
    for index, by_seed in enumerate(distances):
        for seed, values in enumerate(by_seed):
            spec = spec_of(parameters={"beta": float(index)}, varied=("beta",), seed=seed)
            pairs = {
                s: (float(v), float(t)) for s, (v, t) in zip(spec.samplers, values, strict=True)
            }
            results.append((spec, record_of(spec, pairs)))
    return results


class TestSelection:
    def test_every_sampler_that_a_configuration_has_is_chosen_from(self):
        """Whichever configuration was run with fewer of them, also the first."""
        results = []
        for beta, samplers in ((1.0, ("normal",)), (2.0, ("normal", "gmm"))):
            spec = spec_of(parameters={"beta": beta}, samplers=samplers)
            results.append((spec, record_of(spec)))
        for ordered in (results, results[::-1]):
            assert [c.sampler for c in select(ordered)] == ["normal", "gmm"]

    shapes = st.tuples(st.integers(1, 5), st.integers(1, 3))

    @given(shapes, st.integers(0, 2**32 - 1))
    @settings(deadline=None)
    def test_lowest_mean_validation_distance_of_each_sampler(self, shape, seed):
        distances = np.random.default_rng(seed).uniform(1, 100, (*shape, 2, 2))
        choices = select(grid_results(distances))
        assert [choice.sampler for choice in choices] == ["normal", "gmm"]
        for index, choice in enumerate(choices):
            best = distances[:, :, index, 0].mean(axis=1).argmin()
            tests = distances[best, :, index, 1].tolist()
            assert choice.spec.parameters == {"beta": float(best)}
            assert choice.candidates == shape[0]
            assert choice.mean("frechet", "test") == pytest.approx(statistics.fmean(tests))
            std = choice.std("frechet", "test")
            if shape[1] == 1:
                assert std is None
            else:
                assert std == pytest.approx(statistics.stdev(tests))

    @given(shapes, st.integers(0, 2**32 - 1))
    @settings(deadline=None)
    def test_test_scores_choose_nothing(self, shape, seed):
        generator = np.random.default_rng(seed)
        distances = generator.uniform(1, 100, (*shape, 2, 2))
        permuted = distances.copy()
        tests = permuted[..., 1].ravel()
        generator.shuffle(tests)
        permuted[..., 1] = tests.reshape(permuted.shape[:-1])
        one, other = (
            [[spec for spec, _ in c.results] for c in select(grid_results(d))]
            for d in (distances, permuted)
        )
        assert one == other

    @given(shapes, st.integers(0, 2**32 - 1))
    @settings(deadline=None)
    def test_order_of_the_results_chooses_nothing(self, shape, seed):
        results = grid_results(np.random.default_rng(seed).uniform(1, 100, (*shape, 2, 2)))
        shuffled = random.Random(seed).sample(results, len(results))
        one, other = (
            {c.sampler: c.spec.parameters for c in select(r)} for r in (results, shuffled)
        )
        assert one == other

    def test_a_configuration_that_failed_with_a_seed_does_not_win_by_the_others(self):
        distances = np.full((2, 2, 2, 2), 5.0)
        distances[1, 0] = 1.0
        results = grid_results(distances)[:-1]
        assert {c.spec.parameters["beta"] for c in select(results)} == {0.0}
        assert {c.candidates for c in select(results)} == {1}

    def test_a_sampler_that_failed_with_a_configuration_does_not_compete(self):
        distances = np.full((2, 1, 2, 2), 5.0)
        distances[1] = 1.0
        results = grid_results(distances)
        del results[1][1]["scores"]["gmm"]
        chosen = {c.sampler: c.spec.parameters["beta"] for c in select(results)}
        assert chosen == {"normal": 1.0, "gmm": 0.0}
        del results[0][1]["scores"]["gmm"]
        assert [c.sampler for c in select(results)] == ["normal"]

    def test_no_score_is_none(self):
        (choice, _) = select(grid_results(np.ones((1, 1, 2, 2))))
        assert choice.mean("score", "mean") is None


@pytest.fixture
def prepared(tmp_path):
    """Makes run folders of a tiny plan: prepared(flags, **profile) -> store, plan, folders."""

    def prepare(flags: dict | None = None, **profile):
        store = Store(tmp_path / "results")
        plan = expand(*tiny(tmp_path, flags, **profile))
        return store, plan, [store.prepare(spec, ENVIRONMENT) for spec in plan]

    return prepare


def _ignore(running, outcomes) -> None:
    """Watches nothing."""


class TestExecute:
    def test_leaves_a_whole_record_and_all_files(self, prepared):
        store, (spec,), (run_dir,) = prepared({"samplers": ["normal", "gmm"]})
        record = execute(run_dir)
        assert store.record(spec) == json.loads(json.dumps(record))
        assert read_json(run_dir / "status.json")["state"] == "finished"
        assert {
            "config.yaml", "model", "result.json", "samples-normal.png", "samples-gmm.png",
            "reconstructions.png", "interpolations.png", "latents.png", "train_log.jsonl",
        } <= {path.name for path in run_dir.iterdir()}  # fmt: skip
        assert Image.open(run_dir / "samples-gmm.png").size == (64, 64)
        assert record["data"]["sizes"] == {"train": 60, "val": 20, "test": 20}
        assert (record["data"]["hash"], record["seed"]) == (spec.data_hash, spec.seed)
        assert record["provenance"]["attempts"] == 1
        assert is_intact(record)
        for scores in record["scores"].values():
            assert scores["num_samples"] == 20
            assert scores["frechet"]["val"] > 0

    def test_same_specification_same_numbers(self, prepared):
        flags = {"models": ["fif"], "beta": [5.0], "hutchinson_samples": [1]}
        _, _, (run_dir,) = prepared(flags)
        first = execute(run_dir)
        shutil.rmtree(run_dir)
        prepared(flags)
        assert execute(run_dir)["scores"] == first["scores"]

    def test_a_further_sampler_of_a_finished_run_trains_nothing(self, prepared, monkeypatch):
        store, _, (run_dir,) = prepared({"models": ["vae"], "samplers": ["normal"]})
        first = execute(run_dir)
        monkeypatch.setattr("pythae_fif.benchmark.run.FIFTrainer", None)
        more = prepared({"models": ["vae"], "samplers": ["normal", "gmm"]})[1][0]
        assert store.run_dir(more) == run_dir
        assert not store.is_done(more)
        record = execute(run_dir)
        assert record["scores"].keys() == record["sampling_seconds"].keys() == {"normal", "gmm"}
        for key in ("training", "parameters", "reconstruction_mse", "provenance"):
            assert record[key] == first[key]
        assert record["scores"]["normal"] == first["scores"]["normal"]
        assert first["later_provenance"] == {}
        assert set(record["later_provenance"]) == {"gmm"}
        assert is_intact(record)
        assert store.is_done(more)

    def test_scores_do_not_depend_on_when_the_sampler_was_asked_for(self, prepared):
        flags = {"models": ["vae"], "samplers": ["normal", "gmm"]}
        _, _, (run_dir,) = prepared(flags)
        together = execute(run_dir)["scores"]
        shutil.rmtree(run_dir)
        prepared({"models": ["vae"], "samplers": ["normal"]})
        execute(run_dir)
        shutil.rmtree(run_dir / "model")  # not in git: trained again, to the same weights
        prepared(flags)
        assert execute(run_dir)["scores"] == together

    def test_no_score_is_kept_of_a_model_that_is_gone(self, prepared):
        store, (spec,), (run_dir,) = prepared({"samplers": ["normal"]})
        first = execute(run_dir)
        other = json.loads(json.dumps(first))  # as if made on another machine
        other["scores"]["normal"]["frechet"]["test"] = 1e6
        other["provenance"] = {"device": "another"}
        (run_dir / "result.json").write_text(json.dumps(seal(other)))
        shutil.rmtree(run_dir / "model")
        prepared({"samplers": ["gmm"]})
        record = execute(run_dir)
        assert set(record["scores"]) == {"normal", "gmm"}
        assert record["scores"]["normal"] == first["scores"]["normal"]
        assert record["provenance"]["device"] == first["provenance"]["device"]
        assert store.is_done(spec)

    def test_a_sampler_that_fails_costs_its_own_score(self, prepared, monkeypatch):
        store, (spec,), (run_dir,) = prepared({"samplers": ["gmm", "normal"]})

        def broken(*_):
            raise ValueError("broken on purpose")

        monkeypatch.setitem(samplers_module._SAMPLERS, "gmm", broken)
        with pytest.raises(FIFError, match="sampler gmm: ValueError: broken on purpose"):
            execute(run_dir)
        assert read_json(run_dir / "status.json")["state"] == "failed"
        assert set(store.record(spec)["scores"]) == {"normal"}
        assert not store.is_done(spec)
        monkeypatch.undo()
        execute(run_dir)
        assert store.is_done(spec)

    @pytest.mark.parametrize(
        ("before_record", "state"), [(True, "interrupted"), (False, "finished")]
    )
    def test_interrupt_beside_the_record(self, prepared, monkeypatch, before_record, state):
        """What is called finished has a record, and what has one is called finished."""
        store, (spec,), (run_dir,) = prepared()
        write = run_module.write_json

        def interrupted(path, content):
            if path.name != "result.json" or not before_record:
                write(path, content)
            if path.name == "result.json":
                raise KeyboardInterrupt

        monkeypatch.setattr(run_module, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run_dir)
        assert read_json(run_dir / "status.json")["state"] == state
        assert store.is_done(spec) == (not before_record)

    def test_failure_keeps_its_traceback(self, prepared, monkeypatch):
        class Broken(AE):
            def forward(self, *_, **__):
                raise ValueError(f"broken in {run_dir}/model\nsecond line")

        _, _, (run_dir,) = prepared()
        imported = plan_module.import_class
        monkeypatch.setattr(
            plan_module,
            "import_class",
            lambda path, where: Broken if path == "pythae.models.AE" else imported(path, where),
        )
        with pytest.raises(ValueError, match="broken"):
            execute(run_dir)
        status = read_json(run_dir / "status.json")
        assert status["state"] == "failed"
        assert status["error"] == "ValueError: broken in model"
        assert "in forward" in status["traceback"]
        assert 'File "pythae_fif/benchmark/run.py"' in status["traceback"]
        assert str(run_dir) not in status["traceback"]
        assert not (run_dir / "result.json").exists()

    def test_loss_that_is_not_finite(self, prepared):
        flags = {"models": ["fif"], "beta": [1e39], "hutchinson_samples": [1]}
        _, _, (run_dir,) = prepared(flags, batch_size=60)
        with pytest.raises(NonFiniteError):
            execute(run_dir)
        error = read_json(run_dir / "status.json")["error"]
        assert "epoch 1" in error and "the loss is not finite" in error

    def test_data_that_changed_since_the_plan(self, tmp_path):
        (spec,) = expand(*tiny(tmp_path))
        spec = dataclasses.replace(spec, data_hash="0" * 16)
        run_dir = Store(tmp_path).prepare(spec, ENVIRONMENT)
        with pytest.raises(FIFError, match="digits changed since the plan"):
            execute(run_dir)

    def test_a_run_that_was_trained_is_not_trained_again(self, prepared, monkeypatch):
        _, _, (run_dir,) = prepared()
        first = execute(run_dir)
        (run_dir / "result.json").unlink()
        monkeypatch.setattr("pythae_fif.benchmark.run.FIFTrainer", None)
        again = execute(run_dir)
        for key in ("scores", "training", "reconstruction_mse", "parameters"):
            assert again[key] == first[key]

    def test_provenance_says_with_what_and_nothing_of_the_machine_s_name(self, monkeypatch):
        monkeypatch.setattr("socket.gethostname", lambda: pytest.fail("the name was asked for"))
        found = provenance("cpu", 0.0)
        assert found["versions"]["torch"] == torch.__version__
        assert {"pythae", "scipy", "torchvision", "zuko", "pillow"} <= set(found["versions"])
        assert found["threads"] == torch.get_num_threads()
        assert found["gpu_driver"] is None and found["peak_memory_mb"] > 10
        assert platform.node() not in json.dumps(found) or not platform.node()

    @pytest.mark.parametrize("change", ["", "changed", "new", "elsewhere"])
    def test_tree_is_dirty_when_code_or_configurations_changed(self, tmp_path, monkeypatch, change):
        package = tmp_path / "pythae_fif"
        (package / "benchmark").mkdir(parents=True)
        for folder in ("benchmark_configs", "results"):
            (tmp_path / folder).mkdir()
        (package / "a.py").write_text("1")
        (tmp_path / "results" / "table.md").write_text("1")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *words], cwd=tmp_path, check=True)
        monkeypatch.setattr(
            provenance_module, "__file__", str(package / "benchmark" / "provenance.py")
        )
        written = {
            "changed": package / "a.py",
            "new": tmp_path / "benchmark_configs" / "b.yaml",
            "elsewhere": tmp_path / "results" / "table.md",
        }
        if change:
            written[change].write_text("2")
        state = git_state.__wrapped__()
        assert len(state["git_revision"]) == 7
        assert state["git_dirty"] == (change in ("changed", "new"))

    def test_provenance_of_a_package_that_is_no_checkout(self, tmp_path, monkeypatch):
        monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
        assert git_state.__wrapped__() == {"git_revision": None, "git_dirty": None}

    def test_machine_without_the_resource_module(self, monkeypatch):
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name == "resource":
                raise ImportError(name)
            return real(name, *args, **kwargs)

        def no_file(*_, **__):
            raise FileNotFoundError

        monkeypatch.setattr(provenance_module.Path, "read_text", no_file)
        assert provenance_module._peak_memory_mb() > 10
        monkeypatch.setattr(builtins, "__import__", without)
        assert provenance_module._peak_memory_mb() is None
