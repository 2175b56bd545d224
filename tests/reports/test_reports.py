"""Tables, figures and the page of a fixed store, against stored files and their contract."""

import base64
import dataclasses
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from scipy.stats import spearmanr
from support import report_store
from support.reference import packer
from support.report_store import FAILURES, GOLDEN, NAME, RESULTS, report, result, splits, store

from pythae_fif.benchmark.config import experiment_file, load_experiment
from pythae_fif.benchmark.model_entry import all_models
from pythae_fif.benchmark.plan import Announced, RunSpec, configurations, expand
from pythae_fif.benchmark.record import Training
from pythae_fif.benchmark.yaml_files import configs_dir
from pythae_fif.cli.request import read_request, run_parser
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import StoreError, printable
from pythae_fif.evaluation import CodeScores
from pythae_fif.files import write_json
from pythae_fif.pictures import UNSEEN, read_pixels, write_figure
from pythae_fif.reports import figures, sample_figure
from pythae_fif.reports.agreement import order_agreement
from pythae_fif.reports.command import commands_of
from pythae_fif.reports.experiment import Failure, constant_error, write_experiment
from pythae_fif.reports.grid import (
    DASH,
    Cell,
    Grid,
    to_csv,
    to_latex,
    to_markdown,
    write_rows,
)
from pythae_fif.reports.model_tables import code_grid, configuration_grid, cost_grid
from pythae_fif.reports.published import load_published
from pythae_fif.reports.published_tables import (
    not_comparable,
    table2,
    table3,
    table8,
)
from pythae_fif.reports.report import Report, Row, build_report
from pythae_fif.reports.sample_figure import Line, images_of
from pythae_fif.reports.score_table import score_grid, score_terminal
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Environment

