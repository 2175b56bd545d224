"""The types of scores: what is written is read again."""

import json

from pydantic import TypeAdapter

from pythae_fif.evaluation import MeanStd, Memorisation, Neighbours, Scores


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
