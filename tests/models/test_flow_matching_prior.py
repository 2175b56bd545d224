"""Tests of the prior that is trained by flow matching: its density, its samples, its training."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal

from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.flow_matching_prior import FlowMatchingPrior, VelocityNetwork, solve_ode

pytestmark = pytest.mark.usefixtures("one_thread", "float64")

SEEDS = st.integers(0, 1000)


def random_prior(latent_dim: int, condition_dim: int = 0, seed: int = 0) -> FlowMatchingPrior:
    """A prior with random weights, whose density is far from a Gaussian."""
    torch.manual_seed(seed)
    prior = FlowMatchingPrior(latent_dim, condition_dim)
    prior.velocity = VelocityNetwork(latent_dim, condition_dim, hidden_dim=16)
    torch.nn.init.normal_(prior.velocity.output.weight, std=0.1)
    prior.requires_grad_(False)
    prior.mean.copy_(torch.randn(latent_dim))
    prior.scale.copy_(0.5 + torch.rand(latent_dim))
    return prior


def correlated_codes(count: int) -> tuple[torch.Tensor, MultivariateNormal]:
    """Codes (N, 2) of a Gaussian distribution, and the distribution."""
    covariance = torch.tensor([[2.0, 0.9], [0.9, 1.0]])
    gaussian = MultivariateNormal(torch.tensor([3.0, -1.0]), covariance)
    return gaussian.sample((count,)), gaussian


@given(seed=SEEDS, latent_dim=st.integers(1, 5), condition_dim=st.integers(0, 3))
def test_the_divergence_is_the_trace_of_the_jacobian(seed, latent_dim, condition_dim):
    torch.manual_seed(seed)
    velocity = VelocityNetwork(latent_dim, condition_dim, hidden_dim=8).double()
    torch.nn.init.normal_(velocity.output.weight)
    x = torch.randn(4, latent_dim)
    time = torch.rand(4, 1)
    condition = torch.randn(4, condition_dim) if condition_dim else None

    values, divergence = velocity.with_divergence(x, time, condition)
    assert torch.equal(values, velocity(x, time, condition))

    jacobian = torch.autograd.functional.jacobian(lambda x: velocity(x, time, condition), x)
    trace = torch.stack([jacobian[i, :, i].trace() for i in range(4)])
    torch.testing.assert_close(divergence, trace, rtol=1e-12, atol=1e-12)


def test_before_a_fit_it_is_the_standard_normal_distribution():
    z = torch.randn(50, 3)
    prior = FlowMatchingPrior(3, 0).double()
    torch.testing.assert_close(
        prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1), atol=1e-5, rtol=0
    )
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    samples = prior.sample(50, torch.Generator().manual_seed(1))
    torch.testing.assert_close(samples, noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_density_integrates_to_one(seed):
    line = torch.linspace(-20, 20, 1201)
    total = random_prior(1, seed=seed).log_prob(line[:, None]).exp().sum() * (line[1] - line[0])
    assert float(total) == pytest.approx(1, abs=1e-4)

    side = torch.linspace(-14, 14, 101)
    density = random_prior(2, seed=seed).log_prob(torch.cartesian_prod(side, side)).exp()
    assert float(density.sum() * (side[1] - side[0]) ** 2) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_samples_have_the_density(condition_dim):
    """The density of a sample is that of its noise over the determinant of the map from noise."""
    prior = random_prior(3, condition_dim)
    condition = torch.randn(5, condition_dim) if condition_dim else None
    samples = prior.sample(5, torch.Generator().manual_seed(2), condition)
    density = prior.log_prob(samples, condition)

    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    for i in range(5):
        row = None if condition is None else condition[i : i + 1]

        def to_sample(point, row=row):
            path = solve_ode(
                lambda time, x: prior.velocity(x, time, row), point[None], start=0.0, stop=1.0
            )
            return prior.mean + prior.scale * path[0]

        torch.testing.assert_close(to_sample(noise[i]), samples[i])
        jacobian = torch.autograd.functional.jacobian(to_sample, noise[i])
        expected = Normal(0.0, 1.0).log_prob(noise[i]).sum() - jacobian.slogdet().logabsdet
        assert float(density[i]) == pytest.approx(float(expected), abs=1e-4)


def test_log_prob_takes_any_shape_and_has_gradients():
    prior = random_prior(2, 3)
    z = torch.randn(4, 5, 2, requires_grad=True)
    condition = torch.randn(4, 5, 3)
    density = prior.log_prob(z, condition)
    assert density.shape == (4, 5)
    flat = prior.log_prob(z.flatten(0, 1), condition.flatten(0, 1))
    torch.testing.assert_close(density.flatten(), flat)
    assert torch.autograd.gradcheck(
        lambda z: prior.log_prob(z, condition[0, :2]), z[0, :2].detach().requires_grad_()
    )


def test_more_codes_than_a_chunk(monkeypatch):
    prior = random_prior(2)
    z = torch.randn(7, 2)
    expected = prior.log_prob(z)
    monkeypatch.setattr("pythae_fif.models.flow_matching_prior.CHUNK_SIZE", 3)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_gaussian_codes_give_their_gaussian():
    codes, gaussian = correlated_codes(2000)
    prior = fit_new_prior("flow_matching", codes, steps=100)
    new_codes = gaussian.sample((250,))
    error = prior.log_prob(new_codes) - gaussian.log_prob(new_codes)
    assert float(error.mean()) > -0.05
    assert float(error.abs().mean()) < 0.15

    samples = prior.sample(2000)
    torch.testing.assert_close(samples.mean(0), gaussian.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(samples.T.cov(), gaussian.covariance_matrix, atol=0.25, rtol=0)


def test_codes_that_no_gaussian_fits_with_a_condition():
    side = torch.arange(400) % 2
    codes = 0.1 * torch.randn(400, 1) + 2.0 * side[:, None] - 1
    condition = torch.nn.functional.one_hot(side).double()
    prior = fit_new_prior("flow_matching", codes, condition, steps=150)
    entropy = math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e)
    assert float(prior.log_prob(codes, condition).mean()) > -entropy - 0.2
    assert float(prior.log_prob(codes, condition.flip(1)).mean()) < -entropy - 5


def test_the_solver_is_of_fourth_order():
    """x' = t x from 1 has the solution exp(t² / 2)."""
    errors = []
    for steps in (10, 20):
        end = solve_ode(lambda t, x: t * x, torch.ones(1, 1), start=0.0, stop=2.0, steps=steps)
        errors.append(abs(float(end) - math.exp(2)))
    assert 14 < errors[0] / errors[1] < 40

    back = solve_ode(lambda t, x: t * x, end, start=2.0, stop=0.0, steps=100)
    assert float(back) == pytest.approx(float(end) / math.exp(2), abs=1e-6)
