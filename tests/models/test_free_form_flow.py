"""With latent_dim = D a FIF is a free-form flow (FFF; Draxler et al., AISTATS 2024)."""

import pytest
import torch
from support.networks import coupling
from torch.func import jacrev, vmap

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError
from pythae_fif.nn import ResidualDecoder, ResidualEncoder

DIM = 3
BETA = 100.0
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(DIM).double(), torch.eye(DIM).double())


def build_flow(**options):
    """A FIF with as many latent dimensions as data dimensions, in float64."""
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(DIM,), latent_dim=DIM, beta=BETA, noise=0.0, **options)
    networks = (ResidualEncoder(DIM, DIM, 2, 16), ResidualDecoder(DIM, DIM, 2, 16))
    return FIF(config, *networks).double()


def points():
    return torch.randn(20, DIM, generator=torch.Generator().manual_seed(1)).double()


def encode(model, x):
    return model.encoder(x).embedding


def decode(model, z):
    return model.decoder(z).reconstruction


def jacobians(function, x):
    return vmap(jacrev(lambda point: function(point[None])[0]))(x)


def free_form_flow_loss(model, x):
    """The loss of a FFF with the exact trace instead of Hutchinson's estimate of it."""
    z = encode(model, x)
    x_hat = decode(model, z)
    encoder_jacobian = jacobians(lambda point: encode(model, point), x)
    decoder_jacobian = jacobians(lambda code: decode(model, code), z).detach()
    volume = torch.einsum("bij,bji->b", encoder_jacobian, decoder_jacobian)
    squared_error = (x_hat - x).square().sum(1)
    return (-NORMAL.log_prob(z) - volume + BETA * squared_error).mean()


@pytest.mark.parametrize("mode", ["replay", "published", "double backward"])
def test_the_loss_and_its_gradient_are_those_of_a_free_form_flow(mode):
    model = build_flow(hutchinson_samples=DIM)  # as many orthogonal vectors give the exact trace
    model.train()
    model.surrogate_mode = mode
    x = points()
    loss = model({"data": x}).loss
    expected = free_form_flow_loss(model, x)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)

    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-11)


def test_log_prob_is_the_change_of_variables():
    model = build_flow()
    x = points()
    z = encode(model, x)
    log_det = torch.linalg.slogdet(jacobians(lambda code: decode(model, code), z)).logabsdet
    expected = NORMAL.log_prob(z) - log_det
    torch.testing.assert_close(model.log_prob(x), expected.detach(), rtol=0, atol=1e-10)


def test_log_prob_is_the_density_of_the_data_where_the_decoder_inverts_the_encoder():
    encoder, decoder = coupling(DIM, DIM)
    config = FIFConfig(input_dim=(DIM,), latent_dim=DIM, beta=BETA)
    model = FIF(config, encoder, decoder).double()
    x = points()
    jacobian = jacobians(lambda point: encode(model, point), x)
    expected = NORMAL.log_prob(encode(model, x)) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(model.log_prob(x), expected.detach(), rtol=0, atol=1e-9)


def test_beta_auto_is_refused():
    """It is (D - d) / (2 E), which is 0 for d = D."""
    message = "beta='auto' needs a latent_dim below 3, the dimension of the data"
    with pytest.raises(ConfigError, match=message):
        FIFConfig(input_dim=(DIM,), latent_dim=DIM, beta="auto")

    config = FIFConfig(latent_dim=DIM, beta="auto")  # the dimension of the data is not known yet
    model = FIF(config, ResidualEncoder(DIM, DIM, 1, 8), ResidualDecoder(DIM, DIM, 1, 8))
    with pytest.raises(ConfigError, match=message):
        model.train()({"data": points().float()}, epoch=1)