EXPERIMENT = report_store.experiment()
DRAWN = (
    "best.webp",
    "samples.webp",
    "reconstructions.webp",
    "beta.png",
    "cost.png",
    "learning.png",
)
REPORT = build_report(EXPERIMENT, RESULTS, constant_mse=0.1)
PAPER = load_experiment("celeba", None, {}).settings


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The results folder of the fixed store, and its tables."""
    root = tmp_path_factory.mktemp("results")
    return root, report_store.write(root)


class TestStored:
    @pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
    def test_table_is_the_stored_one(self, written, name):
        """See `report_store` for how to renew them."""
        assert written[1][name] == (GOLDEN / name).read_text("utf-8")

    def test_no_table_is_without_a_stored_one(self, written):
        assert set(written[1]) == {path.name for path in GOLDEN.iterdir()}

    def test_files(self, written):
        root, _ = written
        assert {p.name for p in (root / "figures").iterdir()} == {f"{NAME}-{end}" for end in DRAWN}
        assert [p.name for p in (root / "pages").iterdir()] == [f"{NAME}.html"]
        assert not list(root.rglob("*.tmp"))

    def test_pictures_of_the_markdown_are_there(self, written):
        root, tables = written
        found = re.findall(r"!\[[^]]+\]\(([^)]+)\)", tables[f"{NAME}.md"])
        assert len(found) == len(DRAWN)
        assert all((root / "tables" / path).is_file() for path in found)

    def test_samples_of_classes_are_on_the_page_and_linked(self, tmp_path):
        distances = {"normal": (5, 6), "gmm": (3, 2.5)}
        of_class = result("fif_conditional", {}, 0, distances, labels_hash="0" * 16)
        report_store.fill(store(tmp_path), [of_class])
        labels = {split: np.arange(len(splits()[split])) % 3 for split in SPLIT_NAMES}
        rows = np.repeat([10, 20, 30], 8)[:, None].repeat(16 * 8, 1).astype(np.uint8)
        picture = store(tmp_path).run_dir(of_class.spec) / "classes-gmm.png"
        Image.fromarray(rows).save(picture)
        labelled = dataclasses.replace(splits(), labels=labels)
        write_experiment(store(tmp_path), labelled, report([of_class]))
        text = (tmp_path / "tables" / f"{NAME}.md").read_text("utf-8")
        assert "## FIF (labels), GMM: a row a class" in text
        links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
        found = {(tmp_path / "tables" / link).resolve() for link in links}
        drawn = tmp_path / "figures" / f"{NAME}-classes-fif_conditional-gmm.webp"
        assert drawn.resolve() in found and all(path.is_file() for path in found)
        shown = np.unique(np.asarray(Image.open(drawn).convert("L"))).astype(int)
        assert all(np.abs(shown - grey).min() <= 1 for grey in (10, 20, 30))

    def test_without_pictures_and_logs(self, tmp_path):
        """Records are enough: what a run has no file of is left out."""
        paths = write_experiment(store(tmp_path), splits(), report(RESULTS[4:6]))
        names = {p.name for p in paths if p.suffix in (".png", ".webp")}
        assert names == {f"{NAME}-cost.png"}
        assert "failed" not in (tmp_path / "tables" / f"{NAME}.md").read_text("utf-8")

    def test_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "tables").write_text("")
        with pytest.raises(StoreError, match="tables"):
            write_experiment(store(tmp_path), splits(), report())

    def test_a_picture_that_cannot_be_drawn_costs_no_table(self, tmp_path, monkeypatch):
        def no_picture(*_):
            raise OSError("no picture")

        report_store.fill(store(tmp_path))
        monkeypatch.setattr("pythae_fif.reports.experiment.sample_figure", no_picture)
        with pytest.raises(OSError, match="no picture"):
            write_experiment(store(tmp_path), splits(), report())
        assert {p.suffix for p in (tmp_path / "tables").iterdir()} == {".md", ".csv", ".tex"}

    def test_drawing_again_leaves_every_file_as_it_is(self, tmp_path):
        def write():
            paths = write_experiment(store(tmp_path), splits(), report(), FAILURES)
            return {path: path.stat().st_mtime_ns for path in paths}

        report_store.fill(store(tmp_path))
        assert write() == write()


class TestTable:
    @pytest.mark.parametrize(
        ("results", "marks"),
        [(RESULTS, [3, 1, 0, 2, 0, 3, 0]), (RESULTS[:1], [0, 0])],
        ids=["by test distance within a sampler", "a model without rivals"],
    )
    def test_marks(self, results, marks):
        assert [row[2].rank for row in score_grid(report(results)).rows] == marks

    def test_extractor_without_score(self):
        text = to_markdown(score_grid(report([result("ae", {}, 0, {"normal": (1, 2)}, None)])))
        assert "None" not in text
        assert "| AE | N | 2.00 | 1.00 | – | 2.00 | 0.50 / 0.75 |" in text

    @pytest.mark.parametrize(("missing", "start"), [(3, "3 runs have"), (1, "1 run ")])
    def test_missing_runs_come_first(self, missing, start):
        notes = build_report(EXPERIMENT, RESULTS, missing, constant_mse=0.1).notes
        assert notes[0].startswith(start)
        assert len(notes) == len(REPORT.notes) + 1

    def test_models_that_did_not_learn_are_marked(self):
        learned = {row.model: row.learned for row in REPORT.rows}
        assert learned == {"FIF": True, "AE": False, "VAE": True}
        assert REPORT.notes[0].startswith("† AE did not learn")
        assert "† " not in " ".join(build_report(EXPERIMENT, RESULTS[:4], 0, 0.1).notes)

    def test_scores_of_two_extractors_are_named(self):
        distances = {"normal": (1, 2)}
        one, same = (result(model, {}, 0, distances) for model in ("ae", "vae"))
        assert "not on one scale" not in " ".join(build_report(EXPERIMENT, [one, same]).notes)
        other = result("vae", {}, 0, distances, extractor_hash="f" * 16)
        note = build_report(EXPERIMENT, [one, other]).notes[0]
        assert f"({'e' * 16}, {'f' * 16}): their distances are not on one scale" in note

    def test_model_of_another_latent_dimension_is_named(self):
        experiment = EXPERIMENT.model_copy(update={"latent_dim": 64})
        notes = build_report(experiment, [result("svae", {}, 0, {"normal": (1, 2)})]).notes
        assert notes[0] == "Of another latent dimension: SVAE 16."

    def test_every_machine_is_named(self):
        other = {"device": "cuda (X)", "versions": {"torch": "2.1"}}
        results = [
            result("ae", {}, 0, {"normal": (1, 2)}),
            result("vae", {}, 0, {"normal": (1, 2)}, provenance=other),
        ]
        several = build_report(EXPERIMENT, results)
        notes, rows = " ".join(several.notes), column(score_grid(several), "machine")
        assert (
            "on machine 1, cpu (x86_64) with 2 cores and machine 2, cuda (X) with 2 cores; "
            in notes
        )
        assert "torch 2.0; or torch 2.1." in notes
        assert {name: cell.text for (name, _), cell in rows.items()} == {"AE": "1", "VAE": "2"}
        assert "machine" not in score_grid(build_report(EXPERIMENT, results[:1])).headings
        assert score_terminal(several).columns[-1].header == "chosen"

    def test_one_seed_that_did_not_learn_is_enough(self):
        seeds = [result("vae", {}, s, {"normal": (7, 7)}, mse=m) for s, m in ((0, 0.01), (1, 0.2))]
        assert not build_report(EXPERIMENT, seeds, constant_mse=0.15).rows[0].learned

    def test_constant_error(self):
        few = splits()
        many = dataclasses.replace(few, test=np.tile(few.test, (40, 1, 1, 1)), labels=None)
        expected = ((few.test / 255 - few.train.mean(axis=0) / 255) ** 2).mean()
        assert constant_error(few) == pytest.approx(expected)
        assert constant_error(many) == pytest.approx(expected)


class TestCommand:
    """What is written below a table says how to make it, whichever commands did."""

    @staticmethod
    def command(results, dataset="digits", file=None, **flags) -> str:
        experiment = load_experiment(dataset, file, flags)
        (found,) = commands_of(experiment, [r.spec for r in results])
        start = f"python run_benchmark.py --dataset {dataset} --arch {experiment.arch} "
        assert found.startswith(start)
        return found.removeprefix(start)

    @staticmethod
    def planned(commands) -> list[RunSpec]:
        """All runs of the commands."""
        parts = [run_parser("").given(command.split()[2:]) for command in commands]
        plans = [expand(read_request(given).experiment, Announced((1, 28, 28))) for given in parts]
        return list(itertools.chain.from_iterable(plans))

    ONE = (result("fif", {"beta": 5, "hutchinson_samples": 1}, 0, {"normal": (1, 1)}),)

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ({}, "--profile quick"),
            ({"profile": "full"}, "--profile full"),
            ({"latent_dim": 3}, "--profile quick --latent-dim 3"),
            ({"extractor": "pixels"}, "--profile quick --extractor pixels"),
            ({"wall_clock": "2min"}, "--profile quick --wall-clock 2min"),
            ({"image_size": 16}, "--profile quick --image-size 16"),
            ({"skip_undecodable": True}, "--profile quick --skip-undecodable"),
            ({"profile": "table2-quick", "file": experiment_file(2)},
             "--table 2 --profile table2-quick"),
        ],
        ids=str,
    )  # fmt: skip
    def test_settings_that_are_not_the_usual_ones(self, flags, words):
        values = {"profile": "quick", **flags}
        usual = load_experiment("digits", values.get("file"), {})
        runs = itertools.product(usual.models, usual.seeds)
        results = [
            result(model, {}, seed, dict.fromkeys(usual.samplers, (1, 1))) for model, seed in runs
        ]
        assert self.command(results, **values) == words

    def test_models_samplers_and_seeds_are_those_of_the_runs(self):
        results = [
            result("vamp", {}, 2, {"vamp": (1, 1), "maf": (1, 1)}),
            result("ae", {}, 2, {"normal": (1, 1)}),
        ]
        expected = "--profile quick --models ae vamp --samplers normal maf --seeds 2"
        assert self.command(results, profile="quick", models=["fif"], seeds=[9]) == expected

    def test_all_models(self):
        results = [result(name, {}, 0, {"normal": (1, 1)}) for name in all_models()]
        assert "--models all --samplers normal" in self.command(results, profile="quick")

    @pytest.mark.parametrize(
        ("betas", "vectors", "words"),
        [
            ((10,), (1, 2), " --configurations 2"),
            ((5,), (1, 2), " --beta 5"),
            ((10,), (1,), " --configurations 1"),
            ((10,), (2,), " --beta 10 --hutchinson-samples 2"),
            ((10, 5), (1, 2), ""),
            ((10, 5, 15), (1, 2), " --configurations 6"),
            ((10, 5, 15, 20, 25), (1, 2), " --configurations 10"),
            ((10, 5, 25), (1, 2), " --beta 5 10 25"),
            ((10, 5, 15), (1,), " --beta 5 10 15 --hutchinson-samples 1"),
            ((0.5, 10), (1, 2), " --beta 0.5 10"),
        ],
    )
    def test_part_of_the_grid(self, betas, vectors, words):
        """The command makes these very configurations."""
        samplers = dict.fromkeys(("normal", "gaussian", "gmm"), (1, 1))
        pairs = list(itertools.product(betas, vectors))
        results = [
            result("fif", {"beta": b, "hutchinson_samples": k}, 0, samplers) for b, k in pairs
        ]
        found = self.command(results, profile="quick")
        assert found.endswith(f"--models fif{words}")
        plan = self.planned([f"python run_benchmark.py --dataset digits {found}"])
        assert {tuple(spec.parameters.values()) for spec in plan} == set(pairs)

    @pytest.mark.parametrize(
        "asked",
        [
            [
                "--models fif vae --configurations 4",
                "--models fif vae --configurations 1 --seeds 1 2",
            ],
            ["--models fif --configurations 2 --seeds 0 1", "--models fif --beta 3"],
            ["--models fif --beta 5", "--models fif_plus", "--models ae"],
            ["--models fif --beta 5", "--models fif_plus --beta 20 --hutchinson-samples 1"],
            ["--table 2 --models fif dnf --beta 5 10", "--table 2 --models trumpet"],
            ["--table 2 --models fif --hutchinson-samples 2 4"],
            ["--models ae vae --seeds 0 1", "--models rae_l2 --configurations 1"],
            [
                "--models ae fif --profile medium",
                "--models beta_vae disentangled_beta_vae --configurations 3 --profile medium",
                "--models wae_rbf --configurations 10 --profile medium",
            ],
        ],
        ids=" + ".join,
    )
    def test_of_any_commands_the_runs_and_no_others(self, asked):
        def ran(commands):
            found = {(s.model, s.configuration, s.seed) for s in self.planned(commands)}
            return sorted(found)

        asked = [f"python run_benchmark.py --dataset mnist {words}" for words in asked]
        specs = {spec.run_id: spec for spec in self.planned(asked)}
        flags = {"profile": next(iter(specs.values())).profile}
        file = experiment_file(2) if "--table 2" in asked[0] else None
        found = commands_of(load_experiment("mnist", file, flags), list(specs.values()))
        assert ran(found) == ran(asked)

    @pytest.mark.parametrize("name", ["quick", "mine"])
    def test_a_profile_of_your_own(self, name):
        experiment = load_experiment("digits", None, {})
        changed = experiment.settings.model_copy(update={"epochs": 1})
        update = {"profile": name, "profiles": {name: changed}}
        experiment = experiment.model_copy(update=update)
        (found,) = commands_of(experiment, [self.ONE[0].spec])
        assert f"--arch convnet --config FILE --profile {name} --models fif" in found

    @pytest.mark.parametrize("key", ["latent_dims: {dnf: 100}", "image_size: null"])
    def test_what_no_flag_says_needs_the_file(self, key, tmp_path):
        (tmp_path / "own.yaml").write_text(key)
        experiment = load_experiment("celeba", tmp_path / "own.yaml", {})
        assert "None" not in experiment.name
        (found,) = commands_of(experiment, [self.ONE[0].spec])
        assert " --config FILE " in found and "--latent-dim" not in found

    def test_your_data_are_named_without_their_folder(self):
        experiment = load_experiment("npz", None, {"data": "/home/me/faces.npz"})
        assert " --data faces.npz " in commands_of(experiment, [self.ONE[0].spec])[0]

    def test_a_model_of_your_own_is_named_by_its_file(self, tmp_path, monkeypatch):
        """Else the command fails where nothing else says where the file is."""
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
        file = tmp_path / "mine.yaml"
        file.write_bytes((configs_dir() / "models" / "ae.yaml").read_bytes())
        experiment = load_experiment("digits", None, {"models": [str(file), "vae"]})
        runs = [result(model, {}, 0, {"normal": (1, 1)}) for model in experiment.models]
        (found,) = commands_of(experiment, [r.spec for r in runs])
        assert " --models mine.yaml vae " in found


class TestTerminal:
    @staticmethod
    def shown(report: Report) -> str:
        console = Console(width=80, file=io.StringIO())
        with console.capture() as captured:
            console.print(score_terminal(report))
        return captured.get()

    distance = st.floats(1e-3, 99_999)
    spread = st.none() | st.floats(1e-3, 999)

    @given(
        st.lists(
            st.builds(
                Row,
                model=st.sampled_from(["FIF", "WAE-IMQ", "Disentangled β-VAE"]),
                sampler=st.sampled_from(["N", "GMM", "2-stage", "PixelCNN"]),
                configuration=st.sampled_from(["–", "embedding_weight=1e-05, reg_weight=1e-06"]),
                candidates=st.integers(1, 10),
                frechet_val=distance,
                frechet_test=distance,
                frechet_test_std=spread,
                frechet_test_noise=st.floats(0, 9),
                score=st.none() | st.floats(1, 1000),
                score_std=spread,
                kernel=st.none() | st.floats(0, 9),
                precision=st.none() | st.floats(0, 1),
                recall=st.floats(0, 1),
                density=st.none() | st.floats(0, 9),
                coverage=st.floats(0, 1),
                reconstruction_mse=st.floats(0, 1),
                training_seconds=st.floats(0, 1e5),
                parameters=st.just(1),
                learned=st.booleans(),
                run_ids=st.just(("a",)),
            ),
            min_size=1,
            max_size=4,
        )
    )
    @settings(deadline=None)
    def test_no_number_is_cut_at_80_columns(self, rows):
        report = dataclasses.replace(REPORT, rows=rows)
        text = self.shown(report)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        for row in score_grid(report).rows:
            for cell in [*row[1:5], *row[8:10]]:
                assert cell.text in text

    def test_best_is_bold_second_underlined_and_level_marked(self):
        console = Console(width=80, force_terminal=True, color_system="standard")
        with console.capture() as captured:
            console.print(score_terminal(REPORT))
        text = captured.get()
        assert "\x1b[1m0.300 ± 0.071\x1b[0m" in text
        assert "\x1b[4m2.30 ± 0.00\x1b[0m" in text
        assert "6.50 ± 0.71 =" in text and "7.50 ± 0.00 =" in text


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The splits disagree on which is better: neither is.
        ([(113.8, 115.0), (114.3, 114.2), (150.0, 150.6)], ["113.8 =", "114.3 =", "150.0"]),
        ([(80.0, 80.4), (114.3, 114.2), (150.0, 150.6)], ["**80.00**", "<u>114.3</u>", "150.0"]),
        ([(80.0, 80.0)], ["80.00"]),
        # They agree, but other samples of the lowest would not.
        ([(80.0, 80.0, 9.0), (81.0, 81.0, 0.1)], ["80.00 ± 9.00 =", "81.00 ± 0.10 ="]),
        ([(80.0, 80.0, 0.1), (81.0, 81.0, 0.1)], ["**80.00 ± 0.10**", "<u>81.00 ± 0.10</u>"]),
        ([(0.0, 0.0), (0.0, 0.0)], ["0.000 =", "0.000 ="]),
    ],
)
def test_bold_stands_out_and_else_all_that_are_level_are_marked(rows, expected):
    results = [
        result(model, {}, 0, {"normal": (val, test)}, error=error[0] if error else None)
        for model, (test, val, *error) in zip(("ae", "fif", "wae_imq"), rows, strict=False)
    ]
    lines = to_markdown(score_grid(build_report(EXPERIMENT, results))).splitlines()
    assert [line.split(" | ")[2] for line in lines if " | N | " in line] == expected


@pytest.mark.parametrize(
    ("errors", "seeds", "words"),
    [
        (
            [None, None],
            [0, 0],
            ["of the split", "move the distances is not known", "With one seed"],
        ),
        ([0.1, None], [0, 0], ["over draws of samples", "of 1 of the rows", "With one seed"]),
        ([0.1, 0.1], [0, 0], ["and of draws of samples. ± is the standard dev", "With one seed"]),
        ([0.1, 0.1], [0, 1], ["and of seeds. ± is the standard dev", "means over the seeds."]),
    ],
)
def test_it_is_said_what_of_the_noise_is_known(errors, seeds, words):
    models = ["ae", "vae"] if seeds == [0, 0] else ["ae", "ae"]
    results = [
        result(model, {}, seed, {"normal": (1, 1)}, error=error)
        for model, seed, error in zip(models, seeds, errors, strict=True)
    ]
    (note,) = (n for n in build_report(EXPERIMENT, results).notes if "bold is" in n)
    found = [note.find(word) for word in words]
    assert -1 not in found and found == sorted(found)
    assert ("With one seed" in note) is ("With one seed" in words)


def test_configurations_of_fewer_seeds_are_named():
    runs = [("ae", {}, 0), ("fif", {"beta": 5.0}, 0), ("fif", {"beta": 10.0}, 0)]
    results = [result(*run, {"normal": (1, 1)}) for run in runs]
    (note,) = (n for n in build_report(EXPERIMENT, results).notes if "bold is" in n)
    assert "left out" not in note
    results.append(result("fif", {"beta": 10.0}, 1, {"normal": (1, 1)}))
    (note,) = (n for n in build_report(EXPERIMENT, results).notes if "bold is" in n)
    assert "of most seeds (fewer seeds, left out: 1 of FIF); bold is" in note


def test_seeds_that_agree_are_not_free_of_noise():
    """Each draws its samples, by which a single one's distance is known to move."""
    results = [result("ae", {}, seed, {"normal": (1, 1)}, error=0.3) for seed in (0, 1)]
    (row,) = build_report(EXPERIMENT, results).rows
    assert row.frechet_test_std == 0
    assert row.frechet_test_noise == pytest.approx(2 * 0.3 / 2**0.5)


