"""The choice among configurations: by the validation score of each sampler alone."""

import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import result_of, spec_of

from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import select
from pythae_fif.evaluation.scores import Scores


def on_test(scores: Scores) -> float:
    return scores.frechet["test"]


def grid_results(distances: np.ndarray) -> list[ImageResult]:
    """Results of (configuration, seed, sampler, val/test) distances."""
    results = []
    for index, by_seed in enumerate(distances):
        for seed, values in enumerate(by_seed):
            spec = spec_of(parameters={"beta": float(index)}, varied=["beta"], seed=seed)
            pairs = {
                s: (float(v), float(t)) for s, (v, t) in zip(spec.samplers, values, strict=True)
            }
            results.append(result_of(spec, pairs))
    return results


def test_every_sampler_that_a_configuration_has_is_chosen_from():
    """Whichever configuration was run with fewer of them, also the first."""
    results = []
    for beta, samplers in ((1.0, ["normal"]), (2.0, ["normal", "gmm"])):
        spec = spec_of(parameters={"beta": beta}, samplers=samplers)
        results.append(result_of(spec))
    for ordered in (results, results[::-1]):
        assert [c.sampler for c in select(ordered)] == ["normal", "gmm"]


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3))


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_lowest_mean_validation_distance_of_each_sampler(shape, seed):
    distances = np.random.default_rng(seed).uniform(1, 100, (*shape, 2, 2))
    choices = select(grid_results(distances))
    assert [choice.sampler for choice in choices] == ["normal", "gmm"]
    for index, choice in enumerate(choices):
        best = distances[:, :, index, 0].mean(axis=1).argmin()
        tests = distances[best, :, index, 1].tolist()
        assert choice.spec.parameters == {"beta": float(best)}
        assert (choice.candidates, choice.left_out) == (shape[0], 0)
        assert choice.values(on_test) == pytest.approx(tests)
        assert choice.distance("test") == pytest.approx(statistics.fmean(tests))


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_test_scores_choose_nothing(shape, seed):
    generator = np.random.default_rng(seed)
    distances = generator.uniform(1, 100, (*shape, 2, 2))
    permuted = distances.copy()
    tests = permuted[..., 1].ravel()
    generator.shuffle(tests)
    permuted[..., 1] = tests.reshape(permuted.shape[:-1])
    one, other = (
        [[result.spec for result in c.results] for c in select(grid_results(d))]
        for d in (distances, permuted)
    )
    assert one == other


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_order_of_the_results_chooses_nothing(shape, seed):
    results = grid_results(np.random.default_rng(seed).uniform(1, 100, (*shape, 2, 2)))
    shuffled = random.Random(seed).sample(results, len(results))
    one, other = ({c.sampler: c.spec.parameters for c in select(r)} for r in (results, shuffled))
    assert one == other


def test_a_configuration_that_failed_with_a_seed_does_not_win_by_the_others():
    distances = np.full((2, 2, 2, 2), 5.0)
    distances[1, 0] = 1.0
    results = grid_results(distances)[:-1]
    assert {c.spec.parameters["beta"] for c in select(results)} == {0.0}
    assert {(c.candidates, c.left_out) for c in select(results)} == {(1, 1)}


def test_a_sampler_that_failed_with_a_configuration_does_not_compete():
    one, other = (spec_of(parameters={"beta": beta}) for beta in (0.0, 1.0))
    results = [
        result_of(one, {"normal": (5, 5), "gmm": (5, 5)}),
        result_of(other, {"normal": (1, 1)}),
    ]
    chosen = {c.sampler: c.spec.parameters["beta"] for c in select(results)}
    assert chosen == {"normal": 1.0, "gmm": 0.0}
    assert [c.sampler for c in select(results[1:])] == ["normal"]


def test_a_distance_that_is_no_number_is_not_chosen():
    distances = np.full((3, 1, 2, 2), 5.0)
    distances[0, 0, :, 0], distances[1, 0, :, 0] = np.nan, np.inf
    for results in (grid_results(distances), grid_results(distances)[::-1]):
        assert {choice.spec.parameters["beta"] for choice in select(results)} == {2.0}


def test_no_score_has_no_values():
    (choice, _) = select(grid_results(np.ones((1, 1, 2, 2))))
    assert choice.values(lambda scores: scores.score and scores.score.mean) == []
