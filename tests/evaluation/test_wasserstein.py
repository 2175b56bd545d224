"""The FID-like score of tables against SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from pythae_fif.evaluation.frechet import squared_wasserstein


@pytest.mark.parametrize("dim", [1, 4, 20])
def test_squared_wasserstein_is_scipys_on_known_gaussians(dim):
    rng = np.random.default_rng(dim)
    moments = []
    sets = []
    for _ in range(2):
        root = rng.normal(size=(dim, dim)) + np.eye(dim)
        mean, covariance = rng.normal(size=dim), root @ root.T
        whitened = rng.normal(size=(5 * dim + 5, dim))
        whitened -= whitened.mean(0)
        whitened = whitened @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(whitened.T)))).T
        sets.append(torch.from_numpy(mean + whitened @ np.linalg.cholesky(covariance).T))
        moments.append((mean, covariance))
    (m, a), (n, b) = moments
    cross = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a)).real
    expected = np.sum((m - n) ** 2) + np.trace(a + b - 2 * cross)
    assert squared_wasserstein(*sets) == pytest.approx(expected, rel=1e-6)
