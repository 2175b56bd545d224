"""The choice among configurations: by the validation score of each sampler alone."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import result_of, spec_of

from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import Choice, select


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


def beta_of(choice: Choice) -> float:
    return choice.results[0].spec.parameters["beta"]


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3))


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_lowest_mean_validation_distance_of_each_sampler_whatever_else(shape, seed):
    """Neither test scores nor the order of the results choose."""
    generator = np.random.default_rng(seed)
    distances = generator.uniform(1, 100, (*shape, 2, 2))
    results = grid_results(distances)
    choices = select(results)
    assert [choice.sampler for choice in choices] == ["normal", "gmm"]
    for index, choice in enumerate(choices):
        best = distances[:, :, index, 0].mean(axis=1).argmin()
        assert beta_of(choice) == best and choice.candidates == shape[0]
        tests = [of.scores[choice.sampler].result.frechet["test"] for of in choice.results]
        assert tests == pytest.approx(distances[best, :, index, 1].tolist())
    shuffled = select(random.Random(seed).sample(results, len(results)))
    assert {c.sampler: beta_of(c) for c in choices} == {c.sampler: beta_of(c) for c in shuffled}
    permuted = distances.copy()
    permuted[..., 1] = generator.permuted(permuted[..., 1])
    assert [*map(beta_of, choices)] == [*map(beta_of, select(grid_results(permuted)))]


def test_a_configuration_that_failed_with_a_seed_does_not_win_by_the_others():
    distances = np.full((2, 2, 2, 2), 5.0)
    distances[1, 0] = 1.0
    choices = select(grid_results(distances)[:-1])
    assert {(beta_of(choice), choice.candidates) for choice in choices} == {(0.0, 1)}


def test_every_sampler_that_a_configuration_has_is_chosen_from():
    """A sampler that failed with a configuration does not compete there."""
    one, other = (spec_of(parameters={"beta": beta}) for beta in (0.0, 1.0))
    results = [
        result_of(other, {"normal": (1, 1)}),
        result_of(one, {"normal": (5, 5), "gmm": (5, 5)}),
    ]
    for ordered in (results, results[::-1]):
        chosen = {choice.sampler: beta_of(choice) for choice in select(ordered)}
        assert chosen == {"normal": 1.0, "gmm": 0.0}


def test_a_distance_that_is_no_number_is_not_chosen():
    distances = np.full((3, 1, 2, 2), 5.0)
    distances[0, 0, :, 0], distances[1, 0, :, 0] = np.nan, np.inf
    for results in (grid_results(distances), grid_results(distances)[::-1]):
        assert {beta_of(choice) for choice in select(results)} == {2.0}
