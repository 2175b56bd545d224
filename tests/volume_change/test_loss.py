"""The loss of eq. 7: its terms, its derivative at rest, and unchanged training steps."""

import math
from functools import partial

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from torch import nn
from torch.func import jacrev, vmap

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import SlowerTrainingWarning, UnsupportedOperationError
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.volume_change import (
    autograd_surrogate,
    fif_loss,
    sample_hutchinson,
    squared_error,
    volume_surrogate,
)

D = 5
LATENT = 2
B = 9


def networks(activation=nn.Tanh):
    """An encoder and a decoder in float64."""
    encode = nn.Sequential(nn.Linear(D, 8), activation(), nn.Linear(8, LATENT))
    decode = nn.Sequential(nn.Linear(LATENT, 8), activation(), nn.Linear(8, D))
    return encode.double(), decode.double()


def log_prior(z):
    """The standard normal log-density of codes (B, d)."""
    return -z.square().sum(-1) / 2 - z.shape[-1] / 2 * math.log(2 * math.pi)


def draw_data(size):
    """Data, and two Hutchinson vectors for each data point."""
    x = torch.randn(size, D, dtype=torch.float64)
    return x, sample_hutchinson(size, LATENT, 2, dtype=torch.float64)


def test_terms_and_reductions():
    encode, decode = networks()
    x, eps = draw_data(B)

    terms = fif_loss(encode, decode, log_prior, x, eps, 3.0)
    assert terms.loss.shape == terms.nll.shape == terms.reconstruction.shape == (B,)
    torch.testing.assert_close(terms.volume, volume_surrogate(encode, decode, x, eps).surrogate)
    torch.testing.assert_close(terms.loss, terms.nll + 3.0 * terms.reconstruction)
    torch.testing.assert_close(terms.reconstruction, squared_error(decode(encode(x)), x))

    means = fif_loss(encode, decode, log_prior, x, eps, 3.0, reduce=torch.mean)
    for mean, samples in zip(means[:3], terms[:3], strict=True):
        torch.testing.assert_close(mean, samples.mean())

    part_means = fif_loss(encode, decode, log_prior, x, eps[:, :4], 3.0, reduce=torch.mean)
    expected = means.loss - terms.volume.mean() + terms.volume[:4].mean()
    torch.testing.assert_close(part_means.loss, expected)


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU])
@pytest.mark.parametrize("change", ["scale", "matrix"])
def test_derivative_that_is_zero_when_training_rests(change, activation, jacobian_at):
    """Along f to (I + tA) f and g to g((I + tA)^-1 z) it is E z^T A z - E tr A f' g'.

    With A = I that is E|z|^2 - E tr f' g'. Automatic differentiation gives it, with kinks or not.
    """
    encode, decode = networks(activation)
    x, _ = draw_data(200)
    basis = math.sqrt(LATENT) * torch.eye(LATENT, dtype=torch.float64)
    eps = basis[:, None].expand(-1, len(x), -1)  # the estimate is the trace itself
    estimate = partial(volume_surrogate, jacobian_at=jacobian_at)
    loss = fif_loss(
        encode, decode, log_prior, x, eps, 10.0, reduce=torch.mean, surrogate=estimate
    ).loss
    loss.backward()

    a = torch.eye(LATENT).double() if change == "scale" else torch.randn(LATENT, LATENT).double()
    encoder_head = encode[-1]
    decoder_input = decode[0]
    directions = [
        (encoder_head.weight, a @ encoder_head.weight),
        (encoder_head.bias, a @ encoder_head.bias),
        (decoder_input.weight, -decoder_input.weight @ a),
    ]
    actual = sum((parameter.grad * direction).sum() for parameter, direction in directions)

    with torch.no_grad():
        z = encode(x)
        point = x if jacobian_at == "data" else decode(z)
        jacobians = vmap(jacrev(encode))(point) @ vmap(jacrev(decode))(z)
        traces = (jacobians @ a).diagonal(0, 1, 2).sum(1)
        expected = ((z @ a.T) * z).sum(1).mean() - traces.mean()
    assert abs(expected) > 0.01
    assert abs(actual - expected) < 1e-8


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU])
def test_gradient_through_the_projection(activation):
    """With kinks f' is constant around a point: automatic differentiation finds no gradient."""
    encode, decode = networks(activation)
    x, eps = draw_data(B)
    parameters = [*encode.parameters(), *decode.parameters()]

    def gradient(jacobian_at):
        output = volume_surrogate(encode, decode, x, eps, jacobian_at=jacobian_at)
        gradients = torch.autograd.grad(
            output.surrogate.sum(), parameters, materialize_grads=True, allow_unused=True
        )
        return torch.cat([gradient.flatten() for gradient in gradients])

    full = gradient("reconstruction")
    detached = gradient("detached_reconstruction")
    assert detached.norm() > 0.1
    assert torch.equal(full, detached) == (activation is not nn.SiLU)


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_training_steps_of_fif_equal_steps_with_the_written_out_loss(fraction):
    """They are equal to the bit: committed results depend on the order of the loss's terms."""
    data = torch.randn(40, D)
    results = []
    for written_out in (False, True):
        torch.manual_seed(0)
        config = FIFConfig(input_dim=(D,), latent_dim=LATENT, surrogate_fraction=fraction)
        model = FIF(config, ResidualEncoder(D, LATENT, 2, 16), ResidualDecoder(D, LATENT, 2, 16))
        optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)

        for _ in range(4):
            optimizer.zero_grad()
            x = data[torch.randperm(40)[:13]]
            loss = written_out_loss(model, x) if written_out else model(DatasetOutput(data=x)).loss
            loss.backward()
            optimizer.step()

        results.append([loss, *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def written_out_loss(model, x):
    config = model.model_config
    x = x + config.noise * torch.randn_like(x)
    eps = sample_hutchinson(math.ceil(config.surrogate_fraction * len(x)), LATENT)
    out = volume_surrogate(
        lambda x: model.encoder(x).embedding,
        lambda z: model.decoder(z)["reconstruction"],
        x,
        eps,
    )
    reconstruction = (out.x_hat - x).square().sum(1).mean()
    prior = torch.distributions.Independent(torch.distributions.Normal(out.z * 0, 1.0), 1)
    nll = out.surrogate.mean() - prior.log_prob(out.z).mean()
    return nll + config.beta * reconstruction


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 1, 8, 8), (5, 64), (1, 1, 8, 8)])
def test_reconstructions_must_have_the_shape_of_the_data(shape):
    message = rf"reconstructions have shape \({shape[0]}, .* \(5, 1, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        squared_error(torch.rand(shape), torch.rand(5, 1, 8, 8))


