"""The transcribed tables of the paper, against sums typed in separately and the paper's text."""

import itertools
import re

import pytest

from pythae_fif.reports.compared import TABLE_3
from pythae_fif.reports.published import published, title_of

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


def rows_of(number: int) -> list[list[str]]:
    """The printed texts, row by row."""
    texts, width = list(published(number).text), len(SUMS[number][0])
    return [texts[start : start + width] for start in range(0, len(texts), width)]


@pytest.mark.parametrize("number", SUMS)
@pytest.mark.parametrize("part", [0, 1], ids=["numbers", "spreads"])
def test_sums(number, part):
    rows = rows_of(number)
    zeros = ([0] * len(rows[0]), [0] * len(rows))
    columns, across = (SUMS, SPREADS)[part].get(number, zeros)
    values = [[float((*text.split(" ± "), 0)[part]) for text in row] for row in rows]
    assert list(map(sum, values)) == pytest.approx(across)
    assert list(map(sum, zip(*values, strict=True))) == pytest.approx(columns)
    assert title_of(number)


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
    rows = rows_of(number)
    assert rows == in_the_paper(shared, number)[: len(rows)]


def test_table_3_of_the_paper_is_the_best_of_the_models_of_table_8(shared):
    cells = published(8).query("dataset == 'celeba'").set_index(["model", "sampler", "arch"])
    merged = []
    for models in TABLE_3.values():
        row = []
        for sampler, arch in itertools.product(("normal", "gmm"), ("convnet", "resnet")):
            pairs = [cells.loc[(model, sampler, arch)] for model in models.split()]
            row += min((pair.text.tolist() for pair in pairs), key=lambda pair: float(pair[0]))
        merged.append(row)
    assert merged == in_the_paper(shared, 3)[: len(TABLE_3)]


def test_only_vaegan_is_not_compared():
    cells = published(8)
    assert set(cells.loc[cells.compared == "no", "model"]) == {"vaegan"}
    assert cells.model.nunique() == 21