def test_few_references_are_warned_of():
    notes = [note for note in REPORT.notes if note.startswith("Few data")]
    assert len(notes) == 1 and "2,000 samples and" in notes[0]


PUBLISHED = {"extractor": "inception", "num_samples": 10_000}
DISTANCES = {
    "fif": {"normal": (60, 60.25), "gmm": (50, 57.5)},
    "wae_rbf": {"normal": (70, 71.5), "gmm": (58, 56.25)},
    "wae_imq": {"normal": (65, 66.5), "maf": (58, 58.75)},
}


def published_report(
    profile="paper",
    distances=DISTANCES,
    *,
    latent_dim=None,
    image_size=None,
    profiles=None,
    tried=10,
    **record,
) -> Report:
    """Results on faces, of the published quantity unless told otherwise."""
    experiment = load_experiment("celeba", None, {"arch": "resnet", "profile": profile})
    changes = {"latent_dim": latent_dim, "image_size": image_size, "profiles": profiles}
    experiment = experiment.model_copy(update={k: v for k, v in changes.items() if v})
    values = PUBLISHED | record
    results = [
        result(model, varied, 0, {s: (val + i, test) for s, (val, test) in of.items()}, **values)
        for model, of in distances.items()
        for i, varied in enumerate(configurations(experiment.settings, model)[:tried])
    ]
    return build_report(experiment, results)


