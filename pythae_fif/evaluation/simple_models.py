"""Scores of models of a table that need no training: its rows, one Gaussian, principal components.

A score says little without them: one Gaussian has the mean and covariance of the data, which is all
that the Fréchet distance of rows compares.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.data import Splits
from pythae_fif.evaluation.distances import energy_distance, frechet_distance
from pythae_fif.evaluation.extractors import Features
from pythae_fif.models.fitted_priors import fit_new_prior


class SimpleScores(NamedTuple):
    """Scores against the test rows of a table.

    Attributes:
        num_rows: Number of training rows that are scored in place of samples.
        distance_of_rows: Their Fréchet distance.
        energy_of_rows: Their energy distance.
        distance_of_gaussian: Fréchet distance of samples of one Gaussian, fitted to all training
            rows.
        energy_of_gaussian: Their energy distance.
        likelihood_of_gaussian: Mean log-likelihood of the test rows, in nats.
        error_of_projection: Mean squared error, per value, of the projection to the first d
            principal components of the training rows.
    """

    num_rows: int
    distance_of_rows: float
    energy_of_rows: float
    distance_of_gaussian: float
    energy_of_gaussian: float
    likelihood_of_gaussian: float
    error_of_projection: float


def score_simple_models(splits: Splits, latent_dim: int, num_samples: int) -> SimpleScores:
    """Computes the scores of models that need no training.

    Args:
        splits: A table.
        latent_dim: d, the number of principal components.
        num_samples: Number of samples, and of training rows if there are as many.
    """
    train = torch.from_numpy(splits.train).double()
    test = torch.from_numpy(splits.test).double()

    reference = Features(test)
    rows = Features(train[:num_samples])
    gaussian = fit_new_prior("gaussian", train)
    samples = Features(gaussian.sample(num_samples, torch.Generator().manual_seed(0)))

    return SimpleScores(
        num_rows=len(rows),
        distance_of_rows=frechet_distance(rows, reference),
        energy_of_rows=energy_distance(rows, reference),
        distance_of_gaussian=frechet_distance(samples, reference),
        energy_of_gaussian=energy_distance(samples, reference),
        likelihood_of_gaussian=gaussian.log_prob(test).mean().item(),
        error_of_projection=_projection_error(train, test, latent_dim),
    )


def _projection_error(train: Tensor, test: Tensor, latent_dim: int) -> float:
    """Returns the mean squared error of the projection of rows (N, D) to principal components."""
    mean = train.mean(0)
    _, directions = torch.linalg.eigh((train - mean).T.cov())  # of ascending variance
    residual = (test - mean) @ directions[:, : max(0, train.shape[1] - latent_dim)]
    return residual.square().sum(1).mean().item() / train.shape[1]
