import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pythae_fif.names import DataOptions
from studies.rows import (
    FIFS,
    MEASURES,
    METHODS,
    REAL,
    TABLES,
    RealTable,
    RowsRun,
    _make_table,
    _verdicts,
    draw_copula_rows,
    score_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_has_all_measures_of_all_methods():
    run = RowsRun(table="diabetes", seed=0, steps=10, data_hash="", location=DataOptions())
    result = run.compute(lambda share: None)
    assert {*result.scores} == {*METHODS, REAL}
    for values in result.scores.values():
        assert {*values} == {*MEASURES}
    assert 1 <= result.latent_dim < 11
    assert result.scores[REAL]["prediction"] > 0.2
    assert 0.35 < result.scores[REAL]["detection"] < 0.65


@pytest.fixture
def frame() -> pd.DataFrame:
    """A column that is mostly 0, an increasing function of it with noise, and a class."""
    rng = np.random.default_rng(0)
    amount = np.maximum(rng.normal(-0.5, 1, 600), 0).round(1)
    cost = np.exp(amount + rng.normal(0, 0.1, 600))
    return pd.DataFrame({"amount": amount, "cost": cost, "is_large": (amount > 0.5).astype(int)})


def test_a_copula_keeps_the_columns_and_their_dependence(frame):
    rows = draw_copula_rows(frame, 600, seed=0)
    for name in frame:
        assert {*rows[name]} <= {*frame[name]}
    share = (frame["amount"] == 0).mean()
    assert (rows["amount"] == 0).mean() == pytest.approx(share, abs=0.05)
    assert spearmanr(rows["amount"], rows["cost"]).statistic > 0.4


def test_measures_tell_good_rows_from_bad_ones(frame):
    table = RealTable(frame, "is_large", ("is_large",))
    fit, test = frame[:400], frame[400:]
    good = score_rows(fit, test, table, seed=0)
    shuffled = fit.apply(lambda column: column.sample(frac=1, random_state=len(column.name)).array)
    bad = score_rows(shuffled, test, table, seed=0)
    assert good["prediction"] > 0.95 > 0.7 > bad["prediction"]
    assert abs(good["detection"] - 0.5) < 0.1 < 0.2 < bad["detection"] - 0.5
    assert bad["columns"] == pytest.approx(good["columns"])

    one_class = score_rows(fit.assign(is_large=0), test, table, seed=0)
    assert one_class["prediction"] == 0.5


@pytest.fixture
def values() -> pd.DataFrame:
    """Values of 0.7, with noise, for each measure, table and seed."""
    index = pd.MultiIndex.from_product(
        [[*MEASURES], [*TABLES], range(5)], names=["measure", "table", "seed"]
    )
    noise = np.random.default_rng(0).normal(0, 1e-3, (len(index), len(METHODS) + 1))
    return pd.DataFrame(0.7 + noise, index, [*METHODS, REAL])


@pytest.mark.parametrize(
    ("measure", "improvement"), [("prediction", 0.1), ("detection", -0.1), ("columns", -0.1)]
)
def test_a_fif_is_worth_a_training_if_it_wins_over_both_others_on_two_tables(
    values, measure, improvement
):
    method = FIFS["mixture"]
    first_tables = [*TABLES][:2]
    values.loc[pd.IndexSlice[measure, first_tables, :], method] += improvement
    for note in _verdicts(values):
        is_worth = "it is worth" in note
        assert is_worth == note.startswith(f"{method}, by {measure}")
    table = _make_table(values)
    of_measure = table[table["measure"].str.startswith(measure)].set_index("rows of")
    cells = of_measure[first_tables[0]]
    assert cells[method].endswith(", best")
    assert cells.str.contains("best|level").sum() == 1

    values.loc[pd.IndexSlice[measure, first_tables[:1], :], method] -= improvement
    assert not any("it is worth" in note for note in _verdicts(values))


def test_an_area_below_one_half_is_no_better_than_one_above(values):
    values.loc["detection", FIFS["normal"]] = 0.2
    notes = [note for note in _verdicts(values) if note.startswith("FIF, standard normal, by det")]
    assert "Gaussian copula 0:3, mixture of Gaussians 0:3" in notes[0]


def test_one_seed_decides_nothing(values):
    one_seed = values.xs(0, level="seed", drop_level=False)
    assert _verdicts(one_seed) == ["One seed decides nothing."]
    text = _make_table(one_seed).to_csv()
    assert "best" in text
    assert "±" not in text
    assert "level" not in text
