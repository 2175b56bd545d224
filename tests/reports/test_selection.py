"""The choice among configurations: by the validation score of each sampler alone."""

import dataclasses
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.report_store import experiment, result

from pythae_fif.reports.frame import chosen_frame, score_frame, select


def results_of(distances: np.ndarray) -> list:
    """Results of (configuration, seed, sampler, val/test) distances."""
    return [
        result("fif", {"beta": beta}, seed, dict(zip(("normal", "gmm"), of_seed, strict=True)))
        for beta, by_seed in enumerate(distances.tolist())
        for seed, of_seed in enumerate(by_seed)
    ]


def chosen(results: list) -> dict[str, tuple[set, int]]:
    """Sampler -> beta of the chosen rows, and out of how many."""
    rows = select(score_frame(experiment(), results)).groupby("sampler")
    return {sampler: ({*of.beta}, of.candidates.max()) for sampler, of in rows}


@given(st.tuples(st.integers(1, 5), st.integers(1, 3)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_lowest_mean_validation_distance_of_each_sampler_whatever_else(shape, seed):
    """Neither test scores nor the order of the results choose."""
    generator = np.random.default_rng(seed)
    distances = generator.uniform(1, 100, (*shape, 2, 2))
    best = distances[..., 0].mean(axis=1).argmin(axis=0)
    expected = {n: ({of}, shape[0]) for n, of in zip(("normal", "gmm"), best.tolist(), strict=True)}
    results = results_of(distances)
    assert chosen(results) == chosen(random.Random(seed).sample(results, len(results))) == expected
    distances[..., 1] = generator.permuted(distances[..., 1])
    assert chosen(results_of(distances)) == expected


def test_a_configuration_that_failed_with_a_seed_does_not_win_by_the_others():
    distances = np.full((2, 2, 2, 2), 5.0)
    distances[1, 0] = 1.0
    assert chosen(results_of(distances)[:-1]) == dict.fromkeys(("normal", "gmm"), ({0}, 1))


def test_runs_of_other_labels_are_no_seeds():
    (one,) = results_of(np.full((1, 1, 2, 2), 5.0))
    other = dataclasses.replace(one, spec=one.spec.model_copy(update={"labels_hash": "0"}))
    assert chosen([one, other]) == dict.fromkeys(("normal", "gmm"), ({0}, 2))


def test_a_mean_is_of_all_seeds():
    frame = score_frame(experiment(), results_of(np.full((1, 2, 2, 2), 5.0)))
    frame["tube"] = np.where(frame["seed"] == 0, 1.0, np.nan)
    assert chosen_frame(frame)["tube"].isna().all()
    assert (chosen_frame(frame.fillna({"tube": 3.0}))["tube"] == 2).all()
    assert (chosen_frame(frame.assign(images=100 * frame["seed"]))["images"] == 50).all()


def test_every_sampler_that_a_configuration_has_is_chosen_from():
    """A sampler that failed with a configuration does not compete there."""
    results = [
        result("fif", {"beta": 1}, 0, {"normal": (1, 1)}),
        result("fif", {"beta": 0}, 0, {"normal": (5, 5), "gmm": (5, 5)}),
    ]
    for ordered in (results, results[::-1]):
        assert chosen(ordered) == {"normal": ({1}, 2), "gmm": ({0}, 1)}
