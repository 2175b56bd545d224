"""The types of scores: committed records read into them and come out unchanged."""

import json

import pytest
from pydantic import TypeAdapter
from support.reference import lines

from pythae_fif.evaluation import MeanStd, Memorisation, Neighbours, Scores

RECORDS = {
    run: record
    for run, line in lines().items()
    if "frechet" in str(record := line.files.get("result.json"))
}


@pytest.mark.parametrize("run", [*RECORDS][::20])
def test_committed_scores(run):
    for held in RECORDS[run]["scores"].values():
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
        memorisation=Memorisation({"val": 0.5}, 0.75),
    )
    assert TypeAdapter(Scores).validate_json(json.dumps(scores.to_dict())) == scores
