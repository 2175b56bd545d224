"""The marginal likelihood finds the mode of the posterior, even from codes that are far from it."""

import dataclasses
import math

import pytest
import torch
from support.networks import Map, linear_decoder

from pythae_fif.models import InjectiveFlow, marginal_likelihood
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.fitted_priors import fit_new_prior


class TwoClasses(InjectiveFlow):
    condition_dim = 2


def on_circle(z):
    return 2 * torch.cat([z.cos(), z.sin()], 1)


def circle_model(encoder_error):
    """A circle in the plane; the encoder's angles are wrong by a constant, in radians."""

    def encode(x):
        return torch.atan2(x[:, 1:], x[:, :1]) + encoder_error

    networks = Map("embedding", encode), Map("reconstruction", on_circle)
    model = InjectiveFlow(InjectiveFlowConfig((2,), 1), *networks).double()
    generator = torch.Generator().manual_seed(0)
    angles = 0.7 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    model.prior = fit_new_prior("gaussian", angles)
    return model


def integrated_log_density(prior, x, noise_std, turn=0.0):
    """The logarithm of the integral over codes of the turned circle, by a sum over a grid."""
    z = torch.linspace(-5, 5, 10001, dtype=torch.float64)[:, None]
    error = (on_circle(z + turn)[:, None] - x).square().sum(-1)
    log_likelihood = -error / (2 * noise_std**2) - math.log(2 * math.pi * noise_std**2)
    return (prior.log_prob(z)[:, None] + log_likelihood).logsumexp(0) + math.log(10 / 10000)


@pytest.mark.parametrize("encoder_error", [0.5, 1.0])
@pytest.mark.parametrize("noise_std", [0.005, 0.02, 0.05, 0.2])
def test_the_bound_is_tight_where_the_encoder_is_far_off(encoder_error, noise_std):
    """With a single step from the encoder's codes it is up to 2,000 nats low."""
    torch.manual_seed(0)
    model = circle_model(encoder_error)
    points = on_circle(0.7 * torch.randn(100, 1).double())
    x = points + noise_std * torch.randn(100, 2).double()
    log_density = model.marginal_log_prob(x, noise_std)
    expected = integrated_log_density(model.prior, x, noise_std)
    assert torch.allclose(log_density, expected, atol=0.1)
    assert float((log_density - expected).mean()) == pytest.approx(0, abs=0.01)


def test_weak_directions_stay_where_the_prior_is():
    """The nearest point of the manifold may have a code far outside the prior."""

    def decode(z):
        return torch.cat([z[:, :1], 0.01 * z[:, 1:], 0.1 * z[:, :1].square()], 1)

    networks = Map("embedding", lambda x: x[:, :2]), Map("reconstruction", decode)
    model = InjectiveFlow(InjectiveFlowConfig((3,), 2), *networks).double()
    torch.manual_seed(0)
    x = decode(torch.randn(50, 2).double()) + 0.1 * torch.randn(50, 3).double()
    log_density = model.marginal_log_prob(x, 0.1, samples=50)
    assert torch.allclose(log_density, model.marginal_log_prob(x, 0.1, samples=5000), atol=0.1)


@pytest.mark.parametrize(("encoder_error", "expected"), [(0.0, 1), (9.0, 2)])
def test_the_decoder_is_differentiated_again_only_where_codes_move(
    encoder_error, expected, monkeypatch
):
    points = []
    decoder_gram = marginal_likelihood.decoder_gram

    def count(decode, z, *inputs):
        points.append(len(z))
        return decoder_gram(decode, z, *inputs)

    monkeypatch.setattr(marginal_likelihood, "decoder_gram", count)
    weight = torch.linalg.qr(torch.randn(5, 2).double()).Q
    networks = Map("embedding", lambda x: x @ weight + encoder_error), linear_decoder(weight)
    model = InjectiveFlow(InjectiveFlowConfig((5,), 2), *networks).double()
    torch.manual_seed(0)
    x = torch.randn(30, 2).double() @ weight.T + 0.1 * torch.randn(30, 5).double()
    likelihood = dataclasses.replace(model.marginal_likelihood(x), drawn_starts=0)
    likelihood.log_prob(model.latent_distribution(x), 0.1)
    assert sum(points) == expected * 30


def test_each_point_keeps_its_condition_where_only_some_codes_move():
    """The circle of class 0 is turned by one radian, and the encoder's errors differ."""

    def encode(inputs):
        angle = torch.atan2(inputs[:, 1:2], inputs[:, :1])
        return angle - inputs[:, 2:3] + torch.linspace(0, 1, len(inputs)).double()[:, None]

    def decode(inputs):
        return on_circle(inputs[:, :1] + inputs[:, 1:2])

    networks = Map("embedding", encode), Map("reconstruction", decode)
    model = TwoClasses(InjectiveFlowConfig((2,), 1), *networks).double()

    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    angles = 0.7 * torch.randn(40, 1).double() + (labels == 0)[:, None]
    x = on_circle(angles) + 0.02 * torch.randn(40, 2).double()
    log_density = model.marginal_log_prob(x, 0.02, labels)

    prior = model.latent_distribution(x)
    for label, turn in ((0, 1.0), (1, 0.0)):
        rows = labels == label
        expected = integrated_log_density(prior, x[rows], 0.02, turn)
        assert torch.allclose(log_density[rows], expected, atol=0.1)
