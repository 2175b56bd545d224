"""The surrogate's gradient in float64, compared with everything that is known about it."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from pythae_fif.nn import build_networks
from pythae_fif.volume_change import (
    autograd_surrogate,
    fif_loss,
    log_volume,
    sample_hutchinson,
    volume_surrogate,
)

pytestmark = pytest.mark.usefixtures("float64")
D = 6
d = 3
B = 5
SURROGATES = {"replayed": volume_surrogate, "autograd": autograd_surrogate}


@pytest.fixture(params=SURROGATES)
def surrogate(request):
    return SURROGATES[request.param]


def mlp(inputs, outputs, norm=False):
    """A network with one hidden layer, with BatchNorm if asked for."""
    norms = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(inputs, 16), *norms, nn.Tanh(), nn.Linear(16, outputs))


def gradients(loss, *modules):
    """The gradients by all parameters, in one vector."""
    parameters = [p for module in modules for p in module.parameters()]
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, **options)])


def reference_network(file, side):
    """The 'encoder' or 'decoder' of a file of reference gradients."""
    activation = getattr(nn, str(file["act"]))
    layers = []
    for number in (0, 2, 4):
        outputs, inputs = file[f"{side}.{number}.weight"].shape
        layers += [nn.Linear(inputs, outputs), activation()]
    network = nn.Sequential(*layers[:-1])
    weights = {name: torch.from_numpy(file[f"{side}.{name}"]) for name in network.state_dict()}
    network.load_state_dict(weights)
    return network


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mlp_silu_k1", "mlp_tanh_k2"])
def test_reference_gradients_of_the_authors(shared, name, surrogate):
    file = np.load(shared / "reference" / f"{name}.npz")
    networks = {side: reference_network(file, side) for side in ("encoder", "decoder")}
    x = torch.from_numpy(file["x"])
    eps = torch.from_numpy(file["eps"])
    beta = float(file["beta"])

    def log_prior(z):
        return -0.5 * ((z**2).sum(1) + z.shape[1] * math.log(2 * math.pi))

    loss = fif_loss(*networks.values(), log_prior, x, eps, beta, surrogate=surrogate).loss
    assert np.abs(loss.detach().numpy() - file["loss"]).max() < 1e-12

    loss.mean().backward()
    for side, network in networks.items():
        for key, parameter in network.named_parameters():
            assert np.abs(parameter.grad.numpy() - file[f"grad.{side}.{key}"]).max() < 1e-12


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction", "detached_reconstruction"])
def test_the_gradient_is_the_exact_one_at_full_k(surrogate, jacobian_at):
    """The trace in eqs. 10 and 15 comes from dense Jacobians that autograd differentiates."""
    encode = mlp(D, d)
    decode = mlp(d, D)
    x = torch.randn(B, D)
    out = surrogate(encode, decode, x, sample_hutchinson(B, d, d), jacobian_at=jacobian_at)
    z = encode(x)
    torch.testing.assert_close((out.z, out.x_hat), (z, decode(z)))

    points = {"data": x, "reconstruction": decode(z)}.get(jacobian_at, decode(z).detach())
    expected = 0.0
    for point, code in zip(points, z, strict=True):
        f = jacobian(lambda v: encode(v[None])[0], point, create_graph=True)
        g = jacobian(lambda v: decode(v[None])[0], code).detach()
        expected = expected - torch.trace(f @ g)
    actual = out.surrogate.sum()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(
        gradients(actual, encode, decode),
        gradients(expected, encode, decode),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize("samples", [1, 2])
def test_batch_norm_in_training_mode(surrogate, samples):
    """The Jacobian is the whole batch's, and running statistics are updated once."""
    encode = mlp(D, d, norm=True)
    decode = mlp(d, D, norm=True)
    x = torch.randn(B, D)
    eps = sample_hutchinson(B, d, samples)
    f = jacobian(encode, x, create_graph=True)  # (B, d, B, D)
    g = jacobian(decode, encode(x)).detach()  # (B, D, B, d)
    expected = -torch.einsum("kbi,bicj,cjel,kel->", eps, f, g, eps) / samples

    encoder_updates = int(encode[1].num_batches_tracked)
    decoder_updates = int(decode[1].num_batches_tracked)
    value = surrogate(encode, decode, x, eps).surrogate.sum()
    assert int(encode[1].num_batches_tracked) == encoder_updates + 1
    assert int(decode[1].num_batches_tracked) == decoder_updates + 1
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(
        gradients(value, encode), gradients(expected, encode), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(
    "arch, shape",
    [
        ("convnet", (1, 8, 8)),
        ("convnet", (1, 28, 28)),
        ("resnet", (3, 32, 32)),
        ("fif_convnet", (1, 28, 28)),
    ],
)
def test_gradients_of_the_benchmark_s_networks(arch, shape):
    """In training mode with BatchNorm both surrogates have the same gradients."""
    encoder, decoder = build_networks(arch, shape, 4)
    encoder.train().double()
    decoder.train().double()
    x = torch.rand(2, *shape)
    eps = sample_hutchinson(2, 4)

    def gradients_by(surrogate):
        statistics = [buffer.clone() for buffer in encoder.buffers()]
        out = surrogate(lambda x: encoder(x).embedding, lambda z: decoder(z).reconstruction, x, eps)
        loss = out.surrogate.sum() + out.x_hat.square().sum()
        values = gradients(loss, encoder, decoder)
        for buffer, saved in zip(encoder.buffers(), statistics, strict=True):
            buffer.data.copy_(saved)
        return values

    expected = gradients_by(autograd_surrogate)
    assert (gradients_by(volume_surrogate) - expected).norm() < 1e-12 * expected.norm()


def test_it_is_the_gradient_of_the_log_volume_if_g_is_the_inverse_of_f():
    """For a linear decoder and its pseudo-inverse eq. 36 is d(-log vol f')/d(encoder)."""
    weight = torch.randn(d, D, requires_grad=True)
    inverse = torch.linalg.pinv(weight.detach()).T
    out = volume_surrogate(
        lambda x: x @ weight.T, lambda z: z @ inverse, torch.randn(B, D), sample_hutchinson(B, d, d)
    )
    (actual,) = torch.autograd.grad(out.surrogate.mean(), weight)
    (expected,) = torch.autograd.grad(-log_volume(weight[None]).mean(), weight)
    torch.testing.assert_close(actual, expected)


def test_parts_of_the_batch_with_batch_norm_are_unbiased():
    """The mean over parts is the gradient for all samples.

    Statistics are constants of x, but not of the parameters.
    """
    hidden = nn.Linear(5, 4)
    norm = nn.BatchNorm1d(4)
    head = nn.Linear(4, 2)
    encode = nn.Sequential(hidden, norm, nn.Tanh(), head)
    decode = mlp(2, 5)
    x = torch.randn(6, 5)
    eps = torch.randn(1, 6, 2)
    decoder_jacobians = torch.func.vmap(torch.func.jacfwd(decode))(encode(x).detach())
    tangents = (decoder_jacobians @ eps[0, :, :, None]).detach()
    var, mean = torch.var_mean(hidden(x), 0, correction=0)

    def encode_with_fixed_statistics(point):
        h = (hidden(point) - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias
        return head(torch.tanh(h))

    encoder_jacobians = torch.stack(
        [jacobian(encode_with_fixed_statistics, point, create_graph=True) for point in x]
    )
    expected = -(eps[0, :, None] @ encoder_jacobians @ tangents).mean()

    total = 0
    for shift in range(len(x)):
        order = torch.arange(len(x)).roll(shift)
        part = volume_surrogate(encode, decode, x[order], eps[:, order[:2]])
        total = total + part.surrogate.mean() / len(x)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients(total, encode), gradients(expected, encode))


@pytest.mark.parametrize("shape", [(2, B, d + 1), (2, B + 1, d), (2, 0, d), (0, B, d), (B, d)])
def test_vectors_of_a_wrong_shape_are_refused(surrogate, shape):
    with pytest.raises(
        ValueError, match=r"must have shape \(K, b, 3\) with K at least 1 and b from 1 to 5"
    ):
        surrogate(mlp(D, d), mlp(d, D), torch.randn(B, D), torch.zeros(shape))