def column(grid: Grid, heading: str, occurrence: int = 0) -> dict[tuple[str, str], Cell]:
    index = [i for i, h in enumerate(grid.headings) if heading in h][occurrence]
    return {(row[0].text, row[1].text): row[index] for row in grid.rows}


class TestComparison:
    @pytest.mark.parametrize(
        ("profile", "record", "expected"),
        [
            ("paper", {}, []),
            ("paper", {"extractor": "tf-inception"}, []),
            ("quick", {}, ["profile `quick`"]),
            ("paper", {"extractor": "pixels"}, ["extractor `pixels`"]),
            ("paper", {"num_samples": 9_999}, ["9,999 samples"]),
            ("paper", {"partial": True}, ["partial data"]),
        ],
    )
    def test_reasons(self, profile, record, expected):
        assert not_comparable(published_report(profile, **record)) == expected

    def test_another_latent_dimension_is_a_reason(self):
        assert not_comparable(published_report(latent_dim=32)) == ["latent dimension 32"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image_size": 32}, "image size 32"),
            ({"tried": 9}, "not all configurations"),
            (
                {"profiles": {"paper": PAPER.model_copy(update={"epochs": 1})}},
                "a profile `paper` of",
            ),
        ],
        ids=["image size", "configurations", "profile"],
    )
    def test_what_a_user_changed_is_a_reason(self, change, reason):
        (found,) = not_comparable(published_report(**change))
        assert found.startswith(reason)

    def test_no_difference_where_the_sampler_is_fitted_in_another_way(self):
        scores = {"normal": (60, 60.25), "maf": (50, 57.5), "two_stage": (50, 57.5)}
        report = published_report(distances={"disentangled_beta_vae": scores})
        difference = column(table8(report), "difference")
        assert difference["Dis β-VAE", "N"].text != DASH
        assert difference["Dis β-VAE", "MAF"].text == DASH
        assert difference["Dis β-VAE", "2-stage"].text == DASH

    def test_differences_where_the_quantity_is_the_same(self):
        grid = table8(published_report())
        assert grid.headings[2:5] == ["FID measured ↓", "FID published ↓", "difference"]
        assert column(grid, "difference")["FIF", "N"].text == "-2.0"
        assert column(grid, "difference")["FIF", "GMM"].text == "+2.5"
        assert column(grid, "difference")["VAE", "N"].text == DASH
        # MAF of WAE is measured, though the paper has no such row.
        assert column(grid, "FID measured")["WAE-IMQ", "MAF"].text == "58.75"
        assert column(grid, "FID published")["WAE-IMQ", "MAF"].text == DASH

    @pytest.mark.parametrize("make", [table8, table3])
    @pytest.mark.parametrize("profile", ["paper", "quick"])
    def test_no_measured_number_under_a_published_heading(self, make, profile):
        report = published_report(profile)
        grid = make(report)
        published = load_published(8).find(dataset="celeba", arch="resnet")
        printed = {cell.text for cell in published}
        measured = {cell.text for row in score_grid(report).rows for cell in (row[2], row[4])}
        assert not measured & printed
        seen = 0
        for index, heading in enumerate(grid.headings):
            texts = {row[index].text for row in grid.rows} - {DASH}
            if "published" in heading:
                assert texts
                assert texts <= printed
            elif "measured" in heading or "samples" in heading:
                assert texts <= measured
                seen += len(texts)
        assert seen > 4

    @pytest.mark.parametrize("make", [table8, table3])
    def test_another_quantity_has_its_own_name_and_no_difference(self, make):
        grid = make(published_report(extractor="efficientnet-lite0", num_samples=1000))
        headings = " ".join(grid.headings)
        assert "difference" not in headings
        assert "measured" not in headings
        assert "FD-efficientnet-lite0, 1,000 samples ↓" in headings
        assert "extractor `efficientnet-lite0`, 1,000 samples" in " ".join(grid.notes)

    @pytest.mark.parametrize("dataset", ["celeba", "mnist"])
    def test_table2_has_published_numbers_beside_on_its_data_set_alone(self, dataset):
        experiment = load_experiment(dataset, experiment_file(2), {"profile": "table2-quick"})
        results = []
        for index, (model, latent_dim) in enumerate(
            {"fif": 64, "dnf": 512, "trumpet": 192}.items()
        ):
            for seed in (0, 1):
                distances = {"normal": (9, 7 - index), "gmm": (3 + index, 3 + index)}
                results.append(
                    result(
                        model,
                        {},
                        seed,
                        distances,
                        num_samples=1000,
                        training=Training(
                            seconds=310.0, train_seconds=300.4, images=1000 * (index + 1)
                        ),
                        dataset=dataset,
                        latent_dim=latent_dim,
                        settings=experiment.settings.settings_of(model),
                    )
                )
        report = build_report(experiment, results)
        grid = table2(report)
        rows = {row[0].text: row for row in grid.rows}
        assert list(rows) == ["DNF", "Trumpet", "FIF"]
        fif = dict(zip(grid.headings, rows["FIF"], strict=True))
        assert (fif["d"].text, fif["images seen"].text) == ("64", "1,000")
        assert fif["N: FD-classifier, 1,000 samples ↓"].value == 7
        assert fif["GMM: FD-classifier, 1,000 samples ↓"].rank == 1
        published = {h: cell.text for h, cell in fif.items() if "published" in h}
        if dataset == "celeba":
            assert published["# parameters published"] == "34.3M"
            assert published["N: FID published ↓"] == "47.3 ± 1.39"
            assert published["GMM: IS published ↑"] == "2.0"
        else:
            assert not published
        notes = " ".join(grid.notes)
        assert "wall clock 4min instead of five hours" in notes
        assert "cpu (x86_64) instead of an NVIDIA A40" in notes
        assert "Wall clock 4min of training steps" in " ".join(report.notes)
        assert "(used 300 to 300 s), batch" in " ".join(report.notes)
        assert table2(build_report(experiment, results[:2])) is None

    def test_ranks_of_published_numbers_leave_vaegan_out(self):
        fid = column(table8(published_report()), "published")
        marks = {key: cell.rank for key, cell in fid.items() if cell.rank}
        assert marks == {("FIF", "N"): 1, ("AAE", "N"): 2, ("FIF", "GMM"): 1, ("AE", "GMM"): 2}

    @pytest.mark.parametrize(("sign", "expected"), [(1, "1.00"), (-1, "-1.00")])
    def test_the_order_of_models_is_compared_with_the_published(self, sign, expected):
        published = load_published(8).find(
            dataset="celeba", arch="resnet", metric="FID", sampler="normal"
        )
        models = [cell for cell in published if cell.at["model"] != "vae_iaf"][:7]
        distances = {c.at["model"]: {"normal": (9, 500 + sign * c.value)} for c in models}
        learnt = {"vaegan": {"normal": (9, 9)}, **distances}  # which is outside the comparison
        (note,) = (n for n in table8(published_report(distances=learnt)).notes if "Order of" in n)
        assert f": N {expected}, random -" in note and note.endswith("(7 models).")
        assert "GMM" not in note
        few = dict(list(distances.items())[:4])
        assert "Order of" not in " ".join(table8(published_report(distances=few)).notes)

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=5, max_size=9))
    def test_agreement_of_orders_is_scipys_whatever_the_scale(self, pairs):
        x, y = (list(map(float, values)) for values in zip(*pairs, strict=True))
        if len(set(x)) > 1 and len(set(y)) > 1:
            found = order_agreement(x, y)
            assert float(found.split(",")[0]) == pytest.approx(spearmanr(x, y)[0], abs=0.0051)
            assert found == order_agreement([math.exp(value) for value in x], y)
            low, high = map(float, found.split("random ")[1].split(" to "))
            assert -1 <= low <= 0 <= high <= 1

    def test_table3_merges_variants_to_their_best(self):
        grid = table3(published_report())
        rows = {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}
        assert len(rows) == 14
        assert rows["WAE (RBF/IMQ)"][:3] == ["66.50", "67.1", "-0.6"]
        assert rows["WAE (RBF/IMQ)"][6:9] == ["56.25", "57.7", "-1.5"]
        assert rows["VAE"] == [DASH, "66.6", DASH, DASH, "1.6", DASH,
                               DASH, "63.0", DASH, DASH, "1.7", DASH]  # fmt: skip
        best = {row[0].text for row in grid.rows if row[2].rank == 1}
        assert best == {"FIF"}

    def test_the_gaussian_has_columns_where_it_was_measured(self):
        assert not any("Gaussian" in heading for heading in table3(published_report()).headings)
        measured = {"fif": {"gaussian": (60, 61.25)}, "ae": {"normal": (60, 60.25)}}
        grid = table3(published_report(distances=measured))
        at = grid.headings.index("Gaussian: FID measured ↓")
        assert grid.headings[at + 1 : at + 3] == ["Gaussian: IS measured ↑", "GMM: FID measured ↓"]
        found = {row[0].text: row[at].text for row in grid.rows}
        assert found["FIF"] == "61.25" and found["Vanilla AE"] == DASH

    def test_table3_of_another_data_set_is_merged_from_table_8(self):
        grid = table3(REPORT)
        published = {row[0].text: row[2].text for row in grid.rows}
        assert published["RAE (L2/GP)"] == "61.5"
        assert published["WAE (RBF/IMQ)"] == "20.3"

    @pytest.mark.parametrize("make", [table8, table3])
    def test_models_that_did_not_learn_are_marked(self, make):
        grid = make(REPORT)
        assert {row[0].text for row in grid.rows if "†" in row[0].text} <= {"AE †", "Vanilla AE †"}
        assert grid.notes[-1].startswith("† did not learn")

    @pytest.mark.parametrize("make", [table8, table3])
    @pytest.mark.parametrize("where", [{"dataset": "digits"}, {"arch": "fif_convnet"}])
    def test_none_where_the_paper_has_none(self, make, where):
        other = EXPERIMENT.model_copy(update=where)
        assert make(dataclasses.replace(REPORT, experiment=other)) is None


