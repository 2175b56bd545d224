"""Appendix D's other choices: their gradients are the exact ones."""

import itertools

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from pythae_fif.studies.surrogates import surrogate
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate

D, d, B = 6, 3, 5


def mlp(inputs, outputs, norm=False):
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(inputs, 16), *middle, nn.Tanh(), nn.Linear(16, outputs)).double()


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, **options)])


def exact(encode, decode, x, jacobian_at, gradient_to):
    """The trace of table 4 from dense Jacobians that autograd differentiates."""
    z = encode(x)
    point = {"data": x, "reconstruction": decode(z)}.get(jacobian_at, decode(z).detach())
    total = 0.0
    for p, c in zip(point, z, strict=True):
        a = jacobian(lambda v: encode(v[None])[0], p, create_graph=True)
        b = jacobian(lambda v: decode(v[None])[0], c, create_graph=True)
        to_encoder = gradient_to == "encoder"
        total += -torch.trace(a @ b.detach()) if to_encoder else torch.trace(a.detach() @ b)
    return total


@pytest.mark.parametrize(
    "options",
    [
        dict(jacobian_at=j, gradient_to=g, trace_space=t)
        for j, g, t in itertools.product(
            ("data", "reconstruction", "detached_reconstruction"),
            ("encoder", "decoder"),
            ("latent", "data"),
        )
    ],
    ids=lambda o: "-".join(o.values()),
)
def test_every_choice_equals_the_exact_gradient_at_full_k(options):
    encode, decode, x = mlp(D, d), mlp(d, D), torch.randn(B, D).double()
    dim = d if options["trace_space"] == "latent" else D
    eps = sample_hutchinson(B, dim, dim, dtype=torch.float64)
    value = surrogate(encode, decode, x, eps, **options).surrogate.sum()
    expected = exact(encode, decode, x, options["jacobian_at"], options["gradient_to"])
    assert value.item() == pytest.approx(expected.item(), rel=1e-7)
    found, reference = (gradients(v, encode, decode) for v in (value, expected))
    assert (found - reference).norm() <= 1e-9 * (1 + reference.norm())


def test_batch_norm_is_that_of_the_whole_batch():
    encode, decode, x = mlp(D, d, norm=True), mlp(d, D), torch.randn(B, D).double()
    eps = sample_hutchinson(B, d, dtype=torch.float64)
    expected = volume_surrogate(encode, decode, x, eps).surrogate.sum()
    found = surrogate(encode, decode, x, eps).surrogate.sum()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(
        gradients(found, encode), gradients(expected, encode), rtol=1e-5, atol=1e-6
    )
