"""The report of a fixed store: chosen configurations, numbers, marks, notes and files."""

import io
import math
import re
import runpy
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas
import pytest
from PIL import Image
from rich.console import Console
from support.reference import ROOT
from support.report_store import (
    RESULTS,
    fill_store,
    make_experiment,
    make_fif_result,
    make_result,
    make_splits,
)

from pythae_fif.benchmark.results import read_all
from pythae_fif.data import Columns
from pythae_fif.evaluation.score_types import MarginalLikelihoodScore
from pythae_fif.files import write_bytes
from pythae_fif.pictures import pixel_bytes
from pythae_fif.reports.figures import _image_row, _stack_rows, draw_figures
from pythae_fif.reports.frame import doubt_of_lead, ranks
from pythae_fif.reports.report import Report
from pythae_fif.reports.tables import Table
from pythae_fif.runs.store import Store

NAME = "mnist-resnet-quick"
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
TABLE = replace(
    make_splits(),
    train=ROWS,
    val=ROWS,
    test=ROWS,
    columns=Columns(["a", "$b", "c"], [1] * 3, [9] * 3),
)


def make_report(results=RESULTS, experiment=None, splits=None, **options):
    return Report(experiment or make_experiment(), results, splits or make_splits(), **options)


REPORT = make_report()


