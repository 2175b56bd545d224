"""The choice among configurations: each sampler chooses by its validation score only."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.report_store import make_experiment, make_result

from pythae_fif.benchmark.results import select
from pythae_fif.reports.frame import chosen_frame, score_frame
from pythae_fif.reports.tables import score_table

SAMPLERS = ("normal", "gmm")
LIKELIHOOD = "log-likelihood, nats ↑ / bits per dim."
NO_LIKELIHOOD = {"log_likelihood": np.nan, "bits_per_dim": np.nan}


def make_results(distances: np.ndarray) -> list:
    """Makes results from distances (configuration, seed, sampler, validation or test)."""
    results = []
    for beta, seeds in enumerate(distances.tolist()):
        for seed, pairs in enumerate(seeds):
            by_sampler = dict(zip(SAMPLERS, pairs, strict=True))
            results.append(make_result("fif", {"beta": beta}, seed, by_sampler))
    return results


def choose(results: list) -> dict[str, tuple[set, int]]:
    """Returns for each sampler the beta of the chosen rows, and the number of candidates."""
    groups = select(score_frame(make_experiment(), results)).groupby("sampler")
    return {sampler: ({*rows.beta}, rows.candidates.max()) for sampler, rows in groups}


@given(st.tuples(st.integers(1, 5), st.integers(1, 3)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_lowest_mean_validation_distance_of_each_sampler_is_chosen(shape, seed):
    """Neither test scores nor the order of the results play a part."""
    rng = np.random.default_rng(seed)
    distances = rng.uniform(1, 100, (*shape, 2, 2))
    best = distances[..., 0].mean(axis=1).argmin(axis=0).tolist()
    expected = {sampler: ({beta}, shape[0]) for sampler, beta in zip(SAMPLERS, best, strict=True)}

    results = make_results(distances)
    shuffled = random.Random(seed).sample(results, len(results))
    assert choose(results) == choose(shuffled) == expected

    distances[..., 1] = rng.permuted(distances[..., 1])
    assert choose(make_results(distances)) == expected


def test_a_configuration_with_a_failed_seed_does_not_win():
    distances = np.full((2, 2, 2, 2), 5.0)
    distances[1, 0] = 1.0
    assert choose(make_results(distances)[:-1]) == dict.fromkeys(SAMPLERS, ({0}, 1))


def test_means_are_over_the_seeds_that_have_a_score_and_their_number_is_shown():
    frame = score_frame(make_experiment(), make_results(np.full((1, 2, 2, 2), 5.0)))
    frame["log_likelihood"] = np.where(frame["seed"] == 0, 1.0, np.nan)
    frame["bits_per_dim"] = frame["log_likelihood"]
    frame["images"] = frame["log_likelihood"]
    partial = chosen_frame(frame)
    assert (partial["log_likelihood"] == 1).all()
    assert (partial["log_likelihood_seeds"] == 1).all()
    assert partial["images"].isna().all(), "a mean without a mark is over all seeds"
    cells = score_table(partial, "FD", None).cells
    assert set(cells[LIKELIHOOD]) == {"1.00 / 1.00 (1 of 2 seeds)"}

    complete = frame.fillna({"log_likelihood": 3.0, "bits_per_dim": 3.0})
    assert (chosen_frame(complete)["log_likelihood"] == 2).all()
    cells = score_table(chosen_frame(complete), "FD", None).cells
    assert set(cells[LIKELIHOOD]) == {"2.00 ± 1.41 / 2.00 ± 1.41"}
    assert (
        LIKELIHOOD not in score_table(chosen_frame(frame.assign(**NO_LIKELIHOOD)), "FD", None).cells
    )
    unscored = frame.assign(score=np.nan)
    assert "score ↑" not in score_table(chosen_frame(unscored), "FD", None).cells
    assert (chosen_frame(frame.assign(images=100 * frame["seed"]))["images"] == 50).all()


def test_a_configuration_competes_with_the_samplers_that_it_has():
    """A sampler that failed with a configuration does not compete there."""
    results = [
        make_result("fif", {"beta": 1}, 0, {"normal": (1, 1)}),
        make_result("fif", {"beta": 0}, 0, {"normal": (5, 5), "gmm": (5, 5)}),
    ]
    for ordered in (results, results[::-1]):
        assert choose(ordered) == {"normal": ({1}, 2), "gmm": ({0}, 1)}