class TestGrid:
    GRID = Grid(
        "a_b", ["A & B", "x ↓"], "lr",
        [[Cell("50% `c_d` <β>"), Cell("1.00 ± 0.50", 1.0, 1)], [Cell("|"), Cell(DASH)]],
        ["{note} #1 ~ ^ \\"], frozenset({1}),
    )  # fmt: skip

    def test_latex_is_escaped(self):
        text = to_latex(self.GRID)
        assert r"A \& B & x $\downarrow$ \\" in text
        assert r"50\% \texttt{c\_d} \textless{}$\beta$\textgreater{}" in text
        assert r"\textbf{1.00 $\pm$ 0.50} \\" in text
        assert r"\{note\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}" in text

    @pytest.mark.parametrize("name", sorted(p.name for p in GOLDEN.glob("*.tex")))
    def test_latex_rows_have_a_cell_a_column(self, name):
        text = (GOLDEN / name).read_text("utf-8")
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))

    def test_csv_has_unrounded_numbers_and_nothing_for_a_dash(self):
        grid = dataclasses.replace(self.GRID, rows=[[Cell("a"), Cell("1.00", 1.0042)],
                                                    [Cell("b"), Cell(DASH)]])  # fmt: skip
        assert to_csv(grid) == "A & B,x ↓\na,1.0042\nb,\n"

    def test_rows_of_values(self, tmp_path):
        rows = [{"a": 1, "b": 1 / 3, "c": ("x", "y")}, {"a": None, "b": math.nan, "c": ()}]
        assert write_rows(tmp_path / "x" / "r.csv", rows, ".3g").read_text() == (
            "a,b,c\n1,0.333,x y\n,nan,\n"
        )
        assert "0.3333333333333333" in write_rows(tmp_path / "r.csv", rows).read_text()

    def test_markdown_escapes_bars(self):
        assert "| \\| | – |" in to_markdown(self.GRID)


