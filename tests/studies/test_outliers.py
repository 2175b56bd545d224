"""The study `outliers`: its detectors, its areas, and its verdict."""

import numpy as np
import pandas as pd
import pytest

from pythae_fif.names import DataOptions
from studies.outliers import FIF_SCORES, METHODS, TABLES, OutlierRun, _make_table, _verdicts

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_has_the_areas_of_all_detectors_for_each_normal_class():
    run = OutlierRun(table="wine", seed=0, steps=5, data_hash="", location=DataOptions())
    result = run.compute(lambda share: None)
    assert [*result.areas] == ["0", "1", "2"]
    for areas in result.areas.values():
        assert {*areas} == {*METHODS}
        others = [areas[method] for method in METHODS if method not in FIF_SCORES.values()]
        assert min(others) > 0.8
    assert run.compute(lambda share: None) == result


@pytest.fixture
def areas() -> pd.DataFrame:
    """Areas of 0.8, with noise, for each table and seed."""
    index = pd.MultiIndex.from_product([TABLES, range(5)], names=["table", "seed"])
    noise = np.random.default_rng(0).normal(0, 1e-3, (len(index), len(METHODS)))
    return pd.DataFrame(0.8 + noise, index, [*METHODS])


def test_a_score_is_worth_a_training_if_it_wins_over_each_other_detector(areas):
    score = FIF_SCORES["distance"]
    areas.loc[list(TABLES[:2]), score] += 0.1
    for note in _verdicts(areas):
        is_worth = "it is worth" in note
        assert is_worth == note.startswith(score)
    table = _make_table(areas).set_index("detector")
    assert table.loc[score, TABLES[0]].endswith(", best")
    assert table.loc["one Gaussian", TABLES[0]] == "0.799 ± 0.001"
    assert table[TABLES[3]].str.contains("best|level").sum() > 5


def test_a_score_that_loses_more_often_is_not_worth_it(areas):
    score = FIF_SCORES["distance"]
    areas.loc[list(TABLES[:1]), score] += 0.1
    areas.loc[list(TABLES[1:3]), "one Gaussian"] += 0.1
    assert not any("it is worth" in note for note in _verdicts(areas))
    assert "one Gaussian 1:2" in _verdicts(areas)[2]


def test_one_seed_decides_nothing(areas):
    one_seed = areas.xs(0, level="seed", drop_level=False)
    assert _verdicts(one_seed) == ["One seed decides nothing."]
    text = _make_table(one_seed).to_csv()
    assert "best" in text
    assert "±" not in text
    assert "level" not in text
