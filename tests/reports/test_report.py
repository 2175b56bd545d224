"""What is told of a fixed store: choices, numbers, marks, notes, and its files."""

import io
import math
import re
import runpy
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pandas
import pytest
from PIL import Image
from rich.console import Console
from support.reference import ROOT
from support.report_store import RESULTS, experiment, fill, of_fif, result, splits

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Columns
from pythae_fif.errors import StoreError
from pythae_fif.reports.figures import _line, _sheet, draw_figures
from pythae_fif.reports.frame import ranks
from pythae_fif.reports.report import Report
from pythae_fif.reports.tables import Table
from pythae_fif.runs.store import Store

NAME = "mnist-resnet-quick"
TABLE = replace(splits(), columns=Columns([], [], []))


def report(results=RESULTS, **values):
    values = {"splits": splits(), **values}
    of = values.pop("experiment", experiment())
    return Report(of, results, **values)


REPORT = report()


def row(found, model, sampler):
    table = found.table
    return table[(table.model == model) & (table.sampler == sampler)].iloc[0]


class TestTable:
    def test_numbers_are_means_of_the_configuration_chosen_by_validation(self):
        fif = row(REPORT, "fif", "normal")
        assert fif.configuration == "beta=10, hutchinson_samples=1"
        assert (fif.frechet_val, fif.frechet_test, fif.candidates) == (5.25, 6.5, 2)
        assert fif.spread == pytest.approx(math.sqrt(0.5))
        mixture = row(REPORT, "fif", "gmm")
        assert mixture.configuration == "beta=5, hutchinson_samples=2"
        assert mixture.frechet_test == pytest.approx(0.3)
        assert mixture.nearer == pytest.approx(0.51)
        assert math.isnan(row(REPORT, "vae", "gmm").nearer)

    def test_noise_is_of_the_split_and_of_seeds_or_draws(self):
        one, two = (result(m, {}, 0, {"gmm": (2, 2)}, error=0.1) for m in ("ae", "vae"))
        assert list(report([one, two]).table.noise) == pytest.approx([0.2, 0.2])
        # Logarithms of test to validation: 0 and log 2, each log 2 / 2 from their median.
        one, two = (result(m, {}, 0, {"gmm": (2, v)}) for m, v in (("ae", 2), ("vae", 4)))
        split = 1.5 * math.log(2) / 2 / math.sqrt(2)
        assert list(report([one, two]).table.noise) == pytest.approx([4 * split, 8 * split])

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
        columns = [pandas.Series(of) for of in (values, noise, ["N"] * 3)]
        assert list(ranks(*columns)) == list(ranks(*columns[:2])) == expected

    def test_models_that_did_not_learn_are_marked(self):
        learned = REPORT.table.groupby("model").learned.all()
        assert dict(learned) == {"ae": False, "fif": True, "vae": True}
        assert "AE †" in set(REPORT.tables["overview"].cells["Model"])
        assert any(warning.startswith("AE † did not learn") for warning in REPORT.warnings)
        seeds = [result("vae", {}, s, {"gmm": (7, 7)}, mse=m) for s, m in ((0, 0.01), (1, 0.2))]
        assert not report(seeds).table.learned.all()

    def test_the_lowest_of_a_column_is_marked_whatever_its_samplers(self):
        results = [result(m, {}, 0, {s: (v, v)}) for m, s, v in
                   (("vamp", "vamp", 3), ("vae", "normal", 9), ("ae", "normal", 20))]  # fmt: skip
        assert [*report(results).tables["overview"].ranks["prior ↓"]] == [1, 2, 0]

    def test_columns_are_of_the_samplers_that_are_asked_for(self):
        of = [result("ae", {}, 0, dict.fromkeys(("normal", "gaussian", "gmm", "maf"), (2, 2)))]
        found = report(of, experiment=experiment(samplers=["gmm", "maf"]))
        assert [*found.tables["overview"].cells][1:4] == ["prior ↓", "GMM ↓", "MAF ↓"]
        own = report([of_fif(10, 1, 0, normal=(2, 2), own_prior=(1, 1))]).tables["overview"]
        assert [*own.cells][1:4] == ["prior ↓", "own prior ↓", "recon. ↓"]

    @pytest.mark.parametrize(
        ("theirs", "expected"),
        [
            (RESULTS[0], "same"),
            (of_fif(10, 1, 0, normal=(5, 6.6), gmm=(3, 2.5)), "9.1%"),
            (result("fif", {"beta": 10, "hutchinson_samples": 1}, 0,
                    {"normal": (5, 6), "gmm": (3, 2.5)}, extractor_hash="f" * 16),
             "other extractor"),
        ],
    )  # fmt: skip
    def test_distance_to_the_committed_results(self, tmp_path, theirs, expected):
        found = report(RESULTS[:1], reference=fill(tmp_path, [theirs]))
        assert list(found.tables["overview"].cells["ref"]) == [expected]
        found = report(RESULTS[:1], reference=fill(tmp_path / "none", []))
        assert "ref" not in found.tables["overview"].cells


