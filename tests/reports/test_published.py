"""The transcribed tables of the paper, against the paper's text."""

import itertools
import re

import pytest

from pythae_fif.reports.compared import TABLE_3
from pythae_fif.reports.published import published, title_of

COLUMNS = {1: 4, 2: 5, 5: 4, 6: 4, 7: 4, 8: 12}
"""Table -> how many numbers a row has."""


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


@pytest.mark.parametrize("number", COLUMNS)
def test_every_row_is_in_the_text_of_the_paper(shared, number):
    """Number for number, in the order of the paper's rows."""
    texts, width = list(published(number).text), COLUMNS[number]
    rows = [texts[start : start + width] for start in range(0, len(texts), width)]
    assert rows == in_the_paper(shared, number)[: len(rows)]
    assert title_of(number)


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
