"""beta='auto' is damped and bounded, and its evaluation loss does not depend on it."""

import math

import pytest
import torch
from support.networks import linear_decoder, linear_encoder
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError
from pythae_fif.nn import build_networks
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


def test_beta_follows_the_error_of_the_previous_epoch():
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(1, 4, 4), latent_dim=3, beta="auto", noise=0.0)
    model = FIF(config)
    resumed = FIF(config)
    x = 0.2 + 0.6 * torch.rand(10, 1, 4, 4)  # with an error that needs no damping
    output7 = model({"data": x[:7]})
    output3 = model({"data": x[7:]})
    assert float(model.beta) == 10

    resumed.load_state_dict(model.state_dict())  # as from a checkpoint
    mean_error = (7 * output7.recon_loss.item() + 3 * output3.recon_loss.item()) / 10
    for trained in (model, resumed):
        trained.update()
        assert trained.errors.tolist() == [0, 0]
        assert float(trained.beta) == pytest.approx(13 / (2 * mean_error), rel=1e-6)


def test_the_evaluation_loss_with_beta_auto_has_the_best_noise_whatever_beta_is():
    torch.manual_seed(0)
    x = torch.rand(10, 1, 4, 4)
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3, beta="auto", noise=0.0)).eval()
    output = model({"data": x})
    variance = model.estimate_noise_std(x) ** 2
    expected = float(output.nll_loss) + 6.5 * (1 + math.log(2 * math.pi * variance))
    assert float(output.loss) == pytest.approx(expected, rel=1e-6)

    model.beta.fill_(100.0)
    assert torch.equal(model({"data": x}).loss, output.loss)


def test_the_evaluation_loss_with_beta_auto_is_that_of_the_whole_set():
    torch.manual_seed(0)
    x = torch.rand(40, 6) * torch.linspace(0.1, 3, 40)[:, None]
    model = FIF(FIFConfig(input_dim=(6,), latent_dim=2, beta="auto"), *small_networks())
    model.eval()
    outputs = [
        model({"data": batch}, dataset_size=40, position=10 * number)
        for number, batch in enumerate(x.split(10))
    ]
    means = {
        name: sum(output[name].item() for output in outputs) / 4
        for name in ("loss", "nll_loss", "recon_loss", "noise_nll")
    }
    variance = model.estimate_noise_std(x) ** 2
    expected = means["nll_loss"] + 2 * (1 + math.log(2 * math.pi * variance))
    assert model.evaluation_loss(means, 6) == pytest.approx(expected, rel=1e-5)
    assert model.evaluation_loss(means, 6) - means["loss"] > 0.1


def small_networks():
    return build_networks("tabular", (6,), 2)


def test_configurations_that_beta_auto_refuses():
    with pytest.raises(ConfigError, match=r"beta='auto'.*without beta_final"):
        FIFConfig(input_dim=(4,), latent_dim=2, beta="auto", beta_final=3.0)
    with pytest.raises(ConfigError, match=r"beta='auto' needs a latent_dim below 4"):
        FIFConfig(input_dim=(4,), latent_dim=4, beta="auto")
