"""Measured numbers beside published ones: never under their headings."""

import itertools
import re

import pandas
import pytest
from support.report_store import RESULTS, experiment, result, splits

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.reports.compared import read_published_table
from pythae_fif.reports.report import Report


def tables(results=RESULTS, of=None):
    return Report(of or experiment(), results, splits()).tables


@pytest.mark.parametrize("name", ["table8", "table3"])
def test_another_quantity_has_its_own_name(name):
    table = tables()[name]
    headings = list(table.cells)
    assert any("profile `quick`, extractor `classifier`, 2,000 samples" in n for n in table.notes)
    measured = {heading for heading in headings if heading.startswith("FD-")}
    assert len(measured) == 1 and not any("published" in heading for heading in measured)
    printed = set(read_published_table(8).text) | {"–"}
    assert set(table.cells["FID published ↓"]) <= printed


def test_table8_has_every_row():
    table = tables()["table8"]
    count = len(
        read_published_table(8).query("dataset == 'mnist' and arch == 'resnet' and metric == 'FID'")
    )
    assert len(table.cells) == count + 1  # AE with MAF
    fif = table.cells[table.cells.Model == "FIF"]
    assert list(fif.iloc[:, 2]) == ["6.50 ± 0.71", "0.300 ± 0.071"]
    assert list(fif["FID published ↓"]) == ["19.5", "11.7"]
    assert set(tables(of=experiment(dataset="digits"))) == {"overview", "scores"}


def test_table3_merges_variants_to_their_best():
    results = [result(m, {}, 0, {"gmm": (v, v), "gaussian": (v, 2 * v)}) for m, v in
               (("rae_l2", 3.0), ("rae_gp", 2.0))]  # fmt: skip
    cells = tables(results)["table3"].cells.set_index(["Model", "Sampler"])
    row = cells.loc[("RAE (L2/GP)", "GMM")]
    assert list(row)[:2] == ["2.00", "11.4"]  # of 11.5 and 11.4
    assert cells.loc[("RAE (L2/GP)", "Gaussian")].iloc[0] == "4.00"
    assert len(cells) == 2 * 14 + 1 and len(tables()["table3"].cells) == 2 * 14 + 1


@pytest.mark.parametrize(("dataset", "printed"), [("celeba", True), ("mnist", False)])
def test_table2_has_published_numbers_on_its_data_set_alone(dataset, printed):
    of = load_experiment(dataset, {"arch": "resnet", "profile": "quick", "models": ["dnf", "fif"]})
    results = [
        result(model, {}, 0, {"normal": (1, v)}, dataset=dataset)
        for model, v in (("dnf", 3.0), ("fif", 2.0))
    ]
    table = tables(results, of)["table2"]
    cells = table.cells.set_index(["Model", "Sampler"])
    assert ("FID published ↓" in cells) == printed == ("# parameters published" in cells)
    row = cells.loc[("FIF", "N")]
    assert (row["d"], row["# parameters"], row["images seen"]) == ("16", "0.11", "240,000")
    if printed:
        assert (row["FID published ↓"], row["# parameters published"]) == ("47.3 ± 1.39", "34.3")
    assert any("our programs" in note for note in table.notes)


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
    texts, width = list(read_published_table(number).text), COLUMNS[number]
    rows = [texts[start : start + width] for start in range(0, len(texts), width)]
    assert rows == in_the_paper(shared, number)[: len(rows)]


def test_table_3_of_the_paper_is_the_best_of_the_models_of_table_8(shared):
    variants = pandas.read_csv(configs_dir() / "published/table3.csv", comment="#")
    cells = read_published_table(8).query("dataset == 'celeba'").drop(columns="row").merge(variants)
    cells["value"] = cells.text.astype(float)
    merged = {row: [] for row in variants.row}
    for sampler, arch in itertools.product(("normal", "gmm"), ("convnet", "resnet")):
        here = cells[(cells.sampler == sampler) & (cells.arch == arch)]
        fid, score = (here[here.metric == name].set_index("model") for name in ("FID", "IS"))
        best = fid.sort_values("value", kind="stable").drop_duplicates("row")
        for model, row in best.row.items():
            merged[row] += [fid.text[model], score.text[model]]
    assert [*merged.values()] == in_the_paper(shared, 3)[: len(merged)]
