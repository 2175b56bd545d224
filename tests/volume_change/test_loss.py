"""Eq. 7: its terms, where training rests, and the same steps."""

import math
from functools import partial

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from torch import nn
from torch.func import jacrev, vmap

from pythae_fif import FIF, FIFConfig
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.volume_change import fif_loss, sample_hutchinson, squared_error, volume_surrogate

D, LATENT, B = 5, 2, 9


def nets(activation=nn.Tanh):
    encode = nn.Sequential(nn.Linear(D, 8), activation(), nn.Linear(8, LATENT))
    decode = nn.Sequential(nn.Linear(LATENT, 8), activation(), nn.Linear(8, D))
    return encode.double(), decode.double()


def log_prior(z):
    return -z.square().sum(-1) / 2 - z.shape[-1] / 2 * math.log(2 * math.pi)


def arguments(size):
    x = torch.randn(size, D, dtype=torch.float64)
    return x, sample_hutchinson(size, LATENT, 2, dtype=torch.float64)


def test_terms_and_reductions():
    maps, (x, eps) = nets(), arguments(B)
    each = fif_loss(*maps, log_prior, x, eps, 3.0)
    assert each.loss.shape == each.nll.shape == each.reconstruction.shape == (B,)
    torch.testing.assert_close(each.volume, volume_surrogate(*maps, x, eps).surrogate)
    torch.testing.assert_close(each.loss, each.nll + 3.0 * each.reconstruction)
    torch.testing.assert_close(each.reconstruction, squared_error(maps[1](maps[0](x)), x))
    mean = fif_loss(*maps, log_prior, x, eps, 3.0, reduce=torch.mean)
    for whole, samples in zip(mean[:3], each[:3], strict=True):
        torch.testing.assert_close(whole, samples.mean())
    part = fif_loss(*maps, log_prior, x, eps[:, :4], 3.0, reduce=torch.mean)
    expected = mean.loss - each.volume.mean() + each.volume[:4].mean()
    torch.testing.assert_close(part.loss, expected)


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU])
@pytest.mark.parametrize("change", ["scale", "matrix"])
def test_where_training_rests(change, activation, jacobian_at):
    """The derivative along f to (I + tA) f, g to g((I + tA)^-1 z) is E z^T A z - E tr A f' g'. It
    is what automatic differentiation gives, with kinks or not; with A = I, E|z|^2 - E tr f' g'."""
    (encode, decode), (x, _) = nets(activation), arguments(200)
    basis = math.sqrt(LATENT) * torch.eye(LATENT, dtype=torch.float64)
    eps = basis[:, None].expand(-1, len(x), -1)  # the estimate is the trace itself
    estimate = partial(volume_surrogate, jacobian_at=jacobian_at)
    loss = fif_loss(
        encode, decode, log_prior, x, eps, 10.0, reduce=torch.mean, surrogate=estimate
    ).loss
    loss.backward()
    a = torch.eye(LATENT).double() if change == "scale" else torch.randn(LATENT, LATENT).double()
    last, first = encode[-1], decode[0]
    moves = [(last.weight, a @ last.weight), (last.bias, a @ last.bias)]
    moves += [(first.weight, -first.weight @ a)]
    found = sum((parameter.grad * move).sum() for parameter, move in moves)
    with torch.no_grad():
        z = encode(x)
        at = x if jacobian_at == "data" else decode(z)
        jacobians = vmap(jacrev(encode))(at) @ vmap(jacrev(decode))(z)
        expected = ((z @ a.T) * z).sum(1).mean() - (jacobians @ a).diagonal(0, 1, 2).sum(1).mean()
    assert abs(expected) > 0.01
    assert abs(found - expected) < 1e-8


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU])
def test_gradient_through_the_projection(activation):
    """With kinks f' is constant around a point: automatic differentiation finds none."""
    maps, (x, eps) = nets(activation), arguments(B)
    parameters = [p for net in maps for p in net.parameters()]

    def gradient(jacobian_at):
        volume = volume_surrogate(*maps, x, eps, jacobian_at=jacobian_at).surrogate.sum()
        found = torch.autograd.grad(volume, parameters, materialize_grads=True, allow_unused=True)
        return torch.cat([part.flatten() for part in found])

    whole, detached = gradient("reconstruction"), gradient("detached_reconstruction")
    assert detached.norm() > 0.1
    assert torch.equal(whole, detached) == (activation is not nn.SiLU)


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_training_steps_of_fif_are_to_the_bit_those_of_the_written_out_loss(fraction):
    """The terms' means are added in this order, which committed results depend on."""
    data, ends = torch.randn(40, D), []
    for written_out in (False, True):
        torch.manual_seed(0)
        config = FIFConfig(input_dim=(D,), latent_dim=LATENT, surrogate_fraction=fraction)
        model = FIF(config, ResidualEncoder(D, LATENT, 2, 16), ResidualDecoder(D, LATENT, 2, 16))
        optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            x = data[torch.randperm(40)[:13]]
            loss = plain_loss(model, x) if written_out else model(DatasetOutput(data=x)).loss
            loss.backward()
            optimizer.step()
        ends.append([loss, *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def plain_loss(model, x):
    config = model.model_config
    x = x + config.noise * torch.randn_like(x)
    eps = sample_hutchinson(math.ceil(config.surrogate_fraction * len(x)), LATENT)
    maps = lambda x: model.encoder(x).embedding, lambda z: model.decoder(z)["reconstruction"]
    out = volume_surrogate(*maps, x, eps)
    reconstruction = (out.x_hat - x).square().sum(1).mean()
    prior = torch.distributions.Independent(torch.distributions.Normal(out.z * 0, 1.0), 1)
    nll = out.surrogate.mean() - prior.log_prob(out.z).mean()
    return nll + config.beta * reconstruction


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 1, 8, 8), (5, 64), (1, 1, 8, 8)])
def test_reconstructions_of_another_shape_than_the_data(shape):
    message = rf"reconstructions have shape \({shape[0]}, .* \(5, 1, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        squared_error(torch.rand(shape), torch.rand(5, 1, 8, 8))


def test_terms_that_are_not_one_number_a_data_point_are_told():
    maps, (x, eps) = nets(), arguments(B)
    of_each = torch.distributions.Normal(0.0, 1.0).log_prob  # (B, d): added up by nobody
    for reduce in (None, torch.mean):
        with pytest.raises(
            ValueError, match=r"shapes \(9, 2\), \(9,\) and \(9,\): each must be one number"
        ):
            fif_loss(*maps, of_each, x, eps, 3.0, reduce=reduce)
    with pytest.raises(
        ValueError, match=r"\(1,\) and \(9,\): .* volumes of part of the batch need `reduce`"
    ):
        fif_loss(*maps, log_prior, x, eps[:, :1], 3.0)