class Reader(HTMLParser):
    """Collects a page's elements, and holds that they are closed in the right order."""

    VOID = frozenset(["meta", "img", "br", "link", "input", "hr"])

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(written):
    return (written[0] / "pages" / f"{NAME}.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Reader(text)


class TestPage:
    def test_well_formed(self, text, page):
        assert text.startswith("<!doctype html>")
        assert page.open == []
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids}

    def test_nothing_is_loaded(self, text, page):
        for _, attributes in page.elements:
            for key in ("src", "href", "srcset", "data", "action"):
                assert attributes.get(key, "#").startswith(("#", "data:"))
        assert not page.all("link")
        assert "@import" not in text
        assert "url(" not in text
        assert "http" not in re.sub(r"data:[^\"]+", "", text)

    def test_pictures_are_whole_and_described(self, page):
        pictures = page.all("img")
        assert len(pictures) == len(DRAWN)
        for picture in pictures:
            assert len(picture["alt"]) > 9
            data = base64.b64decode(picture["src"].partition("base64,")[2])
            image = Image.open(io.BytesIO(data))
            assert image.size == (int(picture["width"]), int(picture["height"]))

    def test_holds_tables_notes_and_failures(self, text, page):
        assert len(page.all("table")) == 6
        assert '<td class="r" data-value="0.3"><b>0.300 ± 0.071</b></td>' in text
        assert '<td class="r" data-value="2.3"><u>2.30 ± 0.00</u></td>' in text
        assert '<td class="r" data-value="6.5">6.50 ± 0.71 =</td>' in text
        assert '<tr class="first" data-model="AE"><td>AE †</td>' in text.replace("\n", "")
        assert "<li>Profile <code>quick</code> (a profile of the tests); at most 2 conf" in text
        assert "DivergedError: the loss is &lt;NaN&gt; &amp; no number in epoch 3" in text
        assert "AE did not learn" in text
        assert "1 run has no result" in text
        assert all(RESULTS[index].spec.run_id in text for index in (0, 4, 6))

    def test_what_a_model_says_cannot_break_the_page(self, tmp_path):
        failure = (*FAILURES[0][:2], "<script>alert('`x`')</script> {{ 1 }} {% endfor %}")
        write_experiment(store(tmp_path), splits(), report(RESULTS[:2], 1), [Failure(*failure)])
        page = Reader((tmp_path / "pages" / f"{NAME}.html").read_text("utf-8"))
        assert len(page.all("script")) == 1
        assert page.open == []


