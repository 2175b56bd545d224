"""A mixture of Gaussians that is fitted to a few codes has no spikes at them."""

import pytest
import torch
from sklearn.mixture import GaussianMixture

from pythae_fif.models.fitted_priors import COMPONENTS, fit_mixture

DIM = 8


def curved_codes(count, seed):
    """Codes (count, 8) in ten curved clusters, float64."""
    weights = torch.Generator().manual_seed(7)
    inner = torch.randn(DIM, 32, generator=weights).double()
    outer = torch.randn(32, DIM, generator=weights).double() / 4
    centres = 1.5 * torch.randn(10, DIM, generator=weights).double()

    draws = torch.Generator().manual_seed(seed)
    clusters = torch.randint(10, (count,), generator=draws)
    noise = 0.6 * torch.randn(count, DIM, generator=draws).double()
    return ((noise + centres[clusters]) @ inner).tanh() @ outer


def held_out_gain(count, scale):
    """The gain in held-out log-likelihood over scikit-learn's own fit, in nats per code."""
    codes = scale * curved_codes(count, 0)
    held_out = (scale * curved_codes(3000, 1)).numpy()
    plain = GaussianMixture(COMPONENTS, max_iter=500, random_state=0).fit(codes.numpy())
    return fit_mixture(codes, COMPONENTS, 0).score(held_out) - plain.score(held_out)


@pytest.mark.parametrize("smallest_scale", [1.0, 0.01])
@pytest.mark.parametrize(("count", "min_gain"), [(100, 5.0), (300, 0.5)])
def test_a_mixture_of_a_few_codes_fits_others(count, min_gain, smallest_scale):
    """The scales of the codes' dimensions may differ."""
    exponents = torch.linspace(0, 1, DIM).double()
    assert held_out_gain(count, smallest_scale**exponents) > min_gain


def test_a_mixture_of_many_codes_is_unchanged():
    assert held_out_gain(20_000, 1.0) == pytest.approx(0, abs=0.01)


def test_the_covariances_of_a_mixture_give_its_density():
    """Samples are drawn with the covariances, densities are computed with the precisions."""
    codes = curved_codes(200, 0)
    mixture = fit_mixture(codes, COMPONENTS, 0)
    identity = torch.from_numpy(mixture.covariances_ @ mixture.precisions_)
    assert torch.allclose(identity, torch.eye(DIM).double().expand(COMPONENTS, -1, -1))

    gaussians = torch.distributions.MultivariateNormal(
        torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_)
    )
    log_weights = torch.from_numpy(mixture.weights_).log()
    expected = (log_weights + gaussians.log_prob(codes[:, None])).logsumexp(1)
    assert mixture.score_samples(codes.numpy()) == pytest.approx(expected.numpy(), abs=1e-8)