class TestSentence:
    @pytest.mark.parametrize(
        ("results", "expected"),
        [
            (RESULTS, "From the prior FIF and VAE are level (6.50 to 7.50): no lead"),
            (RESULTS[4:], "From the prior VAE is at 7.50; with the mixture VAE is at 7.50"),
            ([result(m, {}, 0, {"flow": (v, v)}) for m, v in (("ae", 2), ("vae", 9))],
             "With NSF codes AE is lowest with 2.00, beyond the noise of samples: VAE follows"),
            ([result(m, {}, seed, {"flow": (v, v)})
              for m, v in (("ae", 2), ("vae", 9)) for seed in (0, 1)],
             "With NSF codes AE is lowest with 2.00, beyond noise: VAE follows with 9.00"),
            (RESULTS[:2], "From the prior FIF is at 6.50; with the mixture FIF is at 2.62"),
            ([result(m, {}, 0, {"gmm": (2, v)}, error=0.5) for m, v in (("ae", 2), ("vae", 2.1))],
             "With the mixture AE and VAE are level (2.00 to 2.10): no lead stands out"),
            ([result(m, {}, 0, {"gmm": (2, v)}, error=e) for m, v, e in
              (("ae", 2, 0.1), ("fif", 2.5, 0.1), ("vae", 2.6, 2))],
             "With the mixture AE and VAE are level (2.00 to 2.60): no lead stands out"),
        ],
    )  # fmt: skip
    def test_lowest_models_and_seeds(self, results, expected):
        found = report(results).sentence
        seeds = len({of.spec.seed for of in results})
        assert found.startswith(expected) and ("(1 seed)" in found) == (seeds == 1)


class TestNotes:
    @pytest.mark.parametrize(
        ("values", "of", "expected"),
        [
            ({"missing": 3}, {}, "3 runs without a result"),
            ({}, {"partial": True}, "A part of the data"),
            ({}, {}, "Few data: 2,000 samples and 300 references"),
            ({}, {"images": 5000}, "Short trainings: 100 steps"),
        ],
    )
    def test_warnings(self, values, of, expected):
        found = report([result("ae", {}, 0, {"gmm": (1, 2)}, **of)], **values)
        assert any(warning.startswith(expected) for warning in found.warnings)
        assert f"Data: {splits().notes[0]}." in found.warnings
        calm = report([result("ae", {}, 0, {"gmm": (1, 2)})], splits=replace(splits(), notes=()))
        assert len(calm.warnings) == 1  # of few data

    def test_two_extractors_are_named(self):
        other = result("vae", {}, 0, {"normal": (1, 2)}, extractor_hash="f" * 16)
        warnings = " ".join(report([RESULTS[4], other]).warnings)
        assert f"({'e' * 16}, {'f' * 16}): their distances are not on one scale" in warnings

    def test_every_machine_is_named(self):
        made = {"device": "cuda (X)"}
        found = report([RESULTS[4], result("vae", {}, 0, {"normal": (1, 2)}, made=made)])
        notes = "\n".join(found.notes)
        assert "Machines: cpu (x86_64) with 2 cores; or cuda (X) with 2 cores." in notes
        assert "whose FD-classifier is no FID unless" in notes


class TestForms:
    TABLE = Table(
        "T & x", pandas.DataFrame({"Model": ["a_b|<i>", "c", "d"], "FD ↓": ["1.00", "2.00", "3"]}),
        {"FD ↓": pandas.Series([1, 2, 3])}, ["`x_y` & more"],
    )  # fmt: skip

    def test_markdown(self):
        assert self.TABLE.to_markdown() == (
            "## T & x\n\n| Model | FD ↓ |\n| --- | --: |\n| a_b\\|&lt;i> | **1.00** |\n"
            "| c | <u>2.00</u> |\n| d | 3 = |\n\n* `x_y` & more\n"
        )

    def test_latex(self):
        text = self.TABLE.to_latex()
        assert r"a\_b|\textless{}i\textgreater{} & \textbf{1.00} \\" in text
        assert r"c & \underline{2.00} \\" in text and r"\begin{tabular}{lr}" in text
        assert r"\texttt{x\_y} \& more\par" in text

    @pytest.mark.parametrize("width", [80, 120])
    def test_terminal(self, width):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(REPORT.terminal())
        lines = console.export_text().splitlines()
        assert lines[0].startswith("From the prior FIF and VAE are level")
        assert max(map(len, lines)) <= width
        assert any(re.search(r"FIF +6\.50 ± 0\.71 = +0\.300 ± 0\.071", line) for line in lines)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    store = fill(tmp_path_factory.mktemp("results"))
    hostile = "the loss is <NaN> & no number"
    found = report()
    found.warnings.append(hostile)
    return store, found, found.write(store)