class TestFigures:
    def test_webp_is_without_loss_where_that_is_smaller(self, tmp_path):
        """Of few large pixels, and not of noise."""
        draws = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 64, 3)).astype(np.uint8)
        few = draws[:, :, ::16, ::16].repeat(16, 2).repeat(16, 3)
        for images, exact in ((few, True), (draws, False)):
            drawn = []
            for end in (".png", ".webp"):
                figure = sample_figure.sample_figure([Line("FIF", {"N": images[0]})], "title")
                write_figure(tmp_path / f"p{end}", figure)
                drawn.append(np.asarray(Image.open(tmp_path / f"p{end}").convert("RGB")))
            assert np.array_equal(*drawn) == exact

    @pytest.mark.parametrize(("size", "scale"), [((8, 8), 6), ((28, 20), 2), ((64, 64), 1)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_pixel_is_a_square_of_its_grey(self, tmp_path, size, scale, channels):
        """In the file as it is written: all strips, enlarged by a whole number, and no other."""
        draws = np.random.RandomState(0).randint(0, 256, (4, 64, *size, channels)).astype(np.uint8)
        lines = [
            Line("test images", {"": draws[0]}),
            Line("FIF", {"N": draws[1], "GMM": draws[2]}),
            Line("VQVAE", {"PixelCNN": draws[3]}),
        ]
        write_figure(tmp_path / "p.png", sample_figure.sample_figure(lines, "title"))
        with Image.open(tmp_path / "p.png") as image:
            drawn = np.asarray(image.convert("RGB"), int)[sample_figure.HEAD :]
        assert drawn.shape[1] <= sample_figure.WIDTH
        height, width = (scale * side + sample_figure.GAP for side in size)
        across = drawn.shape[1] - sample_figure.LABEL - sample_figure.BLOCK_GAP
        count = across // (2 * width)
        shown = [(0, 0, draws[0]), (0, 1, draws[0][count:]), (1, 0, draws[1]), (1, 1, draws[2]),
                 (2, 0, draws[3]), (2, 1, draws[3][count:])]  # fmt: skip
        for row, block, images in shown:
            left = sample_figure.LABEL + block * (count * width + sample_figure.BLOCK_GAP)
            for place, image in enumerate(images[:count]):
                at = left + place * width
                part = drawn[row * height :, at:][: scale * size[0], : scale * size[1]]
                assert np.abs(part[::scale, ::scale] - image).max() <= UNSEEN
                assert np.abs(part[scale - 1 :: scale, scale - 1 :: scale] - image).max() <= UNSEEN

    def test_a_third_sampler_begins_a_new_line(self):
        images = np.zeros((64, 8, 8, 1), np.uint8)
        figure = sample_figure.sample_figure(
            [Line("FIF", dict.fromkeys(("N", "GMM", "MAF"), images))], "title"
        )
        texts = [text.get_text() for text in figure.texts]
        assert texts == ["FIF", "N | GMM", "FIF", "MAF", "title"]

    def test_images_of_a_sheet(self, tmp_path):
        images = images_of(read_pixels(report_store.sheet(tmp_path / "s.png", (5, 9), 3)))
        assert images.shape == (64, 5, 9, 3)
        assert [*np.unique(images[:8])] == [10] and [*np.unique(images[56:])] == [80]

    def test_fif_is_first_and_the_best_follow(self, tmp_path):
        """By validation distance, each with its best sampler; of pairs the reconstructions."""
        report_store.fill(store(tmp_path))
        lines = sample_figure.best(store(tmp_path), report())
        assert [(line.name, *line.strips) for line in lines] == [
            ("FIF", "reconstructions"), ("FIF", "samples, GMM"),
            ("AE", "reconstructions"), ("AE", "samples, GMM"),
            ("VAE", "reconstructions"), ("VAE", "samples, N"),
        ]  # fmt: skip
        rows = [*np.unique(lines[0].strips["reconstructions"])]
        assert rows == [20, 40, 60, 80]
        everything = sample_figure.samples(store(tmp_path), report())
        assert [(line.name, [*line.strips]) for line in everything] == [
            ("FIF", ["N", "GMM"]), ("AE", ["N", "GMM", "MAF"]), ("VAE", ["N", "GMM"])
        ]  # fmt: skip


class TestReference:
    def test_a_packed_store_draws_the_same(self, tmp_path, caplog):
        """Figures too, whose images it has, and those stay whose images it lacks."""
        root, target = tmp_path / "store", tmp_path / "packed"
        whole = store(root)
        for found in RESULTS:
            whole.prepare(found.spec, Environment())
            write_json(whole.run_dir(found.spec) / "result.json", found.record.to_dict())
            Status(state="finished").write(whole.run_dir(found.spec))
        report_store.fill(whole)
        drawn = build_report(EXPERIMENT, RESULTS)
        write_experiment(whole, splits(), drawn)
        script = packer()
        script.copy(root, target)
        Status(state="interrupted").write(whole.run_dir(RESULTS[0].spec))  # samplers are to come
        assert script.pack(root, tmp_path / "begun") == len(RESULTS) - 1
        Status(state="finished").write(whole.run_dir(RESULTS[0].spec))
        assert script.pack(root, target) == len(RESULTS)
        before = {p: p.stat().st_mtime_ns for p in target.rglob("*.*") if p.is_file()}
        write_experiment(store(target), splits(), drawn)
        assert {p: p.stat().st_mtime_ns for p in target.rglob("*.*") if p.is_file()} == before
        assert not caplog.records
        kept = target / "figures" / f"{NAME}-samples.webp"
        whole = kept.read_bytes()
        kept.unlink()
        write_experiment(store(target), splits(), drawn)
        assert kept.read_bytes() == whole
        (pack,) = (target / "runs").glob("*.jsonl")
        first, *rest = map(json.loads, pack.read_text().splitlines())
        del first["pictures"]
        pack.write_text("\n".join(map(json.dumps, [first, *rest])))
        another = kept.with_name(f"{NAME}-cost.png").read_bytes()
        kept.write_bytes(another)
        write_experiment(store(target), splits(), drawn)
        assert kept.read_bytes() == another and not caplog.records
        kept.unlink()
        write_experiment(store(target), splits(), drawn)
        assert "samples.webp is not drawn: some runs have no pictures" in caplog.text
        assert not kept.exists()

    def test_a_row_says_how_far_it_is_from_the_reference(self, tmp_path):
        """FIF the same, AE's first seed a quarter off, VAE not all there."""
        other = store(tmp_path / "same")
        moved = result("ae", {}, 0, {"normal": (140, 150.25), "gmm": (3, 2.3), "maf": (4, 5)}, 2.5)
        for found in (*RESULTS[:4], moved, *RESULTS[5:7]):
            other.prepare(found.spec, Environment())
            write_json(other.run_dir(found.spec) / "result.json", found.record.to_dict())
        compared = build_report(EXPERIMENT, RESULTS, reference=other)
        by_row = {
            (r.model, r.sampler): d
            for r, d in zip(compared.rows, compared.differences, strict=True)
        }
        assert by_row["FIF", "N"] == by_row["FIF", "GMM"] == 0
        assert by_row["AE", "GMM"] == pytest.approx(1 - 0.0123 / 0.2)
        assert math.isnan(by_row["VAE", "N"])
        column = [row[-2].text for row in score_grid(compared).rows]
        assert score_grid(compared).headings[-2] == "reference"
        assert column == ["same", "same", "93.8%", "93.8%", "93.8%", "–", "–"]
        weights = store(tmp_path / "weights")
        for seed in (0, 1):
            found = result("vae", {}, seed, {"normal": (7, 7.5)}, 1.5, extractor_hash="f" * 16)
            weights.prepare(found.spec, Environment())
            write_json(weights.run_dir(found.spec) / "result.json", found.record.to_dict())
        scored = score_grid(build_report(EXPERIMENT, RESULTS, reference=weights)).rows
        assert [row[-2].text for row in scored] == [*["–"] * 5, "other extractor", "–"]
        assert "reference" not in score_grid(REPORT).headings
        assert score_terminal(compared).columns[-2].header == "ref"


class TestPlots:
    def test_figure_10(self):
        parameters = [{"beta": b, "hutchinson_samples": k} for b in (5, 10) for k in (1, 2)]
        runs = [
            result("fif", p, seed, {"normal": (p["beta"] + seed, 1), "gmm": (1 + seed, 1)})
            for p in parameters
            for seed in (0, 1)
        ]
        figure = figures.beta_figure(report([*runs, *RESULTS[4:]]))
        lines = {
            line.get_label(): (line.get_linestyle(), [*line.get_xdata()], [*line.get_ydata()])
            for line in figure.axes[0].get_lines()
        }
        assert lines == {
            "N, K = 1": ("-", [5, 10], [5.5, 10.5]),
            "N, K = 2": ("--", [5, 10], [5.5, 10.5]),
            "GMM, K = 1": ("-", [5, 10], [1.5, 1.5]),
            "GMM, K = 2": ("--", [5, 10], [1.5, 1.5]),
        }

    def test_no_figure_10_where_something_else_varies_too(self):
        runs = [
            result("fif", {"beta": beta, "latent_distribution": of}, 0, {"normal": (beta, beta)})
            for beta in (5, 10)
            for of in ("normal", "student_t")
        ]
        assert figures.beta_figure(report(runs)) is None

    @pytest.mark.parametrize("results", [RESULTS[:2], RESULTS[4:]])
    def test_figure_10_needs_two_betas(self, results):
        assert figures.beta_figure(report(results)) is None

    def test_cost_has_a_point_a_model(self):
        panels = {axis.get_title(): axis for axis in figures.cost_figure(REPORT).axes}
        # One model alone has MAF: that is no comparison.
        assert set(panels) == {"N sampler", "GMM sampler"}
        points = {
            line.get_label(): (*line.get_xdata(), *line.get_ydata())
            for line in panels["N sampler"].get_lines()
        }
        assert points == {"FIF": (20.5, 6.5), "AE": (20.5, 150.75), "VAE": (20.5, 7.5)}
        assert panels["N sampler"].get_legend() is not None

    def test_learning_curves_leave_out_broken_lines(self, tmp_path):
        log = tmp_path / "log.jsonl"
        line = '{"epoch": 1, "train_loss": 2.0, "eval_loss": NaN, "seconds": 2.0}\n'
        broken = '{"epoch": 9}\n[]\n{"train_loss": 1'
        log.write_text(f"{line}{line}{broken}")
        logs = {"FIF": log, "AE": tmp_path / "none.jsonl"}
        lines = figures.learning_figure(logs, "t").axes[0].get_lines()
        assert [[*map(float, curve.get_xdata())] for curve in lines] == [[2.0, 4.0]]

    def test_learning_curves_of_fif_show_where_training_rests(self, tmp_path):
        log = tmp_path / "log.jsonl"
        line = {"epoch": 1, "train_loss": 2.0, "seconds": 2}
        line |= {"train_code_square": 0.5, "train_code_trace": 0.9}
        log.write_text(2 * f"{json.dumps(line)}\n")
        _, right = figures.learning_figure({"FIF": log}, "t").axes
        assert [[*map(float, curve.get_ydata())] for curve in right.get_lines()] == [
            [0.5, 0.5],
            [0.9, 0.9],
        ]

    def test_no_learning_curve_without_logs(self, tmp_path):
        assert figures.learning_figure({"a": tmp_path / "none"}, "t") is None


class TestCodes:
    def of(self, *results) -> dict[str, list[str]]:
        grid = code_grid(report(list(results)))
        return {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}

    def test_what_two_moments_and_a_mixture_close(self):
        distances = {"normal": (9, 10), "gaussian": (7, 8), "gmm": (1, 2)}
        runs = [
            result("fif", {}, seed, distances, codes=CodeScores(1.0 + seed, 0.25))
            for seed in (0, 1)
        ]
        best = result("ae", {}, 0, {"normal": (2, 3), "gmm": (4, 5)}, codes=CodeScores(9.0, 1.0))
        assert self.of(*runs, best, *RESULTS[6:]) == {
            "FIF": ["1.50", "0.250", "10.00", "8.00", "2.00", "25%"],
            "AE": ["9.00", "1.00", "3.00", DASH, "5.00", DASH],
        }

    def test_all_is_of_the_configuration_chosen_for_the_prior(self):
        near = {"normal": (2, 3), "gaussian": (2, 3), "gmm": (2, 2.5)}
        far = {"normal": (9, 9), "gaussian": (1, 1), "gmm": (1, 1)}
        runs = [
            result("fif", {"beta": beta}, 0, distances, codes=CodeScores(beta, 0.0))
            for beta, distances in ((5, near), (10, far))
        ]
        assert self.of(*runs)["FIF"] == ["5.00", "0.000", "3.00", "3.00", "2.50", "0%"]

    @pytest.mark.parametrize(("mixture", "share"), [(99.5, DASH), (98.0, "50%")])
    def test_no_share_of_a_gap_that_is_noise(self, mixture, share):
        distances = {"normal": (1, 100), "gaussian": (1, 99), "gmm": (1, mixture)}
        run = result("vae", {}, 0, distances, codes=CodeScores(1.0, 0.0))
        assert self.of(run)["VAE"][-1] == share

    def test_none_of_early_records(self):
        assert code_grid(report(RESULTS)) is None


@pytest.mark.parametrize("starts", [("a", "b"), (None, None)], ids=str)
def test_hours_are_of_all_attempts_that_scored(starts):
    """Samplers of one later attempt are one attempt; early records do not tell when it began."""
    ours = RESULTS[0]
    first, then = (
        ours.record.provenance.model_copy(update={"started": at, "seconds": 3600 * hours})
        for at, hours in zip(starts, (1, 2), strict=True)
    )
    later = {"provenance": first, "later_provenance": {"gmm": then, "maf": then}}
    resumed = dataclasses.replace(ours, record=ours.record.model_copy(update=later))
    (row,) = cost_grid(report([resumed])).rows
    assert row[-1].text == "3.00"


def test_all_configurations_of_fif_are_shown():
    coded = result("fif", {"beta": 7, "hutchinson_samples": 1}, 0, {"normal": (1, 2)},
                   codes=CodeScores(0.5, 0.1))  # fmt: skip
    grid = configuration_grid(report([*RESULTS, coded]))
    assert grid.headings == ["configuration", "seeds", "KL, nats ↓", "N ↓", "GMM ↓"]
    assert [[cell.text for cell in row] for row in grid.rows] == [
        ["beta=7, hutchinson_samples=1", "1", "0.500", "2.00", DASH],
        ["beta=10, hutchinson_samples=1", "2", DASH, "6.50 ± 0.71", "2.62 ± 0.18"],
        ["beta=5, hutchinson_samples=2", "2", DASH, "1.00 ± 0.00", "0.300 ± 0.071"],
    ]
    assert configuration_grid(report([coded, *RESULTS[4:]])) is None


def test_text_of_a_store_is_text_in_every_form():
    hostile = "a|<script>alert(1)</script> ![x](http://far) &lt;b&gt; `<i>` \x1b[2J\n# x"
    grid = Grid(hostile, [hostile], "l", [[Cell(hostile)]], [hostile])
    assert not re.search(r"<(?!/?u>)|\]\(|\x1b|^# x", to_markdown(grid), re.MULTILINE)
    assert "&amp;lt;b&amp;gt;" in to_markdown(grid)
    assert all(printable(form) == form for form in (to_latex(grid), to_csv(grid)))
