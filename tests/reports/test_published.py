"""The transcribed tables of the paper, against figures typed in separately and the paper's text."""

import itertools
import re

import pytest

from pythae_fif.errors import ConfigError
from pythae_fif.reports.published import TABLE_3, load_published

# Sums of each column and each row, formed from a second reading of the paper.
SUMS = {
    1: ([4.024, 2.591, 7.420, 3.099], [1.973, 1.461, 13.7]),
    2: ([92.8, 159.1, 5.4, 137.8, 5.9], [151.6, 126.7, 122.7]),
    5: ([319.9, 234.2, 529.1, 1055.5], [36, 1005, 167, 360, 557, 13.7]),
    6: ([24.711, 15.101, 34.421, 86.148], [1.461, 133.28, 3.41, 10.96, 7.95, 3.32]),
    7: ([251.072, 5853.188, 240.569, 530.077], [6491, 380, 3.906]),
    8: (
        [1565.8, 91.7, 8262.2, 110.8, 3584.8, 77.5, 1869.2, 88.1, 7465.0, 114.9, 3619.9, 75.9],
        [430.1, 350.2, 616.2, 602.8, 744.4, 633.3, 621.9, 623.3, 610.2, 611.6, 604.2, 417.4, 351.8,
         891.4, 983.6, 1543.0, 980.1, 419.7, 347.5, 612.5, 606.3, 610.8, 596.9, 610.9, 601.7, 478.2,
         359.0, 842.4, 842.6, 594.9, 531.0, 1274.1, 366.2, 800.9, 366.1, 498.3, 359.9, 1004.7,
         359.8, 685.0, 357.2, 816.4, 367.3],
    ),
}  # fmt: skip
# The same of what follows a ±.
SPREADS = {
    1: ([0.022, 0.052, 0.225, 0.075], [0.278, 0.096, 0]),
    2: ([0, 3.37, 0, 3.92, 0], [0.92, 3.63, 2.74]),
    6: ([23.977, 10.111, 6.454, 17.244], [0.096, 48.18, 0.33, 5.73, 2.88, 0.57]),
    7: ([525.002, 13037.012, 68.098, 183.011], [13698, 115, 0.123]),
}
MODELS = """fif vae vamp iwae vae_lin_nf vae_iaf beta_vae disentangled_beta_vae beta_tc_vae
    factor_vae info_vae_rbf info_vae_imq aae msssim_vae vaegan ae wae_rbf wae_imq vqvae rae_l2
    rae_gp""".split()  # noqa: SIM905


@pytest.mark.parametrize("number", SUMS)
def test_sums(number):
    table = load_published(number)
    columns, rows = SUMS[number]
    assert [sum(c.value for c in row) for row in table.rows] == pytest.approx(rows)
    assert [sum(c.value for c in column) for column in zip(*table.rows, strict=True)] == (
        pytest.approx(columns)
    )


@pytest.mark.parametrize("number", SUMS)
def test_sums_of_spreads(number):
    table = load_published(number)
    zeros = ([0] * len(table.rows[0]), [0] * len(table.rows))
    columns, rows = SPREADS.get(number, zeros)
    spreads = [[float(c.text.partition(" ± ")[2] or 0) for c in row] for row in table.rows]
    assert list(map(sum, spreads)) == pytest.approx(rows)
    assert list(map(sum, zip(*spreads, strict=True))) == pytest.approx(columns)


def in_the_paper(shared, number):
    """The numbers of a table of the paper's text, row by row."""
    text = (shared / "paper.txt").read_text("utf-8")
    after = text[text.index(f"\nTable {number}:") :].split("\n\n")[1:3]
    lines = [line for block in after for line in block.splitlines() if "\t" in line]
    printed = []
    for line in lines:
        cells = [re.sub(r"</?u>|[$M]|\\times", "", cell).strip() for cell in line.split("\t")]
        numbers = [cell for cell in cells if re.fullmatch(r"[\d.]+( ± [\d.]+)?", cell)]
        if numbers:
            printed.append(numbers)
    return printed


@pytest.mark.parametrize("number", SUMS)
def test_every_row_is_in_the_text_of_the_paper(shared, number):
    """Number for number, in the order of the paper's rows."""
    rows = load_published(number).rows
    assert [[c.text for c in row] for row in rows] == in_the_paper(shared, number)[: len(rows)]


def test_table_3_of_the_paper_is_the_best_of_the_models_of_table_8(shared):
    table = load_published(8)
    merged = []
    for models in TABLE_3.values():
        row = []
        for sampler, arch in itertools.product(("normal", "gmm"), ("convnet", "resnet")):
            where = {"dataset": "celeba", "arch": arch, "sampler": sampler}
            pairs = [table.find(model=model, **where) for model in models.split()]
            row += [cell.text for cell in min(pairs, key=lambda pair: pair[0].value)]
        merged.append(row)
    assert merged == in_the_paper(shared, 3)[: len(TABLE_3)]


class TestTable8:
    table = load_published(8)

    def test_every_model_has_its_samplers(self):
        samplers = {
            name: sorted({row[0].at["sampler"] for row in self.table.rows
                          if row[0].at["model"] == name})
            for name in MODELS
        }  # fmt: skip
        exceptions = {
            "vamp": ["vamp"],
            "disentangled_beta_vae": ["gmm", "maf", "normal", "two_stage"],
        }
        assert samplers == {name: exceptions.get(name, ["gmm", "normal"]) for name in MODELS}
        assert {row[0].at["model"] for row in self.table.rows} == set(MODELS)

    def test_only_vaegan_is_not_compared(self):
        assert {r[0].at["model"] for r in self.table.rows if not r[0].compared} == {"vaegan"}

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (("celeba", "resnet", "fif", "normal"), [62.3]),
            (("mnist", "convnet", "rae_gp", "gmm"), [9.7]),
            (("cifar10", "resnet", "disentangled_beta_vae", "two_stage"), [349.0]),
            (("digits", "resnet", "fif", "normal"), []),
            (("celeba", "fif_convnet", "fif", "normal"), []),
            (("celeba", "resnet", "fif", "maf"), []),
            (("celeba", "resnet", "vae_", "normal"), []),
        ],
    )
    def test_find(self, where, expected):
        at = dict(zip(("dataset", "arch", "model", "sampler"), where, strict=True))
        assert [cell.value for cell in self.table.find(**at, metric="FID")] == expected


class TestErrors:
    def test_number(self):
        with pytest.raises(ConfigError, match="table 4 is not transcribed: table1, "):
            load_published(4)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("source: s", "title"),
            ("rows: [{name: r, values: [1, 2]}]", "row 'r' has 2 values for 1 columns"),
            ("rows: [{name: r, values: ['–']}]", "'–' is not a number"),
            ("rows: [{name: r, values: [1], best: [c]}]", "best"),
        ],
    )
    def test_file(self, tmp_path, monkeypatch, content, message):
        (tmp_path / "published").mkdir()
        head = "title: t\nsource: s\nnote: n\ncolumns: [{name: c}]\n"
        head = "" if content == "source: s" else head
        (tmp_path / "published" / "table1.yaml").write_text(head + content)
        monkeypatch.setattr("pythae_fif.benchmark.yaml_files.configs_dir", lambda: tmp_path)
        load_published.cache_clear()
        with pytest.raises(ConfigError, match=message):
            load_published(1)
        load_published.cache_clear()
