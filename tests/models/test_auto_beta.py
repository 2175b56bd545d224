"""beta='auto' is damped and bounded, so that neither bad nor exact epochs spoil a training."""

import math

import pytest
import torch
from support.networks import linear_decoder, linear_encoder
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder


def linear_fif(decoder_weight):
    """A FIF with auto beta and without noise, with g(z) = W z and the pseudo-inverse as f."""
    config = FIFConfig(latent_dim=decoder_weight.shape[1], beta="auto", noise=0.0)
    encoder = linear_encoder(torch.linalg.pinv(decoder_weight))
    return FIF(config, encoder, linear_decoder(decoder_weight))


def betas_of_epochs(model, x, epochs):
    """The values of beta in epochs with the single batch x."""
    betas = []
    for _ in range(epochs):
        betas.append(float(model.beta))
        assert model({"data": x}).loss.isfinite()
        model.update()
    return betas


def test_an_exact_reconstruction_keeps_beta_and_the_loss_finite():
    weight = torch.eye(4, 2)
    x = torch.randn(20, 2) @ weight.T
    betas = betas_of_epochs(linear_fif(weight), x, 25)
    assert betas[:5] == [10, 20, 40, 80, 160]
    assert betas[-1] == 1e6


def test_beta_falls_by_a_tenth_per_epoch_towards_its_fixed_point():
    weight = torch.eye(4, 2)
    x = 0.5 * torch.randn(20, 4)
    error = x[:, 2:].square().sum(1).mean().item()
    betas = betas_of_epochs(linear_fif(weight), x, 30)
    assert betas[:3] == pytest.approx([10, 9, 8.1])
    assert betas[-1] == pytest.approx((4 - 2) / (2 * error))  # as of probabilistic PCA


def test_in_full_dimension_beta_auto_is_refused():
    with pytest.raises(ConfigError, match=r"beta='auto' needs a latent_dim below 3"):
        linear_fif(torch.eye(3))({"data": torch.randn(5, 3)})


@pytest.fixture
def single_thread():
    """Small steps are much faster in one thread if other processes use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_bad_start_does_not_trap_beta(single_thread):
    """Without damping the error of this training ends at 16, above the variance of the data."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(2000, generator=generator)
    plane = torch.randn(2, 5, generator=generator)
    x = 2 * torch.stack([angle.cos(), angle.sin()], 1)[:1000] @ plane

    torch.manual_seed(0)
    encoder = HeadedEncoder(
        nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()), nn.Linear(64, 1)
    )
    decoder = LayeredDecoder(
        nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 5)
    )
    config = FIFConfig(input_dim=(5,), latent_dim=1, beta="auto", noise=0.0)
    model = FIF(config, encoder, decoder).train()

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        for rows in torch.randperm(1000).split(100):
            optimizer.zero_grad()
            model({"data": x[rows]}).loss.backward()
            optimizer.step()
        model.update()
    error = (model.reconstruct(x) - x).square().sum(1).mean()
    assert float(error) < 1
