"""The surrogate's gradient, in float64, against everything it can be compared with."""

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
D, d, B = 6, 3, 5
WAYS = {"replayed": volume_surrogate, "published": autograd_surrogate}


@pytest.fixture(params=WAYS)
def surrogate(request):
    return WAYS[request.param]


def mlp(inputs, outputs, act=nn.Tanh, norm=False):
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(inputs, 16), *middle, act(), nn.Linear(16, outputs))


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, **options)])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mlp_silu_k1", "mlp_tanh_k2"])
def test_reference_gradients_of_the_authors(shared, name, surrogate):
    file = np.load(shared / "reference" / f"{name}.npz")
    act = getattr(nn, str(file["act"]))
    nets = {}
    for net in ("encoder", "decoder"):
        a, b, c = (nn.Linear(*reversed(file[f"{net}.{i}.weight"].shape)) for i in (0, 2, 4))
        nets[net] = nn.Sequential(a, act(), b, act(), c)
        nets[net].load_state_dict(
            {k: torch.from_numpy(file[f"{net}.{k}"]) for k in nets[net].state_dict()}
        )
    x, eps = torch.from_numpy(file["x"]), torch.from_numpy(file["eps"])
    log_prior = lambda z: -0.5 * ((z**2).sum(1) + z.shape[1] * math.log(2 * math.pi))  # noqa: E731
    beta = float(file["beta"])
    loss = fif_loss(*nets.values(), log_prior, x, eps, beta, surrogate=surrogate).loss
    assert np.abs(loss.detach().numpy() - file["loss"]).max() < 1e-12
    loss.mean().backward()
    for net, module in nets.items():
        for key, parameter in module.named_parameters():
            assert np.abs(parameter.grad.numpy() - file[f"grad.{net}.{key}"]).max() < 1e-12


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction", "detached_reconstruction"])
def test_the_gradient_is_the_exact_one_at_full_k(surrogate, jacobian_at):
    """The trace of eqs. 10 and 15 from dense Jacobians that autograd differentiates."""
    encode, decode, x = mlp(D, d), mlp(d, D), torch.randn(B, D)
    out = surrogate(encode, decode, x, sample_hutchinson(B, d, d), jacobian_at=jacobian_at)
    z = encode(x)
    torch.testing.assert_close((out.z, out.x_hat), (z, decode(z)))
    point = {"data": x, "reconstruction": decode(z)}.get(jacobian_at, decode(z).detach())
    expected = 0.0
    for p, c in zip(point, z, strict=True):
        a = jacobian(lambda v: encode(v[None])[0], p, create_graph=True)
        b = jacobian(lambda v: decode(v[None])[0], c).detach()
        expected = expected - torch.trace(a @ b)
    assert out.surrogate.sum().item() == pytest.approx(expected.item(), rel=1e-10)
    found, exact = (gradients(v, encode, decode) for v in (out.surrogate.sum(), expected))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("samples", [1, 2])
def test_batch_norm_in_training_mode(surrogate, samples):
    """The derivative is an explicit Jacobian's of the whole batch; statistics move once."""
    encode, decode = mlp(D, d, norm=True), mlp(d, D, norm=True)
    x, eps = torch.randn(B, D), sample_hutchinson(B, d, samples)
    f = jacobian(encode, x, create_graph=True)  # (B, d, B, D)
    g = jacobian(decode, encode(x)).detach()  # (B, D, B, d)
    expected = -torch.einsum("kbi,bicj,cjel,kel->", eps, f, g, eps) / samples
    before = [int(net[1].num_batches_tracked) for net in (encode, decode)]
    value = surrogate(encode, decode, x, eps).surrogate.sum()
    after = [int(net[1].num_batches_tracked) for net in (encode, decode)]
    assert after == [count + 1 for count in before]
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
    """In training mode with BatchNorm: the replayed ones are the published ones, the authors'."""
    encoder, decoder = (net.train() for net in build_networks(arch, shape, 4))
    encoder, decoder = encoder.double(), decoder.double()
    x, eps, grads = torch.rand(2, *shape), sample_hutchinson(2, 4), []
    for way in WAYS.values():
        statistics = [b.clone() for b in encoder.buffers()]
        out = way(lambda x: encoder(x).embedding, lambda z: decoder(z).reconstruction, x, eps)
        grads.append(gradients(out.surrogate.sum() + out.x_hat.square().sum(), encoder, decoder))
        for buffer, before in zip(encoder.buffers(), statistics, strict=True):
            buffer.data.copy_(before)
    for other in grads[1:]:
        assert (grads[0] - other).norm() < 1e-12 * other.norm()


def test_it_is_the_gradient_of_the_log_volume_where_g_is_f_s_inverse():
    """For a linear decoder and its pseudo-inverse eq. 36 is d(-log vol f')/d(encoder)."""
    weight = torch.randn(d, D, requires_grad=True)
    inverse = torch.linalg.pinv(weight.detach()).T
    out = volume_surrogate(
        lambda x: x @ weight.T, lambda z: z @ inverse, torch.randn(B, D), sample_hutchinson(B, d, d)
    )
    (found,) = torch.autograd.grad(out.surrogate.mean(), weight)
    (expected,) = torch.autograd.grad(-log_volume(weight[None]).mean(), weight)
    torch.testing.assert_close(found, expected)


def test_parts_of_the_batch_with_batch_norm_are_unbiased():
    """Mean over parts = gradient of all samples, statistics fixed for x, not for parameters."""
    first, norm, last = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    encode, decode = nn.Sequential(first, norm, nn.Tanh(), last), mlp(2, 5)
    x, eps = torch.randn(6, 5), torch.randn(1, 6, 2)
    right = torch.func.vmap(torch.func.jacfwd(decode))(encode(x).detach()) @ eps[0, :, :, None]
    batch = first(x)
    var, mean = torch.var_mean(batch, 0, correction=0)

    def frozen(point):
        h = (first(point) - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias
        return last(torch.tanh(h))

    jacobians = torch.stack([jacobian(frozen, p, create_graph=True) for p in x])
    expected = -(eps[0, :, None] @ jacobians @ right.detach()).mean()
    total = 0
    for shift in range(len(x)):
        order = torch.arange(len(x)).roll(shift)
        part = volume_surrogate(encode, decode, x[order], eps[:, order[:2]])
        total = total + part.surrogate.mean() / len(x)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients(total, encode), gradients(expected, encode))


@pytest.mark.parametrize("shape", [(2, B, d + 1), (2, B + 1, d), (2, 0, d), (0, B, d), (B, d)])
def test_wrong_vectors_are_told(surrogate, shape):
    with pytest.raises(
        ValueError, match=r"must have shape \(K, b, 3\) with K at least 1 and b from 1 to 5"
    ):
        surrogate(mlp(D, d), mlp(d, D), torch.randn(B, D), torch.zeros(shape))
