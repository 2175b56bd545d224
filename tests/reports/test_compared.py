"""The comparison with published numbers: measured numbers never have a published heading."""

import itertools
import re

import pandas
import pytest
from support.report_store import RESULTS, make_experiment, make_result, make_splits

from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.reports.compared import comparison_tables, read_published_table
from pythae_fif.reports.frame import chosen_frame, score_frame
from pythae_fif.reports.report import Report
from pythae_fif.sampling.catalog import SAMPLERS


def make_tables(results=RESULTS, experiment=None):
    return Report(experiment or make_experiment(), results, make_splits()).tables


def test_table3_shows_the_best_of_each_rows_variants():
    results = [
        make_result(model, {}, 0, {"gmm": (value, value), "gaussian": (value, 2 * value)})
        for model, value in (("rae_l2", 3.0), ("rae_gp", 2.0))
    ]
    cells = make_tables(results)["table3"].cells.set_index(["Model", "Sampler"])
    row = cells.loc[("RAE (L2/GP)", "GMM")]
    assert list(row)[:2] == ["2.00", "11.4"]  # the lower of 11.5 and 11.4
    assert cells.loc[("RAE (L2/GP)", "Gaussian")].iloc[0] == "4.00"
    assert len(cells) == 2 * 14 + 1
    assert len(make_tables()["table3"].cells) == 2 * 14 + 1


@pytest.mark.parametrize(("dataset", "has_published"), [("celeba", True), ("mnist", False)])
def test_table2_has_published_numbers_only_for_its_data_set(dataset, has_published):
    flags = {"arch": "resnet", "profile": "quick", "models": ["dnf", "fif"]}
    experiment = load_experiment(dataset, flags)
    results = [
        make_result(model, {}, 0, {"normal": (1, value)}, dataset=dataset)
        for model, value in (("dnf", 3.0), ("fif", 2.0))
    ]
    table = make_tables(results, experiment)["table2"]

    cells = table.cells.set_index(["Model", "Sampler"])
    assert ("FID published ↓" in cells) == has_published
    assert ("# parameters published" in cells) == has_published
    fif = cells.loc[("FIF", SAMPLERS["normal"].label)]
    assert (fif["d"], fif["# parameters"], fif["images seen"]) == ("16", "0.11", "240,000")
    if has_published:
        assert fif["FID published ↓"] == "47.3 ± 1.39"
        assert fif["# parameters published"] == "34.3"
    assert any("our programs" in note for note in table.notes)


def test_tables_of_rows_have_published_numbers_beside_measured_ones():
    """The squared error is D times the mean over columns, and the time is that of steps only."""
    models = ["flow_matching", "rectangular_flow", "fif_on_manifold", "fif"]
    flags = {"arch": "tabular", "profile": "quick", "models": models}
    experiment = load_experiment("miniboone", flags)
    results = [
        make_result(model, {}, seed, {"normal": (1, value)}, dataset="miniboone", mse=0.02)
        for value, model in enumerate(models, start=2)
        for seed in (0, 1)
    ]
    (table,) = comparison_tables(
        experiment, results, chosen_frame(score_frame(experiment, results)), data_dim=43
    ).values()

    cells = table.cells.set_index("Model")
    assert list(cells.index) == ["FIF", "FIF (on manifold)", "RF", "flow matching"]
    fif = cells.loc["FIF"]
    assert fif["FD-classifier, 2,000 samples ↓"] == "5.00 ± 0.00"
    assert fif["FID-like published ↓"] == "0.598 ± 0.024"
    assert fif["squared error ↓"] == "0.882 ± 0.030"  # 43 * 0.0205
    assert fif["squared error published ↓"] == "1.077 ± 0.011"
    assert (fif["train min"], fif["train min published"]) == ("0.200", "49")
    assert fif["µs a row"] == "50.00"  # 12 s of steps on 240,000 rows
    assert cells.loc["FIF (on manifold)", "FID-like published ↓"] == "77.23 ± 16.55"
    assert list(cells.loc["RF"].filter(like="published")) == ["1.84 ± 0.11", "–", "–"]
    assert set(cells.loc["flow matching"].filter(like="published")) == {"–"}
    assert any("1.5 times as fast" in note for note in table.notes)

    from_mixtures = [make_result("fif", {}, 0, {"gmm": (1, 2)}, dataset="miniboone")]
    frame = chosen_frame(score_frame(experiment, from_mixtures))
    assert comparison_tables(experiment, from_mixtures, frame, data_dim=43) == {}


NUMBERS_PER_ROW = {1: 4, 2: 5, 5: 4, 6: 4, 7: 4, 8: 12}
"""Table -> how many numbers each of its rows has."""


def read_paper(shared, number):
    """Reads the numbers of a table from the paper's text, row by row."""
    text = (shared / "paper.txt").read_text("utf-8")
    start = text.index(f"\nTable {number}:")
    blocks = text[start:].split("\n\n")[1:3]
    lines = [line for block in blocks for line in block.splitlines() if "\t" in line]
    rows = []
    for line in lines:
        cells = [re.sub(r"</?u>|[$M]|\\times", "", cell).strip() for cell in line.split("\t")]
        numbers = [cell for cell in cells if re.fullmatch(r"[\d.]+( ± [\d.]+)?", cell)]
        if numbers:
            rows.append(numbers)
    return rows


@pytest.mark.parametrize("number", NUMBERS_PER_ROW)
def test_every_row_is_in_the_text_of_the_paper(shared, number):
    """Every number is the same, in the order of the paper's rows."""
    texts = list(read_published_table(number).text)
    width = NUMBERS_PER_ROW[number]
    rows = [texts[start : start + width] for start in range(0, len(texts), width)]
    assert rows == read_paper(shared, number)[: len(rows)]


def test_table_3_of_the_paper_is_the_best_of_the_models_of_table_8(shared):
    variants = pandas.read_csv(configs_dir() / "published/table3.csv", comment="#")
    cells = read_published_table(8).query("dataset == 'celeba'").drop(columns="row").merge(variants)
    cells["value"] = cells.text.astype(float)

    merged = {row: [] for row in variants.row}
    for sampler, arch in itertools.product(("normal", "gmm"), ("convnet", "resnet")):
        part = cells[(cells.sampler == sampler) & (cells.arch == arch)]
        fid = part[part.metric == "FID"].set_index("model")
        score = part[part.metric == "IS"].set_index("model")
        best = fid.sort_values("value", kind="stable").drop_duplicates("row")
        for model, row in best.row.items():
            merged[row] += [fid.text[model], score.text[model]]
    assert [*merged.values()] == read_paper(shared, 3)[: len(merged)]
