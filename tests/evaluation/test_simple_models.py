"""Models that need no training: what they score on rows of a known Gaussian."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from pythae_fif.data import Splits
from pythae_fif.evaluation.simple_models import score_simple_models


def test_one_gaussian_scores_as_the_data_that_are_one():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, 4))

    def draw(count):
        rows = rng.normal(size=(count, 2)) @ directions
        return (rows + 0.3 * rng.normal(size=(count, 4))).astype(np.float32)

    splits = Splits("rows", train=draw(8000), val=draw(10), test=draw(4000), labels=None, source="")
    scores = score_simple_models(splits, latent_dim=2, num_samples=4000)
    assert scores.num_rows == 4000
    for distance in (scores.distance_of_rows, scores.distance_of_gaussian):
        assert 0 < distance < 0.02
    for energy in (scores.energy_of_rows, scores.energy_of_gaussian):
        assert abs(energy) < 0.01

    covariance = torch.from_numpy(directions.T @ directions) + 0.3**2 * torch.eye(4)
    true = MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)
    expected = true.log_prob(torch.from_numpy(splits.test).double()).mean()
    assert scores.likelihood_of_gaussian == pytest.approx(float(expected), abs=0.01)
    assert scores.error_of_projection == pytest.approx(2 * 0.3**2 / 4, rel=0.05)


def test_a_mixture_is_not_one_gaussian():
    """The Frechet distance does not see it, and the energy distance does."""
    rng = np.random.default_rng(0)

    def draw(count):
        centres = rng.choice([-1.0, 1.0], size=(count, 1))
        return (centres + 0.1 * rng.normal(size=(count, 2))).astype(np.float32)

    splits = Splits("rows", train=draw(4000), val=draw(10), test=draw(2000), labels=None, source="")
    scores = score_simple_models(splits, latent_dim=1, num_samples=2000)
    assert scores.distance_of_gaussian < 0.02
    assert scores.energy_of_gaussian > 0.05 > abs(scores.energy_of_rows)