def png_of_size(width, height):
    """Returns a grey PNG, black but for its header's claim of a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header


def with_likelihoods(result, codes="mode", nats=-4.5):
    """Returns a result whose scores have a log-likelihood of test data."""
    likelihood = {"test": MarginalLikelihoodScore(nats, 0.1, 1.25, 0.05, 64, codes)}
    records = {}
    for sampler, record in result.scores.items():
        scores = replace(record.result.scores, marginal_likelihood=likelihood)
        content = replace(record.result, scores=scores)
        records[sampler] = record.model_copy(update={"result": content})
    return replace(result, scores=records)


DOUBTFUL = [
    make_result("ae", {}, 0, {"gmm": (1, 2)}, partial=True, images=5000),
    make_result(
        "vae", {}, 0, {"gmm": (1, 2)}, extractor_hash="f" * 16, provenance={"device": "cuda (X)"}
    ),
]
GOLDEN = {
    "two-seeds": REPORT,
    "one-seed-with-likelihoods": make_report([with_likelihoods(RESULTS[0])]),
    "doubtful-table": make_report(
        DOUBTFUL, splits=replace(TABLE, class_names=("female", "male")), missing=3
    ),
}
"""File of an expected page in `golden/` -> the report that has it."""


@pytest.mark.parametrize("name", GOLDEN)
def test_the_page_is_the_expected_one(name):
    """To accept a change, remove the file, run the test twice, and read the difference."""
    file = Path(__file__).parent / "golden" / f"{name}.md"
    page = GOLDEN[name]._markdown_page({})
    if not file.exists():
        file.write_text(page, "utf-8")
        pytest.fail(f"{file.name} was missing, and is written")
    assert page == file.read_text("utf-8")


@pytest.mark.parametrize(("codes", "warns"), [("mode", False), ("encoder", True)])
def test_log_likelihoods_of_two_kinds_are_not_on_one_scale(codes, warns):
    results = [with_likelihoods(RESULTS[0]), with_likelihoods(RESULTS[1], codes)]
    page = make_report(results)._markdown_page({})
    assert ("they are not on one scale" in page) == warns


class TestTable:
    def test_noise_includes_split_and_seeds_or_draws(self):
        results = [make_result(model, {}, 0, {"gmm": (2, 2)}, error=0.1) for model in ("ae", "vae")]
        assert list(make_report(results).table.noise) == pytest.approx([0.2, 0.2])

        # The logarithms of test to validation are 0 and log 2, both log 2 / 2 from the median.
        results = [
            make_result("ae", {}, 0, {"gmm": (2, 2)}),
            make_result("vae", {}, 0, {"gmm": (2, 4)}),
        ]
        split_error = 1.5 * math.log(2) / 2 / math.sqrt(2)
        expected = [4 * split_error, 8 * split_error]
        assert list(make_report(results).table.noise) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("values", "noise", "expected"),
        [
            ([3.0, 1.0, 2.0], [0.0] * 3, [0, 1, 2]),
            ([1.0, 1.0, 2.0], [0.1] * 3, [3, 3, 0]),
            ([1.0, 1.2, 2.0], [0.1] * 3, [1, 2, 0]),
            ([1.0, 1.1, 2.0], [0.1, math.nan, 0.1], [1, 2, 0]),
            ([1.0, math.nan, math.nan], [0.1] * 3, [0, 0, 0]),
        ],
    )
    def test_ranks(self, values, noise, expected):
        rows = pandas.DataFrame({"frechet_test": values, "noise": noise})
        rows = rows.assign(frechet_test_spread=0.01, seeds=3, is_short=False)
        assert list(ranks(rows)) == expected
        assert list(ranks(rows, pandas.Series(["N"] * 3))) == expected

    @pytest.mark.parametrize(
        ("changes", "doubt"),
        [
            ({"is_short": True}, "trainings are short"),
            ({"seeds": 1}, "one seed"),
            ({"frechet_test_spread": 5.0}, "a t-test at 5%"),
        ],
    )
    def test_nothing_is_bold_without_a_clear_winner(self, changes, doubt):
        rows = pandas.DataFrame({"frechet_test": [3.0, 1.0, 2.0], "noise": 0.0})
        rows = rows.assign(
            **{"frechet_test_spread": 0.01, "seeds": 3, "is_short": False, **changes}
        )
        assert list(ranks(rows)) == [0, 0, 0]
        assert doubt_of_lead(rows).startswith(doubt)

    def test_models_that_did_not_learn_are_marked(self):
        learned = REPORT.table.groupby("model").learned.all()
        assert dict(learned) == {"ae": False, "fif": True, "vae": True}
        assert "AE †" in set(REPORT.tables["overview"].cells["Model"])
        assert any(warning.startswith("AE † did not learn") for warning in REPORT.warnings)

        seeds = [
            make_result("vae", {}, 0, {"gmm": (7, 7)}, mse=0.01),
            make_result("vae", {}, 1, {"gmm": (7, 7)}, mse=0.2),
        ]
        assert not make_report(seeds).table.learned.all()

    def test_the_usual_samplers_of_all_models_share_a_column(self):
        distances = {"vamp": {"vamp": 3}, "vae": {"normal": 9}, "ae": {"normal": 20}}
        results = [
            make_result(model, {}, seed, {sampler: (value, value + seed / 10)})
            for model, by_sampler in distances.items()
            for sampler, value in by_sampler.items()
            for seed in (0, 1)
        ]
        overview = make_report(results).tables["overview"]
        assert [*overview.ranks["model prior ↓"]] == [1, 2, 0]
        overview = make_report(results[2:]).tables["overview"]
        assert [*overview.ranks["N(0, I) ↓"]] == [1, 2]

    def test_columns_are_the_requested_samplers(self):
        distances = dict.fromkeys(("normal", "gaussian", "gmm", "maf"), (2, 2))
        report = make_report(
            [make_result("ae", {}, 0, distances)], make_experiment(samplers=["gmm", "maf"])
        )
        assert [*report.tables["overview"].cells][1:4] == ["N(0, I) ↓", "GMM ↓", "MAF ↓"]

        report = make_report([make_fif_result(10, 1, 0, normal=(2, 2), own_prior=(1, 1))])
        assert [*report.tables["overview"].cells][1:4] == ["N(0, I) ↓", "own prior ↓", "MSE ↓"]

    @pytest.mark.parametrize(
        ("reference", "expected"),
        [
            (RESULTS[0], "same"),
            (make_fif_result(10, 1, 0, normal=(5, 6.6), gmm=(3, 2.5)), "9.1%"),
            (
                make_result(
                    "fif",
                    {"beta": 10, "hutchinson_samples": 1},
                    0,
                    {"normal": (5, 6), "gmm": (3, 2.5)},
                    extractor_hash="f" * 16,
                ),
                "other extractor",
            ),
        ],
    )
    def test_difference_from_the_committed_results(self, tmp_path, reference, expected):
        report = make_report(RESULTS[:1], reference=fill_store(tmp_path, [reference]))
        assert list(report.tables["overview"].cells["ref"]) == [expected]
        assert any(note.startswith("ref is ") for note in report.notes)
        report = make_report(RESULTS[:1], reference=fill_store(tmp_path / "none", []))
        assert "ref" not in report.tables["overview"].cells
        assert not any(note.startswith("ref is ") for note in report.notes)

    def test_likelihoods_of_other_codes_are_not_compared_with_the_committed_ones(self, tmp_path):
        result = with_likelihoods(RESULTS[0])
        for codes, expected in {"mode": "9.1%", "encoder": "same"}.items():
            other = with_likelihoods(RESULTS[0], codes, nats=-4.95)
            report = make_report([result], reference=fill_store(tmp_path / codes, [other]))
            assert list(report.tables["overview"].cells["ref"]) == [expected]


def make_pair(sampler, ae, vae, seeds=(0,), step=0.1, **fields):
    """Makes results of AE and VAE with these test distances, which grow by a step per seed."""
    return [
        make_result(model, {}, seed, {sampler: (test, test + seed * step)}, **fields)
        for model, test in (("ae", ae), ("vae", vae))
        for seed in seeds
    ]


class TestSentence:
    @pytest.mark.parametrize(
        ("results", "expected"),
        [
            (
                RESULTS,
                "Sampled from the prior, no clear winner: FIF and VAE are tied within the "
                "noise (6.50 to 7.50); from the Gaussian mixture, FIF is best",
            ),
            (
                RESULTS[4:],
                "Sampled from the prior, VAE has a distance of 7.50; from the Gaussian mixture, "
                "VAE has a distance of 7.50",
            ),
            (
                make_pair("flow", 2, 9),
                "Sampled with NSF, no clear winner: AE has the lowest distance (2.00), then VAE "
                "(9.00), but one seed does not show the noise of training (",
            ),
            (
                make_pair("flow", 2, 9, seeds=(0, 1, 2)),
                "Sampled with NSF, AE is best (2.10), ahead of VAE (9.10) by more than the noise "
                "(t-test at 5%) (",
            ),
            (
                make_pair("flow", 2, 9, seeds=(0, 1, 2), images=6000),
                "Sampled with NSF, no clear winner: AE has the lowest distance (2.10), then VAE "
                "(9.10), but trainings are short (",
            ),
            (  # more than the noise of two standard errors, and p = 0.09
                make_pair("flow", 2, 2.9, seeds=(0, 1), step=0.4),
                "Sampled with NSF, no clear winner: AE has the lowest distance (2.20), then VAE "
                "(3.10), but a t-test at 5% does not tell them apart (",
            ),
            (
                RESULTS[:2],
                "Sampled from the prior, FIF has a distance of 6.50; from the Gaussian mixture, "
                "FIF has a distance of 2.62",
            ),
            (
                [
                    make_result("ae", {}, 0, {"gmm": (2, 2)}, error=0.5),
                    make_result("vae", {}, 0, {"gmm": (2, 2.1)}, error=0.5),
                ],
                "Sampled from the Gaussian mixture, no clear winner: AE and VAE are tied within "
                "the noise (2.00 to 2.10)",
            ),
            (
                [
                    make_result("ae", {}, 0, {"gmm": (2, 2)}, error=0.1),
                    make_result("fif", {}, 0, {"gmm": (2, 2.5)}, error=0.1),
                    make_result("vae", {}, 0, {"gmm": (2, 2.6)}, error=2),
                ],
                "Sampled from the Gaussian mixture, no clear winner: AE and VAE are tied within "
                "the noise (2.00 to 2.60)",
            ),
        ],
    )
    def test_best_models_and_number_of_seeds(self, results, expected):
        sentence = make_report(results).sentence
        assert sentence.startswith(expected)
        seeds = {result.job.training.seed for result in results}
        assert ("(1 seed)" in sentence) == (len(seeds) == 1)


class TestForms:
    TABLE = Table(
        "T & x", pandas.DataFrame({"Model": ["a_b|<i>", "c", "d"], "FD ↓": ["1.00", "2.00", "3"]}),
        {"FD ↓": pandas.Series([1, 2, 3])}, ["`x_y` & more"],
    )  # fmt: skip

    def test_latex(self):
        text = self.TABLE.to_latex(["a note of the page"])
        assert r"a\_b|\textless{}i\textgreater{} & \textbf{1.00} \\" in text
        assert r"c & \underline{2.00} \\" in text and r"\begin{tabular}{lr}" in text
        assert r"d & \textit{3} \\" in text and "=" not in text
        assert "\\texttt{x\\_y} \\& more\\par\na note of the page\\par" in text
        assert r"\caption{T \& x. Bold: below all others beyond the noise; underlined:" in text
        assert text.startswith(r"\begin{table}[tb]") and text.endswith("\\end{table}\n")

    @pytest.mark.parametrize("width", [80, 120])
    def test_terminal(self, width):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(REPORT.terminal())
        lines = console.export_text().splitlines()
        assert lines[0].startswith("Sampled from the prior, no clear winner: FIF and VAE")
        assert max(map(len, lines)) <= width
        assert any(re.search(r"FIF +6\.50 ± 0\.71 = +0\.300 ± 0\.071", line) for line in lines)


@pytest.fixture(scope="module")
def written_report(tmp_path_factory):
    """A filled store, and the report and the page that were written into it."""
    store = fill_store(tmp_path_factory.mktemp("results"))
    report = make_report()
    report.warnings.append("the loss is <NaN> & no number")
    page = report.write(store)[-1]
    return store, report, page


def hostile_report():
    """Returns a report with text in its names, data and labels that must not reach a reader."""
    splits = replace(make_splits(), notes=("column <img src=x> [a](http://x)",))
    experiment = make_experiment()
    entries = {
        name: entry.model_copy(update={"label": '=HYPERLINK("x")<script>'})
        for name, entry in experiment.entries.items()
    }
    hostile = experiment.model_copy(update={"entries": entries, "data": "/x/<b>.csv"})
    return make_report(RESULTS, hostile, splits)


class TestFiles:
    @pytest.mark.parametrize(
        ("file", "active_parts"),
        [
            (f"tables/{NAME}.md", ["<img src=x", "<script", "[a](http"]),
            (f"{NAME}.html", ["<img src=x", "<script"]),
        ],
    )
    def test_foreign_text_stays_text(self, tmp_path, file, active_parts):
        hostile_report().write(fill_store(tmp_path))
        text = (tmp_path / file).read_text("utf-8")
        assert "HYPERLINK" in text
        assert [part for part in active_parts if part in text] == []

    def test_markdown_has_sentence_tables_and_pictures(self, written_report):
        store, _, _ = written_report
        text = (store.root / f"tables/{NAME}.md").read_text("utf-8")
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
        assert len(pictures) == 3
        assert all((store.root / "tables" / path).is_file() for path in pictures)
        assert text.index("Sampled from") < text.index("| Model") < text.index("## Notes")

    def test_the_page_is_complete_and_loads_nothing(self, written_report):
        store, report, page = written_report
        text = page.read_text("utf-8")
        addresses = re.findall(r'src="([^"]+)"', text)
        assert len(addresses) == 3
        assert "<script" not in text
        assert all(address.startswith("data:image/") for address in addresses)

        chosen = re.findall(
            r'/([0-9a-f]{12})/">[^<]*</a>: <b>chosen by validation</b> for ([\w, ]+)<', text
        )
        chosen_pairs = {(run_id, name) for run_id, names in chosen for name in names.split(", ")}
        table = REPORT.table
        pairs = zip(table["run_ids"], table["sampler"], strict=True)
        assert chosen_pairs == {(run_id, name) for ids, name in pairs for run_id in ids.split()}
        first_table = text[text.index("<table") : text.index("</table")]
        assert "beta=10" in first_table

        links = [store.root / unquote(link) for link in re.findall('href="([^"]+)"', text)]
        assert all(link.exists() for link in links)
        assert len([link for link in links if (link / "spec.json").is_file()]) == len(RESULTS)
        names = {link.name for link in links if link.is_file()}
        assert names == {f"{NAME}.csv", f"{NAME}-runs.csv"} | {
            f"{NAME}-{key}.tex" for key in report.tables
        }
        assert "<code>run_benchmark.py --dataset mnist</code>" in text

        parts = ['class="sentence"', "<img", "N(0, I)&nbsp;↓", "<details"]
        positions = [text.index(part) for part in parts]
        assert positions == sorted(positions)
        assert "&lt;NaN&gt; &amp; no number" in text

    @pytest.mark.parametrize(
        "damage",
        [b"no picture", b"", pixel_bytes(np.zeros((5, 7), np.uint8)), png_of_size(25_600, 25_600)],
    )
    def test_a_damaged_picture_is_left_out(self, tmp_path, damage, caplog):
        store = fill_store(tmp_path, RESULTS[:2])
        (store.folder(RESULTS[0].job.training) / "samples-gmm-classifier-2000.png").write_bytes(
            damage
        )
        make_report(RESULTS[:2]).write(store)
        assert re.search(
            "samples-gmm-classifier-2000.png is left out of the figures .*: the command",
            caplog.text,
        )
        assert "best.webp" in draw(make_report(RESULTS[:2]), store, make_splits())

    def test_a_packed_store_draws_the_same(self, written_report, tmp_path):
        store, _, _ = written_report
        reference = runpy.run_path(str(ROOT / "results/reference/add.py"))
        reference["check"](store.root)
        added = list(reference["add"](store.root, tmp_path, False))
        assert added
        assert not list(reference["add"](store.root, tmp_path, False))

        packed = Store(tmp_path)
        results = list(read_all(packed))
        report = make_report(results)
        pandas.testing.assert_frame_equal(
            report.table.drop(columns="run_ids"), REPORT.table.drop(columns="run_ids")
        )
        figures = draw(report, packed, make_splits())
        assert {"best.webp", "samples.webp"} <= figures.keys()


def draw(report, store=None, splits=TABLE):
    """Draws the figures of a report, without a store only figure 10."""
    store = store or Store("missing")
    figures = draw_figures(report.frame, report.table, report.results, store, splits)
    return {figure.name: figure for figure in figures}


class TestFigures:
    def test_figure_10_is_drawn_if_only_beta_varies(self):
        noisy = [
            make_result("fif", {"beta": value, "noise": value}, 0, {"gmm": (1, 2)})
            for value in (1, 2)
        ]
        assert "beta.png" in draw(make_report(RESULTS))
        assert "beta.png" not in draw(make_report(RESULTS[:2]))
        assert "beta.png" not in draw(make_report(noisy))

    def test_figure_10_takes_means_over_seeds_only(self):
        """It is not drawn if another parameter varies."""
        grid = [
            make_result("fif", {"beta": beta, "noise": noise}, 0, {"gmm": (noise, 1)})
            for beta in (1, 2)
            for noise in (1, 2)
        ]
        assert "beta.png" not in draw(make_report(grid))

    def test_distributions_of_the_columns_of_a_table(self, tmp_path, caplog):
        results = [RESULTS[0], RESULTS[6]]
        store = Store(tmp_path)
        report = make_report(results)
        assert "marginals.png" not in draw(report, store)

        # The samplers of lowest validation distance; the first of two that are level.
        names = ["samples-gmm-classifier-2000.csv", "samples-normal-classifier-2000.csv"]
        paths = [
            store.folder(result.job.training) / name
            for result, name in zip(results, names, strict=True)
        ]
        contents = []
        for path in reversed(paths):
            write_bytes(path, TABLE.columns.to_frame(ROWS).to_csv(index=False).encode())
            contents.append(draw(report, store)["marginals.png"].content)
        assert contents[0] != contents[1], "each model adds its lines"
        assert caplog.text == ""

        for damage, is_drawn in zip(
            (b"a,$b\n1,2\n", b"a,$b,c\n1,2,x\n"), (True, False), strict=True
        ):
            write_bytes(paths.pop(), damage)
            assert ("marginals.png" in draw(report, store)) == is_drawn
        assert (
            caplog.text.count("samples-normal-classifier-2000.csv is left out of the figures") == 2
        )
        assert caplog.text.count("samples-gmm-classifier-2000.csv is left out of the figures") == 1

    def test_samples_are_enlarged_and_not_smoothed(self, tmp_path):
        store = fill_store(tmp_path, RESULTS[:2])
        report = make_report(RESULTS[:2])
        assert "best.webp" in draw(report, store, make_splits().subset(test=10))

        best = draw(report, store, make_splits())["best.webp"]
        with Image.open(io.BytesIO(best.content)) as image:
            pixels = np.asarray(image.convert("L"))[-25]
        greys = pixels[170:].reshape(-1, 50)[:, 24].astype(int)
        assert len(greys) == 16
        assert np.abs(greys - np.arange(16) * 3).max() <= 4

    def test_a_sheet_is_as_wide_and_tall_as_its_format_takes(self):
        wide = _image_row(np.zeros((3, 2, 1000, 3), np.uint8))
        assert wide.shape[1] == 1002
        tall = {str(index): _image_row(np.zeros((3, 256, 4, 3), np.uint8)) for index in range(70)}
        with Image.open(io.BytesIO(_stack_rows(tall))) as image:
            assert image.height == 63 * 258
