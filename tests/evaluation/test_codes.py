"""Divergence and total correlation of codes, against torch's closed forms and by what they mean."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from pythae_fif.evaluation import score_codes


def codes(seed: int, dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(400, dim, generator=generator, dtype=torch.float64)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) + 2 * torch.eye(dim)
    return z @ mix + torch.randn(dim, generator=generator, dtype=torch.float64)


@given(seed=st.integers(0, 1000), dim=st.integers(1, 6))
def test_they_are_divergences_of_the_fitted_gaussian(seed, dim):
    z = codes(seed, dim)
    covariance = torch.cov(z.T, correction=0).reshape(dim, dim)
    fitted = MultivariateNormal(z.mean(0), covariance)
    prior = MultivariateNormal(torch.zeros_like(z[0]), torch.eye(dim, dtype=z.dtype))
    marginals = MultivariateNormal(z.mean(0), torch.diag(covariance.diagonal()))
    found = score_codes(z)
    expected = [kl_divergence(fitted, other).item() for other in (prior, marginals)]
    assert [found.divergence, found.total_correlation] == pytest.approx(
        expected, rel=1e-8, abs=1e-9
    )
    rescaled = score_codes(3 * z + 1)
    assert rescaled.total_correlation == pytest.approx(found.total_correlation, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_that_do_not_span_their_space_have_no_score(dtype):
    z = codes(1, 3).to(dtype)
    assert score_codes(torch.cat((z, z[:, :1] - 2 * z[:, 1:2]), 1)) is None
    assert score_codes(torch.cat((z, torch.zeros_like(z[:, :1])), 1)) is None
    assert score_codes(z.reshape(-1, 3, 1, 1)) is None