def mean_log_prior(z):
    return log_prior(z).mean()


MISTAKES = {
    "a prior without a sum": (
        {"latent_log_prob": torch.distributions.Normal(0.0, 1.0).log_prob},
        r"latent_log_prob returned shape \(9, 2\): sum it over the code's dimensions",
    ),
    "a mean of the prior": (
        {"latent_log_prob": mean_log_prior},
        r"shapes \(\), \(9,\) and \(9,\): each must be one number",
    ),
    "automatic beta": ({"beta": "auto"}, "'auto' is an option of FIFConfig"),
    "a tuple": (
        {"encode": lambda x: (x[:, :LATENT], x)},
        r"the encoder returned a tuple, but must return one tensor: .* lambda v: encoder\(v\)\[0\]",
    ),
    "a dictionary": ({"decode": lambda z: {"x": z}}, "the decoder returned a dict"),
    "a detached encoder": (
        {"encode": lambda x: x[:, :LATENT].detach()},
        "the encoder's output does not depend on its input: it was detached",
    ),
    "a decoder without gradient": (
        {"decode": torch.no_grad()(nn.Linear(LATENT, D).double())},
        "the decoder's output does not depend on its input",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    arguments, message = MISTAKES[name]
    encode, decode = networks()
    x, eps = draw_data(B)
    usual = {"encode": encode, "decode": decode, "latent_log_prob": log_prior, "beta": 3.0}
    with pytest.raises(ValueError, match=message):
        fif_loss(x=x, eps=eps, **(usual | arguments))


def test_volumes_of_part_of_the_batch_are_reduced():
    encode, decode = networks()
    x, eps = draw_data(B)
    with pytest.raises(
        ValueError, match=r"\(1,\) and \(9,\): .* volumes of part of the batch need `reduce`"
    ):
        fif_loss(encode, decode, log_prior, x, eps[:, :1], 3.0)


class Recurrent(nn.Module):
    """A network that cannot be replayed."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.cell = nn.GRU(inputs, outputs)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.cell(x[None])[0][0]


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda x: f(x), lambda f: partial(f)])
def test_networks_that_cannot_be_replayed_fall_back_with_one_warning(wrap):
    encoder, decoder = Recurrent(D, LATENT).double(), networks()[1]
    x, eps = draw_data(B)
    assert_equal_terms = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    expected = fif_loss(encoder, decoder, log_prior, x, eps, 3.0, surrogate=autograd_surrogate)

    encoder.passes = 0
    with pytest.warns(
        SlowerTrainingWarning, match=r"falls back .* torch.gru has no replay rule$"
    ) as caught:
        for _ in range(3):
            assert_equal_terms(fif_loss(wrap(encoder), decoder, log_prior, x, eps, 3.0), expected)
    assert len(caught) == 1
    assert encoder.passes == 4  # one of them was not completed

    with pytest.raises(UnsupportedOperationError, match=r"gru .*; autograd_surrogate takes any"):
        volume_surrogate(encoder, decoder, x, eps)
