"""The types of scores: committed records read into them and come out unchanged."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pythae_fif.evaluation import Interval, Intervals, MeanStd, Neighbours, Scores

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "results").glob("runs/*/*/*/*/result.json"))
RECORDS = [path for path in RECORDS if '"frechet"' in path.read_text()][::20]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_committed_scores(path):
    for held in json.loads(path.read_text())["scores"].values():
        scores = TypeAdapter(Scores).validate_python(held)
        assert scores.to_dict() == held
        assert list(scores.to_dict()) == list(held)


def test_what_was_asked_for_comes_back():
    scores = Scores(
        num_samples=3,
        extractor="pixels",
        extractor_hash="0",
        distance_name="FD-pixels",
        score_name=None,
        rounded=True,
        seed=0,
        score=None,
        score_with_bias=None,
        frechet={"val": 1.0},
        kernel={"val": MeanStd(0.5, 0.1)},
        neighbours={"val": Neighbours(0.1, 0.2, 0.3, 0.4)},
        frechet_infinity={"val": 0.9},
        intervals=Intervals(30, {"val": Interval(0.8, 1.2)}, None, {"val": Interval(0.4, 0.6)}),
    )
    read = TypeAdapter(Scores).validate_json(json.dumps(scores.to_dict()))
    assert read == scores
    assert read.intervals is not None and read.intervals.kernel["val"].low == 0.4