class TestFiles:
    def test_markdown_shows_what_is_there(self, written):
        text = (written[0].root / f"tables/{NAME}.md").read_text("utf-8")
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
        assert len(pictures) == 3
        assert all((written[0].root / "tables" / path).is_file() for path in pictures)
        assert text.index("From the prior") < text.index("| Model") < text.index("## Notes")

    def test_the_page_is_whole_and_loads_nothing(self, written):
        text = written[2][-1].read_text("utf-8")
        addresses = re.findall(r'src="([^"]+)"', text)
        assert len(addresses) == 3 and "<script" not in text
        assert all(address.startswith("data:image/") for address in addresses)
        links = [written[0].root / unquote(link) for link in re.findall('href="([^"]+)"', text)]
        assert len(links) == len(RESULTS) and all((link / "spec.json").is_file() for link in links)
        order = [text.index(part) for part in (
            'class="sentence"', "<img", "prior&nbsp;↓", "<details"
        )]  # fmt: skip
        assert order == sorted(order)
        assert "&lt;NaN&gt; &amp; no number" in text

    def test_a_damaged_picture_is_one_line(self, tmp_path):
        store = fill(tmp_path, RESULTS[:2])
        (store.folder(RESULTS[0].spec) / "samples-gmm.png").write_bytes(b"no picture")
        with pytest.raises(StoreError, match=r"cannot draw .*samples-gmm.png: cannot identify"):
            report(RESULTS[:2]).write(store)

    def test_a_packed_store_draws_the_same(self, written, tmp_path):
        reference = runpy.run_path(str(ROOT / "benchmarks/reference.py"))
        reference["check"](written[0].root)
        added = list(reference["add"](written[0].root, tmp_path, False))
        assert list(reference["add"](written[0].root, tmp_path, False)) == added[:1]
        packed = Store(tmp_path)
        found = [ImageResult.read(packed, spec) for spec in packed.specs(ImageSpec)]
        tables = [of.table.drop(columns="run_ids") for of in (report(found), REPORT)]
        pandas.testing.assert_frame_equal(*tables)
        assert {"best.webp", "samples.webp"} <= TestFigures.drawn(
            report(found), packed, splits()
        ).keys()


class TestFigures:
    @staticmethod
    def drawn(found, store=None, data=TABLE):
        values = found.frame, found.table, found.results, store, data
        return {figure.name: figure for figure in draw_figures(*values)}

    def test_figure_10_where_beta_alone_varies(self):
        varied = [result("fif", {"beta": of, "noise": of}, 0, {"gmm": (1, 2)}) for of in (1, 2)]
        drawn = ["beta.png" in self.drawn(report(of)) for of in (RESULTS, RESULTS[:2], varied)]
        assert drawn == [True, False, False]

    def test_samples_are_enlarged_and_not_smoothed(self, tmp_path):
        store = fill(tmp_path, RESULTS[:2])
        found = report(RESULTS[:2])
        assert "best.webp" in self.drawn(found, store, splits().subset(test=10))
        best = self.drawn(found, store, splits())["best.webp"]
        with Image.open(io.BytesIO(best.content)) as image:
            pixels = np.asarray(image.convert("L"))[-25]
        shown = pixels[170:].reshape(-1, 50)[:, 24].astype(int)
        assert len(shown) == 16 and np.abs(shown - np.arange(16) * 3).max() <= 4

    def test_a_sheet_is_as_wide_and_tall_as_its_format_takes(self):
        wide = _line(np.zeros((3, 2, 1000, 3), np.uint8))
        assert wide.shape[1] == 1002
        tall = {str(index): _line(np.zeros((3, 256, 4, 3), np.uint8)) for index in range(70)}
        with Image.open(io.BytesIO(_sheet(tall))) as image:
            assert image.height == 63 * 258
